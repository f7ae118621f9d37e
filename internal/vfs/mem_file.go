package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// maxMemFile keeps a wild offset from taking all memory.
const maxMemFile = 1 << 32

type memFile struct {
	fs     *Mem
	n      *node
	name   string
	locked string // key of the lock it holds; empty: none
	closed bool
}

func (f *memFile) check(op string) error {
	if f.closed {
		return pathError(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid)
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVecAt([][]byte{p}, off)
	return int(n), err
}

func (f *memFile) WriteVecAt(bufs [][]byte, off int64) (int64, error) {
	defer f.fs.around(OpWrite, f.name)()
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("write"); err != nil {
		return 0, err
	}
	if off < 0 || off > maxMemFile {
		return 0, pathError("write", f.name, fs.ErrInvalid)
	}
	var size int64
	for _, p := range bufs {
		size += int64(len(p))
	}
	fits, err := f.room(size, off)
	start := off
	for _, p := range bufs {
		p = p[:min(int64(len(p)), start+fits-off)]
		f.n.write(p, off)
		off += int64(len(p))
	}
	return off - start, err
}

func (n *node) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	if old := int64(len(n.data)); end > old {
		n.data = append(n.data, make([]byte, end-old)...)
		n.touch(old, off)
	}
	copy(n.data[off:], p)
	n.touch(off, end)
}

// touch marks the pages of [from, to) as dirty.
func (n *node) touch(from, to int64) {
	if from >= to {
		return
	}
	for page := from / pageSize; page <= (to-1)/pageSize; page++ {
		n.dirty[page] = true
		delete(n.lost, page)
	}
}

func (f *memFile) Truncate(size int64) error {
	defer f.fs.around(OpTruncate, f.name)()
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("truncate"); err != nil {
		return err
	}
	if size < 0 || size > maxMemFile {
		return pathError("truncate", f.name, fs.ErrInvalid)
	}
	f.n.truncate(size)
	return nil
}

func (n *node) truncate(size int64) {
	old := int64(len(n.data))
	if size > old {
		n.data = append(n.data, make([]byte, size-old)...)
		n.touch(old, size)
		return
	}
	n.data = n.data[:size:size]
	if size < old && size%pageSize != 0 {
		n.touch(size-1, size)
	}
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("stat"); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Datasync() error {
	defer f.fs.around(OpSync, f.name)()
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("sync"); err != nil {
		return err
	}
	f.n.sync()
	return nil
}

// sync makes the present length and all pages but the lost ones durable.
func (n *node) sync() {
	durable := slices.Clone(n.data)
	n.restore(durable)
	n.durable = durable
	clear(n.dirty)
}

// loseDirty is what a failed sync does: the dirty pages count as clean and are
// not on disk.
func (f *memFile) loseDirty() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for page := range f.n.dirty {
		f.n.lost[page] = true
	}
	clear(f.n.dirty)
}

func (f *memFile) DropCache(int64, int64) error { return nil }

func (f *memFile) ReadAhead() error { return nil }

// EvictLost lets memory run short: pages that a failed sync marked clean are
// dropped and read as the disk has them.
func (m *Mem) EvictLost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.root.evictLost()
}

func (n *node) evictLost() {
	for _, child := range n.entries {
		child.evictLost()
	}
	n.restore(n.data)
	clear(n.lost)
}

// restore puts what the disk has of the lost pages into data.
func (n *node) restore(data []byte) {
	for page := range n.lost {
		from, to := page*pageSize, min((page+1)*pageSize, int64(len(data)))
		if from >= to {
			continue
		}
		clear(data[from:to])
		if from < int64(len(n.durable)) {
			copy(data[from:to], n.durable[from:])
		}
	}
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("close"); err != nil {
		return fmt.Errorf("vfs: %w", err)
	}
	f.closed = true
	if f.locked != "" {
		delete(f.fs.locked, f.locked)
	}
	return nil
}
