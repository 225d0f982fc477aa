// SPDX-License-Identifier: Apache-2.0

// Package probes lists the tracers. Each has a folder of its own here, and its
// BPF program in bpf/.
package probes

import (
	"github.com/rbtrace/rbtrace/internal/probes/bind"
	"github.com/rbtrace/rbtrace/internal/probes/bio"
	"github.com/rbtrace/rbtrace/internal/probes/bpf"
	"github.com/rbtrace/rbtrace/internal/probes/capable"
	"github.com/rbtrace/rbtrace/internal/probes/dns"
	"github.com/rbtrace/rbtrace/internal/probes/exec"
	"github.com/rbtrace/rbtrace/internal/probes/exit"
	"github.com/rbtrace/rbtrace/internal/probes/fork"
	"github.com/rbtrace/rbtrace/internal/probes/link"
	"github.com/rbtrace/rbtrace/internal/probes/listen"
	"github.com/rbtrace/rbtrace/internal/probes/module"
	"github.com/rbtrace/rbtrace/internal/probes/mount"
	"github.com/rbtrace/rbtrace/internal/probes/oomkill"
	"github.com/rbtrace/rbtrace/internal/probes/open"
	"github.com/rbtrace/rbtrace/internal/probes/ptrace"
	"github.com/rbtrace/rbtrace/internal/probes/readline"
	"github.com/rbtrace/rbtrace/internal/probes/rename"
	"github.com/rbtrace/rbtrace/internal/probes/runq"
	"github.com/rbtrace/rbtrace/internal/probes/setuid"
	"github.com/rbtrace/rbtrace/internal/probes/signal"
	"github.com/rbtrace/rbtrace/internal/probes/slowsys"
	"github.com/rbtrace/rbtrace/internal/probes/stat"
	"github.com/rbtrace/rbtrace/internal/probes/sync"
	"github.com/rbtrace/rbtrace/internal/probes/tcpaccept"
	"github.com/rbtrace/rbtrace/internal/probes/tcpconnect"
	"github.com/rbtrace/rbtrace/internal/probes/tcpdrop"
	"github.com/rbtrace/rbtrace/internal/probes/tcplife"
	"github.com/rbtrace/rbtrace/internal/probes/tcpreset"
	"github.com/rbtrace/rbtrace/internal/probes/tcpretrans"
	"github.com/rbtrace/rbtrace/internal/probes/tcpstates"
	"github.com/rbtrace/rbtrace/internal/probes/tls"
	"github.com/rbtrace/rbtrace/internal/probes/unlink"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// All returns every tracer, in the order in which people see them.
func All() []*tracer.Tracer {
	return []*tracer.Tracer{
		exec.Tracer,
		exit.Tracer,
		fork.Tracer,
		open.Tracer,
		unlink.Tracer,
		rename.Tracer,
		link.Tracer,
		stat.Tracer,
		sync.Tracer,
		mount.Tracer,
		signal.Tracer,
		setuid.Tracer,
		capable.Tracer,
		oomkill.Tracer,
		module.Tracer,
		bpf.Tracer,
		ptrace.Tracer,
		tcpconnect.Tracer,
		tcpaccept.Tracer,
		tcplife.Tracer,
		tcpstates.Tracer,
		tcpretrans.Tracer,
		tcpreset.Tracer,
		tcpdrop.Tracer,
		bind.Tracer,
		listen.Tracer,
		dns.Tracer,
		bio.Tracer,
		runq.Tracer,
		slowsys.Tracer,
		readline.Tracer,
		tls.Tracer,
	}
}
