// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"github.com/rbtrace/rbtrace/internal/bpftest"
)

// TestCommandStatus: who waits for rbtrace sees what they would see of the command, as run by env(1).
func TestCommandStatus(t *testing.T) {
	bpftest.Require(t)
	statusOf := func(argv ...string) syscall.WaitStatus {
		t.Helper()
		err := exec.Command(argv[0], argv[1:]...).Run()
		if err == nil {
			return 0
		}
		failed, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		return failed.Sys().(syscall.WaitStatus) &^ 0x80 // but for a core
	}
	commands := [][]string{
		{"true"}, {"false"}, {"/no/such/program"}, {"no-such-program"}, {"/etc/passwd"}, {"/"}, {"/etc/passwd/x"},
	}
	for _, status := range []int{3, 7, 125, 255} {
		commands = append(commands, []string{"sh", "-c", fmt.Sprint("exit ", status)})
	}
	for _, sig := range []int{1, 2, 3, 4, 6, 7, 8, 9, 11, 13, 14, 15, 31, 34, 64} {
		commands = append(commands, []string{"sh", "-c", fmt.Sprintf("kill -%d $$", sig)})
	}
	for _, command := range commands {
		want := statusOf(append([]string{"env"}, command...)...)
		if got := statusOf(append([]string{"rbtrace", "exec", "--"}, command...)...); got != want {
			t.Errorf("%q: status %#x, want %#x", command, uint32(got), uint32(want))
		}
	}
}
