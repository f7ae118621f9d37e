package metadata

import (
	"iter"
	"slices"
)

// chunkSize is the number of entries at which a chunk splits. An insertion into
// n entries copies one chunk and the spine of about n*4/(3*chunkSize) pointers:
// with 100,000 topics some 12 KiB, with 1,000 topics less than 2 KiB.
const chunkSize = 128

// ordered is a persistent sorted map. Every change returns a new map that
// shares all chunks but the changed one with the old map, which stays valid.
// Iteration is in key order, so nothing depends on hashes.
//
// It has two levels: a spine of pointers to sorted chunks.
//
//	spine:  [ * , * , * ]
//	          |   |   +--> [t..z]
//	          |   +------> [k..s]
//	          +----------> [a..j]
type ordered[K, V any] struct {
	compare func(a, b K) int
	spine   []*chunk[K, V]
	n       int
}

// chunk is immutable once it hangs in a spine, and never empty.
type chunk[K, V any] struct {
	keys   []K
	values []V
}

func newOrdered[K, V any](compare func(a, b K) int) ordered[K, V] {
	return ordered[K, V]{compare: compare}
}

func (m ordered[K, V]) len() int { return m.n }

// locate returns the chunk and the place in it where key is or belongs.
func (m ordered[K, V]) locate(key K) (c, i int, found bool) {
	c, exact := slices.BinarySearchFunc(m.spine, key, func(ch *chunk[K, V], k K) int {
		return m.compare(ch.keys[0], k)
	})
	if exact {
		return c, 0, true
	}
	if c == 0 {
		return 0, 0, false
	}
	c--
	i, found = slices.BinarySearchFunc(m.spine[c].keys, key, m.compare)
	return c, i, found
}

func (m ordered[K, V]) get(key K) (V, bool) {
	c, i, found := m.locate(key)
	if !found {
		var none V
		return none, false
	}
	return m.spine[c].values[i], true
}

// set returns a map in which key has value.
func (m ordered[K, V]) set(key K, value V) ordered[K, V] {
	c, i, found := m.locate(key)
	if len(m.spine) == 0 {
		m.spine = []*chunk[K, V]{{keys: []K{key}, values: []V{value}}}
		m.n = 1
		return m
	}
	old := m.spine[c]
	if found {
		values := slices.Clone(old.values)
		values[i] = value
		m.spine = slices.Clone(m.spine)
		m.spine[c] = &chunk[K, V]{keys: old.keys, values: values}
		return m
	}
	m.n++
	keys, values := inserted(old.keys, i, key), inserted(old.values, i, value)
	if len(keys) <= chunkSize {
		m.spine = slices.Clone(m.spine)
		m.spine[c] = &chunk[K, V]{keys: keys, values: values}
		return m
	}
	// Keys that only grow (command memory) fill chunks instead of halving them.
	cut := len(keys) / 2
	if i == len(keys)-1 && c == len(m.spine)-1 {
		cut = i
	}
	left := &chunk[K, V]{keys: keys[:cut:cut], values: values[:cut:cut]}
	right := &chunk[K, V]{keys: slices.Clone(keys[cut:]), values: slices.Clone(values[cut:])}
	m.spine = inserted(m.spine, c+1, right)
	m.spine[c] = left
	return m
}

// remove returns a map without key.
func (m ordered[K, V]) remove(key K) ordered[K, V] {
	c, i, found := m.locate(key)
	if !found {
		return m
	}
	m.n--
	old := m.spine[c]
	if len(old.keys) == 1 {
		m.spine = removed(m.spine, c)
		return m
	}
	m.spine = slices.Clone(m.spine)
	m.spine[c] = &chunk[K, V]{keys: removed(old.keys, i), values: removed(old.values, i)}
	return m.join(c)
}

// join merges chunk c with its right neighbour when both fit in half a chunk,
// so that removals leave no long spine. The spine is already a copy.
func (m ordered[K, V]) join(c int) ordered[K, V] {
	if c+1 >= len(m.spine) || len(m.spine[c].keys)+len(m.spine[c+1].keys) > chunkSize/2 {
		return m
	}
	a, b := m.spine[c], m.spine[c+1]
	m.spine[c] = &chunk[K, V]{keys: slices.Concat(a.keys, b.keys), values: slices.Concat(a.values, b.values)}
	m.spine = slices.Delete(m.spine, c+1, c+2)
	return m
}

// first returns the entry with the smallest key.
func (m ordered[K, V]) first() (key K, value V, ok bool) {
	if m.n == 0 {
		return key, value, false
	}
	return m.spine[0].keys[0], m.spine[0].values[0], true
}

// all yields the entries in key order.
func (m ordered[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, ch := range m.spine {
			for i, k := range ch.keys {
				if !yield(k, ch.values[i]) {
					return
				}
			}
		}
	}
}

// rewrite calls edit for every value in key order and returns a map with what
// it returned. Chunks in which edit changed nothing are shared.
func (m ordered[K, V]) rewrite(edit func(V) (V, bool)) ordered[K, V] {
	var spine []*chunk[K, V]
	for c, ch := range m.spine {
		var values []V
		for i, v := range ch.values {
			changed, ok := edit(v)
			if !ok {
				continue
			}
			if values == nil {
				values = slices.Clone(ch.values)
			}
			values[i] = changed
		}
		if values == nil {
			continue
		}
		if spine == nil {
			spine = slices.Clone(m.spine)
		}
		spine[c] = &chunk[K, V]{keys: ch.keys, values: values}
	}
	if spine != nil {
		m.spine = spine
	}
	return m
}

// inserted returns a copy of s with v at i.
func inserted[T any](s []T, i int, v T) []T {
	out := make([]T, 0, len(s)+1)
	out = append(out, s[:i]...)
	out = append(out, v)
	return append(out, s[i:]...)
}

// removed returns a copy of s without its element i.
func removed[T any](s []T, i int) []T {
	out := make([]T, 0, len(s)-1)
	out = append(out, s[:i]...)
	return append(out, s[i+1:]...)
}
