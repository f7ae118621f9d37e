package vfs

import "syscall"

// SetCapacity makes the file system as large as so many bytes, which its files
// take in whole pages: a write that finds no room fails with ENOSPC after what
// found some. Removed files give their room back at once, open or not. 0 makes it
// boundless, and Space answers what SetSpace said.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// left is what no file takes of the capacity. The caller holds mu.
func (m *Mem) left() int64 { return max(m.capacity-m.root.pages()*pageSize, 0) }

// pages is how many pages a file, or all files in a folder, take.
func (n *node) pages() int64 {
	if !n.folder {
		return pagesOf(int64(len(n.data)))
	}
	var sum int64
	for _, e := range n.entries {
		sum += e.pages()
	}
	return sum
}

func pagesOf(bytes int64) int64 { return (bytes + pageSize - 1) / pageSize }

// room returns how many bytes of a write of n at off find room. The caller holds mu.
func (f *memFile) room(n, off int64) (int64, error) {
	if f.fs.capacity <= 0 {
		return n, nil
	}
	most := (pagesOf(int64(len(f.n.data))) + f.fs.left()/pageSize) * pageSize
	if off+n <= most {
		return n, nil
	}
	return max(most-off, 0), pathError("write", f.name, syscall.ENOSPC)
}
