package log

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/penstock/penstock/internal/vfs"
)

// openFiles keeps the files of a directory's segments open while they are in
// use, and those that were used last for a while longer: at most limit at once,
// and more only while more than limit are in use. A file in use is never closed.
//
// A segment that holds bytes that no sync has covered yet keeps its file in use
// (segment.hold): closed, it could lose the error that tells that those bytes
// never reached the disk. So that such files do not fill the cache, appends sync
// at once when there are many (crowded).
type openFiles struct {
	fs     vfs.FS
	limit  int
	logger *slog.Logger

	held atomic.Int64 // files that segments hold
	lent atomic.Int64 // uses by FileRanges

	mu     sync.Mutex // guards everything below and the files' state; a leaf lock, never held over I/O
	open   int
	moving int      // being opened or closed, with mu released
	idle   fileList // open and not in use, the longest idle first
}

// lazyFile is a file that is open while it is used. Its owner is one segment.
type lazyFile struct {
	name string

	// Guarded by openFiles.mu.
	file       vfs.File // nil: closed
	users      int
	gone       bool // deleted, or its log is closed: not kept when idle
	ahead      bool // since it was opened, the kernel was told to read ahead
	prev, next *lazyFile
}

// fileList is a list of idle files.
type fileList struct{ first, last *lazyFile }

func (l *fileList) push(f *lazyFile) {
	f.prev, f.next = l.last, nil
	if l.last != nil {
		l.last.next = f
	} else {
		l.first = f
	}
	l.last = f
}

func (l *fileList) remove(f *lazyFile) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.last = f.prev
	}
	f.prev, f.next = nil, nil
}

// acquire opens a file, unless it is open, and keeps it open until release.
func (o *openFiles) acquire(f *lazyFile) (vfs.File, error) { return o.take(f, o.fs.Open) }

// create is acquire for a file that is made anew.
func (o *openFiles) create(f *lazyFile) (vfs.File, error) { return o.take(f, o.fs.Create) }

func (o *openFiles) take(f *lazyFile, open func(string) (vfs.File, error)) (vfs.File, error) {
	o.mu.Lock()
	if file := o.use(f); file != nil {
		o.mu.Unlock()
		return file, nil
	}
	var cold vfs.File
	if o.open+o.moving >= o.limit {
		cold = o.coldest()
	}
	o.moving++ // one is closed, then one is opened
	o.mu.Unlock()
	o.close(cold)

	file, err := open(f.name)
	o.mu.Lock()
	other := o.use(f)
	if err == nil && other == nil {
		o.moving--
		o.open++
		f.file, f.users, f.ahead = file, 1, false
		o.mu.Unlock()
		return file, nil
	}
	o.mu.Unlock()
	if err != nil {
		file = nil
	}
	// Who came meanwhile did not wait for us, for an open may hang, but opened it too.
	o.closed(file)
	if other != nil {
		return other, nil
	}
	return nil, err
}

// use counts one more user of an open file; nil: it is closed. The caller holds mu.
func (o *openFiles) use(f *lazyFile) vfs.File {
	if f.file == nil {
		return nil
	}
	if f.users == 0 {
		o.idle.remove(f)
	}
	f.users++
	return f.file
}

// coldest takes the longest idle file out, for the caller to close; nil: all are
// in use. The caller holds mu.
func (o *openFiles) coldest() vfs.File {
	f := o.idle.first
	if f == nil {
		return nil
	}
	return o.drop(f)
}

// drop takes an idle file out. The caller holds mu.
func (o *openFiles) drop(f *lazyFile) vfs.File {
	o.idle.remove(f)
	o.open--
	file := f.file
	f.file = nil
	return file
}

// release ends one use.
func (o *openFiles) release(f *lazyFile) {
	o.mu.Lock()
	var cold vfs.File
	if f.users--; f.users == 0 {
		o.idle.push(f)
		if f.gone || o.open+o.moving > o.limit {
			cold = o.drop(f)
			o.moving++
		}
	}
	o.mu.Unlock()
	if cold != nil {
		o.closed(cold)
	}
}

// readAhead says that a file in use is read from front to back.
func (o *openFiles) readAhead(f *lazyFile) {
	o.mu.Lock()
	known, file := f.ahead, f.file
	f.ahead = true
	o.mu.Unlock()
	if known {
		return
	}
	if err := file.ReadAhead(); err != nil {
		o.logger.Debug("the kernel does not read ahead", "file", f.name, "error", err)
	}
}

// forget closes a file that was deleted, or whose log was closed: now, or when
// its last user is done.
func (o *openFiles) forget(f *lazyFile) {
	o.mu.Lock()
	f.gone = true
	var file vfs.File
	if f.file != nil && f.users == 0 {
		file = o.drop(f)
		o.moving++
	}
	o.mu.Unlock()
	if file != nil {
		o.closed(file)
	}
}

// closed closes a file, or none, and takes it out of moving.
func (o *openFiles) closed(f vfs.File) {
	o.close(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.moving--
}

// close closes a file that has nothing to lose: what was written to it is
// synced, or its log has failed, or it is deleted. nil does nothing.
func (o *openFiles) close(f vfs.File) {
	if f == nil {
		return
	}
	if err := f.Close(); err != nil {
		o.logger.Warn("a file could not be closed", "error", err)
	}
}

// crowded: so many files wait for a sync that the next one must not.
func (o *openFiles) crowded() bool { return o.held.Load() > int64(o.limit/2) }

// lend counts one FileRange more, which uses its file for as long as a client takes to
// receive it; false: there are enough.
func (o *openFiles) lend() bool {
	if o.lent.Add(1) <= int64(o.limit/8) {
		return true
	}
	o.lent.Add(-1)
	return false
}

// room is how many more segments may hold their files for long, as the flush
// journal lets them: it stops short of the limit.
func (o *openFiles) room() int { return o.limit*3/4 - int(o.held.Load()) }

// evict closes some idle files, because the process or the machine has too many;
// false: there is none.
func (o *openFiles) evict() bool {
	const some = 64
	o.mu.Lock()
	var cold []vfs.File
	for len(cold) < some && o.idle.first != nil {
		cold = append(cold, o.coldest())
		o.moving++
	}
	o.mu.Unlock()
	for _, f := range cold {
		o.closed(f)
	}
	return len(cold) > 0
}

// counts returns how many files are open and how many of them are idle.
func (o *openFiles) counts() (open, idle int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for f := o.idle.first; f != nil; f = f.next {
		idle++
	}
	return o.open, idle
}

// patientFS is a file system that makes room when there are too many open files:
// it lets go of idle ones and tries again, so that a log meets "too many open
// files" only when all are in use.
type patientFS struct {
	vfs.FS
	files *openFiles
}

func tooMany(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func (p patientFS) Open(name string) (vfs.File, error) {
	return patiently(p, name, p.FS.Open)
}

func (p patientFS) Create(name string) (vfs.File, error) {
	return patiently(p, name, p.FS.Create)
}

func (p patientFS) List(name string) ([]vfs.Entry, error) {
	return patiently(p, name, p.FS.List)
}

func (p patientFS) SyncFolder(name string) error {
	_, err := patiently(p, name, func(name string) (struct{}, error) { return struct{}{}, p.FS.SyncFolder(name) })
	return err
}

func (p patientFS) RemoveAll(name string) error {
	_, err := patiently(p, name, func(name string) (struct{}, error) { return struct{}{}, p.FS.RemoveAll(name) })
	return err
}

func patiently[T any](p patientFS, name string, do func(string) (T, error)) (T, error) {
	for {
		out, err := do(name)
		if err == nil || !tooMany(err) {
			return out, err
		}
		if !p.files.evict() {
			open, _ := p.files.counts()
			return out, &OpenFilesError{Path: name, Open: open, Err: err}
		}
	}
}

// fileLimit is how many files are kept open: as configured, or half of what
// the process may open, for connections need them too.
func fileLimit(configured int) int {
	const least, most = 64, 16_384
	if configured > 0 {
		return configured
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return least
	}
	return int(min(max(r.Cur/2, least), most))
}

func newOpenFiles(fsys vfs.FS, configured int, logger *slog.Logger) *openFiles {
	o := &openFiles{limit: fileLimit(configured), logger: logger}
	o.fs = patientFS{fsys, o}
	return o
}
