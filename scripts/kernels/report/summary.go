package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
)

// packageBudget is what the tests of one package may take in one machine.
const packageBudget = 60 // seconds

// summarize writes what failed how often, and how long each package took in the machines of each kernel.
func summarize(w io.Writer, machines []*machine, entries []entry) error {
	var labels, failed []string
	times := make(map[string]int)  // that it failed
	runs := make(map[string]int)   // of a kernel
	rounds := make(map[string]int) // in which it failed
	for _, m := range machines {
		if runs[m.label]++; runs[m.label] == 1 {
			labels = append(labels, m.label)
		}
		for _, f := range slices.Compact(slices.Sorted(slices.Values(m.failed))) {
			if times[f]++; times[f] == 1 {
				failed = append(failed, f)
			}
			rounds[m.label+" "+f]++
		}
	}
	slices.Sort(failed)
	for _, f := range failed {
		fmt.Fprintf(w, "FAILED  %s:", f)
		for _, l := range labels {
			if n := rounds[l+" "+f]; n > 0 {
				fmt.Fprintf(w, " %d of %d on %s", n, runs[l], l)
			}
		}
		fmt.Fprintln(w)
	}
	return summarizeTime(w, machines, entries, labels)
}

// summarizeTime writes the table of seconds: of several machines with a kernel those of the slowest.
func summarizeTime(w io.Writer, machines []*machine, entries []entry, labels []string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "seconds\t")
	for _, l := range labels {
		fmt.Fprint(tw, l, "\t")
	}
	fmt.Fprintln(tw)
	all := make(map[string]float64)
	for _, e := range entries {
		fmt.Fprint(tw, e.dir, "\t")
		for _, l := range labels {
			longest := longest(machines, l, e.path)
			all[l] += longest
			mark := ""
			if longest > packageBudget {
				mark = "!"
			}
			fmt.Fprintf(tw, "%s%.0f\t", mark, longest)
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprint(tw, "all\t")
	for _, l := range labels {
		fmt.Fprintf(tw, "%.0f\t", all[l])
	}
	fmt.Fprintln(tw)
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, e := range entries {
		for _, l := range labels {
			if s := longest(machines, l, e.path); s > packageBudget {
				fmt.Fprintf(w, "WARNING: %s took %.0f s on %s, its budget is %d s\n", e.dir, s, l, packageBudget)
			}
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

// longest returns how long a package took in that of a kernel's machines where it took longest.
func longest(machines []*machine, label, path string) (seconds float64) {
	for _, m := range machines {
		if s := m.sections[path]; m.label == label && s != nil {
			took, _ := strconv.ParseFloat(s.seconds, 64) // none where the package did not end
			seconds = max(seconds, took)
		}
	}
	return seconds
}
