// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/probes"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// version is set by the linker.
var version = "devel"

// The groups of commands, as help shows them. Those of the first one take a COMMAND.
const tracersGroup, othersGroup = "tracers", "others"

// newRoot returns the program's command. Where args begin with the name of one of its
// commands, that is the only one that is made: each has dozens of flags, and who traces
// does not want to wait for those of all others.
func newRoot(s streams, args ...string) *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   "rbtrace",
		Short: "Show what happens on a Linux machine, event by event",
		Long: `rbtrace attaches small BPF programs to tracepoints and kernel functions, takes their
events through BPF ring buffers, and prints them as a table or as JSON, a line each.
It also shows the state of any BPF ring buffer on the machine.

Events go to standard output, everything else to standard error. At the end a ledger
says what became of every event. Exit status: 0 all events were shown, 1 error, 2 usage
error, 3 events were lost, 4 a ring buffer is in a state that query was told to look for. With
COMMAND it is that of COMMAND; 125 is an error of rbtrace.`,
		Example: examples([]tracer.Example{
			{Args: "exec", What: "every program that starts"},
			{Args: "exec -o json | jq .args", What: "the same for programs"},
			{Args: "list", What: "the tracers, and what this kernel takes"},
			{Args: "query", What: "the ring buffers of this machine"},
		}),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q%s", args[0], suggest(cmd, args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return printVersion(s)
			}
			return cmd.Help()
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Flags().BoolVar(&version, "version", false, "print the version, as the command of that name does")
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddGroup(&cobra.Group{ID: tracersGroup, Title: "Tracers:"}, &cobra.Group{ID: othersGroup, Title: "Other commands:"})
	root.SetHelpCommandGroupID(othersGroup)
	root.SetCompletionCommandGroupID(othersGroup)
	type entry struct {
		name, group string
		make        func(streams) *cobra.Command
	}
	var entries []entry
	for _, t := range probes.All() {
		entries = append(entries, entry{t.Name, tracersGroup, func(s streams) *cobra.Command { return newTracer(s, t) }})
	}
	entries = append(entries, entry{"trace", tracersGroup, newTrace}, entry{"list", othersGroup, newList}, entry{"query", othersGroup, newQuery},
		entry{"replay", othersGroup, newReplay}, entry{"bench", othersGroup, newBench}, entry{"version", othersGroup, newVersion}, entry{"docs", "", newDocs})
	if len(args) > 0 {
		if i := slices.IndexFunc(entries, func(e entry) bool { return e.name == args[0] }); i >= 0 {
			entries = entries[i : i+1]
		}
	}
	for _, e := range entries {
		cmd := e.make(s)
		cmd.GroupID = e.group
		root.AddCommand(cmd)
	}
	return root
}

// flagError says in words what strconv says of the value of a flag.
func flagError(err error) error {
	number, ok := errors.AsType[*strconv.NumError](err)
	if !ok {
		return err
	}
	want := "a whole number"
	switch {
	case number.Func == "ParseUint" && errors.Is(number, strconv.ErrSyntax):
		want = "a positive whole number"
	case number.Func == "ParseBool":
		want = "true or false"
	case errors.Is(number, strconv.ErrRange):
		want = "a smaller number"
	}
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return fmt.Errorf("%q: want %s", number.Num, want)
	}
	return fmt.Errorf("--%s: %q: want %s", invalid.GetFlag().Name, number.Num, want)
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
		RunE:    func(*cobra.Command, []string) error { return printVersion(s) },
	}
}

func printVersion(s streams) error {
	_, err := fmt.Fprintf(s.Out, "rbtrace %s (%s, %s/%s), Linux %s\n",
		buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, kernel.Release())
	return err
}
