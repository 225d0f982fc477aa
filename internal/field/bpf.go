package field

import "strconv"

// BPFCommand is a command of bpf(2), or PerfEventOpen.
type BPFCommand uint32

// PerfEventOpen stands for the other call in the place of a command.
const PerfEventOpen BPFCommand = 0xffff

// enum bpf_cmd of include/uapi/linux/bpf.h, less BPF_.
var bpfCommands = [...]string{
	"MAP_CREATE", "MAP_LOOKUP_ELEM", "MAP_UPDATE_ELEM", "MAP_DELETE_ELEM", "MAP_GET_NEXT_KEY", "PROG_LOAD",
	"OBJ_PIN", "OBJ_GET", "PROG_ATTACH", "PROG_DETACH", "PROG_TEST_RUN", "PROG_GET_NEXT_ID",
	"MAP_GET_NEXT_ID", "PROG_GET_FD_BY_ID", "MAP_GET_FD_BY_ID", "OBJ_GET_INFO_BY_FD", "PROG_QUERY",
	"RAW_TRACEPOINT_OPEN", "BTF_LOAD", "BTF_GET_FD_BY_ID", "TASK_FD_QUERY", "MAP_LOOKUP_AND_DELETE_ELEM",
	"MAP_FREEZE", "BTF_GET_NEXT_ID", "MAP_LOOKUP_BATCH", "MAP_LOOKUP_AND_DELETE_BATCH", "MAP_UPDATE_BATCH",
	"MAP_DELETE_BATCH", "LINK_CREATE", "LINK_UPDATE", "LINK_GET_FD_BY_ID", "LINK_GET_NEXT_ID",
	"ENABLE_STATS", "ITER_CREATE", "LINK_DETACH", "PROG_BIND_MAP", "TOKEN_CREATE", "PROG_STREAM_READ_BY_FD",
	"PROG_ASSOC_STRUCT_OPS",
}

func (c BPFCommand) name() string {
	if c == PerfEventOpen {
		return "perf_event_open"
	}
	return nameOf(bpfCommands[:], int64(c))
}

// AppendText implements Value: the name as the kernel spells it, less BPF_, the number for one that
// has none.
func (c BPFCommand) AppendText(b []byte) []byte { return appendNameOr(b, c.name(), uint32(c)) }

// AppendJSON implements Value: a string with the same.
func (c BPFCommand) AppendJSON(b []byte) []byte {
	return append(c.AppendText(append(b, '"')), '"')
}

// ParseBPFCommand returns the number of the command of that name, which may be with BPF_ and in lower
// case, and that of perf_event_open.
func ParseBPFCommand(name string) (uint64, bool) {
	if name == PerfEventOpen.name() {
		return uint64(PerfEventOpen), true
	}
	return numberOf(bpfCommands[:], "BPF_", name)
}

// BPFType is the type of what a command makes or attaches.
type BPFType struct {
	Of     BPFTypes
	Number uint32
}

// BPFTypes are the kinds of types that there are.
type BPFTypes uint8

// The kinds of types.
const (
	NoBPFType BPFTypes = iota
	BPFMapType
	BPFProgType
	BPFAttachType
	PerfType
)

// The enums of include/uapi/linux/bpf.h and perf_event.h of these names, as bpftool and perf spell
// their values.
var bpfTypes = [...][]string{
	BPFMapType: {
		"unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array",
		"stack_trace", "cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps",
		"hash_of_maps", "devmap", "sockmap", "cpumap", "xskmap", "sockhash", "cgroup_storage",
		"reuseport_sockarray", "percpu_cgroup_storage", "queue", "stack", "sk_storage", "devmap_hash",
		"struct_ops", "ringbuf", "inode_storage", "task_storage", "bloom_filter", "user_ringbuf",
		"cgrp_storage", "arena", "insn_array", "rhash",
	},
	BPFProgType: {
		"unspec", "socket_filter", "kprobe", "sched_cls", "sched_act", "tracepoint", "xdp", "perf_event",
		"cgroup_skb", "cgroup_sock", "lwt_in", "lwt_out", "lwt_xmit", "sock_ops", "sk_skb", "cgroup_device",
		"sk_msg", "raw_tracepoint", "cgroup_sock_addr", "lwt_seg6local", "lirc_mode2", "sk_reuseport",
		"flow_dissector", "cgroup_sysctl", "raw_tracepoint_writable", "cgroup_sockopt", "tracing", "struct_ops",
		"ext", "lsm", "sk_lookup", "syscall", "netfilter",
	},
	BPFAttachType: {
		"cgroup_inet_ingress", "cgroup_inet_egress", "cgroup_inet_sock_create", "cgroup_sock_ops",
		"sk_skb_stream_parser", "sk_skb_stream_verdict", "cgroup_device", "sk_msg_verdict", "cgroup_inet4_bind",
		"cgroup_inet6_bind", "cgroup_inet4_connect", "cgroup_inet6_connect", "cgroup_inet4_post_bind",
		"cgroup_inet6_post_bind", "cgroup_udp4_sendmsg", "cgroup_udp6_sendmsg", "lirc_mode2", "flow_dissector",
		"cgroup_sysctl", "cgroup_udp4_recvmsg", "cgroup_udp6_recvmsg", "cgroup_getsockopt", "cgroup_setsockopt",
		"trace_raw_tp", "trace_fentry", "trace_fexit", "modify_return", "lsm_mac", "trace_iter",
		"cgroup_inet4_getpeername", "cgroup_inet6_getpeername", "cgroup_inet4_getsockname",
		"cgroup_inet6_getsockname", "xdp_devmap", "cgroup_inet_sock_release", "xdp_cpumap", "sk_lookup", "xdp",
		"sk_skb_verdict", "sk_reuseport_select", "sk_reuseport_select_or_migrate", "perf_event",
		"trace_kprobe_multi", "lsm_cgroup", "struct_ops", "netfilter", "tcx_ingress", "tcx_egress",
		"trace_uprobe_multi", "cgroup_unix_connect", "cgroup_unix_sendmsg", "cgroup_unix_recvmsg",
		"cgroup_unix_getpeername", "cgroup_unix_getsockname", "netkit_primary", "netkit_peer",
		"trace_kprobe_session", "trace_uprobe_session", "trace_fsession", "trace_fentry_multi",
		"trace_fexit_multi", "trace_fsession_multi",
	},
	PerfType: {"hardware", "software", "tracepoint", "hw_cache", "raw", "breakpoint"},
}

// AppendText implements Value: the name in lower case, less BPF_PROG_TYPE_ or the like, the number for
// one that has none, - where there is no type.
func (t BPFType) AppendText(b []byte) []byte {
	if t.Of == NoBPFType {
		return append(b, '-')
	}
	return t.append(b)
}

// AppendJSON implements Value: a string with the same, empty where there is no type.
func (t BPFType) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if t.Of != NoBPFType {
		b = t.append(b)
	}
	return append(b, '"')
}

func (t BPFType) append(b []byte) []byte {
	return appendNameOr(b, nameOf(bpfTypes[t.Of], int64(t.Number)), t.Number)
}

func appendNameOr(b []byte, name string, number uint32) []byte {
	if name != "" {
		return append(b, name...)
	}
	return strconv.AppendUint(b, uint64(number), 10)
}
