// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/rbtrace/rbtrace/internal/attach"
	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/tracer"
)

// Each declaration is whole, and agrees with the object that it loads.
func TestAll(t *testing.T) {
	seen := make(map[string]bool)
	for _, tr := range All() {
		t.Run(tr.Name, func(t *testing.T) {
			if seen[tr.Name] {
				t.Error("the name is taken")
			}
			seen[tr.Name] = true
			for _, file := range []string{
				"../../cmd/rbtrace/testdata/script/" + tr.Name + ".txtar",
				"../../docs/commands/rbtrace_" + tr.Name + ".md",
				"../../bpf/" + tr.Name + ".bpf.c",
			} {
				if _, err := os.Stat(file); err != nil {
					t.Error(err)
				}
			}
			if tr.Short == "" || tr.Long == "" || len(tr.Examples) == 0 || len(tr.Hooks) == 0 {
				t.Error("help, examples or hooks are missing")
			}
			spec, err := tr.Load()
			if err != nil {
				t.Fatal(err)
			}
			testColumns(t, tr)
			testConstants(t, tr, spec)
			testPrograms(t, tr, spec)
			testSize(t, tr, spec)
		})
	}
}

// TestOneType: a key has one type, whichever tracer's it is: an expression over several of them could not be right of
// all, nor what reads their JSON.
func TestOneType(t *testing.T) {
	types, of := make(map[string]string), make(map[string]string)
	for _, tr := range All() {
		for _, c := range tr.Schema() {
			if typ, ok := types[c.Key]; ok && typ != c.Type {
				t.Errorf("%s is a %s of %s, and a %s of %s", c.Key, typ, of[c.Key], c.Type, tr.Name)
			}
			types[c.Key], of[c.Key] = c.Type, tr.Name
		}
	}
}

func testColumns(t *testing.T, tr *tracer.Tracer) {
	key := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	for _, c := range tr.Schema() {
		if !key.MatchString(c.Key) || c.Key == "type" {
			t.Errorf("key %q", c.Key)
		}
		if c.Header != strings.ToUpper(c.Header) || c.Doc == "" {
			t.Errorf("column %s: header %q, doc %q", c.Key, c.Header, c.Doc)
		}
	}
	for _, defaults := range [][]string{tr.Columns, tr.FailedColumns} {
		columns, err := tr.Schema().Select(defaults, "")
		if err != nil {
			t.Fatal(err)
		}
		if w := output.Width(tr.Schema(), columns, field.NewTimeStyle(field.TimeWall, nil)); w > 80 {
			t.Errorf("the table of %v is %d wide", defaults, w)
		}
	}
}

// testConstants: each constant is set by a parameter or by all sessions, and each
// that they set is there.
func testConstants(t *testing.T, tr *tracer.Tracer, spec *ebpf.CollectionSpec) {
	wanted := make(map[string]bool)
	for _, name := range attach.Constants() {
		wanted[name] = true
	}
	for _, p := range tr.Params {
		text := p.Default
		switch {
		case text != "":
		case p.Duration:
			text = "1ms"
		case p.Name == tracer.StackParam:
			text = "kernel"
		case p.Text != nil && p.Check("1") != nil:
			text = "/"
		default:
			text = "1"
		}
		constants, err := p.Constants(text)
		if err != nil {
			t.Errorf("--%s: %v", p.Name, err)
		}
		for name := range constants {
			if wanted[name] {
				t.Errorf("--%s sets %s, which is set already", p.Name, name)
			}
			wanted[name] = true
		}
		if p.Column != "" && tr.Schema().Index(p.Column) < 0 {
			t.Errorf("--%s filters by %s, which is no column", p.Name, p.Column)
		}
		if p.Usage == "" || p.Value == "" || p.Max == 0 {
			t.Errorf("--%s is not described", p.Name)
		}
	}
	for _, e := range tr.Enums {
		wanted[e.Const] = true
		if e.Type == "" {
			t.Errorf("the enum of %s has no name", e.Const)
		}
	}
	for name := range wanted {
		if v := spec.Variables[name]; v == nil || !v.Constant() {
			t.Errorf("the object has no constant %s", name)
		}
	}
	for name, v := range spec.Variables {
		// What is there for bpf2go's sake alone is no tunable: it is not volatile.
		if v.Constant() && !wanted[name] && volatile(v) && !slices.Contains(attach.OptionalConstants(), name) {
			t.Errorf("nothing sets the constant %s", name)
		}
	}
}

func volatile(v *ebpf.VariableSpec) bool {
	for typ := v.Type.Type; ; {
		switch q := typ.(type) {
		case *btf.Volatile:
			return true
		case *btf.Const:
			typ = q.Type
		case *btf.Array:
			typ = q.Type
		default:
			return false
		}
	}
}

// testPrograms: each program of a hook is there, each that is there is in a hook,
// and its section is of the hook's kind.
func testPrograms(t *testing.T, tr *tracer.Tracer, spec *ebpf.CollectionSpec) {
	used := make(map[string]bool)
	for _, hook := range tr.Hooks {
		own := false // one of its kind
		for _, p := range hook.Programs {
			used[p.Name] = true
			program := spec.Programs[p.Name]
			if program == nil {
				t.Errorf("the object has no program %s", p.Name)
				continue
			}
			want := map[ebpf.ProgramType]tracer.HookKind{
				ebpf.RawTracepoint: tracer.Tracepoint, ebpf.TracePoint: tracer.Tracepoint,
				ebpf.Tracing: tracer.Fentry, ebpf.Kprobe: tracer.Kprobe,
			}[program.Type]
			if strings.HasPrefix(program.SectionName, "uprobe/") || strings.HasPrefix(program.SectionName, "uretprobe/") {
				want = tracer.Uprobe
			}
			if strings.HasPrefix(program.SectionName, "iter/") && p.Prepares {
				continue // what is there before
			}
			multi := hook.Kind == tracer.KprobeMulti && !p.Atomic // which has those of tracepoints, or of functions
			own = own || hook.Kind == want || multi
			if hook.Kind != want && want != tracer.Tracepoint && !multi { // which may be beside functions
				t.Errorf("%s (%s) is in a hook of the kind %s", p.Name, program.SectionName, hook.Kind)
			}
			if program.License != "Dual BSD/GPL" {
				t.Errorf("%s has the licence %q", p.Name, program.License)
			}
		}
		if !own {
			t.Errorf("no program is of the hook's kind, %s", hook.Kind)
		}
	}
	for name := range spec.Programs {
		if !used[name] {
			t.Errorf("no hook has the program %s", name)
		}
	}
}

func testSize(t *testing.T, tr *tracer.Tracer, spec *ebpf.CollectionSpec) {
	var c *btf.Struct
	if err := spec.Types.TypeByName(tr.Name+"_event", &c); err != nil {
		t.Fatal(err)
	}
	if int(c.Size) != tr.WireSize {
		t.Errorf("struct %s has %d bytes, its Go twin %d", c.Name, c.Size, tr.WireSize)
	}
}

// FuzzDecode: whatever a record holds, decoding it neither panics nor reads past
// it, and what comes out is JSON and a table's row.
func FuzzDecode(f *testing.F) {
	for i := range All() {
		for _, n := range []int{0, 8, 64, 112, 113, 200, 4096} {
			f.Add(uint8(i), make([]byte, n))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		tracers := All()
		tr := tracers[int(which)%len(tracers)]
		decoder := tr.NewDecoder()
		// Ring memory is aligned, and a record's neighbour is not its own.
		words := make([]uint64, len(data)/8+2)
		memory := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
		for i := range memory {
			memory[i] = 'X'
		}
		copy(memory, data)
		for cpu := range 2 { // the event of before must not show
			if err := decoder.Decode(memory[:len(data):len(data)], int64(cpu)); err != nil {
				return
			}
		}
		object := make(map[string]json.RawMessage)
		b := []byte("{")
		for i, c := range tr.Schema() {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `"`+c.Key+`":`...)
			b = decoder.Event[i].AppendJSON(b)
		}
		b = append(b, '}')
		if !utf8.Valid(b) {
			t.Errorf("not UTF-8: %q", b)
		}
		if err := json.Unmarshal(b, &object); err != nil || len(object) != len(tr.Schema()) {
			t.Errorf("%v: %s", err, b)
		}
		for i, c := range tr.Schema() {
			for _, r := range string(decoder.Event[i].AppendText(nil)) {
				if r < ' ' || r == 0x7f || r == utf8.RuneError && c.Key != "args" {
					t.Errorf("%s has %q in its cell", c.Key, r)
				}
			}
		}
	})
}
