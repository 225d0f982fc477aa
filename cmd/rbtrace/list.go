// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// listed is a row of rbtrace list.
type listed struct {
	Name     string   `json:"name"`
	Shows    string   `json:"shows"`
	Hook     string   `json:"hook"`     // empty where none works
	Programs []string `json:"programs"` // of the hook
	Error    string   `json:"error"`    // why none works

	attempts []attach.Attempt
}

func newList(s streams) *cobra.Command {
	var format, btf string
	var explain bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tracers, and the hook that each takes on this kernel",
		Long: `Lists the tracers, what each shows, and the hook that it takes on this kernel, or why
it cannot run. To find out, each is attached for a moment. --explain says which hooks were
tried, where they are attached, and why one was taken, or was not.`,
		Example: "  rbtrace list\n  rbtrace list -o json | jq -r 'select(.hook == \"\") | .name'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := output.ParseFormat(format)
			if err != nil {
				return usagef("--output: %w", err)
			}
			if cmd.Flags().Changed("btf") && btf == "" {
				return usagef("--btf: must not be empty")
			}
			if err := checkBTF(btf); err != nil {
				return err
			}
			// Without them each tracer would fail, and the kernel is not why.
			if err := kernel.CheckCapabilities(); err != nil {
				return err
			}
			rows := make([]listed, 0, len(probes.All()))
			for _, t := range probes.All() {
				rows = append(rows, try(t, btf))
			}
			if f == output.FormatJSON {
				enc := json.NewEncoder(s.Out)
				enc.SetEscapeHTML(false)
				for _, row := range rows {
					if err := enc.Encode(row); err != nil {
						return err
					}
				}
				return nil
			}
			table := tablewriter.NewTable(s.Out, plainTable()...)
			table.Header("NAME", "SHOWS", "HOOK")
			var notes []string
			for _, row := range rows {
				hook := row.Hook
				if hook == "" {
					hook = "none"
					notes = append(notes, row.Name+" cannot run:\n"+row.Error)
				} else if explain {
					notes = append(notes, row.explanation())
				}
				if err := table.Append(row.Name, row.Shows, hook); err != nil {
					return err
				}
			}
			if err := table.Render(); err != nil {
				return err
			}
			for _, note := range notes {
				if _, err := s.Out.Write(field.AppendLinesEscaped(nil, []byte("\n"+note+"\n"))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", string(output.FormatTable), "`FORMAT`: table or json (an object a line)")
	cmd.Flags().BoolVar(&explain, "explain", false, "say which hooks were tried, and why")
	cmd.Flags().StringVar(&btf, "btf", "", "take the kernel's types from `FILE`, for a kernel without BTF of its own")
	return cmd
}

// explanation says which hooks were tried of a tracer that can run.
func (l *listed) explanation() string {
	lines := []string{l.Name + ":"}
	for _, a := range l.attempts {
		lines = append(lines, fmt.Sprintf("  %s: %s", &a, a.Outcome(false)))
	}
	return strings.Join(lines, "\n")
}

// try attaches a tracer for a moment.
func try(t *tracer.Tracer, btf string) listed {
	row := listed{Name: t.Name, Shows: t.Short, Programs: []string{}}
	session, err := attach.Open([]*tracer.Tracer{t}, attach.Options{RingSize: uint32(os.Getpagesize()), KernelBTF: btf})
	if err != nil {
		row.Error = err.Error()
		if noHook, ok := errors.AsType[*attach.NoHookError](err); ok {
			row.Error = noHook.Reasons()
		}
		return row
	}
	defer session.Close()
	row.attempts = session.Tracers[0].Attempts
	taken := row.attempts[len(row.attempts)-1]
	row.Hook, row.Programs = string(taken.Kind), taken.Programs
	return row
}

// plainTable are the options of bounded tables: columns without lines, so that
// cut and awk can take them apart.
func plainTable() []tablewriter.Option {
	return []tablewriter.Option{
		tablewriter.WithRendition(tw.Rendition{
			Borders: tw.BorderNone,
			Settings: tw.Settings{
				Lines:      tw.LinesNone,
				Separators: tw.SeparatorsNone,
			},
		}),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithPadding(tw.Padding{Left: "", Right: strings.Repeat(" ", 2), Overwrite: true}),
		tablewriter.WithTrimSpace(tw.Off),
	}
}
