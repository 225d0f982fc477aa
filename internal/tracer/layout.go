// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"reflect"
)

// Layout describes the wire type: "name offset type" for each field, those of
// nested structs included, and at last its size. A recording whose tracer has
// another layout means something else. The layout is the same on amd64 and arm64:
// it is that of C structs of sized integers.
func (t *Tracer) Layout() []string {
	return append(appendLayout(nil, "", 0, t.wireType), fmt.Sprintf("size %d", t.WireSize))
}

func appendLayout(list []string, prefix string, base uintptr, t reflect.Type) []string {
	for f := range t.Fields() {
		switch {
		case f.Type.Size() == 0: // structs.HostLayout
		case f.Type.Kind() == reflect.Struct:
			list = appendLayout(list, prefix+f.Name+".", base+f.Offset, f.Type)
		default:
			list = append(list, fmt.Sprintf("%s%s %d %s", prefix, f.Name, base+f.Offset, f.Type))
		}
	}
	return list
}
