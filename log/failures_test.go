package log

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// failure is something that a disk refuses, and what then fails.
type failure struct {
	name  string
	fault vfs.Fault
	// latches: the log fails for good. Otherwise it goes on: what failed is tried
	// again, or known otherwise.
	latches bool
}

// failures are every operation on every kind of file that a running log writes.
func failures() []failure {
	var out []failure
	add := func(latches bool, op vfs.Op, patterns string, errs ...error) {
		for pattern := range strings.FieldsSeq(patterns) {
			for _, err := range errs {
				out = append(out, failure{
					name: string(op) + " " + pattern + ": " + err.Error(), latches: latches,
					fault: vfs.Fault{Op: op, Pattern: pattern, Err: err},
				})
			}
		}
	}
	full := []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
	add(true, vfs.OpWrite, "*.log *.index *.timeindex *.snapshot.tmp leader-epoch-checkpoint.tmp", full...)
	add(true, vfs.OpSync, "*.log *.index *.timeindex *.snapshot.tmp leader-epoch-checkpoint.tmp", syscall.EIO, syscall.ENOSPC)
	add(true, vfs.OpCreate, "*.log *.index *.timeindex *.snapshot.tmp leader-epoch-checkpoint.tmp", syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC)
	add(true, vfs.OpRename, "leader-epoch-checkpoint *.snapshot", syscall.EIO)
	add(true, vfs.OpFolder, "orders-0", syscall.EIO)
	add(true, vfs.OpRemove, "*.log *.index *.timeindex *.snapshot", syscall.EIO)
	// The older checkpoint stays valid: recovery begins there.
	add(false, vfs.OpWrite, "flushed-checkpoint.*", full...)
	add(false, vfs.OpSync, "flushed-checkpoint.*", syscall.EIO)
	add(false, vfs.OpOpen, "flushed-checkpoint.*", syscall.EMFILE)
	for _, partial := range []int{1, 60, 61, 100, 4096} {
		out = append(out, failure{
			name: "short write", latches: true,
			fault: vfs.Fault{Op: vfs.OpWrite, Pattern: "*.log", Err: syscall.ENOSPC, Partial: partial},
		})
	}
	return out
}

// Whatever the disk refuses: a log that cannot do what it must latches, says what
// failed, acknowledges nothing more and takes nothing more; others go on; and
// opening it again brings back all that was flushed, byte for byte, and nothing
// that was torn.
func TestFailures(t *testing.T) {
	for _, f := range failures() {
		t.Run(f.name, func(t *testing.T) { f.run(t) })
	}
}

func (f *failure) run(t *testing.T) {
	t.Helper()
	mem := vfs.NewMem()
	faults := vfs.NewFaults(mem)
	d := openTestDir(t, testOptions(faults))
	cfg := Config{Synced: true, SegmentBytes: 1500, IndexInterval: 1}
	n := newListener()
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err)
	n.listen(l)
	on := newListener()
	other, err := d.Open(Spec{Topic: "other", TopicID: [16]byte{2}, Config: Config{Synced: true}, Notify: on.notify})
	require.NoError(t, err)
	on.listen(other)
	fill(t, l, n, 58)
	for seq := range int32(2) { // producers make snapshots
		_, next := add(t, l, 1, idempotent(t, 7, 0, seq, strings.Repeat("v", 1000)))
		n.waitFlushed(next)
	}
	l.SetHighWatermark(l.End())

	faults.Inject(f.fault)
	f.exercise(t, l, n)
	before := l.Err()
	require.Equal(t, f.latches, before != nil, "latched: %v", before)
	if f.latches {
		f.requireFailed(t, l, n)
	}
	faults.Heal()
	fill(t, other, on, 3)
	require.NoError(t, other.Err())

	flushed := l.Flushed()
	kept := readTo(t, l, flushed)
	crashed := mem.CrashClone(nil)
	err = d.Close(-1)
	require.Equal(t, f.latches, err != nil, "close: %v", err)
	for name, disk := range map[string]vfs.FS{"closed": mem, "power cut": crashed} {
		requireRecovered(t, name, disk, cfg, kept, flushed)
	}
}

// exercise does everything that writes, until the log latches or all is done.
func (f *failure) exercise(t *testing.T, l *Log, n *listener) {
	t.Helper()
	for epoch := record.Epoch(2); epoch < 10 && l.Err() == nil; epoch++ {
		_, next, err := tryAdd(l, epoch, idempotent(t, 7, 0, int32(epoch), strings.Repeat("v", 300)))
		if err != nil {
			require.ErrorIs(t, err, ErrFailed)
			break
		}
		n.waitFlushed(next)
	}
	if l.Err() == nil {
		_ = l.AdvanceStart(30) // what it returns is in Err, or harmless
		_ = l.AdvanceStart(40)
	}
	if l.Err() == nil && !f.latches {
		require.Equal(t, l.End(), l.Flushed())
	}
}

func (f *failure) requireFailed(t *testing.T, l *Log, n *listener) {
	t.Helper()
	err := l.Err()
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, f.fault.Err)
	failed, ok := errors.AsType[*FailedError](err)
	require.True(t, ok)
	require.Equal(t, l.path, failed.Path)
	require.NotEmpty(t, failed.Op)

	n.mu.Lock()
	for n.last.Err == nil { // told, whoever found out
		n.cond.Wait()
	}
	require.Equal(t, err, n.last.Err)
	n.mu.Unlock()
	flushed, end := l.Flushed(), l.End()
	_, _, appendErr := tryAdd(l, 20, batch(t, 1, "x"))
	require.Equal(t, err, appendErr)
	require.Equal(t, err, l.AppendFollower(end, end, 0, nil))
	require.Equal(t, err, l.TruncateTo(1<<40))
	require.Equal(t, err, l.AdvanceStart(end))
	require.Equal(t, err, l.Reset(0))
	removed, retainErr := l.Retain(time.Now().Add(1000 * time.Hour))
	require.NoError(t, retainErr)
	require.Zero(t, removed)
	l.dir.pool.drain(l)
	require.Equal(t, flushed, l.Flushed(), "acknowledged after the failure")
}

// readTo returns the bytes of the batches from the start of a log up to an offset.
func readTo(t *testing.T, l *Log, end record.Offset) []byte {
	t.Helper()
	var out []byte
	for off := l.Start(); off < end; {
		slices, err := l.Read(off, end, 1<<20)
		require.NoError(t, err, "offset %d", off)
		require.NotEmpty(t, slices)
		for i := range slices {
			for b := slices[i].Bytes; len(b) > 0; {
				info, ok := record.Peek(b)
				require.True(t, ok)
				require.True(t, record.VerifyCRC(b[:info.Size]))
				off, b = info.NextOffset(), b[info.Size:]
			}
			out = append(out, slices[i].Bytes...)
			slices[i].Release()
		}
	}
	return out
}

// requireRecovered opens a disk and finds what was flushed, at least.
func requireRecovered(t *testing.T, name string, disk vfs.FS, cfg Config, kept []byte, flushed record.Offset) {
	t.Helper()
	d := openTestDir(t, testOptions(disk))
	defer func() { require.NoError(t, d.Close(-1), name) }()
	n := newListener()
	l, err := d.Open(testSpec(cfg, n))
	require.NoError(t, err, name)
	n.listen(l)
	require.Equal(t, DamageNone, l.Damage(), "%s: %v", name, l.Recovery().Cause)
	require.GreaterOrEqual(t, l.End(), flushed, name)
	got := readTo(t, l, l.End())
	if l.Start() < 30 { // the start was not moved, or not durably: what was deleted may be there
		require.True(t, bytes.Contains(got, kept), name)
	} else {
		require.True(t, bytes.HasPrefix(got, kept) || bytes.HasSuffix(kept, got) && len(got) > 0, "%s: %d bytes, want %d", name, len(got), len(kept))
	}
	first, next := add(t, l, 30, batch(t, 1, "goes on"))
	require.Equal(t, l.End()-1, first, name)
	require.NoError(t, n.waitFlushed(next).Err, name)
}

// Producers of other logs do not wait for what a failed log will never write.
func TestAFailedLogHasNothingUnwritten(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	d, l, n := openTestLog(t, faults, Config{Synced: true})
	fill(t, l, n, 2)
	require.Zero(t, d.Unwritten())
	faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "*.log", Err: syscall.EIO})
	add(t, l, 1, batch(t, 0, "lost"))
	require.Error(t, n.waitFlushed(3).Err)
	require.Zero(t, d.Unwritten())
	require.Error(t, l.Close())
	require.Zero(t, d.Unwritten(), "it is not taken off twice")
}
