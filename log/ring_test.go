package log

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRingIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring[int]
		var want []int
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "count") {
					r.push(next)
					want = append(want, next)
					next++
				}
			},
			"drop the front": func(t *rapid.T) {
				n := rapid.IntRange(0, len(want)).Draw(t, "count")
				r.dropFront(n)
				want = want[n:]
			},
			"drop the back": func(t *rapid.T) {
				n := rapid.IntRange(0, len(want)).Draw(t, "left")
				r.dropBack(n)
				want = want[:n]
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(want), r.len())
				for i, v := range want {
					require.Equal(t, v, *r.at(i))
				}
				// What is dropped is forgotten, so that it keeps nothing alive, and room
				// that a burst took goes.
				kept := 0
				for _, v := range r.items {
					if v != 0 {
						kept++
					}
				}
				require.LessOrEqual(t, kept, len(want))
				require.LessOrEqual(t, len(r.items), max(ringKept, 16*len(want)))
			},
		})
	})
}
