package log

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// audit is a file system that knows which segment files are open, how many were
// at once, and which were closed with bytes that no sync had covered.
type audit struct {
	vfs.FS
	files *openFiles // nil: not looked at

	mu        sync.Mutex // guards everything below
	spared    int        // opens beyond the limit while a file was idle
	open, top int
	opens     int
	unsynced  []string
}

func (a *audit) Open(name string) (vfs.File, error)   { return a.watch(name)(a.FS.Open(name)) }
func (a *audit) Create(name string) (vfs.File, error) { return a.watch(name)(a.FS.Create(name)) }

func (a *audit) watch(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil || !strings.HasSuffix(name, logExt) {
			return f, err
		}
		spared := a.files.spares()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.spared += spared
		a.opens++
		a.open++
		a.top = max(a.top, a.open)
		return &auditFile{File: f, audit: a, name: name}, nil
	}
}

// spares is 1 when an idle file is kept open though there are more than the limit.
func (o *openFiles) spares() int {
	if o == nil {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open+o.moving > o.limit && o.idle.first != nil {
		return 1
	}
	return 0
}

// forget begins to count anew.
func (a *audit) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.top, a.opens = a.open, 0
}

func (a *audit) counts() (open, top, opens int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open, a.top, a.opens
}

type auditFile struct {
	vfs.File
	audit *audit
	name  string
	dirty bool // guarded by audit.mu
}

func (f *auditFile) mark(dirty bool) {
	f.audit.mu.Lock()
	defer f.audit.mu.Unlock()
	f.dirty = dirty
}

func (f *auditFile) WriteVecAt(bufs [][]byte, off int64) (int64, error) {
	f.mark(true)
	return f.File.WriteVecAt(bufs, off)
}

func (f *auditFile) Datasync() error {
	f.mark(false)
	return f.File.Datasync()
}

func (f *auditFile) Close() error {
	f.audit.mu.Lock()
	f.audit.open--
	if f.dirty {
		f.audit.unsynced = append(f.audit.unsynced, f.name)
	}
	f.audit.mu.Unlock()
	return f.File.Close()
}

// openMany opens count logs of one topic in a directory that keeps few files open.
func openMany(t *testing.T, fsys vfs.FS, files, count int, cfg Config) (*Dir, []*Log, []*listener) {
	t.Helper()
	opts := testOptions(fsys)
	opts.OpenFiles, opts.Flusher.Workers, opts.TailBytes = files, 2, 1<<10
	d := openTestDir(t, opts)
	t.Cleanup(func() { _ = d.Close(-1) })
	var logs []*Log
	var ears []*listener
	for p := range int32(count) {
		n := newListener()
		spec := testSpec(cfg, n)
		spec.Partition = p
		l, err := d.Open(spec)
		require.NoError(t, err)
		n.listen(l)
		logs, ears = append(logs, l), append(ears, n)
	}
	return d, logs, ears
}

// Many more logs than files: the bound is kept while they are appended to, read,
// rolled and retained, no file is closed under anybody (a Mem's file would say so)
// or with bytes that are not synced, and what was written is read.
func TestFewFilesForManyLogs(t *testing.T) {
	for name, synced := range map[string]bool{"synced": true, "not synced": false} {
		t.Run(name, func(t *testing.T) {
			a := &audit{FS: vfs.NewMem()}
			const limit, count, appends = 16, 40, 30
			d, logs, ears := openMany(t, a, limit, count, Config{
				Synced: synced, FlushInterval: time.Hour, SegmentBytes: 600, IndexInterval: 100, RetentionBytes: 1500,
			})
			a.forget()
			a.files = d.files
			payload := batch(t, 0, "a value of some length")
			var wg sync.WaitGroup
			for i, l := range logs {
				wg.Go(func() {
					for range appends {
						if _, _, err := tryAdd(l, 0, payload); err != nil {
							t.Error(err)
							return
						}
						ears[i].waitWritten(l.End())
					}
				})
			}
			for reader := range 2 {
				wg.Go(func() {
					for i := range 10 * count {
						l := logs[(i*7+reader)%count]
						slices, err := l.Read(l.Start(), math.MaxInt64, 400)
						if err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
							t.Error(err)
						}
						for i := range slices {
							slices[i].Release()
						}
						l.SetHighWatermark(l.Flushed())
						if _, err := l.Retain(time.Now()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			_, top, opens := a.counts()
			// The journal lets three quarters of the limit be in use for long; two workers, of
			// which each may roll, two readers, and who empties the page cache, come on top.
			require.Less(t, top, 2*limit)
			require.Zero(t, a.spared, "files opened beyond the limit while one was idle")
			require.Greater(t, opens, count)
			require.Eventually(t, func() bool { // workers may still be at it
				open, _, _ := a.counts()
				known, idle := d.files.counts()
				return open <= limit && known == open && int64(known-idle) == d.files.held.Load()
			}, 10*time.Second, time.Millisecond, "only what is not synced is in use")
			for _, l := range logs {
				require.NoError(t, l.Err())
				require.Equal(t, record.Offset(appends), l.End())
				readEverything(t, l)
			}
			require.NoError(t, d.Close(1))
			open, _, _ := a.counts()
			require.Zero(t, open)
			require.Empty(t, a.unsynced)
			require.Zero(t, d.files.held.Load())
		})
	}
}

// A file with bytes that are not synced stays open, whatever else is opened; its
// sync, when it is due, fails on that very file.
func TestUnsyncedFileStaysOpen(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	a := &audit{FS: faults}
	d, logs, ears := openMany(t, a, 4, 20, Config{FlushInterval: time.Hour})
	add(t, logs[0], 0, batch(t, 0, "not synced"))
	ears[0].waitWritten(1)
	file := logs[0].active().file.file
	for _, l := range logs[1:] {
		require.NoError(t, l.walk(l.active(), func(*record.BatchInfo, int64) {})) // opens
	}
	require.Same(t, file, logs[0].active().file.file)
	open, _, _ := a.counts()
	require.LessOrEqual(t, open, 4)

	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO})
	require.ErrorIs(t, logs[0].Close(), syscall.EIO)
	require.NoError(t, logs[1].Close())
	require.NoError(t, d.Close(-1), "the failure was reported by the log's own close")
}

// When many files wait for a sync, appends sync at once and do not wait for
// their flush interval.
func TestUnsyncedFilesAreFew(t *testing.T) {
	const limit, count = 8, 50
	a := &audit{FS: vfs.NewMem()}
	d, logs, ears := openMany(t, a, limit, count, Config{FlushInterval: time.Hour})
	a.forget()
	for i, l := range logs {
		add(t, l, 0, batch(t, 0, "value"))
		ears[i].waitWritten(1)
	}
	_, top, _ := a.counts()
	require.LessOrEqual(t, top, limit)
	require.LessOrEqual(t, d.files.held.Load(), int64(limit/2+1))
	flushed := 0
	for _, l := range logs {
		flushed += int(l.Flushed())
	}
	require.GreaterOrEqual(t, flushed, count-limit/2-1)
	require.Empty(t, a.unsynced)
}

// Too many open files: idle ones are let go first. With none left a read fails
// and can be tried again; an append latches the log, until it is recovered.
func TestTooManyOpenFiles(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		t.Run(errno.Error(), func(t *testing.T) {
			mem := vfs.NewMem()
			faults := vfs.NewFaults(mem)
			d, logs, ears := openMany(t, faults, 50, 10, Config{Synced: true})
			for i, l := range logs {
				fill(t, l, ears[i], 3)
			}
			l, n := logs[0], ears[0]
			evictAll(d)
			d.files.evict()
			require.NoError(t, logs[1].walk(logs[1].active(), func(*record.BatchInfo, int64) {}))
			faults.Inject(vfs.Fault{Op: vfs.OpOpen, Pattern: "*.log", Count: 1, Err: errno})
			require.Len(t, readEverything(t, l), 3*len(batch(t, 0, "value 0")), "an idle file made room")
			open, _ := d.files.counts()
			require.Equal(t, 1, open)

			d.files.evict()
			faults.Inject(vfs.Fault{Op: vfs.OpOpen, Err: errno})
			_, err := l.Read(0, 3, 100)
			e, ok := errors.AsType[*OpenFilesError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, OpenFilesError{Path: l.active().file.name, Err: e.Err}, *e)
			require.ErrorIs(t, err, ErrOpenFiles)
			require.ErrorIs(t, err, errno)
			require.NoError(t, l.Err())
			require.Equal(t, DamageNone, l.Damage())

			add(t, l, 1, batch(t, 0, "lost"))
			require.ErrorIs(t, n.waitFlushed(4).Err, ErrOpenFiles)
			_, _, err = tryAdd(l, 1, batch(t, 0, "refused"))
			require.ErrorIs(t, err, ErrFailed)
			faults.Heal()
			_, _, err = tryAdd(l, 1, batch(t, 0, "still refused"))
			require.ErrorIs(t, err, ErrFailed, "only recovery brings it back")
			require.ErrorIs(t, l.Close(), ErrOpenFiles)
			l, err = d.Open(testSpec(Config{Synced: true}, n))
			require.NoError(t, err)
			n.listen(l)
			require.Equal(t, record.Offset(3), l.End())
			fill(t, l, n, 3)
			require.NoError(t, d.Close(-1))
		})
	}
}

// The same when a new segment cannot be made.
func TestTooManyOpenFilesAtARoll(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	_, l, n := openTestLog(t, faults, Config{Synced: true, SegmentBytes: 150})
	fill(t, l, n, 1)
	faults.Inject(vfs.Fault{Op: vfs.OpCreate, Pattern: "*.log", Err: syscall.EMFILE})
	_, next := add(t, l, 1, batch(t, 0, "one"), batch(t, 0, "two"), batch(t, 0, "three"))
	p := n.waitFlushed(next)
	require.ErrorIs(t, p.Err, ErrOpenFiles)
	require.ErrorIs(t, p.Err, ErrFailed)
	require.Less(t, p.Flushed, next)
}

// Readers that hang in a read hold no writer back: appends, flushes, rolls and
// retention of the same log go on, and so do truncation and close.
func TestHangingReadersHoldNoWriterBack(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	opts := testOptions(faults)
	opts.OpenFiles = 1 // fewer than the readers have in use
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 400, RetentionBytes: 1000}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 10)
	evictAll(d)
	hold := make(chan struct{})
	faults.Inject(vfs.Fault{Op: vfs.OpRead, Pattern: "*.log", Count: 6, Hold: hold})
	var wg sync.WaitGroup
	for reader := range 3 {
		wg.Go(func() { // of a sealed segment, which retention removes
			slices, err := l.Read(record.Offset(reader), 10, 100)
			if err == nil {
				t.Errorf("read of removed records: %d slices", len(slices))
			} else if !errors.Is(err, ErrOffsetOutOfRange) && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
		wg.Go(func() { // of the active segment, which is cut
			slices, err := l.Read(9, 10, 100)
			if err != nil && !errors.Is(err, ErrOffsetOutOfRange) && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			for i := range slices {
				slices[i].Release()
			}
		})
	}
	for faults.Held() < 6 {
		runtime.Gosched()
	}
	fill(t, l, n, 40)
	l.SetHighWatermark(l.Flushed())
	removed, err := l.Retain(time.Now())
	require.NoError(t, err)
	require.Positive(t, removed)
	require.NoError(t, l.TruncateTo(l.End()-1))
	fill(t, l, n, 3)
	require.NoError(t, l.Close())
	require.Equal(t, 6, faults.Held())
	close(hold)
	wg.Wait()
	require.NoError(t, d.Close(-1))
	open, _ := d.files.counts()
	require.Zero(t, open)
}

func TestFileLimit(t *testing.T) {
	require.Equal(t, 7, fileLimit(7))
	require.GreaterOrEqual(t, fileLimit(0), 64)
	require.LessOrEqual(t, fileLimit(0), 16384)
	require.Contains(t, (&OpenFilesError{Path: "/d/x.log", Open: 3, Err: syscall.EMFILE}).Error(),
		fmt.Sprintf("/d/x.log: %v; 3 segment files are in use", syscall.EMFILE))
}
