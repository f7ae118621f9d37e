package log

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// cacheWatcher wraps a file system and keeps account of segments' pages.
type cacheWatcher struct {
	vfs.FS
	mu      sync.Mutex // guards everything below
	files   map[string]*watchedFile
	drops   int
	unclean []string        // drops of what was not synced, or that cut folios in two
	hold    <-chan struct{} // drops wait for it
}

type watchedFile struct{ written, synced, dropped int64 }

func watchCache(under vfs.FS) *cacheWatcher {
	return &cacheWatcher{FS: under, files: map[string]*watchedFile{}}
}

func (w *cacheWatcher) Open(name string) (vfs.File, error) {
	f, err := w.FS.Open(name)
	return w.wrap(f, name), err
}

func (w *cacheWatcher) Create(name string) (vfs.File, error) {
	f, err := w.FS.Create(name)
	return w.wrap(f, name), err
}

func (w *cacheWatcher) wrap(f vfs.File, name string) vfs.File {
	if f == nil || filepath.Ext(name) != logExt {
		return f
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[name] == nil {
		w.files[name] = &watchedFile{}
	}
	return &watchedHandle{f, w, w.files[name], name}
}

// clean is what is synced and was not dropped since, over all files.
func (w *cacheWatcher) clean() (sum int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range maps.Values(w.files) {
		sum += max(f.synced-f.dropped, 0)
	}
	return sum
}

type watchedHandle struct {
	vfs.File
	watcher *cacheWatcher
	file    *watchedFile
	name    string
}

func (h *watchedHandle) WriteVecAt(bufs [][]byte, off int64) (int64, error) {
	n, err := h.File.WriteVecAt(bufs, off)
	h.watcher.mu.Lock()
	defer h.watcher.mu.Unlock()
	h.file.written = max(h.file.written, off+n)
	return n, err
}

func (h *watchedHandle) Datasync() error {
	err := h.File.Datasync()
	h.watcher.mu.Lock()
	defer h.watcher.mu.Unlock()
	h.file.synced = h.file.written
	return err
}

func (h *watchedHandle) DropCache(off, n int64) error {
	h.watcher.mu.Lock()
	hold := h.watcher.hold
	h.watcher.drops++
	if off+n > h.file.synced || off%cacheChunk != 0 {
		h.watcher.unclean = append(h.watcher.unclean, fmt.Sprintf("%s: [%d, %d) of %d", h.name, off, off+n, h.file.synced))
	}
	if off <= h.file.dropped { // without a gap
		h.file.dropped = max(h.file.dropped, off+n)
	}
	h.watcher.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return h.File.DropCache(off, n)
}

func TestThePageCacheIsBoundedOverAllLogs(t *testing.T) {
	const limit = 5000
	watcher := watchCache(vfs.NewMem())
	opts := testOptions(watcher)
	opts.PageCacheBytes = limit
	opts.OpenFiles = 3
	d := openTestDir(t, opts)
	defer func() { require.NoError(t, d.Close(-1)) }()
	var total int64
	for p := range int32(5) {
		n := newListener()
		spec := testSpec(Config{Synced: true, SegmentBytes: 1000}, n)
		spec.Partition = p
		l, err := d.Open(spec)
		require.NoError(t, err)
		n.listen(l)
		for range 10 {
			fill(t, l, n, 5)
			d.pages.done.Wait()
			require.LessOrEqual(t, watcher.clean(), int64(limit))
			require.Equal(t, watcher.clean(), d.pages.held(), "the account is right")
		}
		total += l.Size()
		evictAll(d)
		require.Len(t, readEverything(t, l), int(l.Size()), "what was dropped is read from disk")
		d.pages.done.Wait()
		require.LessOrEqual(t, d.pages.held(), int64(limit), "reads count too")
	}
	require.Greater(t, total, int64(3*limit))
	require.Empty(t, watcher.unclean, "only what was synced is dropped")
}

// A topic that is not synced drops nothing before its flush; a truncation takes
// back what the account says of a segment.
func TestThePageCacheKnowsSyncsAndTruncations(t *testing.T) {
	watcher := watchCache(vfs.NewMem())
	opts := testOptions(watcher)
	opts.PageCacheBytes = 1
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 10)
	n.waitWritten(10)
	require.Zero(t, d.pages.held())
	l.Configure(Config{Synced: true})
	n.waitFlushed(10)
	size := l.Size()
	require.NoError(t, l.TruncateTo(5))
	require.Less(t, l.active().noted, size)
	fill(t, l, n, 5)
	d.pages.done.Wait()
	require.Zero(t, d.pages.held())
	require.Equal(t, size, watcher.files[l.active().path+logExt].dropped)
	drops := watcher.drops
	evictAll(d)
	readEverything(t, l)
	d.pages.done.Wait()
	require.Greater(t, watcher.drops, drops, "what a read brought back is dropped again")
	require.NoError(t, d.Close(-1))
	require.Empty(t, watcher.unclean)
}

// What a failed flush did not make durable is not noted.
func TestThePageCacheNotesAfterTheSync(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	d, l, n := openTestLog(t, faults, Config{Synced: true})
	fill(t, l, n, 3)
	held := d.pages.held()
	require.Equal(t, l.Size(), held)
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO})
	_, next := add(t, l, 1, batch(t, 0, "lost"))
	require.Error(t, n.waitFlushed(next).Err)
	require.Equal(t, held, d.pages.held())
}

func TestDroppingHoldsUpNoFlush(t *testing.T) {
	watcher := watchCache(vfs.NewMem())
	hold := make(chan struct{})
	watcher.hold = hold
	opts := testOptions(watcher)
	opts.PageCacheBytes = 1
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 200}, n))
	require.NoError(t, err)
	n.listen(l)
	fill(t, l, n, 20)
	require.Equal(t, record.Offset(20), l.Flushed())
	removed, err := l.Retain(d.now())
	require.NoError(t, err)
	require.Zero(t, removed)
	close(hold)
	require.NoError(t, d.Close(-1))
	require.Zero(t, d.pages.held(), "Close waits for it")
}

func TestPageCacheChunks(t *testing.T) {
	mem := vfs.NewMem()
	watcher := watchCache(mem)
	files := newOpenFiles(watcher, 10, testOptions(mem).Logger)
	p := newPageCache(files, 2*cacheChunk, testOptions(mem).Logger, time.Now)
	a, b := &lazyFile{name: "a" + logExt}, &lazyFile{name: "b" + logExt}
	for _, f := range []*lazyFile{a, b} {
		_, err := files.create(f)
		require.NoError(t, err)
		files.release(f)
		watcher.files[f.name].synced = 10 * cacheChunk
	}
	dropped := func() [2]int64 {
		p.done.Wait()
		return [2]int64{watcher.files[a.name].dropped, watcher.files[b.name].dropped}
	}
	p.note(a, 0, 100)
	p.note(a, 100, cacheChunk+100)
	p.note(a, 50, 200) // read again: counts once
	require.Equal(t, int64(cacheChunk+100), p.held())
	p.note(b, 0, cacheChunk-100)
	require.Equal(t, [2]int64{}, dropped(), "at the limit")
	p.note(b, cacheChunk-100, cacheChunk+1)
	require.Equal(t, [2]int64{cacheChunk, 0}, dropped(), "the oldest chunk")
	require.Equal(t, int64(100+cacheChunk+1), p.held())
	p.note(a, cacheChunk+100, 2*cacheChunk)
	require.Equal(t, [2]int64{2 * cacheChunk, 0}, dropped(), "in the order in which they were first noted")
	require.Len(t, p.chunks, 2)
	open, idle := files.counts()
	require.Equal(t, open, idle, "no file stays in use")
	p.note(b, 9*cacheChunk, 9*cacheChunk)
	require.Len(t, p.chunks, 2, "nothing is nothing")
	files.forget(a)
	require.NoError(t, mem.Remove(a.name))
	p.note(a, 0, 3*cacheChunk)
	require.Equal(t, [2]int64{2 * cacheChunk, cacheChunk + 1}, dropped(), "a removed file does not matter")
	require.LessOrEqual(t, p.held(), int64(2*cacheChunk))
	files.forget(b)
}

// What a follower reads that catches up leaves the page cache behind it, and takes
// nothing of what was there for others.
func TestPagesReadOnceMakeNoRoom(t *testing.T) {
	mem := vfs.NewMem()
	watcher := watchCache(mem)
	files := newOpenFiles(watcher, 10, testOptions(mem).Logger)
	p := newPageCache(files, 20*cacheChunk, testOptions(mem).Logger, time.Now)
	hot, old := &lazyFile{name: "hot" + logExt}, &lazyFile{name: "old" + logExt}
	for _, f := range []*lazyFile{hot, old} {
		_, err := files.create(f)
		require.NoError(t, err)
		files.release(f)
		watcher.files[f.name].synced = 1000 * cacheChunk
	}
	p.note(hot, 0, 20*cacheChunk)
	p.noteOnce(hot, 0, 3*cacheChunk) // it was there
	const read = 100
	for i := range int64(2 * read) {
		p.noteOnce(old, i*cacheChunk/2, (i+1)*cacheChunk/2)
	}
	p.done.Wait()
	require.Equal(t, int64(20*cacheChunk+passingMax), p.held())
	require.True(t, p.holds(hot, 0, 20*cacheChunk), "it stays")
	require.False(t, p.holds(old, 0, cacheChunk), "it is gone")
	require.True(t, p.holds(old, (read-1)*cacheChunk, read*cacheChunk), "the reader may be there")
	require.Zero(t, watcher.files[hot.name].dropped)
	require.Equal(t, int64((read*cacheChunk - passingMax)), watcher.files[old.name].dropped)
	p.note(old, 500*cacheChunk, 520*cacheChunk)
	p.done.Wait()
	require.Equal(t, int64(20*cacheChunk+passingMax), p.held(), "each has its own limit")
	require.False(t, p.holds(hot, 0, cacheChunk))
	files.forget(hot)
	files.forget(old)
}

// A log says which reads are of that kind.
func TestReadOnce(t *testing.T) {
	d, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true})
	fill(t, l, n, 20)
	evictAll(d)
	passing := func(once bool) int64 {
		d.pages.mu.Lock()
		clear(d.pages.chunks)
		d.pages.order, d.pages.passing, d.pages.bytes, d.pages.passingBytes = chunkList{}, chunkList{}, 0, 0
		d.pages.mu.Unlock()
		slices, err := l.ReadInto(nil, ReadOptions{Limit: l.End(), MaxBytes: 1 << 20, Once: once})
		require.NoError(t, err)
		for i := range slices {
			slices[i].Release()
		}
		d.pages.mu.Lock()
		defer d.pages.mu.Unlock()
		require.Equal(t, l.Size(), d.pages.bytes+d.pages.passingBytes)
		return d.pages.passingBytes
	}
	require.Zero(t, passing(false))
	require.Equal(t, l.Size(), passing(true))
}

// The kernel takes the advice: asked with mincore(2).
func TestDroppedPagesLeaveThePageCache(t *testing.T) {
	opts := testOptions(vfs.OS{})
	opts.Path = t.TempDir()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(opts.Path, &st))
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("a tmpfs is page cache only")
	}
	opts.PageCacheBytes = 3 << 20
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 5 << 20}, n))
	require.NoError(t, err)
	n.listen(l)
	value := strings.Repeat("x", 300_001)
	for range 100 {
		_, next := add(t, l, 1, batch(t, 0, value))
		n.waitFlushed(next)
	}
	d.pages.done.Wait()
	var resident int64
	for _, s := range l.segments {
		resident += residentBytes(t, s.path+logExt)
	}
	require.Greater(t, l.Size(), int64(30_000_000))
	// Folios that hang over a dropped range's end stay until the next one.
	require.Less(t, resident, int64(6<<20))
	evictAll(d)
	require.Len(t, readEverything(t, l), int(l.Size()))
	require.NoError(t, d.Close(-1))
}

func residentBytes(t *testing.T, name string) (resident int64) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	stat, err := f.Stat()
	require.NoError(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, int(stat.Size()), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	page := os.Getpagesize()
	in := make([]byte, (len(m)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0])))
	require.Zero(t, errno)
	require.NoError(t, unix.Munmap(m))
	for _, b := range in {
		resident += int64(b&1) * int64(page)
	}
	return resident
}
