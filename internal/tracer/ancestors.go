// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// AncestorsColumn returns the column that WithAncestors adds.
func AncestorsColumn() Column {
	return Column{
		Key: "ancestors", Header: "ANCESTORS", Type: "array of objects",
		Doc: "the process that made the one at hand, that which made that, and so on, be they gone or not; each has pid, comm and proc_id",
	}
}

// WithAncestors returns a tracer like t whose events have one more column, the last
// one: the ancestors of their process, which find appends to a list.
func (t *Tracer) WithAncestors(find func(list []field.Ancestor, who *wire.Who) []field.Ancestor) *Tracer {
	with := *t
	ancestors := AncestorsColumn()
	schema := append(slices.Clone(t.Schema()), ancestors)
	with.schema = func() Schema { return schema }
	with.Columns = append(slices.Clone(t.Columns), ancestors.Key)
	with.FailedColumns = append(slices.Clone(t.FailedColumns), ancestors.Key)
	with.newDecoder = func() *Decoder {
		d := t.newDecoder()
		list := new(field.Ancestors)
		d.Event = append(d.Event, list)
		decode := d.decode
		d.decode = func(rec []byte) error {
			*list = find((*list)[:0], &Head(rec).Who)
			return decode(rec)
		}
		return d
	}
	return &with
}
