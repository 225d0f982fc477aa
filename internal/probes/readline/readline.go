// SPDX-License-Identifier: Apache-2.0

// Package readline traces lines that people type.
package readline

import (
	"errors"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

//go:generate go tool bpf2go -type readline_event -target amd64,arm64 bpf ../../../bpf/readline.bpf.c -- -I../../../bpf/include

// Event is one line.
type Event struct {
	tracer.Common
	Cut     field.Bool `json:"truncated" col:"CUT,w=3" doc:"whether the line was longer than 4095 bytes, and its end is missing"`
	Command field.Text `json:"command" col:"COMMAND" doc:"the line, as it was typed"`
}

// Tracer is rbtrace readline.
var Tracer = tracer.New(tracer.Def[bpfReadlineEvent, Event]{
	Name:  "readline",
	Short: "Lines typed into bash and other programs with readline",
	Long: `Shows each line that the function readline returns: what is typed into bash at its prompt,
also where that runs as somebody else or in a script's terminal, and into other programs that
call it: sqlite3, bc, psql. Words that the shell expands are not yet, passwords for which a program
switches its terminal's echo off do not come by readline.

Programs that let the library call them with a line (rl_callback_handler_install), as gdb and
python do, are not seen, nor are shells that edit lines themselves (zsh, dash, fish).

It looks for readline in bash and in libreadline.so, and takes what is there.`,
	Examples: []tracer.Example{
		{Args: "readline", What: "what everybody types"},
		{Args: "readline -u alice", What: "what alice types"},
		{Args: "readline -C ppid,uid,comm,command", What: "with the terminal's process"},
	},
	Load: loadBpf,
	Hooks: []tracer.Hook{
		{Kind: tracer.Uprobe, Programs: []tracer.Program{{Name: bpfProgRbReadline, Files: []string{"bash", "libreadline.so"}}}},
	},
	Columns: []string{"time", "pid", "uid", "comm", "command"},
	Params:  []tracer.Param{tracer.Library()},
	Decode:  decode,
})

var errLength = errors.New("the record is shorter than its line")

// cut is the flag of the record's head.
const cut = 1

func decode(w *bpfReadlineEvent, tail []byte, e *Event) error {
	if w.Len > uint64(len(tail)) {
		return errLength
	}
	e.Command, e.Cut = tail[:w.Len:w.Len], w.Head.Flags&cut != 0
	return nil
}
