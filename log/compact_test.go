package log

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

var compactedConfig = Config{Synced: true, Compact: true, SegmentBytes: 600, IndexInterval: 100, DeleteRetention: time.Hour}

func newTestCleaner() *Cleaner { return NewCleaner(CleanerOptions{BytesPerSecond: -1}) }

// fillKeyed appends n batches of three records, each key again and again, with
// tombstones, producers and leader epochs among them, and commits all of it.
func fillKeyed(t tester, l *Log, n *listener, count int) {
	t.Helper()
	sequences := [2]int32{}
	for i := range count {
		records := make([]keyedRecord, 3)
		for j := range records {
			records[j].key = fmt.Sprintf("key %d", (i*3+j*j)%7)
			if (i+j)%5 > 0 {
				records[j].value = fmt.Sprintf("value %d.%d", i, j)
			}
		}
		producer, sequence := int64(-1), int32(0)
		if i%3 == 0 {
			producer = int64(i / 3 % 2)
			sequence = sequences[producer]
			sequences[producer] += 3
		}
		codec := record.CodecNone
		if i%4 == 0 {
			codec = record.CodecZstd
		}
		add(t, l, record.Epoch(1+i/7), keyed(t, codec, int64(1000+i), producer, sequence, records...))
		n.waitFlushed(l.End())
	}
	l.SetHighWatermark(l.End())
}

// fillPlain appends n batches of one record, values of five keys, and commits them.
func fillPlain(t tester, l *Log, n *listener, count int) {
	t.Helper()
	for i := range count {
		add(t, l, 50, keyed(t, record.CodecNone, 0, -1, 0, keyedRecord{fmt.Sprintf("key %d", i%5), fmt.Sprintf("value %d", i)}))
	}
	n.waitFlushed(l.End())
	l.SetHighWatermark(l.End())
}

// content is every record that the log holds.
func content(t tester, l *Log) []record.Record {
	t.Helper()
	m := compactModel{l: l}
	var out []record.Record
	for b := m.readAll(t); len(b) > 0; {
		info, _ := record.Peek(b)
		out = append(out, recordsOf(t, b[:info.Size])...)
		b = b[info.Size:]
	}
	return out
}

func folderNames(t tester, fsys vfs.FS) []string {
	t.Helper()
	entries, err := fsys.List(testPath + "/orders-0")
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

func requireNoLeftovers(t tester, fsys vfs.FS) {
	t.Helper()
	for _, name := range folderNames(t, fsys) {
		require.NotContains(t, []string{cleanedExt, swapExt}, path.Ext(name), "left behind: %s", name)
	}
}

// The whole of it: what stays, that offsets stay, that small segments become one,
// that a restart and the check of a directory find nothing wrong.
func TestCompact(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, compactedConfig)
	fillKeyed(t, l, n, 40)
	want := state(content(t, l))
	end, segments, size := l.End(), len(l.segments), l.Size()
	dirt, eligible := l.Dirtiness(time.Now())
	require.True(t, eligible)
	require.InDelta(t, 1, dirt.Ratio(), 0)

	did, err := newTestCleaner().Compact(t.Context(), l)
	require.NoError(t, err)
	evictAll(d)
	require.Equal(t, want, state(content(t, l)))
	require.Equal(t, end, l.End())
	require.Less(t, l.Size(), size/2)
	require.Equal(t, size-l.Size(), did.Before-did.After)
	require.Equal(t, l.active().base, did.To)
	require.Positive(t, did.Dropped)
	require.Zero(t, did.Keyless)
	requireNoLeftovers(t, mem)
	dirt, eligible = l.Dirtiness(time.Now())
	require.False(t, eligible)
	require.Zero(t, dirt.Dirty)

	did, err = newTestCleaner().Compact(t.Context(), l)
	require.NoError(t, err)
	require.Equal(t, Compaction{Took: did.Took}, did, "nothing is dirty")

	// With later passes the segments that have become small are put together.
	for range 2 {
		fillPlain(t, l, n, 10)
		_, err = newTestCleaner().Compact(t.Context(), l)
		require.NoError(t, err)
	}
	want = state(content(t, l))
	require.LessOrEqual(t, len(l.segments), segments/2)
	for i := 1; i < len(l.segments); i++ {
		require.LessOrEqual(t, l.segments[i-1].size, compactedConfig.SegmentBytes)
	}
	require.Equal(t, want, state(content(t, l)))

	bad, _, _ := findings(t, mem, testPath)
	require.Empty(t, bad)
	require.NoError(t, d.Close(3))
	bad, _, _ = findings(t, mem, testPath)
	require.Empty(t, bad)
	d = openTestDir(t, testOptions(mem))
	defer func() { require.NoError(t, d.Close(-1)) }()
	l, err = d.Open(testSpec(compactedConfig, nil))
	require.NoError(t, err)
	require.Equal(t, DamageNone, l.Damage())
	require.Equal(t, want, state(content(t, l)))
	dirt, _ = l.Dirtiness(time.Now())
	require.Zero(t, dirt.Dirty, "what was gone through is remembered")
}

// A tombstone stays for delete.retention.ms after its first compaction, and goes
// with the next pass; its record is gone with the first.
func TestTombstones(t *testing.T) {
	var clock atomic.Int64 // ns; flush workers read it too
	clock.Store(1_000_000 * int64(time.Millisecond))
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.Now = func() time.Time { return time.Unix(0, clock.Load()) }
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	n := newListener()
	cfg := Config{Synced: true, Compact: true, DeleteRetention: time.Minute, SegmentBytes: 1 << 20}
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	step := func(records ...keyedRecord) []record.Offset {
		for _, r := range records {
			add(t, l, 1, keyed(t, record.CodecNone, clock.Load()/int64(time.Millisecond), -1, 0, r))
		}
		n.waitFlushed(l.End())
		l.SetHighWatermark(l.End())
		l.io.Lock()
		require.NoError(t, l.roll(l.Written()))
		l.io.Unlock()
		_, err := newTestCleaner().Compact(t.Context(), l)
		require.NoError(t, err)
		evictAll(d)
		var out []record.Offset
		for _, r := range content(t, l) {
			out = append(out, r.Offset)
		}
		return out
	}
	require.Equal(t, []record.Offset{1, 2}, step(keyedRecord{"a", "1"}, keyedRecord{"b", "1"}, keyedRecord{"a", ""}))
	clock.Add(int64(time.Minute - 1))
	require.Equal(t, []record.Offset{1, 2, 3}, step(keyedRecord{"c", "1"}))
	clock.Add(int64(1))
	require.Equal(t, []record.Offset{1, 3, 4}, step(keyedRecord{"d", "1"}))
	// One that is written again is as young as that.
	require.Equal(t, []record.Offset{1, 3, 4, 5}, step(keyedRecord{"a", ""}))
	clock.Add(int64(time.Minute / 2))
	require.Equal(t, []record.Offset{1, 3, 4, 6}, step(keyedRecord{"a", ""}))
	clock.Add(int64(time.Minute / 2))
	require.Equal(t, []record.Offset{1, 3, 4, 6, 7}, step(keyedRecord{"e", "1"}))
}

// What may not be touched yet: the active segment, what is not committed, what is
// too young.
func TestUncleanable(t *testing.T) {
	mem := vfs.NewMem()
	cfg := compactedConfig
	cfg.MinCompactionLag = time.Second
	_, l, n := openTestLog(t, mem, cfg)
	fillKeyed(t, l, n, 40) // timestamps 1000 to 1040 ms
	pass := func() record.Offset {
		l.mu.Lock()
		segments := l.cleanable(time.UnixMilli(2020))
		l.mu.Unlock()
		if len(segments) == 0 {
			return 0
		}
		return segments[len(segments)-1].next
	}
	require.LessOrEqual(t, pass(), record.Offset(3*21))
	require.Greater(t, pass(), record.Offset(3*10))
	l.mu.Lock()
	l.cfg.MinCompactionLag, l.highWatermark = 0, 50
	l.mu.Unlock()
	require.LessOrEqual(t, pass(), record.Offset(50))
	require.Greater(t, pass(), record.Offset(30))
	l.mu.Lock()
	l.highWatermark = l.end
	l.mu.Unlock()
	require.Equal(t, l.active().base, pass())
	l.mu.Lock()
	l.cfg.Compact = false
	l.mu.Unlock()
	did, err := newTestCleaner().Compact(t.Context(), l)
	require.NoError(t, err)
	require.Zero(t, did.Read)
}

// Records without a key, written before the topic was compacted, go.
func TestKeylessRecordsGo(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 300})
	fill(t, l, n, 20)
	l.SetHighWatermark(l.End())
	l.Configure(Config{Synced: true, SegmentBytes: 300, Compact: true})
	did, err := newTestCleaner().Compact(t.Context(), l)
	require.NoError(t, err)
	require.Equal(t, did.Dropped, did.Keyless)
	require.Equal(t, int64(did.To), did.Keyless)
	evictAll(d)
	require.Len(t, content(t, l), int(l.End()-did.To))
}

// A log with more keys than the table takes is compacted in several passes, each
// within its memory.
func TestCompactionMemory(t *testing.T) {
	const memory = 200 * slotBytes
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, Compact: true, SegmentBytes: 2000})
	for i := range 1500 {
		add(t, l, 1, keyed(t, record.CodecNone, 1, -1, 0, keyedRecord{fmt.Sprintf("key %d", i%700), fmt.Sprintf("value %d", i)}))
	}
	n.waitFlushed(l.End())
	l.SetHighWatermark(l.End())
	want := state(content(t, l))
	c := NewCleaner(CleanerOptions{Memory: memory, BytesPerSecond: -1})
	passes := 0
	for eligible := true; eligible; _, eligible = l.Dirtiness(time.Now()) {
		did, err := c.Compact(t.Context(), l)
		require.NoError(t, err)
		require.Greater(t, did.To, did.From)
		require.LessOrEqual(t, int(did.To-did.From), 200)
		passes++
	}
	require.Greater(t, passes, 5)
	evictAll(d)
	require.Equal(t, want, state(content(t, l)))
	require.LessOrEqual(t, len(content(t, l)), 700+20)
	for _, keys := range []int64{0, 1, 7, 1000, 1 << 40} {
		m := newOffsetMap(keys, memory)
		require.LessOrEqual(t, len(m.slots)*slotBytes, memory)
		require.Less(t, m.most, len(m.slots), "a probe ends")
		require.GreaterOrEqual(t, int64(m.most), min(keys, 160), "%d keys", keys)
	}
}

// What a pass reads and writes takes as long as the throttle says, over logs.
func TestCompactionThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		d := openTestDir(t, testOptions(mem))
		defer func() { _ = d.Close(-1) }()
		n := newListener()
		l, err := d.Open(testSpec(compactedConfig, n))
		require.NoError(t, err)
		n.listen(l)
		fillPlain(t, l, n, 100)
		const rate = 1000
		c := NewCleaner(CleanerOptions{BytesPerSecond: rate})
		begin := time.Now()
		did, err := c.Compact(t.Context(), l)
		require.NoError(t, err)
		took := time.Since(begin)
		moved := time.Duration(did.Read+did.Written) * time.Second / rate
		require.Greater(t, moved, 5*time.Second)
		require.LessOrEqual(t, took, moved)
		require.Greater(t, took, moved-2*time.Second, "the last bytes are paid for by who comes next")
		require.Equal(t, took, did.Took)

		// Whoever closes the log does not wait for the throttle.
		fillPlain(t, l, n, 100)
		began := make(chan struct{})
		result := make(chan error)
		go func() {
			close(began)
			_, err := c.Compact(context.Background(), l)
			result <- err
		}()
		<-began
		time.Sleep(time.Second)
		begin = time.Now()
		require.NoError(t, d.Close(-1))
		require.ErrorIs(t, <-result, ErrClosed)
		require.Zero(t, time.Since(begin))
		requireNoLeftovers(t, mem)
	})
}

// At every change of the file system that a pass makes the power may fail: what
// opens afterwards is the log, and the pass can be done again.
func TestCompactionPowerCuts(t *testing.T) {
	mem := vfs.NewMem()
	cfg := compactedConfig
	cfg.SegmentBytes = 900
	_, l, n := openTestLog(t, mem, cfg)
	fillKeyed(t, l, n, 40)
	want, end := state(content(t, l)), l.End()
	var crashed []*vfs.Mem
	seed := uint64(0)
	var mu sync.Mutex // the checkpoint is written meanwhile
	mem.Watch(func(vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		crashed = append(crashed, mem.CrashClone(nil))
		for range 3 {
			seed++
			crashed = append(crashed, mem.CrashClone(rand.New(rand.NewPCG(seed, 7))))
		}
	})
	_, err := newTestCleaner().Compact(t.Context(), l)
	mem.Watch(nil)
	mu.Lock()
	defer mu.Unlock()
	require.NoError(t, err)
	require.Greater(t, len(crashed), 200)
	finished := 0
	for i, c := range crashed {
		if strings.Contains(strings.Join(folderNames(t, c), " "), swapExt) {
			finished++
		}
		bad, _, _ := findings(t, c, testPath)
		for _, f := range bad {
			require.Equal(t, SeverityStrange, f.Severity, "cut %d: %+v", i, f)
		}
		d := openTestDir(t, testOptions(c))
		l, err := d.Open(testSpec(cfg, nil))
		require.NoError(t, err)
		require.Equal(t, DamageNone, l.Damage(), "cut %d: %v", i, l.Recovery().Cause)
		require.Equal(t, end, l.End())
		require.Equal(t, want, state(content(t, l)), "cut %d", i)
		requireNoLeftovers(t, c)
		l.SetHighWatermark(end)
		_, err = newTestCleaner().Compact(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, want, state(content(t, l)), "cut %d", i)
		require.NoError(t, d.Close(1))
		bad, _, _ = findings(t, c, testPath)
		require.Empty(t, bad, "cut %d", i)
	}
	require.Greater(t, finished, 20, "swaps that an open finished")
}

// An error before the swap leaves the log as it was, well; one in the swap latches
// it, and the next open finishes.
func TestCompactionErrors(t *testing.T) {
	tests := map[string]struct {
		fault vfs.Fault
		latch bool
	}{
		"no room for the new segment": {vfs.Fault{Op: vfs.OpWrite, Pattern: "*" + cleanedExt, Err: syscall.ENOSPC, Partial: 100}, false},
		"no room at the second":       {vfs.Fault{Op: vfs.OpWrite, Pattern: "*" + cleanedExt, After: 1, Err: syscall.ENOSPC}, false},
		"not created":                 {vfs.Fault{Op: vfs.OpCreate, Pattern: "*" + cleanedExt, Err: syscall.EMFILE}, false},
		"not synced":                  {vfs.Fault{Op: vfs.OpSync, Pattern: "*" + cleanedExt, Err: syscall.EIO}, false},
		"a segment that reads badly":  {vfs.Fault{Op: vfs.OpRead, Pattern: "*" + logExt, After: 3, Err: syscall.EIO}, false},
		"not renamed":                 {vfs.Fault{Op: vfs.OpRename, Pattern: "*" + swapExt, Err: syscall.EIO}, false},
		"the swap not durable":        {vfs.Fault{Op: vfs.OpFolder, Err: syscall.EIO}, true},
		"an old file not removed":     {vfs.Fault{Op: vfs.OpRemove, Pattern: "*" + indexExt, Err: syscall.EIO}, true},
		"the index not written":       {vfs.Fault{Op: vfs.OpWrite, Pattern: "*" + indexExt, Err: syscall.ENOSPC}, true},
		"not renamed at the end":      {vfs.Fault{Op: vfs.OpRename, Pattern: "*" + logExt, Err: syscall.EIO}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			d, l, n := openTestLog(t, faults, compactedConfig)
			fillKeyed(t, l, n, 40)
			want, end := state(content(t, l)), l.End()
			evictAll(d)
			faults.Inject(tt.fault)
			_, err := newTestCleaner().Compact(t.Context(), l)
			require.ErrorIs(t, err, tt.fault.Err)
			faults.Heal()
			require.Equal(t, tt.latch, l.Err() != nil, "%v", l.Err())
			require.Equal(t, DamageNone, l.Damage())
			require.Equal(t, want, state(content(t, l)), "it is read all the same")
			if tt.latch {
				require.Error(t, d.Close(-1))
				d = openTestDir(t, testOptions(mem))
				l, err = d.Open(testSpec(compactedConfig, nil))
				require.NoError(t, err)
				require.Equal(t, DamageNone, l.Damage(), "%v", l.Recovery().Cause)
				l.SetHighWatermark(l.End())
			}
			requireNoLeftovers(t, mem)
			_, err = newTestCleaner().Compact(t.Context(), l)
			require.NoError(t, err)
			evictAll(d)
			require.Equal(t, want, state(content(t, l)))
			require.Equal(t, end, l.End())
			require.NoError(t, d.Close(-1))
		})
	}
}

// Compaction reads what it is about to write anew; bytes that are wrong are
// damage then, and are not given a new CRC.
func TestCompactionMeetsDamage(t *testing.T) {
	mem := vfs.NewMem()
	_, l, n := openTestLog(t, mem, compactedConfig)
	fillKeyed(t, l, n, 40)
	rawFile(t, mem, testPath+"/orders-0/"+offsetName(l.segments[1].base)+logExt, func(b []byte) []byte {
		b[len(b)-1] ^= 1
		return b
	})
	_, err := newTestCleaner().Compact(t.Context(), l)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	requireNoLeftovers(t, mem)
}

// A full disk: a pass does not begin what could take the reserve.
func TestCompactionLeavesTheReserve(t *testing.T) {
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.DiskReserve = 1 << 20
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	n := newListener()
	l, err := d.Open(testSpec(compactedConfig, n))
	require.NoError(t, err)
	n.listen(l)
	fillKeyed(t, l, n, 40)
	mem.SetSpace(1<<19+100, 1<<40)
	time.Sleep(spaceMinAge)
	require.NoError(t, d.space.ask())
	_, err = newTestCleaner().Compact(t.Context(), l)
	require.ErrorIs(t, err, ErrDiskFull)
	require.NoError(t, l.Err())
	requireNoLeftovers(t, mem)
}

// What takes a log's segments away ends a pass at once, wherever it is, and
// leaves nothing behind.
func TestCompactionGivesWay(t *testing.T) {
	actions := map[string]struct {
		do   func(l *Log) error
		want error
	}{
		"truncation": {func(l *Log) error { return l.TruncateTo(100) }, ErrBusy},
		"reset":      {func(l *Log) error { return l.Reset(7) }, ErrBusy},
		"deletion":   {func(l *Log) error { return l.AdvanceStart(l.End() - 1) }, ErrBusy},
	}
	for name, a := range actions {
		for after := range 12 {
			t.Run(fmt.Sprintf("%s at change %d", name, after), func(t *testing.T) {
				mem := vfs.NewMem()
				d, l, n := openTestLog(t, mem, compactedConfig)
				fillKeyed(t, l, n, 40)
				left, done := after, false
				mem.Watch(func(e vfs.Event) {
					// While it swaps, the pass holds io, and others wait.
					if strings.HasSuffix(e.Name, cleanedExt) && e.Op != vfs.OpRemove {
						if left--; left == -1 {
							done = true
							require.NoError(t, a.do(l))
						}
					}
				})
				did, err := newTestCleaner().Compact(t.Context(), l)
				mem.Watch(nil)
				require.True(t, done)
				require.ErrorIs(t, err, a.want)
				if after == 0 {
					require.Zero(t, did.Written, "it ends at once")
				}
				requireNoLeftovers(t, mem)
				require.NoError(t, l.Err())
				require.Equal(t, DamageNone, l.Damage())
				records := content(t, l)
				evictAll(d)
				require.Equal(t, state(records), state(content(t, l)))
				add(t, l, 50, keyed(t, record.CodecNone, 0, -1, 0, keyedRecord{"key", "new"}))
				n.waitFlushed(l.End())
				require.NoError(t, d.Close(1))
				bad, _, _ := findings(t, mem, testPath)
				require.Empty(t, bad)
			})
		}
	}
}

// Close and Remove end a pass and wait for it.
func TestCloseEndsAPass(t *testing.T) {
	for _, remove := range []bool{false, true} {
		mem := vfs.NewMem()
		d, l, n := openTestLog(t, mem, compactedConfig)
		fillKeyed(t, l, n, 40)
		begun, closed := make(chan struct{}), make(chan error, 1)
		var once sync.Once
		mem.Watch(func(e vfs.Event) {
			if strings.HasSuffix(e.Name, cleanedExt) && e.Op == vfs.OpWrite {
				once.Do(func() {
					close(begun)
					for !closing(l) {
						time.Sleep(time.Millisecond)
					}
				})
			}
		})
		go func() {
			<-begun
			if remove {
				closed <- d.Remove(l)
			} else {
				closed <- l.Close()
			}
		}()
		_, err := newTestCleaner().Compact(t.Context(), l)
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, <-closed)
		mem.Watch(nil)
		if !remove {
			requireNoLeftovers(t, mem)
		}
		_, err = newTestCleaner().Compact(t.Context(), l)
		require.ErrorIs(t, err, ErrClosed)
	}
}

func closing(l *Log) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

// A read that was planned before segments were replaced, or between the two steps
// of that, does not take the bytes of the new files for those of the old ones.
func TestReadAcrossASwap(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, compactedConfig)
	fillKeyed(t, l, n, 40)
	evictAll(d)
	want := map[record.Offset]record.Record{}
	for _, r := range content(t, l) {
		want[r.Offset] = r
	}
	plan := func() []*coldRead {
		var out []*coldRead
		for from := record.Offset(0); from < l.active().base; from += 5 {
			l.mu.Lock()
			_, cold, err := l.plan(nil, ReadOptions{From: from, Limit: l.end, MaxBytes: 1 << 20})
			l.mu.Unlock()
			require.NoError(t, err)
			require.NotNil(t, cold)
			out = append(out, cold)
		}
		return out
	}
	reads := plan()
	mem.Watch(func(e vfs.Event) {
		if e.Op == vfs.OpRename && strings.HasSuffix(e.Name, logExt) {
			reads = append(reads, plan()...)
		}
	})
	_, err := newTestCleaner().Compact(t.Context(), l)
	mem.Watch(nil)
	require.NoError(t, err)
	stale := 0
	for _, cold := range reads {
		again, err := l.settle(cold, cold.run())
		if again {
			stale++
			continue
		}
		require.NoError(t, err)
		for i := range cold.out {
			for b := cold.out[i].Bytes; len(b) > 0; {
				info, _ := record.Peek(b)
				for _, r := range recordsOf(t, b[:info.Size]) {
					require.Equal(t, want[r.Offset], r)
				}
				b = b[info.Size:]
			}
			cold.out[i].Release()
		}
	}
	require.Equal(t, DamageNone, l.Damage())
	require.Greater(t, stale, len(reads)/2)
}

// Readers get whole batches of what was written, whatever passes do meanwhile.
func TestReadersDuringCompaction(t *testing.T) {
	mem := vfs.NewMem()
	cfg := compactedConfig
	cfg.DeleteRetention = 0
	d, l, n := openTestLog(t, mem, cfg)
	fillKeyed(t, l, n, 30)
	wrote := sync.Map{} // offset -> value
	note := func(from record.Offset) {
		for _, r := range content(t, l) {
			if r.Offset >= from {
				wrote.Store(r.Offset, string(r.Value))
			}
		}
	}
	note(0)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i == 0 {
					if _, _, _, err := l.OffsetForTime(1000+random.Int64N(40), l.End()); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				from := record.Offset(random.Int64N(int64(l.HighWatermark())))
				slices, err := l.Read(from, l.HighWatermark(), 1+random.IntN(2000))
				if err != nil {
					t.Error(err)
					return
				}
				for _, s := range slices {
					for b := s.Bytes; len(b) > 0; {
						info, _ := record.Peek(b)
						if !record.VerifyCRC(b[:info.Size]) || info.NextOffset() <= from {
							t.Errorf("a torn batch at offset %d, read from %d", info.BaseOffset, from)
						}
						for _, r := range recordsOf(t, b[:info.Size]) {
							if v, ok := wrote.Load(r.Offset); !ok || v != string(r.Value) {
								t.Errorf("offset %d holds %q, wrote %v", r.Offset, r.Value, v)
							}
						}
						b = b[info.Size:]
					}
				}
				for i := range slices {
					slices[i].Release()
				}
			}
		})
	}
	c := newTestCleaner()
	for i := range 40 {
		from := l.End()
		for j := range 6 {
			add(t, l, 10, keyed(t, record.CodecNone, 1000, -1, 0, keyedRecord{fmt.Sprintf("key %d", (i+j)%9), fmt.Sprintf("value %d.%d", i, j)}))
		}
		n.waitFlushed(l.End())
		note(from)
		l.SetHighWatermark(l.End())
		evictAll(d)
		_, err := c.Compact(t.Context(), l)
		require.NoError(t, err)
	}
	close(stop)
	readers.Wait()
	require.Equal(t, DamageNone, l.Damage())
}
