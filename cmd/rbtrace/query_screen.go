// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/cilium/ebpf"
	"github.com/clipperhouse/displaywidth"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/rbtrace/rbtrace/internal/field"
	"github.com/rbtrace/rbtrace/internal/output"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

// liveScreen reports whether --watch has a screen to itself. A terminal that calls itself
// dumb cannot have one, and who chooses columns wants tables.
func (r *queryRun) liveScreen() bool {
	name := os.Getenv("TERM")
	return r.changed("watch") && !r.changed("columns") && r.format == output.FormatTable &&
		name != "" && name != "dumb" && term.IsTerminal(int(r.Out.Fd()))
}

// firstWait is how long the screen waits for something to show, so that a mistake in the
// command line does not make the terminal flicker.
const firstWait = 300 * time.Millisecond

// live shows the snapshots on a screen of their own until the user, the count or ctx ends
// that. limit says why only some rings are seen. The snapshots are taken in a goroutine
// of their own, which has ended when live returns.
func (r *queryRun) live(ctx context.Context, in *os.File, snapshots func(context.Context) iter.Seq2[*ringquery.Snapshot, error], limit error) error {
	// What is to be told of rings would be written into the screen.
	var held bytes.Buffer
	stderr := r.Err
	r.Err = &held
	defer func() {
		r.Err = stderr
		_, _ = stderr.Write(held.Bytes())
	}()

	// A terminal that takes no more output would keep this from ending: let the second
	// signal do that.
	defer context.AfterFunc(ctx, func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) })()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	model := newScreen(time.Duration(r.flags.watch), limit, os.Getenv)
	options := []tea.ProgramOption{
		tea.WithOutput(quietTerminal{r.Out}), tea.WithEnvironment(screenEnv(os.Environ())), tea.WithoutSignalHandler(),
	}
	if in != nil {
		options = append(options, tea.WithInput(in))
	} else {
		options = append(options, tea.WithInput(nil))
	}
	// Lets go of who sends to a program that does not run, or no more.
	sending, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	program := tea.NewProgram(model, append(options, tea.WithContext(sending))...)

	var failed error
	var fault string
	first, fed := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(fed)
		defer program.Quit()
		defer func() {
			if v := recover(); v != nil {
				fault = fmt.Sprintf("%v\n\n%s", v, debug.Stack())
			}
		}()
		failed = r.feed(snapshots(ctx), func(s *ringquery.Snapshot, err error) {
			select {
			case first <- struct{}{}:
			default:
			}
			program.Send(snapshotMsg{s, err})
		})
		if failed != nil {
			cancel()
		}
	}()
	select {
	case <-first:
	case <-time.After(firstWait):
	case <-ctx.Done():
	}
	var err error
	if ctx.Err() == nil {
		_, err = program.Run()
	}
	ended := ctx.Err() != nil
	cancel()
	release()
	<-fed
	if fault != "" {
		panic(fault) // with the terminal as it was
	}
	if err != nil && !ended && !hungUp(r.Out) {
		failed = errors.Join(failed, fmt.Errorf("showing the screen: %w", err))
	}
	return failed
}

// hungUp reports whether a terminal has gone. That is no error, and is seen in what is read from
// it before the SIGHUP comes.
func hungUp(tty *output.Stream) bool {
	fds := []unix.PollFd{{Fd: int32(tty.Fd())}} // POLLHUP is always reported
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP != 0
}

// feed shows one snapshot after another. Errors that leave something to look for are
// shown with the snapshot, and returned at the end.
func (r *queryRun) feed(snapshots iter.Seq2[*ringquery.Snapshot, error], show func(*ringquery.Snapshot, error)) error {
	const most = 16 // they may differ each time
	told := make(map[string]bool)
	var failed error
	n := uint64(0)
	for s, err := range snapshots {
		if err != nil && (s == nil || n == 0 && len(s.Rings) == 0) {
			return errors.Join(failed, err)
		}
		if err != nil && !told[err.Error()] && len(told) < most {
			told[err.Error()] = true
			failed = errors.Join(failed, err)
		}
		for i := range s.Rings {
			r.ringAlarm(&s.Rings[i])
		}
		show(s, err)
		if n++; n == r.flags.count {
			break
		}
	}
	return failed
}

// screenEnv returns the environment that bubbletea is to see: one in which it does not ask
// the terminal what it can do. An answer that comes after the end, over a slow line, would
// be taken for something typed into the shell.
func screenEnv(environ []string) []string {
	kept := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		return strings.HasPrefix(v, "TERM_PROGRAM=") || strings.HasPrefix(v, "WT_SESSION=") || strings.HasPrefix(v, "TEA_TRACE=")
	})
	return append(kept, "SSH_TTY=")
}

// quietTerminal is a terminal that is not asked for its keyboard's abilities either, for
// which bubbletea has no switch (CSI ? u, of the kitty protocol).
type quietTerminal struct{ *output.Stream }

// Write implements io.Writer. bubbletea writes sequences in one piece.
func (t quietTerminal) Write(b []byte) (int, error) {
	if _, err := t.Stream.Write(bytes.ReplaceAll(b, []byte("\x1b[?u"), nil)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteString implements io.StringWriter, in which the Stream would go its own way.
func (t quietTerminal) WriteString(s string) (int, error) { return t.Write([]byte(s)) }

// keyboard returns where keys come from: standard input, or the terminal behind this
// process where that is none; nil: nowhere.
func keyboard() (f *os.File, done func()) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return os.Stdin, func() {}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY, 0)
	if err != nil {
		return nil, func() {}
	}
	return tty, func() { tty.Close() }
}

// snapshotMsg is a new snapshot.
type snapshotMsg struct {
	snapshot *ringquery.Snapshot
	err      error // of rings that are not in it; may be nil
}

// historyMost is how many fills of a ring are kept: more than a screen is wide.
const historyMost = 512

// screen is the live screen: a bubbletea model. Update and View depend on nothing else.
type screen struct {
	interval time.Duration
	limit    error // why not all rings are seen; nil: they are
	glyphs   *glyphs

	width, height int // 0: not known yet
	snapshot      *ringquery.Snapshot
	err           error  // of the last snapshot
	notice        string // what happened last, escaped

	fills map[ebpf.MapID][]float64 // at each snapshot, the last one last

	sort    int // of sorts
	reverse bool
	filter  string
	typing  bool // the filter is being typed

	rows     []*ringquery.Ring // of the snapshot: filtered and sorted
	top      int               // the first row on the screen
	cursor   int               // in rows
	picked   bool              // the cursor stays with its ring, not in its row
	selected ebpf.MapID        // where the cursor is, or was

	detail bool // the selected ring has the screen
	scroll int  // lines of it above the screen
}

func newScreen(interval time.Duration, limit error, getenv func(string) string) *screen {
	return &screen{interval: interval, limit: limit, glyphs: chooseGlyphs(getenv), fills: make(map[ebpf.MapID][]float64)}
}

// Init implements tea.Model.
func (m *screen) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case snapshotMsg:
		m.take(msg)
	case tea.PasteMsg:
		if m.typing {
			m.extendFilter(msg.Content)
		}
	case tea.KeyPressMsg:
		cmd = m.key(msg)
	}
	m.settle()
	return m, cmd
}

// take takes a new snapshot.
func (m *screen) take(msg snapshotMsg) {
	m.snapshot, m.err, m.notice = msg.snapshot, msg.err, ""
	fills := make(map[ebpf.MapID][]float64, len(m.snapshot.Rings))
	there := false
	for i := range m.snapshot.Rings {
		r := &m.snapshot.Rings[i]
		h := m.fills[r.ID]
		fills[r.ID] = append(h[max(0, len(h)-historyMost+1):], r.Fill())
		there = there || r.ID == m.selected
	}
	m.fills = fills
	if m.detail && !there {
		m.detail, m.picked = false, false
		m.notice = fmt.Sprintf("ring buffer %d has gone", m.selected)
	}
}

// settle brings rows, cursor and scrolling in line with everything else.
func (m *screen) settle() {
	m.rows = m.rows[:0:0]
	if m.snapshot != nil {
		for i := range m.snapshot.Rings {
			if r := &m.snapshot.Rings[i]; m.matches(r) {
				m.rows = append(m.rows, r)
			}
		}
	}
	compare := sorts[m.sort].compare
	slices.SortStableFunc(m.rows, func(a, b *ringquery.Ring) int { // equal ones by id
		if m.reverse {
			return compare(b, a)
		}
		return compare(a, b)
	})
	if m.picked {
		if i := slices.IndexFunc(m.rows, func(r *ringquery.Ring) bool { return r.ID == m.selected }); i >= 0 {
			m.cursor = i
		}
	}
	m.cursor = max(0, min(m.cursor, len(m.rows)-1))
	if len(m.rows) > 0 && !m.detail {
		m.selected = m.rows[m.cursor].ID
	}
	page := m.page()
	m.top = max(min(m.top, m.cursor, len(m.rows)-page), m.cursor-page+1, 0)
	if m.detail {
		m.scroll = max(0, min(m.scroll, len(m.detailLines())-m.detailPage()))
	}
}

// matches reports whether a ring passes the filter: a part of its name, or of an owner as
// it is shown, whatever the case.
func (m *screen) matches(r *ringquery.Ring) bool {
	want := strings.ToLower(m.filter)
	if strings.Contains(strings.ToLower(r.Name), want) {
		return true
	}
	return r.Details != nil && slices.ContainsFunc(r.Details.Owners, func(o ringquery.Owner) bool {
		return strings.Contains(strings.ToLower(fmt.Sprintf("%s[%d]", o.Comm, o.PID)), want)
	})
}

// selectedRing is the ring that has the screen; nil: none.
func (m *screen) selectedRing() *ringquery.Ring {
	if m.snapshot == nil {
		return nil
	}
	for i := range m.snapshot.Rings {
		if r := &m.snapshot.Rings[i]; r.ID == m.selected {
			return r
		}
	}
	return nil
}

// key takes a key.
func (m *screen) key(msg tea.KeyPressMsg) tea.Cmd {
	key := msg.String()
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case key == "ctrl+z":
		return tea.Suspend
	case m.typing:
		m.typed(key, msg.Text)
	case key == "q":
		return tea.Quit
	case m.tooSmall():
		// Keys would do what nobody sees.
	case m.detail:
		m.detailKey(key)
	default:
		m.listKey(key)
	}
	return nil
}

// typed takes a key for the filter.
func (m *screen) typed(key, text string) {
	switch key {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "ctrl+u":
		m.filter = ""
	case "backspace":
		m.filter = withoutLast(m.filter)
	case "up", "down":
		m.listKey(key)
	default:
		m.extendFilter(text)
	}
}

// extendFilter adds the first line of a text to the filter, as far as a name and a process
// could match.
func (m *screen) extendFilter(text string) {
	text, _, _ = strings.Cut(text, "\n")
	if text = strings.TrimRight(text, "\r"); len(m.filter)+len(text) <= 64 {
		m.filter += text
	}
}

// withoutLast returns a text without its last character.
func withoutLast(s string) string {
	last := ""
	for g := displaywidth.StringGraphemes(s); g.Next(); {
		last = g.Value()
	}
	return strings.TrimSuffix(s, last)
}

// listKey takes a key of the list.
func (m *screen) listKey(key string) {
	m.notice = ""
	switch key {
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup", "ctrl+b":
		m.move(-m.page())
	case "pgdown", "ctrl+f", "space":
		m.move(m.page())
	case "home", "g":
		m.move(-len(m.rows))
	case "end", "G":
		m.move(len(m.rows))
	case "enter", "right", "l":
		if len(m.rows) > 0 {
			m.detail, m.picked, m.scroll = true, true, 0
		}
	case "s":
		m.sort, m.reverse = (m.sort+1)%len(sorts), false
	case "S":
		m.sort, m.reverse = (m.sort+len(sorts)-1)%len(sorts), false
	case "r":
		m.reverse = !m.reverse
	case "/":
		m.typing = true
	case "esc":
		m.filter, m.picked = "", false
	}
}

// move moves the cursor by so many rows.
func (m *screen) move(n int) {
	m.cursor = max(0, min(m.cursor+n, len(m.rows)-1))
	if len(m.rows) > 0 {
		m.picked, m.selected = true, m.rows[m.cursor].ID
	}
}

// detailKey takes a key of the screen of one ring.
func (m *screen) detailKey(key string) {
	switch key {
	case "esc", "enter", "left", "h", "backspace":
		m.detail = false
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup", "ctrl+b":
		m.scroll -= m.detailPage()
	case "pgdown", "ctrl+f", "space":
		m.scroll += m.detailPage()
	case "home", "g":
		m.scroll = 0
	case "end", "G":
		m.scroll = len(m.detailLines())
	}
}

// sorts are the orders of the list: what calls for attention comes first.
var sorts = []struct {
	name    string
	compare func(a, b *ringquery.Ring) int
}{
	{"id", func(a, b *ringquery.Ring) int { return cmp.Compare(a.ID, b.ID) }},
	{"name", func(a, b *ringquery.Ring) int { return cmp.Compare(a.Name, b.Name) }},
	{"fill", func(a, b *ringquery.Ring) int { return cmp.Compare(b.Fill(), a.Fill()) }},
	{"high water", func(a, b *ringquery.Ring) int { return cmp.Compare(highWater(b), highWater(a)) }},
	{"produced", func(a, b *ringquery.Ring) int { return cmp.Compare(b.Produced, a.Produced) }},
	{"consumed", func(a, b *ringquery.Ring) int { return cmp.Compare(b.Consumed, a.Consumed) }},
	{"full in", func(a, b *ringquery.Ring) int { return cmp.Compare(uint64(a.TimeToFull), uint64(b.TimeToFull)) }}, // never is last
	{"verdict", func(a, b *ringquery.Ring) int {
		return slices.Index(ringquery.Verdicts(), b.Verdict) - slices.Index(ringquery.Verdicts(), a.Verdict)
	}},
}

// highWater is the most that a ring was full: 0 to 1.
func highWater(r *ringquery.Ring) float64 {
	if r.RingSize == 0 {
		return 0
	}
	return min(float64(r.HighWater)/float64(r.RingSize), 1)
}

// escaped makes a text of others fit for the terminal.
func escaped(s string) string { return string(field.AppendTextEscaped(nil, []byte(s))) }
