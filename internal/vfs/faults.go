package vfs

import (
	"path"
	"sync"
)

// Op is a kind of operation that Faults can fail.
type Op string

// The kinds.
const (
	OpOpen     Op = "open"
	OpCreate   Op = "create"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpFolder   Op = "folder sync"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
)

// Fault fails or holds up operations.
type Fault struct {
	Op Op
	// Pattern is matched against the last part of the name (path.Match), and Folder
	// against the part before it; empty: any.
	Pattern, Folder string
	// After lets so many matching operations pass first.
	After int
	// Count fails so many after them; 0: all.
	Count int
	// Err is what they answer: syscall.EIO, syscall.ENOSPC... nil: they go through.
	Err error
	// Hold keeps them waiting until it is closed: a disk that hangs. nil: no wait.
	Hold <-chan struct{}
	// Partial bytes of a write happen before it fails.
	Partial int
}

// Faults wraps a file system and fails what Inject asks for. It is safe for
// concurrent use.
type Faults struct {
	FS
	mu     sync.Mutex // guards faults
	faults []*Fault
	counts map[Op]int
	bytes  map[Op]int64
	held   int
}

// NewFaults wraps under.
func NewFaults(under FS) *Faults {
	return &Faults{FS: under, counts: map[Op]int{}, bytes: map[Op]int64{}}
}

// Inject adds a fault.
func (f *Faults) Inject(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
}

// Heal removes all faults.
func (f *Faults) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Count returns how many operations of a kind were asked for so far.
func (f *Faults) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

// Bytes returns how many bytes went through OpRead or OpWrite so far.
func (f *Faults) Bytes(op Op) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes[op]
}

func (f *Faults) moved(op Op, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes[op] += n
}

// Held returns how many operations wait for their Hold at the moment.
func (f *Faults) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *Faults) wait(hold <-chan struct{}) {
	if hold == nil {
		return
	}
	f.hold(1)
	defer f.hold(-1)
	<-hold
}

func (f *Faults) hold(by int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held += by
}

// strike waits as a fault of this operation says and returns the one that fails
// it, nil for none.
func (f *Faults) strike(op Op, name string) *Fault {
	hit := f.hit(op, name)
	if hit == nil {
		return nil
	}
	f.wait(hit.Hold)
	if hit.Err == nil {
		return nil
	}
	return hit
}

// hit returns the fault that this operation meets, nil for none.
func (f *Faults) hit(op Op, name string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[op]++
	for i, fault := range f.faults {
		if fault.Op != op {
			continue
		}
		if !matches(fault.Pattern, path.Base(name)) || !matches(fault.Folder, path.Base(path.Dir(name))) {
			continue
		}
		if fault.After > 0 {
			fault.After--
			continue
		}
		hit := *fault
		if fault.Count > 0 {
			if fault.Count--; fault.Count == 0 {
				f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
			}
		}
		return &hit
	}
	return nil
}

func matches(pattern, part string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, part)
	return ok && err == nil
}

func (f *Faults) fail(op Op, name string) error {
	if hit := f.strike(op, name); hit != nil {
		return pathError(string(op), name, hit.Err)
	}
	return nil
}

// Open implements Files.
func (f *Faults) Open(name string) (File, error) {
	if err := f.fail(OpOpen, name); err != nil {
		return nil, err
	}
	return f.wrap(name)(f.FS.Open(name))
}

// Create implements Files.
func (f *Faults) Create(name string) (File, error) {
	if err := f.fail(OpCreate, name); err != nil {
		return nil, err
	}
	return f.wrap(name)(f.FS.Create(name))
}

func (f *Faults) wrap(name string) func(File, error) (File, error) {
	return func(under File, err error) (File, error) {
		if err != nil {
			return nil, err
		}
		return &faultFile{File: under, faults: f, name: name}, nil
	}
}

// SyncFolder implements Folders.
func (f *Faults) SyncFolder(name string) error {
	if err := f.fail(OpFolder, name); err != nil {
		return err
	}
	return f.FS.SyncFolder(name)
}

// Rename implements Names.
func (f *Faults) Rename(from, to string) error {
	if err := f.fail(OpRename, to); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

// Remove implements Names.
func (f *Faults) Remove(name string) error {
	if err := f.fail(OpRemove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

type faultFile struct {
	File
	faults *Faults
	name   string
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.faults.fail(OpRead, f.name); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	f.faults.moved(OpRead, int64(n))
	return n, err
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVecAt([][]byte{p}, off)
	return int(n), err
}

func (f *faultFile) WriteVecAt(bufs [][]byte, off int64) (int64, error) {
	hit := f.faults.strike(OpWrite, f.name)
	if hit == nil {
		n, err := f.File.WriteVecAt(bufs, off)
		f.faults.moved(OpWrite, n)
		return n, err
	}
	var done int64
	for _, b := range bufs {
		n, err := f.File.WriteAt(b[:min(len(b), hit.Partial-int(done))], off+done)
		done += int64(n)
		if err != nil || int(done) >= hit.Partial {
			break
		}
	}
	return done, pathError("write", f.name, hit.Err)
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.faults.fail(OpTruncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Datasync() error {
	if err := f.faults.fail(OpSync, f.name); err != nil {
		if mem, ok := f.File.(interface{ loseDirty() }); ok {
			mem.loseDirty()
		}
		return err
	}
	return f.File.Datasync()
}
