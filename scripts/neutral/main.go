// SPDX-License-Identifier: Apache-2.0

// Neutral copies a recording from standard input to standard output, and takes out
// of it what tells of the machine it was made on. The records stay as they are.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rbtrace/rbtrace/internal/capture"
)

func main() {
	if err := neutral(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "neutral:", err)
		os.Exit(1)
	}
}

func neutral(from io.Reader, to io.Writer) error {
	r, err := capture.Open(from)
	if err != nil {
		return err
	}
	meta := r.Meta
	meta.Version, meta.Kernel = "devel", "6.12.0"
	w, err := capture.NewWriter(struct{ io.Writer }{to}, &meta)
	if err != nil {
		return err
	}
	for {
		record, wall, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := w.Record(record, wall); err != nil {
			return err
		}
	}
	if r.End() == nil {
		return errors.New("the recording has no end")
	}
	return w.Close(r.End())
}
