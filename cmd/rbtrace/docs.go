// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newDocs writes the documentation of all commands, which follows from them.
func newDocs(s streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "docs [flags] DIR",
		Short:   "Write a page for each command",
		Long:    "Writes a page for each command into DIR, which must exist: Markdown, or manual pages.",
		Example: "  rbtrace docs --format man /usr/local/share/man/man1",
		Hidden:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want the one directory to write to")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			root := newRoot(s) // with all commands
			root.InitDefaultCompletionCmd()
			root.DisableAutoGenTag = true // it holds the day
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return fmt.Errorf("%s is no directory", args[0])
			}
			switch format {
			case "markdown":
				return doc.GenMarkdownTree(root, args[0])
			case "man":
				return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "rbtrace", Manual: "rbtrace"}, args[0])
			}
			return usagef("unknown format %q: want markdown or man", format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "markdown", "`FORMAT`: markdown or man")
	return cmd
}
