// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"testing"

	"github.com/rbtrace/rbtrace/internal/field"
)

func TestNames(t *testing.T) {
	n := new(Names)
	oldFile := FileRecord{1, 4, uint16(field.SourceCwd) << sourceShift}
	newFile := FileRecord{2, 0, uint16(field.SourceAbsolute) << sourceShift}
	tail := []byte("ausr\x00/b")
	if err := n.DecodeFiles(tail, oldFile, newFile); err != nil {
		t.Fatal(err)
	}
	if string(n.OldFile) != "a" || string(n.Old) != "/usr/a" || n.OldSource != field.SourceCwd ||
		string(n.NewFile) != "/b" || string(n.New) != "/b" || n.NewSource != field.SourceAbsolute {
		t.Errorf("%+v", n)
	}
	for end := range tail {
		if err := n.DecodeFiles(tail[:end], oldFile, newFile); !errors.Is(err, errFileLengths) {
			t.Errorf("%d bytes: %v", end, err)
		}
	}
}
