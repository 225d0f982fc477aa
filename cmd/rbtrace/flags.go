// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/consumer"
	"github.com/rbtrace/rbtrace/internal/container"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/filter"
	"github.com/rbtrace/rbtrace/internal/kernel"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringbuf"
	"github.com/rbtrace/rbtrace/internal/tracer"
	"github.com/rbtrace/rbtrace/internal/wire"
)

// What the thread that reads has of busy CPUs: see kernel.Prefer.
const (
	readerHigh   = "high"
	readerNormal = "normal"
)

// maxHash bounds the N of --topology hash:N.
const maxHash = 1024

// traceFlags are the flags that all tracers share, as they were written.
type traceFlags struct {
	pid, tid   uint32
	ppid, tree uint32
	as         string
	uid        string
	comm       string
	failed     bool
	cgroup     string
	container  string
	ancestors  bool
	duration   seconds
	maxEvents  uint64
	filter     string
	format     string
	columns    string
	noHeader   bool
	time       string
	bufferSize string
	topology   string
	wakeup     string
	reader     string
	stats      seconds
	failOnLoss bool
	write      string
	replay     bool // of a recording: there is nothing to be said of processes here
	mixed      bool // the table is one of several tracers, also where there is one
	hook       string
	explain    bool
	btf        string
	params     map[string]*string // by Param.Name
}

// register registers the flags of one tracer; or those of any set of them, whose
// own flags have the tracer's name and a dot in front.
func (f *traceFlags) register(flags *pflag.FlagSet, tracers ...*tracer.Tracer) {
	flags.SortFlags = false
	f.params = make(map[string]*string)
	for _, t := range tracers {
		for _, p := range t.Params {
			v := &paramValue{param: &p, value: p.Default}
			name, short, usage := p.Name, p.Short, p.Usage
			if len(tracers) > 1 {
				name, short, usage = t.Name+"."+p.Name, "", "of "+t.Name+": "+p.Usage
			}
			flags.VarP(v, name, short, usage)
			f.params[name] = &v.value
		}
	}
	flags.Uint32VarP(&f.pid, "pid", "p", 0, "only the process with this `PID`")
	flags.Uint32Var(&f.tid, "tid", 0, "only the thread with this `TID`")
	flags.Uint32Var(&f.tree, "tree", 0, "only the process with this `PID` and its descendants")
	flags.Uint32Var(&f.ppid, "ppid", 0, "only children of the process with this `PID`")
	flags.StringVarP(&f.uid, "uid", "u", "", "only this `USER`, by number or name")
	flags.StringVarP(&f.comm, "comm", "n", "", "only tasks of this `NAME`: all of it, at most 15 bytes")
	if slices.ContainsFunc(tracers, (*tracer.Tracer).HasFailed) {
		flags.BoolVarP(&f.failed, "failed", "x", false, "show the calls that failed, and only those")
	}
	flags.StringVar(&f.cgroup, "cgroup", "", "only the v2 cgroup at `PATH` and those below it; relative to the cgroup mount, or absolute")
	flags.StringVar(&f.container, "container", "", "only the container of this `NAME` or id (of Docker, Podman, LXC, systemd-nspawn; of others by id), by way of its cgroup")
	flags.StringVar(&f.filter, "filter", "", "only events for which `EXPR` over their JSON keys holds, as 'ret < 0 && comm startsWith \"ssh\"'; in user space, after the other filters")
	flags.BoolVar(&f.ancestors, "ancestors", false, "show the processes that the one at hand descends from, also those that are gone: a column, and a key with an array")
	flags.StringVar(&f.as, "as", "", "run COMMAND as this `USER`, by number or name")
	flags.VarP(&f.duration, "duration", "d", "end after this `TIME`: seconds, or 500ms, 1m30s")
	flags.Uint64VarP(&f.maxEvents, "max-events", "c", 0, "end after `N` events")
	flags.StringVarP(&f.format, "output", "o", string(output.FormatTable), "`FORMAT`: table or json (an object a line)")
	flags.StringVarP(&f.columns, "columns", "C", "", "columns of the table: a `LIST` instead of the default (pid,args), or changes to it (+cwd,-ppid)")
	flags.BoolVar(&f.noHeader, "no-header", false, "no header above the table")
	flags.StringVar(&f.time, "time", field.TimeWall.String(), "`HOW` the table shows times: "+strings.Join(field.TimeModes(), ", "))
	flags.StringVarP(&f.write, "write", "w", "", "record to `FILE`, for rbtrace replay, and print nothing but the ledger; - is standard output")
	flags.StringVar(&f.topology, "topology", "shared", "`RINGS`: shared (one, one order over all CPUs), percpu, hash:N (N rings, by process), cgroup (one for each; a noisy one fills its own)")
	flags.StringVar(&f.bufferSize, "buffer-size", "", "`SIZE` of each ring buffer: a power of two, such as 512K or 8M (default: 8M for all together, but 1M of each at least, and with cgroup as memory allows)")
	flags.StringVar(&f.wakeup, "wakeup", "auto", "`WHEN` records wake rbtrace: auto (the kernel decides), every, bytes=SIZE (when so much waits), interval=TIME (never: it looks by itself)")
	flags.StringVar(&f.reader, "reader-priority", readerHigh, "`PRIORITY` of the thread that reads: high (a nice value of -10, where that is permitted; less is lost while all CPUs are busy) or normal")
	flags.BoolVar(&f.failOnLoss, "fail-on-loss", false, "end at the first event that is lost")
	flags.Var(&f.stats, "stats", "print rates and the ring's fill to standard error, at this `INTERVAL`")
	hook := "`KIND` of hook: " + anyHook()
	if len(tracers) > 1 {
		hook += "; a tracer without it takes another one, or with " + allTracers + " is left out"
	}
	flags.StringVar(&f.hook, "hook", "auto", hook)
	flags.BoolVar(&f.explain, "explain", false, "say which hooks were tried, which was taken, and why")
	flags.StringVar(&f.btf, "btf", "", "take the kernel's types from `FILE`, for a kernel without BTF of its own")
}

// plan is what the flags ask for, checked.
type plan struct {
	attach  attach.Options
	consume consumer.Options
	format  output.Format
	columns [][]int // of each tracer
	mixed   []int   // of the table of several tracers; nil: it is one of one tracer
	style   *field.TimeStyle
	filter  *filter.Filter // nil: none
}

// keep returns the filter of user space for tracers, nil where there is none.
func (p *plan) keep(tracers []*tracer.Tracer) func(int, *wire.Head, []field.Value) bool {
	if p.filter == nil {
		return nil
	}
	var bound []*filter.Bound
	for _, t := range tracers {
		bound = append(bound, p.filter.For(t))
	}
	return func(i int, _ *wire.Head, event []field.Value) bool { return bound[i].Match(event) }
}

// plan checks the flags for tracers. warn is told what is odd, but no error.
func (f *traceFlags) plan(tracers []*tracer.Tracer, changed func(string) bool, warn func(string, ...any)) (*plan, error) {
	p := &plan{attach: attach.Options{Failed: f.failed, Lineage: f.ancestors, KernelBTF: f.btf, Params: make(map[string]string)}}
	// A variable of a script that is not set must not mean everything, or root.
	for name, value := range map[string]string{
		"as": f.as, "btf": f.btf, "cgroup": f.cgroup, "columns": f.columns, "comm": f.comm, "container": f.container,
		"uid": f.uid, "write": f.write,
	} {
		if value == "" && changed(name) {
			return nil, usagef("--%s: must not be empty", name)
		}
	}
	var err error
	if p.format, err = output.ParseFormat(f.format); err != nil {
		return nil, usagef("--output: %w", err)
	}
	for _, name := range []string{"columns", "no-header", "time"} {
		if p.format == output.FormatJSON && changed(name) {
			return nil, usagef("--%s: it is for the table: JSON objects have all keys", name)
		}
	}
	if err := f.selectColumns(p, tracers); err != nil {
		return nil, usagef("--columns: %w", err)
	}
	if changed("filter") {
		if p.filter, err = filter.Compile(f.filter, tracers); err != nil {
			return nil, usagef("--filter: %w", err)
		}
	}
	mode, err := field.ParseTimeMode(f.time)
	if err != nil {
		return nil, usagef("--time: %w", err)
	}
	p.style = field.NewTimeStyle(mode, nil)
	if err := f.rings(p, changed("buffer-size")); err != nil {
		return nil, err
	}
	if err := parseWakeup(f.wakeup, p); err != nil {
		return nil, usagef("--wakeup: %w", err)
	}
	if f.reader != readerHigh && f.reader != readerNormal {
		return nil, usagef("--reader-priority: unknown priority %q: want %s or %s", f.reader, readerHigh, readerNormal)
	}
	p.consume.MaxEvents, p.consume.StatsEvery, p.consume.FailOnLoss = f.maxEvents, time.Duration(f.stats), f.failOnLoss
	for name, value := range f.params {
		if changed(name) {
			p.attach.Params[name] = *value
		}
	}
	if !f.replay {
		if err := checkHere(tracers, p.attach.Params); err != nil {
			return nil, err
		}
	}
	for name, zero := range map[string]bool{
		"pid": f.pid == 0, "tid": f.tid == 0, "ppid": f.ppid == 0, "tree": f.tree == 0,
		"duration": f.duration == 0, "max-events": f.maxEvents == 0, "stats": f.stats == 0,
	} {
		if zero && changed(name) {
			return nil, usagef("--%s: must be more than 0", name)
		}
	}
	if err := checkBTF(f.btf); err != nil {
		return nil, err
	}
	return p, f.kernelFilter(&p.attach.Filter, changed, warn)
}

// checkBTF checks that --btf, where it is given, names a file that can be read without waiting
// for somebody to write it.
func checkBTF(file string) error {
	if file == "" {
		return nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("--btf: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("--btf: %s is no regular file", file)
	}
	return nil
}

// checkHere returns an error where a tracer's own flag names what this machine does not have.
func checkHere(tracers []*tracer.Tracer, params map[string]string) error {
	for _, t := range tracers {
		for _, p := range t.Params {
			if p.Text == nil || p.Text.Here == nil {
				continue
			}
			for _, name := range []string{p.Name, t.Name + "." + p.Name} {
				if text, ok := params[name]; ok {
					if err := p.Text.Here(text); err != nil {
						return usagef("--%s: %w", name, err)
					}
				}
			}
		}
	}
	return nil
}

// selectColumns chooses the columns of the table.
func (f *traceFlags) selectColumns(p *plan, tracers []*tracer.Tracer) (err error) {
	for _, t := range tracers {
		defaults, spec := t.Columns, f.columns
		if f.failed {
			defaults = t.FailedColumns
		}
		if f.mixed || len(tracers) > 1 { // then these are the details
			spec = ""
		}
		columns, err := t.Schema().Select(defaults, spec)
		if err != nil {
			return err
		}
		p.columns = append(p.columns, columns)
	}
	if f.mixed || len(tracers) > 1 {
		p.mixed, err = output.MixedSchema(f.ancestors).Select(output.MixedColumns(f.ancestors), f.columns)
	}
	return err
}

// rings reads how many rings there are to be, and how large.
func (f *traceFlags) rings(p *plan, sized bool) (err error) {
	if p.attach.Topology, p.attach.Rings, err = parseTopology(f.topology); err != nil {
		return usagef("--topology: %w", err)
	}
	if sized {
		if p.attach.RingSize, err = parseRingSize(f.bufferSize); err != nil {
			return usagef("--buffer-size: %w", err)
		}
		return nil
	}
	p.attach.RingSize, err = attach.DefaultRingSize(p.attach.Topology, p.attach.Rings)
	return err
}

// parseTopology reads which rings there are to be, and the N of hash:N.
func parseTopology(text string) (t attach.Topology, n uint32, err error) {
	name, count, hasCount := strings.Cut(text, ":")
	switch {
	case text == "shared":
		return attach.Shared, 0, nil
	case text == "percpu":
		return attach.PerCPU, 0, nil
	case text == "cgroup":
		return attach.PerCgroup, 0, nil
	case name == "hash" && hasCount:
		n, err := strconv.ParseUint(count, 10, 32)
		if err != nil || n == 0 || n > maxHash {
			return 0, 0, fmt.Errorf("hash:%s: want a number of rings from 1 to %d", count, maxHash)
		}
		return attach.Hash, uint32(n), nil
	}
	return 0, 0, fmt.Errorf("unknown topology %q: want shared, percpu, hash:N (such as hash:4) or cgroup", text)
}

// kernelFilter checks the filters that work in the kernel.
func (f *traceFlags) kernelFilter(filter *attach.Filter, changed func(string) bool, warn func(string, ...any)) error {
	filter.PID, filter.TID, filter.PPID, filter.Comm = f.pid, f.tid, f.ppid, f.comm
	filter.Follow, filter.Tree = f.tree != 0, f.tree
	for name, pid := range map[string]uint32{"pid": f.pid, "tid": f.tid, "ppid": f.ppid, "tree": f.tree} {
		if pid > math.MaxInt32 {
			return usagef("--%s: no process has the id %d", name, pid)
		}
		if pid == 0 || f.replay {
			continue
		}
		if errors.Is(unix.Kill(int(pid), 0), unix.ESRCH) {
			return fmt.Errorf("--%s: there is no process %d", name, pid)
		}
		if name != "tid" && isThread(pid) {
			return threadError(name, pid)
		}
	}
	if changed("uid") {
		uid, _, err := lookupUser(f.uid)
		if err != nil {
			return usagef("--uid: %w", err)
		}
		filter.UID = &uid
	}
	if changed("comm") {
		const longest = 15 // TASK_COMM_LEN and its NUL
		if len(f.comm) > longest {
			filter.Comm = f.comm[:longest]
			warn("--comm: the kernel keeps %d bytes of a name: looking for %q", longest, filter.Comm)
		}
	}
	if changed("cgroup") && changed("container") {
		return usagef("--container: a container is a cgroup, so --cgroup would be another one")
	}
	if changed("cgroup") {
		dir, err := cgroupDir(f.cgroup)
		if err != nil {
			return fmt.Errorf("--cgroup: %w", err)
		}
		filter.Cgroup = dir
	}
	if changed("container") {
		mount, err := kernel.CgroupMount()
		if err != nil {
			return fmt.Errorf("--container: %w", err)
		}
		if filter.Cgroup, err = container.NewFinder(mount).Cgroup(f.container); err != nil {
			return fmt.Errorf("--container: %w", err)
		}
	}
	return nil
}

// isThread reports whether id is that of a thread, and of no process.
func isThread(id uint32) bool {
	return errors.Is(unix.Tgkill(int(id), int(id), 0), unix.ESRCH)
}

// threadError says what to give instead of the id of a thread.
func threadError(flag string, id uint32) error {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
	_, after, _ := strings.Cut(string(status), "\nTgid:")
	process, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]), 10, 32)
	if err != nil { // /proc is not there
		return fmt.Errorf("--%s: %d is a thread and no process: --tid takes it", flag, id)
	}
	return fmt.Errorf("--%s: %d is a thread of process %d: take --tid %d or --%s %d", flag, id, process, id, flag, process)
}

// cgroupDir returns the directory of a cgroup of the unified hierarchy. path is
// relative to where that is mounted, or absolute: below the mount, or the way
// /proc/PID/cgroup writes it.
func cgroupDir(path string) (string, error) {
	mount, err := kernel.CgroupMount()
	if err != nil {
		return "", err
	}
	candidates := []string{filepath.Join(mount, path)}
	if filepath.IsAbs(path) {
		candidates = []string{path, filepath.Join(mount, path)}
	}
	for _, dir := range candidates {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroup %q: looked for %s", path, strings.Join(candidates, " and "))
}

// parseWakeup reads when records wake the reader. p has the ring's size already.
func parseWakeup(text string, p *plan) error {
	// What wakes nobody is looked for all the same.
	const lookEvery = 100 * time.Millisecond
	name, value, hasValue := strings.Cut(text, "=")
	p.consume.Pace = consumer.DefaultPace
	switch {
	case text == "auto":
	case text == "every":
		p.attach.Wakeup.Policy = attach.WakeupEvery
		p.consume.Pace = 0
	case name == "bytes" && hasValue:
		n, err := parseSize(value)
		if err != nil {
			return err
		}
		if n == 0 || n > uint64(p.attach.RingSize) {
			return fmt.Errorf("%s never wait in a ring of %s: want from 1 byte to that", value, formatSize(uint64(p.attach.RingSize)))
		}
		p.attach.Wakeup = attach.Wakeup{Policy: attach.WakeupBytes, Bytes: n}
		p.consume.Pace, p.consume.LookEvery = 0, lookEvery
	case name == "interval" && hasValue:
		var every seconds
		if err := every.Set(value); err != nil {
			return err
		}
		if every == 0 {
			return errors.New("an interval of 0 would never rest")
		}
		p.attach.Wakeup.Policy = attach.WakeupNever
		p.consume.Pace, p.consume.LookEvery = 0, time.Duration(every)
	default:
		return fmt.Errorf("unknown policy %q: want auto, every, bytes=SIZE or interval=TIME", text)
	}
	return nil
}

// hookNames are what --hook takes.
func hookNames() []string {
	names := []string{"auto"}
	for _, kind := range tracer.Kinds() {
		names = append(names, string(kind))
	}
	return names
}

// anyHook says in words what --hook takes.
func anyHook() string {
	names := hookNames()
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// hooksOf returns what hooks t has, for failures or not: those of that kind alone, and in
// words the kinds of all.
func hooksOf(t *tracer.Tracer, kind tracer.HookKind, failed bool) (hooks []tracer.Hook, all string) {
	var kinds []string
	for _, h := range t.Hooks {
		if h.Failed != failed {
			continue
		}
		kinds = append(kinds, string(h.Kind))
		if h.Kind == kind {
			hooks = append(hooks, h)
		}
	}
	return hooks, strings.Join(kinds, ", ")
}

// parseRingSize reads a size and checks that a ring can have it.
func parseRingSize(s string) (uint32, error) {
	n, err := parseSize(s)
	if err != nil {
		return 0, err
	}
	if err := ringbuf.ValidSize(n); err != nil {
		below, above := ringbuf.NearestSizes(n)
		if below == 0 || above == 0 {
			return 0, fmt.Errorf("%w: the nearest valid size is %s", err, formatSize(max(below, above)))
		}
		return 0, fmt.Errorf("%w: the nearest valid sizes are %s and %s", err, formatSize(below), formatSize(above))
	}
	return uint32(n), nil
}

// parseSize reads bytes with an optional unit, which is a power of 1024: 4096,
// 512K, 8M, 8MiB, 1G.
func parseSize(s string) (uint64, error) {
	number := strings.TrimRight(s, "KMGTkmgtiIBb")
	shifts := map[string]uint{"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
	unit := strings.ToLower(s[len(number):])
	if unit != "b" {
		unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	}
	n, err := strconv.ParseUint(number, 10, 64)
	shift, ok := shifts[unit]
	if err != nil || !ok || n<<shift>>shift != n {
		return 0, fmt.Errorf("%q is no size: write bytes, or a number with K, M or G, such as 512K, 8M or 8MiB", s)
	}
	return n << shift, nil
}

// formatSize writes a size the way parseSize reads it.
func formatSize(n uint64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{30, "G"}, {20, "M"}, {10, "K"}} {
		if n >= 1<<unit.shift && n%(1<<unit.shift) == 0 {
			return strconv.FormatUint(n>>unit.shift, 10) + unit.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// seconds is a flag's duration: a number of seconds, or as time.ParseDuration
// reads it.
type seconds time.Duration

func (s *seconds) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

func (s *seconds) Type() string { return "duration" }

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, ferr := strconv.ParseFloat(text, 64); ferr == nil {
		if n*float64(time.Second) > math.MaxInt64 || math.IsNaN(n) {
			return fmt.Errorf("%q is too long", text)
		}
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no time: write seconds (5, 0.5) or 500ms, 1m30s", text)
	}
	*s = seconds(d)
	return nil
}

// paramValue is the value of a tracer's own flag.
type paramValue struct {
	value string
	param *tracer.Param
}

func (p *paramValue) String() string { return p.value }

func (p *paramValue) Type() string { return p.param.Value }

func (p *paramValue) Set(text string) error {
	if err := p.param.Check(text); err != nil {
		return err
	}
	p.value = text
	return nil
}
