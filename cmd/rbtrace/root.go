// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// version is set by the linker.
var version = "devel"

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "rbtrace",
		Short: "Show what happens on a Linux machine, event by event",
		Long: `rbtrace attaches small BPF programs to tracepoints and kernel functions, takes their
events through BPF ring buffers, and prints them as a table or as JSON, a line each.
It also shows the state of any BPF ring buffer on the machine.

Events go to standard output, everything else to standard error. At the end a ledger
says what became of every event. Exit status: 0 all events were shown, 1 error, 2 usage
error, 3 events were lost, 4 a ring buffer is in a state that query was told to look for.`,
		Example: examples([]tracer.Example{
			{Args: "exec", What: "every program that starts"},
			{Args: "exec -o json | jq .args", What: "the same for programs"},
			{Args: "list", What: "the tracers, and what this kernel takes"},
			{Args: "query", What: "the ring buffers of this machine"},
		}),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	const tracers, others = "tracers", "others"
	root.AddGroup(&cobra.Group{ID: tracers, Title: "Tracers:"}, &cobra.Group{ID: others, Title: "Other commands:"})
	root.SetHelpCommandGroupID(others)
	root.SetCompletionCommandGroupID(others)
	for _, t := range probes.All() {
		cmd := newTracer(s, t)
		cmd.GroupID = tracers
		root.AddCommand(cmd)
	}
	several := newTrace(s)
	several.GroupID = tracers
	root.AddCommand(several)
	for _, cmd := range []*cobra.Command{newList(s), newQuery(s), newReplay(s), newBench(s), newVersion(s)} {
		cmd.GroupID = others
		root.AddCommand(cmd)
	}
	root.AddCommand(newDocs())
	return root
}

// examples lays out examples for cobra's help and docs.
func examples(list []tracer.Example) string {
	width := 0
	for _, e := range list {
		width = max(width, len(e.Args))
	}
	var b strings.Builder
	for i, e := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  rbtrace %-*s  # %s", width, e.Args, e.What)
	}
	return b.String()
}

// noArgs refuses arguments as a usage error.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// buildVersion is the version as far as it is known.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "devel" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

func newVersion(s streams) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version of rbtrace, of the Go release that built it, and of the running kernel.",
		Example: "  rbtrace version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.Out, "rbtrace %s (%s, %s/%s), Linux %s\n",
				buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, kernel.Release())
			return err
		},
	}
}
