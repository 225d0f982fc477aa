// Package wire is what the kernel's side and user space share whatever is
// traced: the head of every record, the ledger's columns, and the object that
// follows the descendants of a process. The types are generated from
// bpf/include/rbtrace/ring.h.
package wire

import "github.com/cilium/ebpf"

//go:generate go tool bpf2go -type rb_head -type rb_who -type rb_part -type rb_ledger -target amd64,arm64 follow ../../bpf/follow.bpf.c -- -I../../bpf/include

//go:generate go tool bpf2go -type rb_cgroup_change -target amd64,arm64 cgroups ../../bpf/cgroups.bpf.c -- -I../../bpf/include

//go:generate go tool bpf2go -type rb_process -type rb_descent -target amd64,arm64 lineage ../../bpf/lineage.bpf.c -- -I../../bpf/include

//go:generate go tool bpf2go -type rb_pid -target amd64,arm64 pids ../../bpf/pids.bpf.c -- -I../../bpf/include

// Head is the head of every record (struct rb_head).
type Head = followRbHead

// Who is whose event it is (struct rb_who).
type Who = followRbWho

// Part is a record that is part of an event (struct rb_part).
type Part = followRbPart

// IsPart is the flag of a Head that begins a Part (RB_IS_PART).
const IsPart = 1 << 15

// Ledger is one CPU's books of one tracer (struct rb_ledger).
type Ledger = followRbLedger

// CgroupChange tells of a cgroup that came or went (struct rb_cgroup_change).
type CgroupChange = cgroupsRbCgroupChange

// LoadCgroups returns the object that tells of them (bpf/cgroups.bpf.c).
func LoadCgroups() (*ebpf.CollectionSpec, error) { return loadCgroups() }

// Process names a process for good (struct rb_process).
type Process = lineageRbProcess

// Descent is what is known of a process beyond its end (struct rb_descent).
type Descent = lineageRbDescent

// LoadLineage returns the object that notes which process made which
// (bpf/lineage.bpf.c).
func LoadLineage() (*ebpf.CollectionSpec, error) { return loadLineage() }

// Pid is what one id is in two namespaces (struct rb_pid).
type Pid = pidsRbPid

// LoadPids returns the object that lists them (bpf/pids.bpf.c).
func LoadPids() (*ebpf.CollectionSpec, error) { return loadPids() }

// LoadFollow returns the object that follows processes (bpf/follow.bpf.c). Its maps
// also serve as the specifications of those that all objects share.
func LoadFollow() (*ebpf.CollectionSpec, error) { return loadFollow() }
