// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringquery"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

func newQuery(s streams) *cobra.Command {
	var format string
	var ids []uint
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Show the state of the BPF ring buffers on this machine",
		Long: `Shows the BPF ring buffers of this machine, whoever made them, without disturbing those
who use them: each is asked once, in the kernel, by bpf_ringbuf_query.

  ID          the map's id, as in bpftool map show id ID
  NAME        the map's name; - where it has none
  AVAIL_DATA  bytes that the reader has not consumed yet, each record with its header of
              8 bytes, and records included that are not committed yet or were discarded
  RING_SIZE   bytes that the ring can hold
  CONS_POS    how far the reader has come, in bytes since the ring was made
  PROD_POS    how far the producers have come, likewise

A reader that keeps up leaves AVAIL_DATA near 0. Where it stays near RING_SIZE, records
are being lost or will be soon.

The positions are asked for one after another while the ring is in use, so AVAIL_DATA may
be less than PROD_POS - CONS_POS, and never is more.

Getting at the maps of others takes CAP_SYS_ADMIN.`,
		Example: examples([]tracer.Example{
			{Args: "query", What: "all ring buffers"},
			{Args: "query --id 7", What: "one"},
			{Args: "query -o json | jq 'select(.avail_data > .ring_size / 2)'", What: "those more than half full"},
		}),
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			f, err := output.ParseFormat(format)
			if err != nil {
				return usagef("--output: %w", err)
			}
			selected, err := mapIDs(ids)
			if err != nil {
				return err
			}
			return query(s, f, selected)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", string(output.FormatTable), "`FORMAT`: table or json (an object a line)")
	cmd.Flags().UintSliceVar(&ids, "id", nil, "show the ring buffer whose map has the id `ID` and no others; repeatable")
	cmd.Flags().Lookup("id").DefValue = "" // or the help says (default [])
	return cmd
}

// mapIDs takes ids from the command line.
func mapIDs(ids []uint) ([]ebpf.MapID, error) {
	selected := make([]ebpf.MapID, 0, len(ids))
	for _, id := range ids {
		if uint64(id) > math.MaxUint32 {
			return nil, usagef("--id: %d is no map id, which are numbers up to %d", id, uint32(math.MaxUint32))
		}
		selected = append(selected, ebpf.MapID(id))
	}
	return selected, nil
}

// query shows the rings with these ids, or all. Those that can be asked are shown even
// if others cannot.
func query(s streams, format output.Format, ids []ebpf.MapID) (err error) {
	q, err := ringquery.Open(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	snapshot, err := q.Snapshot(ids...)
	if snapshot == nil || err != nil && len(snapshot.Rings) == 0 {
		return err
	}
	var b bytes.Buffer
	if format == output.FormatJSON {
		b.Write(appendRings(nil, snapshot))
	} else {
		err = errors.Join(err, renderRings(&b, snapshot))
	}
	_, writeErr := s.Out.Write(b.Bytes())
	return errors.Join(err, writeErr)
}

// appendRings appends a JSON object for each ring, a line each.
func appendRings(b []byte, snapshot *ringquery.Snapshot) []byte {
	at := field.Time{Wall: snapshot.Time.UnixNano()}
	for _, ring := range snapshot.Rings {
		b = at.AppendJSON(append(b, `{"type":"ringbuf","time":`...))
		b = strconv.AppendUint(append(b, `,"id":`...), uint64(ring.ID), 10)
		b = field.AppendJSONString(append(b, `,"name":`...), []byte(ring.Name))
		b = strconv.AppendUint(append(b, `,"avail_data":`...), ring.AvailData, 10)
		b = strconv.AppendUint(append(b, `,"ring_size":`...), ring.RingSize, 10)
		b = strconv.AppendUint(append(b, `,"cons_pos":`...), ring.ConsPos, 10)
		b = strconv.AppendUint(append(b, `,"prod_pos":`...), ring.ProdPos, 10)
		b = append(b, "}\n"...)
	}
	return b
}

// renderRings renders a table of the rings. To a buffer, as tablewriter does not tell of
// all its writes what became of them.
func renderRings(w *bytes.Buffer, snapshot *ringquery.Snapshot) error {
	align := tw.CellAlignment{PerColumn: []tw.Align{tw.AlignRight, tw.AlignLeft, tw.AlignRight, tw.AlignRight, tw.AlignRight, tw.AlignRight}}
	table := tablewriter.NewTable(w, append(plainTable(),
		tablewriter.WithHeaderAlignmentConfig(align), tablewriter.WithRowAlignmentConfig(align))...)
	table.Header("ID", "NAME", "AVAIL_DATA", "RING_SIZE", "CONS_POS", "PROD_POS")
	for _, ring := range snapshot.Rings {
		name := "-"
		if ring.Name != "" {
			name = string(field.AppendTextEscaped(nil, []byte(ring.Name)))
		}
		if err := table.Append(ring.ID, name, ring.AvailData, ring.RingSize, ring.ConsPos, ring.ProdPos); err != nil {
			return err
		}
	}
	return table.Render()
}
