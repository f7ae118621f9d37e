package metadata

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestOrderedIsAMap compares with a built-in map, also the versions before each
// change.
func TestOrderedIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newOrdered[int, int](cmp.Compare[int])
		twin := make(map[int]int)
		width := rapid.SampledFrom([]int{5, 300, 3000}).Draw(t, "width")
		key := rapid.IntRange(0, width)
		for range rapid.IntRange(0, 40).Draw(t, "rounds") {
			before, beforeTwin := m, maps.Clone(twin)
			k, n := key.Draw(t, "key"), rapid.IntRange(1, 200).Draw(t, "n")
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1: // a run of keys, up or scattered
				stride := rapid.SampledFrom([]int{1, 7, -3}).Draw(t, "stride")
				for i := range n {
					m = m.set(k+i*stride, i)
					twin[k+i*stride] = i
				}
			case 2:
				for i := range n {
					m = m.remove(k + i)
					delete(twin, k+i)
				}
			case 3:
				m = m.rewrite(func(v int) (int, bool) { return v + 1000, v%2 == 0 })
				for k, v := range twin {
					if v%2 == 0 {
						twin[k] = v + 1000
					}
				}
			}
			equal(t, before, beforeTwin)
			equal(t, m, twin)
		}
	})
}

func equal(t *rapid.T, m ordered[int, int], twin map[int]int) {
	if m.len() != len(twin) {
		t.Fatalf("%d entries, want %d", m.len(), len(twin))
	}
	keys := slices.Sorted(maps.Keys(twin))
	i := 0
	for k, v := range m.all() {
		if k != keys[i] || v != twin[k] {
			t.Fatalf("entry %d is %d=%d, want %d=%d", i, k, v, keys[i], twin[keys[i]])
		}
		i++
	}
	for _, k := range keys {
		if v, ok := m.get(k); !ok || v != twin[k] {
			t.Fatalf("get %d: %d, %v", k, v, ok)
		}
	}
	if _, ok := m.get(-1 << 40); ok {
		t.Fatal("found what is not there")
	}
	if first, _, ok := m.first(); ok != (len(keys) > 0) || (ok && first != keys[0]) {
		t.Fatalf("first %d, %v", first, ok)
	}
	for _, ch := range m.spine {
		if len(ch.keys) == 0 || len(ch.keys) > chunkSize || len(ch.keys) != len(ch.values) {
			t.Fatalf("a chunk of %d keys, %d values", len(ch.keys), len(ch.values))
		}
	}
}
