package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sectorSize is what a disk writes in one piece.
const sectorSize = 512

// CrashClone returns the file system as a power cut at this moment would leave
// it; m goes on unharmed. With a nil random only what was synced survives. Otherwise
// each un-synced change of a folder and each un-synced page survives or not as
// random says, a surviving page possibly only some of its sectors, and a file may keep its
// new length without its new content: disks write pages in any order.
func (m *Mem) CrashClone(random *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	c.free, c.total, c.capacity = m.free, m.total, m.capacity
	c.root = m.root.crash(random, map[*node]*node{})
	return c
}

// crash copies what survives of a node. seen keeps a node that two names
// survive under (a torn sequence of renames) one node.
func (n *node) crash(random *rand.Rand, seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		return c
	}
	if !n.folder {
		c := newFile()
		seen[n] = c
		c.data = n.crashData(random)
		c.durable = slices.Clone(c.data)
		return c
	}
	c := newFolder()
	seen[n] = c
	entries := maps.Clone(n.durableEntries)
	for _, ch := range n.pending {
		if random == nil || random.IntN(2) == 0 {
			continue
		}
		if ch.from != "" {
			if entries[ch.from] != ch.n {
				continue
			}
			delete(entries, ch.from)
		}
		if ch.n == nil {
			delete(entries, ch.name)
		} else {
			entries[ch.name] = ch.n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		c.entries[name] = entries[name].crash(random, seen)
	}
	c.durableEntries = maps.Clone(c.entries)
	return c
}

func (n *node) crashData(random *rand.Rand) []byte {
	data := slices.Clone(n.durable)
	if random == nil {
		return data
	}
	if len(n.data) != len(data) && random.IntN(2) == 0 {
		data = resize(data, len(n.data))
	}
	// Of the pages of a failed sync some may have got there too.
	pages := slices.AppendSeq(slices.Collect(maps.Keys(n.lost)), maps.Keys(n.dirty))
	slices.Sort(pages)
	for _, page := range pages {
		from, to := page*pageSize, min((page+1)*pageSize, int64(len(n.data)))
		if from >= to || random.IntN(2) == 0 {
			continue
		}
		whole := random.IntN(4) > 0
		for ; from < to; from += sectorSize {
			if !whole && random.IntN(2) == 0 {
				continue
			}
			end := min(from+sectorSize, to)
			if int64(len(data)) < end {
				data = resize(data, int(end))
			}
			copy(data[from:end], n.data[from:end])
		}
	}
	return data
}

func resize(b []byte, size int) []byte {
	if size <= len(b) {
		return b[:size]
	}
	return append(b, make([]byte, size-len(b))...)
}

// KillClone returns the file system as the death of the process at this moment
// would leave it: all that was written is there, and what was not synced is still
// at risk.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	c.free, c.total = m.free, m.total
	c.root = m.root.kill(map[*node]*node{})
	return c
}

func (n *node) kill(seen map[*node]*node) *node {
	if n == nil || seen[n] != nil {
		return seen[n]
	}
	c := &node{
		folder: n.folder, data: slices.Clone(n.data), durable: slices.Clone(n.durable),
		dirty: maps.Clone(n.dirty), lost: maps.Clone(n.lost),
	}
	seen[n] = c
	if !n.folder {
		return c
	}
	c.entries, c.durableEntries = map[string]*node{}, map[string]*node{}
	for name, child := range n.entries {
		c.entries[name] = child.kill(seen)
	}
	for name, child := range n.durableEntries {
		c.durableEntries[name] = child.kill(seen)
	}
	for _, ch := range n.pending {
		c.pending = append(c.pending, change{ch.name, ch.from, ch.n.kill(seen)})
	}
	return c
}
