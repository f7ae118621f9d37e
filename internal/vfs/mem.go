package vfs

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// pageSize is the unit in which a Mem file loses what was not synced.
const pageSize = 4096

// Mem is a file system in memory that remembers what was synced; see
// CrashClone. Make it with NewMem. It is safe for concurrent use.
type Mem struct {
	watch atomic.Pointer[func(Event)]

	mu     sync.Mutex // guards everything below and all nodes
	root   *node
	locked map[string]bool
	free   int64
	total  int64
	// capacity bounds what the files take, and Space tells what is left of it; 0:
	// they take nothing, and Space tells free.
	capacity int64
}

var _ FS = (*Mem)(nil)

// node is a file or a folder, with its present and its durable content.
type node struct {
	folder bool

	// Of a file. Present bytes, durable bytes, and the pages written since the
	// last sync. lost pages were dirty at a failed sync: they read well and are
	// not on disk, and no later sync writes them unless they are written again.
	data, durable []byte
	dirty, lost   map[int64]bool

	// Of a folder. pending are the changes since the last SyncFolder, in order.
	entries, durableEntries map[string]*node
	pending                 []change
}

// change is a pending change of a folder: name appears as n, or vanishes (n
// nil); a rename also takes from away, both or neither.
type change struct {
	name, from string
	n          *node
}

func newFolder() *node {
	return &node{folder: true, entries: map[string]*node{}, durableEntries: map[string]*node{}}
}

func newFile() *node {
	return &node{dirty: map[int64]bool{}, lost: map[int64]bool{}}
}

// NewMem returns an empty file system with 1 TiB free.
func NewMem() *Mem {
	return &Mem{root: newFolder(), locked: map[string]bool{}, free: 1 << 40, total: 1 << 40}
}

// Event tells of an operation that changes a Mem or makes a change durable: once
// before it happens, once after. A test that takes a CrashClone at each of them
// has cut the power everywhere it could matter.
type Event struct {
	Op   Op
	Name string
	Done bool
}

// Watch calls f around every change from now on, in the goroutine of the change and with
// no lock held; nil: nobody any more. Operations that fail are told too.
func (m *Mem) Watch(f func(Event)) {
	if f == nil {
		m.watch.Store(nil)
		return
	}
	m.watch.Store(&f)
}

// around tells of an operation's beginning and returns what tells of its end.
func (m *Mem) around(op Op, name string) (done func()) {
	f := m.watch.Load()
	if f == nil {
		return func() {}
	}
	(*f)(Event{Op: op, Name: name})
	return func() { (*f)(Event{Op: op, Name: name, Done: true}) }
}

// SetSpace sets what Space answers.
func (m *Mem) SetSpace(free, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free, m.total = free, total
}

func split(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// find returns the node of a name, nil if there is none.
func (m *Mem) find(name string) *node {
	n := m.root
	for _, part := range split(name) {
		if n == nil || !n.folder {
			return nil
		}
		n = n.entries[part]
	}
	return n
}

// parent returns the folder around a name, and the last part of the name.
func (m *Mem) parent(op, name string) (*node, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", pathError(op, name, fs.ErrInvalid)
	}
	dir := m.find(strings.Join(parts[:len(parts)-1], "/"))
	if dir == nil {
		return nil, "", pathError(op, name, fs.ErrNotExist)
	}
	if !dir.folder {
		return nil, "", pathError(op, name, syscall.ENOTDIR)
	}
	return dir, parts[len(parts)-1], nil
}

func (dir *node) link(name string, n *node) {
	dir.entries[name] = n
	dir.pending = append(dir.pending, change{name: name, n: n})
}

// Open implements Files.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return nil, pathError("open", name, fs.ErrNotExist)
	}
	if n.folder {
		return nil, pathError("open", name, syscall.EISDIR)
	}
	return &memFile{fs: m, n: n, name: name}, nil
}

// Create implements Files.
func (m *Mem) Create(name string) (File, error) {
	defer m.around(OpCreate, name)()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.create(name)
}

func (m *Mem) create(name string) (*memFile, error) {
	dir, base, err := m.parent("create", name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	switch {
	case n == nil:
		n = newFile()
		dir.link(base, n)
	case n.folder:
		return nil, pathError("create", name, syscall.EISDIR)
	default:
		n.truncate(0)
	}
	return &memFile{fs: m, n: n, name: name}, nil
}

// Lock implements Files.
func (m *Mem) Lock(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := strings.Join(split(name), "/")
	if m.locked[key] {
		return nil, ErrLocked
	}
	var f *memFile
	if n := m.find(name); n != nil && !n.folder {
		f = &memFile{fs: m, n: n, name: name}
	} else {
		var err error
		if f, err = m.create(name); err != nil {
			return nil, err
		}
	}
	m.locked[key], f.locked = true, key
	return f, nil
}

// Space implements Files.
func (m *Mem) Space(string) (free, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity > 0 {
		return m.left(), m.capacity, nil
	}
	return m.free, m.total, nil
}

// Mkdir implements Folders.
func (m *Mem) Mkdir(name string) error {
	defer m.around(OpCreate, name)()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, part := range split(name) {
		next := n.entries[part]
		if next == nil {
			next = newFolder()
			n.link(part, next)
		}
		if !next.folder {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		n = next
	}
	return nil
}

// List implements Folders.
func (m *Mem) List(name string) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return nil, pathError("open", name, fs.ErrNotExist)
	}
	if !n.folder {
		return nil, pathError("open", name, syscall.ENOTDIR)
	}
	var out []Entry
	for _, key := range slices.Sorted(maps.Keys(n.entries)) {
		out = append(out, Entry{Name: key, Folder: n.entries[key].folder})
	}
	return out, nil
}

// SyncFolder implements Folders.
func (m *Mem) SyncFolder(name string) error {
	defer m.around(OpFolder, name)()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return pathError("sync", name, fs.ErrNotExist)
	}
	n.durableEntries, n.pending = maps.Clone(n.entries), nil
	return nil
}

// Rename implements Names.
func (m *Mem) Rename(from, to string) error {
	defer m.around(OpRename, to)()
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, oldName, err := m.parent("rename", from)
	if err != nil {
		return err
	}
	dir2, newName, err := m.parent("rename", to)
	if err != nil {
		return err
	}
	n := dir.entries[oldName]
	switch {
	case n == nil:
		return pathError("rename", from, fs.ErrNotExist)
	case dir != dir2:
		return pathError("rename", from, syscall.EXDEV)
	}
	if target := dir.entries[newName]; target != nil && (target.folder || n.folder) {
		return pathError("rename", to, fs.ErrExist)
	}
	delete(dir.entries, oldName)
	dir.entries[newName] = n
	dir.pending = append(dir.pending, change{name: newName, from: oldName, n: n})
	return nil
}

// Remove implements Names.
func (m *Mem) Remove(name string) error {
	defer m.around(OpRemove, name)()
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	if n == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if n.folder && len(n.entries) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	delete(dir.entries, base)
	dir.pending = append(dir.pending, change{name: base})
	return nil
}

// RemoveAll implements Names.
func (m *Mem) RemoveAll(name string) error {
	defer m.around(OpRemove, name)()
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil || dir.entries[base] == nil {
		return nil // absent is what the caller wants, as in package os
	}
	delete(dir.entries, base)
	dir.pending = append(dir.pending, change{name: base})
	return nil
}
