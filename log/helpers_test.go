package log

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPath = "/data"

// tester is what the helpers need of testing.TB; *rapid.T has it too.
type tester interface {
	require.TestingT
	Helper()
	Cleanup(func())
}

// testFill keeps the files small of which every power cut takes a copy.
const testFill = 200

func testOptions(fsys vfs.FS) DirOptions {
	return DirOptions{FS: fsys, Path: testPath, Logger: slog.New(slog.DiscardHandler), CheckpointInterval: time.Millisecond, journalFill: testFill}
}

// openTestDir opens a directory. Once the test has closed it, no buffer may be
// referenced any more.
func openTestDir(t tester, opts DirOptions) *Dir {
	t.Helper()
	d, err := OpenDir(opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			require.Zero(t, d.arena.InUse(), "bytes are referenced after the directory was closed")
			require.Zero(t, d.arena.Pinned())
		}
	})
	return d
}

// listener remembers the last progress and lets tests wait for it.
type listener struct {
	mu    sync.Mutex
	cond  *sync.Cond
	last  Progress
	calls int
	log   *Log
}

// listen lets the waits look at the log itself.
func (n *listener) listen(l *Log) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = l
}

func newListener() *listener {
	n := &listener{}
	n.cond = sync.NewCond(&n.mu)
	return n
}

func (n *listener) notify(p Progress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = p
	n.calls++
	n.cond.Broadcast()
}

// waitFlushed waits until off is flushed or the log has failed.
func (n *listener) waitFlushed(off record.Offset) Progress {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.log.Flushed() < off && n.log.Err() == nil {
		n.cond.Wait()
	}
	return Progress{n.log.Written(), n.log.Flushed(), n.log.Err()}
}

func (n *listener) waitWritten(off record.Offset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.log.Written() < off && n.log.Err() == nil {
		n.cond.Wait()
	}
}

var testID = [16]byte{0xa, 1, 2, 3}

func testSpec(cfg Config, n *listener) Spec {
	s := Spec{Topic: "orders", TopicID: testID, Config: cfg}
	if n != nil {
		s.Notify = n.notify
	}
	return s
}

// checkTestDir closes what the test has left open, and checks it: what is flushed
// survives a power cut, and the files agree with each other. It is what package
// logtest does for others. Tests that close a directory themselves may have harmed it.
func checkTestDir(t *testing.T, d *Dir, fsys vfs.FS) {
	t.Helper()
	d.mu.Lock()
	closed, logs := d.closed, slices.Collect(maps.Values(d.logs))
	d.mu.Unlock()
	mem, ok := fsys.(*vfs.Mem)
	well := ok && !closed && !slices.ContainsFunc(logs, func(l *Log) bool { return l.Err() != nil || l.Damage() != DamageNone })
	if well {
		flushed := map[*Log]record.Offset{}
		for _, l := range logs {
			flushed[l] = l.Flushed()
		}
		after := openTestDir(t, testOptions(mem.CrashClone(nil)))
		for _, l := range logs {
			spec := l.spec
			spec.Notify = nil
			again, err := after.Open(spec)
			require.NoError(t, err)
			require.Equal(t, DamageNone, again.Damage(), "after a power cut: %v", again.Recovery().Cause)
			require.GreaterOrEqual(t, again.End(), flushed[l], "after a power cut")
		}
		require.NoError(t, after.Close(-1))
	}
	err := d.Close(-1)
	if !well {
		return
	}
	require.NoError(t, err)
	in, err := Inspect(InspectOptions{FS: fsys, Path: testPath, Partition: -1})
	require.NoError(t, err)
	_, err = in.Verify(context.Background(), func(f Finding) { require.Equal(t, SeverityNote, f.Severity, "%s", f) })
	require.NoError(t, err)
}

// openTestLog opens a directory with one log; the cleanup closes it.
func openTestLog(t *testing.T, fsys vfs.FS, cfg Config) (*Dir, *Log, *listener) {
	t.Helper()
	d := openTestDir(t, testOptions(fsys))
	t.Cleanup(func() { checkTestDir(t, d, fsys) })
	n := newListener()
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	return d, l, n
}

// batch builds a batch of records with one value each.
func batch(t tester, ms int64, values ...string) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for i, v := range values {
		require.NoError(t, b.Append(&record.Record{Timestamp: ms + int64(i), Value: []byte(v)}))
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

func idempotent(t tester, id int64, epoch int16, sequence int32, values ...string) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	b.SetProducer(id, epoch, sequence)
	for _, v := range values {
		require.NoError(t, b.Append(&record.Record{Timestamp: 1, Value: []byte(v)}))
	}
	out, err := b.Build(nil)
	require.NoError(t, err)
	return out
}

// add appends a batch as the leader would.
func add(t tester, l *Log, epoch record.Epoch, batches ...[]byte) (first, next record.Offset) {
	t.Helper()
	first, next, err := tryAdd(l, epoch, batches...)
	require.NoError(t, err)
	return first, next
}

// inArena copies bytes into the log's arena, so that a lost reference shows.
func inArena(l *Log, b []byte) *record.Buf {
	buf := l.dir.arena.Get(len(b))
	copy(buf.Bytes(), b)
	return buf
}

func tryAdd(l *Log, epoch record.Epoch, batches ...[]byte) (first, next record.Offset, err error) {
	bufs := make([]*record.Buf, len(batches))
	for i, b := range batches {
		bufs[i] = inArena(l, b)
	}
	first, next, err = l.Append(epoch, bufs, time.Now().UnixMilli())
	for _, b := range bufs {
		b.Release()
	}
	return first, next, err
}

// readAt returns the bytes that Read gives for [from, limit).
func readAt(t tester, l *Log, from, limit record.Offset, maxBytes int) []byte {
	t.Helper()
	slices, err := l.Read(from, limit, maxBytes)
	require.NoError(t, err)
	var out []byte
	for i := range slices {
		out = append(out, slices[i].Bytes...)
		slices[i].Release()
	}
	return out
}

// readEverything reads a log from start to end, batch by batch.
func readEverything(t tester, l *Log) []byte {
	t.Helper()
	var out []byte
	for off := l.Start(); off < l.End(); {
		b := readAt(t, l, off, l.End(), 300)
		require.NotEmpty(t, b, "nothing at offset %d of %d", off, l.End())
		for rest := b; len(rest) > 0; {
			info, ok := record.Peek(rest)
			require.True(t, ok)
			require.True(t, record.VerifyCRC(rest[:info.Size]))
			off, rest = info.NextOffset(), rest[info.Size:]
		}
		out = append(out, b...)
	}
	return out
}

// evictAll empties the tails, so that reads come from the files.
func evictAll(d *Dir) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.logs {
		l.evict(1 << 62)
	}
}

// fill appends n batches of one record and waits until they are flushed.
func fill(t tester, l *Log, n *listener, count int) {
	t.Helper()
	for i := range count {
		add(t, l, 1, batch(t, int64(1000+i), fmt.Sprintf("value %d", i)))
	}
	if l.cfg.Synced {
		n.waitFlushed(l.End())
	}
}

func encodeStates(sequence uint64, states map[logKey]logState) []byte {
	return encodeCheckpoint(nil, sequence, sortedKeys(states), states)
}
