package log

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// crowd is a directory with several logs whose flushes go through the journal.
type crowd struct {
	t    *testing.T
	d    *Dir
	logs []*Log
	hear []*listener
}

func journalOptions(fsys vfs.FS) DirOptions {
	opts := testOptions(fsys)
	opts.Flusher.JournalAt = 1
	return opts
}

func openCrowd(t *testing.T, opts DirOptions, n int) *crowd {
	t.Helper()
	c := &crowd{t: t, d: openTestDir(t, opts)}
	t.Cleanup(func() { _ = c.d.Close(-1) })
	for i := range n {
		c.open(i)
	}
	return c
}

func (c *crowd) open(i int) {
	n := newListener()
	l, err := c.d.Open(c.spec(i, n))
	require.NoError(c.t, err)
	n.listen(l)
	if i == len(c.logs) {
		c.logs, c.hear = append(c.logs, nil), append(c.hear, nil)
	}
	c.logs[i], c.hear[i] = l, n
}

func (c *crowd) spec(i int, n *listener) Spec {
	s := testSpec(Config{Synced: true}, n)
	s.Partition = int32(i)
	return s
}

// append adds a record to log i and waits for its flush. The first of an epoch
// goes to the segment, for the epoch must be on disk first.
func (c *crowd) append(i int, value string) {
	_, next := add(c.t, c.logs[i], 1, batch(c.t, 1, value))
	require.NoError(c.t, c.hear[i].waitFlushed(next).Err)
}

func (c *crowd) values(i int) []string { return valuesOf(c.t, readEverything(c.t, c.logs[i])) }

func valuesOf(t tester, b []byte) (out []string) {
	for len(b) > 0 {
		info, ok := record.Peek(b)
		require.True(t, ok)
		for r, err := range record.Records(b[:info.Size], record.Limits{Internal: true, MaxDecompressed: 1 << 20}) {
			require.NoError(t, err)
			out = append(out, string(r.Value))
		}
		b = b[info.Size:]
	}
	return out
}

func TestManySmallAppendsShareOneSync(t *testing.T) {
	mem := vfs.NewMem()
	opts := journalOptions(mem)
	opts.Flusher.JournalAt = 8
	opts.Flusher.Workers = 1
	gate := &gatedFlusher{}
	opts.Flusher.Flusher = gate
	const logs = 20
	c := openCrowd(t, opts, logs)
	for i := range logs {
		c.append(i, "first")
	}
	gate.close()
	_, _ = add(t, c.logs[0], 1, batch(t, 1, "opens the gate")) // the only worker is busy with it
	gate.waitForOne()
	for i := 1; i < logs; i++ {
		add(t, c.logs[i], 1, batch(t, 1, "second"))
	}
	before := gate.flushes.Load()
	gate.open()
	for i := 1; i < logs; i++ {
		c.hear[i].waitFlushed(2)
	}
	// The two journal files' headers and the group.
	require.Equal(t, int64(3), gate.flushes.Load()-before)

	crashed := openCrowd(t, journalOptions(mem.CrashClone(nil)), logs)
	for i := 1; i < logs; i++ {
		require.Equal(t, []string{"first", "second"}, crashed.values(i))
	}
}

// gatedFlusher holds flushes back while it is closed.
type gatedFlusher struct {
	mu      sync.Mutex // guards the channels
	gate    chan struct{}
	waiting chan struct{}
	flushes atomic.Int64
}

func (g *gatedFlusher) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate, g.waiting = make(chan struct{}), make(chan struct{}, 1)
}

func (g *gatedFlusher) open() { close(g.gate) }

func (g *gatedFlusher) waitForOne() { <-g.waiting }

func (g *gatedFlusher) Flush(f vfs.File) error {
	g.mu.Lock()
	g.flushes.Add(1)
	gate, waiting := g.gate, g.waiting
	g.mu.Unlock()
	if gate != nil {
		select {
		case waiting <- struct{}{}:
		default:
		}
		<-gate
	}
	return f.Datasync()
}

func TestJournaledBytesSurviveTruncation(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 2)
	for _, v := range []string{"a", "b", "c"} {
		c.append(0, v)
		c.append(1, v)
	}
	require.NoError(t, c.logs[0].TruncateTo(2))
	mid := mem.CrashClone(nil)
	add(t, c.logs[0], 2, batch(t, 1, "X"))
	c.hear[0].waitFlushed(3)
	c.append(1, "d")

	after := openCrowd(t, journalOptions(mid), 2)
	require.Equal(t, []string{"a", "b"}, after.values(0))
	require.Equal(t, []string{"a", "b", "c"}, after.values(1))
	after = openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	require.Equal(t, []string{"a", "b", "X"}, after.values(0), "the journal brings back nothing that was truncated")
	require.Equal(t, []string{"a", "b", "c", "d"}, after.values(1))
}

func TestAPartitionThatComesBackIsNotFilledFromTheJournal(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 1)
	for _, v := range []string{"a", "b", "c"} {
		c.append(0, v)
	}
	require.NoError(t, c.d.Remove(c.logs[0]))
	c.open(0)
	c.append(0, "new")
	after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 1)
	require.Equal(t, []string{"new"}, after.values(0))
}

func TestTheJournalTurns(t *testing.T) {
	mem := vfs.NewMem()
	opts := journalOptions(mem)
	opts.Flusher.JournalBytes = 600
	c := openCrowd(t, opts, 3)
	turned := func() bool { // both files were used again
		for _, name := range journalNames() {
			b, err := readFile(mem, filepath.Join(testPath, name))
			if err != nil {
				return false
			}
			require.Less(t, len(b), 1200)
			if generation, _ := decodeJournalHeader(b); generation <= 4 {
				return false
			}
		}
		return true
	}
	var want []string
	for i := 0; i < 10 || !turned(); i++ {
		require.Less(t, i, 10_000, "the journal does not turn")
		v := fmt.Sprint(i)
		want = append(want, v)
		for k := range c.logs {
			c.append(k, v)
		}
		if i%5 == 0 {
			after := openCrowd(t, withFS(opts, mem.CrashClone(nil)), 3)
			for k := range after.logs {
				require.Equal(t, want, after.values(k))
			}
			require.NoError(t, after.d.Close(-1))
		}
	}
}

// Groups are written where the file has its blocks already; without space for
// zeros ahead they are written all the same.
func TestTheJournalIsFilledAhead(t *testing.T) {
	for _, full := range []bool{false, true} {
		mem := vfs.NewMem()
		faults := vfs.NewFaults(mem)
		opts := journalOptions(faults)
		c := openCrowd(t, opts, 1)
		c.append(0, "the epoch")
		if full { // the headers of both files come first
			faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "flush-journal.*", After: 2, Count: 1, Err: syscall.ENOSPC})
		}
		size := func() int64 {
			b, err := readFile(mem, filepath.Join(testPath, journalNames()[0]))
			require.NoError(t, err)
			return int64(len(b))
		}
		c.append(0, "first")
		at := c.d.journal.slots[0].at
		want := at
		if !full {
			want += testFill
		}
		require.Equal(t, want, size())
		c.append(0, "second")
		if full {
			want = c.d.journal.slots[0].at + testFill
		}
		require.Equal(t, want, size())
		after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 1)
		require.Equal(t, []string{"the epoch", "first", "second"}, after.values(0))
	}
}

func withFS(o DirOptions, fsys vfs.FS) DirOptions {
	o.FS = fsys
	return o
}

// A journal that cannot be written, or whose sync fails, costs nothing but speed.
func TestWithoutTheJournalSegmentsAreSynced(t *testing.T) {
	for name, fault := range map[string]vfs.Fault{
		"no space":    {Op: vfs.OpWrite, Pattern: "flush-journal.*", Err: syscall.ENOSPC, Partial: 40},
		"no file":     {Op: vfs.OpCreate, Pattern: "flush-journal.*", Err: syscall.EMFILE},
		"failed sync": {Op: vfs.OpSync, Pattern: "flush-journal.*", After: 3, Err: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			opts := journalOptions(faults)
			opts.TailBytes = 1
			c := openCrowd(t, opts, 2)
			faults.Inject(fault)
			for i := range 6 {
				c.append(0, fmt.Sprint(i))
				c.append(1, fmt.Sprint(i))
			}
			for _, l := range c.logs {
				c.d.pool.drain(l)
			}
			require.Zero(t, c.d.tail.bytes.Load(), "what is written gives way in memory")
			after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
			for k := range after.logs {
				require.NoError(t, c.logs[k].Err())
				require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, after.values(k))
			}
		})
	}
}

// When the segment's own sync fails later, its log is latched and the journal
// keeps what was acknowledged, in the process and over a restart.
func TestTheJournalKeepsWhatASegmentLost(t *testing.T) {
	mem := vfs.NewMem()
	faults := vfs.NewFaults(mem)
	opts := journalOptions(faults)
	opts.Flusher.JournalBytes = 40_000 // records are larger than a page: a page is what a failed sync loses
	c := openCrowd(t, opts, 2)
	value := func(i int) string { return strings.Repeat(fmt.Sprint(i, " "), 2500) }
	c.append(0, value(0))
	c.append(1, value(0))
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Count: 1, Err: syscall.EIO})
	var acked [2][]string
	acked[0], acked[1] = []string{value(0)}, []string{value(0)}
	for i := 1; c.logs[0].Err() == nil && c.logs[1].Err() == nil; i++ {
		require.Less(t, i, 100, "the segments are never synced")
		for k, l := range c.logs {
			v := value(i)
			_, next, err := tryAdd(l, 1, batch(t, 1, v))
			if err == nil && c.hear[k].waitFlushed(next).Err == nil {
				acked[k] = append(acked[k], v)
			}
		}
	}
	faults.Heal()
	after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	for k := range after.logs {
		require.Equal(t, DamageNone, after.logs[k].Damage())
		require.Equal(t, acked[k], after.values(k)[:len(acked[k])])
	}
	// Opened again by the same process, the bytes are written once more.
	failed := slices.IndexFunc(c.logs, func(l *Log) bool { return l.Err() != nil })
	require.ErrorIs(t, c.logs[failed].Close(), ErrFailed)
	c.open(failed)
	require.Equal(t, acked[failed], c.values(failed)[:len(acked[failed])])
	after = openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	require.Equal(t, acked[failed], after.values(failed)[:len(acked[failed])])
	// And when the journal no longer keeps them, the segment does.
	require.NoError(t, c.logs[failed].TruncateTo(c.logs[failed].End()-1))
	after = openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	rest := after.values(failed)
	require.Equal(t, acked[failed][:len(rest)], rest)
	require.GreaterOrEqual(t, len(rest), len(acked[failed])-1)
}

// At every change that a truncation makes, a power cut leaves what was
// acknowledged below it.
func TestPowerCutsDuringATruncation(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 1)
	for _, v := range []string{"a", "b", "c"} {
		c.append(0, v)
	}
	var mu sync.Mutex // guards clones; the housekeeper writes checkpoints meanwhile
	var clones []*vfs.Mem
	mem.Watch(func(vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		clones = append(clones, mem.CrashClone(nil))
	})
	require.NoError(t, c.logs[0].TruncateTo(2))
	mem.Watch(nil)
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, clones)
	for i, clone := range clones {
		after := openCrowd(t, journalOptions(clone), 1)
		require.Equal(t, DamageNone, after.logs[0].Damage())
		require.Equal(t, []string{"a", "b"}, after.values(0)[:2], "cut %d", i)
	}
}

func TestAClosedLogDoesNotNeedTheJournal(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 2)
	for _, v := range []string{"a", "b"} {
		c.append(0, v)
		c.append(1, v)
	}
	require.NoError(t, c.d.Close(3)) // empties the journal
	after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	for k := range after.logs {
		require.Equal(t, DamageNone, after.logs[k].Damage())
		require.Equal(t, []string{"a", "b"}, after.values(k))
	}
}

// What was written and not flushed when a topic became synced is not in the
// journal: it must be synced before, or with, what is.
func TestATopicThatBecomesSynced(t *testing.T) {
	mem := vfs.NewMem()
	opts := journalOptions(mem)
	opts.Flusher.Workers = 1
	gate := &gatedFlusher{}
	opts.Flusher.Flusher = gate
	c := openCrowd(t, opts, 2)
	c.append(0, "a")
	c.append(1, "a")
	c.logs[1].Configure(Config{FlushInterval: time.Hour})
	add(t, c.logs[1], 1, batch(t, 1, "b"))
	c.hear[1].waitWritten(2)
	gate.close()
	add(t, c.logs[0], 1, batch(t, 1, "b"))
	gate.waitForOne() // the only worker
	c.logs[1].Configure(Config{Synced: true})
	add(t, c.logs[1], 1, batch(t, 1, "c"))
	gate.open()
	require.NoError(t, c.hear[1].waitFlushed(3).Err)
	after := openCrowd(t, journalOptions(mem.CrashClone(nil)), 2)
	require.Equal(t, []string{"a", "b", "c"}, after.values(1))
}

// The segments of a full file are synced as the other file fills: half of it is
// the time for all. Nothing waits for a file that fills no more.
func TestSegmentsAreSyncedAsTheOtherFileFills(t *testing.T) {
	opts := journalOptions(vfs.NewMem())
	opts.Flusher.JournalBytes = 1000
	for _, tt := range []struct {
		at              int64
		k               int
		closing, failed bool
		want            bool
	}{
		{at: journalHeader, k: 0, want: true},
		{at: 124, k: 1, want: false},
		{at: 125, k: 1, want: true},
		{at: 374, k: 3, want: false},
		{at: 375, k: 3, want: true},
		{at: journalHeader, k: 3, closing: true, want: true},
		{at: journalHeader, k: 3, failed: true, want: true},
	} {
		j := newJournal(opts, newOpenFiles(opts.FS, 0, nil), Fdatasync{})
		j.slots[0].at, j.closing = tt.at, tt.closing
		if tt.failed {
			j.failed = syscall.EIO
		}
		require.Equal(t, tt.want, j.due(tt.k, 4), "%+v", tt)
	}
}

func TestACleanStopLeavesNoJournal(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 2)
	for range 3 {
		c.append(0, "x")
		c.append(1, "x")
	}
	require.NoError(t, c.d.Close(3))
	entries, err := newJournal(journalOptions(mem), newOpenFiles(mem, 0, nil), Fdatasync{}).replay()
	require.NoError(t, err)
	require.Zero(t, entries)
}

// What looks like a group but was not written as one is not believed.
func TestForgedGroups(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 1)
	c.append(0, "a")
	c.append(0, "b")
	name := filepath.Join(testPath, journalNames()[0])
	whole, err := readFile(mem, name)
	require.NoError(t, err)
	forge := &group{}
	forge.begin(nil)
	forge.add(c.logs[0].key, c.logs[0].folder, 0, 0, [][]byte{bytes.Repeat([]byte("X"), 100)})
	for what, tail := range map[string][]byte{
		"another salt":     forge.seal(1),
		"a wild length":    {0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		"a length of zero": make([]byte, 64),
		"half a group":     bytes.Clone(whole[journalHeader:])[:30],
	} {
		after := mem.CrashClone(nil)
		f, err := after.Open(name)
		require.NoError(t, err)
		_, err = f.WriteAt(tail, int64(len(whole)))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.Equal(t, []string{"a", "b"}, openCrowd(t, journalOptions(after), 1).values(0), what)
	}
}

func TestJournalEntriesStayInTheirFolder(t *testing.T) {
	for _, folder := range []string{"../orders-0", "orders", "a/b-0", "..", "", "/orders-0"} {
		g := &group{}
		g.begin(nil)
		g.add(logKey{}, folder, 0, 0, [][]byte{[]byte("x")})
		_, err := decodeGroup(g.seal(7), 7)
		require.Error(t, err, folder)
	}
	for _, at := range []int64{-1, 1 << 40} {
		g := &group{}
		g.begin(nil)
		g.add(logKey{}, "orders-0", 0, at, [][]byte{[]byte("x")})
		_, err := decodeGroup(g.seal(7), 7)
		require.Error(t, err)
	}
}

func FuzzJournal(f *testing.F) {
	g := &group{}
	g.begin(nil)
	g.add(logKey{partition: 3}, "orders-3", 5, 6, [][]byte{[]byte("some bytes")})
	g.void(logKey{partition: 3})
	f.Add(g.seal(7))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= groupHeader { // let the checks behind the CRC be reached
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b, uint32(len(b)))
			binary.BigEndian.PutUint64(b[8:], 7)
			binary.BigEndian.PutUint32(b[4:], castagnoli(b[8:]))
		}
		entries, err := decodeGroup(b, 7)
		if err != nil {
			return
		}
		again := &group{}
		again.begin(nil)
		for _, e := range entries {
			if e.kind == entryVoid {
				again.void(e.key)
			} else {
				again.add(e.key, e.folder, e.base, e.position, [][]byte{e.bytes})
			}
		}
		require.Len(t, entries, again.count)
	})
}

// A process that dies between writing the header of a file that it begins anew and
// the sync of it leaves a header that only the page cache has. Behind it stand the
// old groups, and a later power cut brings the old header back.
func TestAHeaderThatWasNotSynced(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 1)
	for _, v := range []string{"a", "b", "c"} {
		c.append(0, v)
	}
	var killed *vfs.Mem
	mem.Watch(func(e vfs.Event) {
		if e.Op == vfs.OpSync && strings.HasSuffix(e.Name, journalNames()[0]) && !e.Done {
			killed = mem.KillClone() // the header's is the last
		}
	})
	require.NoError(t, c.d.Close(3))
	mem.Watch(nil)
	require.NotNil(t, killed)

	opts := testOptions(killed) // no group is written any more
	opts.Flusher.JournalBytes = -1
	c = openCrowd(t, opts, 1)
	require.NoError(t, c.logs[0].TruncateTo(1))
	add(t, c.logs[0], 2, batch(t, 1, "X"))
	require.NoError(t, c.hear[0].waitFlushed(2).Err)
	after := openCrowd(t, journalOptions(killed.CrashClone(nil)), 1)
	require.Equal(t, []string{"a", "X"}, after.values(0))
}

// A file that was kept because a segment of it could not be synced may hold what
// the other one says is void: at a clean stop the older is emptied first.
func TestTheOlderFileIsEmptiedFirst(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 1)
	j := c.d.journal
	c.append(0, "a") // its epoch comes first, so it is synced by itself
	j.mu.Lock()
	require.NoError(t, j.start())
	require.NoError(t, j.renew(&j.slots[0], j.slots[0].file))
	j.current = 1 // the older one now
	j.mu.Unlock()
	c.append(0, "b")
	c.append(0, "c")
	j.mu.Lock()
	j.current, j.slots[1].releasing = 0, true
	j.mu.Unlock()
	require.NoError(t, c.logs[0].TruncateTo(1))
	c.append(0, "X")

	for i, clone := range clonesDuring(mem, func() { require.NoError(t, c.d.Close(3)) }) {
		require.Equal(t, []string{"a", "X"}, openCrowd(t, journalOptions(clone.cut), 1).values(0), "cut %d", i)
		// The process dies there, and the power fails while the next one recovers.
		again := clonesDuring(clone.killed, func() {
			require.Equal(t, []string{"a", "X"}, openCrowd(t, journalOptions(clone.killed), 1).values(0), "kill %d", i)
		})
		for k, clone := range again {
			require.Equal(t, []string{"a", "X"}, openCrowd(t, journalOptions(clone.cut), 1).values(0), "kill %d, cut %d", i, k)
		}
	}
}

// endings are what a power cut and a kill leave at one moment.
type endings struct{ cut, killed *vfs.Mem }

// clonesDuring takes the endings at every change that do makes.
func clonesDuring(mem *vfs.Mem, do func()) (out []endings) {
	var mu sync.Mutex // guards out
	mem.Watch(func(vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		out = append(out, endings{cut: mem.CrashClone(nil), killed: mem.KillClone()})
	})
	do()
	mem.Watch(nil)
	mu.Lock() // a checkpoint that is being written may still tell of it
	defer mu.Unlock()
	return out
}
