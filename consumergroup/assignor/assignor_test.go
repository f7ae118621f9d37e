package assignor

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func drawInput(t *rapid.T, equal bool) Input {
	var in Input
	for i := range rapid.IntRange(0, 5).Draw(t, "topics") {
		topic := Topic{Name: fmt.Sprintf("t%d", i), Partitions: rapid.Int32Range(0, 12).Draw(t, "partitions")}
		if rapid.Bool().Draw(t, "racks") {
			for range topic.Partitions {
				topic.Racks = append(topic.Racks, rapid.SampledFrom([][]string{nil, {"r1"}, {"r2"}, {"r1", "r3"}}).Draw(t, "rack"))
			}
		}
		in.Topics = append(in.Topics, topic)
	}
	all := make([]int32, len(in.Topics))
	for i := range all {
		all[i] = int32(i)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "members") {
		m := Member{ID: fmt.Sprintf("m%d", i), Topics: all, Rack: rapid.SampledFrom([]string{"", "r1", "r2", "r3"}).Draw(t, "rack")}
		if rapid.Bool().Draw(t, "static") {
			m.InstanceID = fmt.Sprintf("i%d", 9-i)
		}
		if !equal {
			m.Topics = nil
			for _, topic := range all {
				if rapid.Bool().Draw(t, "subscribes") {
					m.Topics = append(m.Topics, topic)
				}
			}
		}
		for range rapid.IntRange(0, 6).Draw(t, "claims") {
			m.Owned = append(m.Owned, Partition{Topic: rapid.Int32Range(-1, 6).Draw(t, "topic"), Partition: rapid.Int32Range(-1, 13).Draw(t, "partition")})
		}
		in.Members = append(in.Members, m)
	}
	return in
}

// checkComplete: every partition of a subscribed topic once, at a subscriber.
func checkComplete(t *rapid.T, in Input, out Assignment) {
	seen := map[Partition]bool{}
	for m, ps := range out {
		if !slices.IsSortedFunc(ps, compare) {
			t.Fatalf("member %d: not ascending: %v", m, ps)
		}
		for _, p := range ps {
			if seen[p] {
				t.Fatalf("%v is assigned twice", p)
			}
			seen[p] = true
			if !slices.Contains(in.Members[m].Topics, p.Topic) {
				t.Fatalf("%v is assigned to %d, which does not subscribe", p, m)
			}
		}
	}
	want := 0
	for i, topic := range in.Topics {
		if slices.ContainsFunc(in.Members, func(m Member) bool { return slices.Contains(m.Topics, int32(i)) }) {
			want += int(topic.Partitions)
		}
	}
	if len(seen) != want {
		t.Fatalf("%d partitions assigned of %d", len(seen), want)
	}
}

func spread(out Assignment) (low, high int) {
	for i, ps := range out {
		if i == 0 || len(ps) < low {
			low = len(ps)
		}
		high = max(high, len(ps))
	}
	return low, high
}

func TestEveryAssignorIsCompleteAndDeterministic(t *testing.T) {
	for _, name := range []string{Uniform, Range, RoundRobin} {
		t.Run(name, func(t *testing.T) {
			assign, err := ByName(name)
			if err != nil {
				t.Fatal(err)
			}
			rapid.Check(t, func(t *rapid.T) {
				equal := rapid.Bool().Draw(t, "equal")
				in := drawInput(t, equal)
				out, err := assign(in)
				if err != nil {
					t.Fatal(err)
				}
				checkComplete(t, in, out)
				if low, high := spread(out); equal && name != Range && high-low > 1 {
					t.Fatalf("loads from %d to %d", low, high)
				}
				checkOrderDoesNotMatter(t, assign, in, out)
			})
		})
	}
}

func checkOrderDoesNotMatter(t *rapid.T, assign Func, in Input, want Assignment) {
	shuffled := Input{Topics: in.Topics, Members: rapid.Permutation(in.Members).Draw(t, "order")}
	out, err := assign(shuffled)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range shuffled.Members {
		j := slices.IndexFunc(in.Members, func(o Member) bool { return o.ID == m.ID })
		if !slices.Equal(out[i], want[j]) {
			t.Fatalf("member %s: %v, in another order %v", m.ID, want[j], out[i])
		}
	}
}

// TestUniformMovesTheLeast compares with the most that any balanced assignment can keep.
func TestUniformMovesTheLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t, true)
		if len(in.Members) == 0 {
			return
		}
		u := newUniform(in) // its out holds the valid claims
		total := 0
		for _, topic := range in.Topics {
			total += int(topic.Partitions)
		}
		quota, extra := total/len(in.Members), total%len(in.Members)
		best, above := 0, 0
		for _, claims := range u.out {
			best += min(len(claims), quota)
			if len(claims) > quota {
				above++
			}
		}
		best += min(above, extra)
		claimed := slices.Clone(u.out)
		out, err := AssignUniform(in)
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		for m := range out {
			for _, p := range claimed[m] {
				if slices.Contains(out[m], p) {
					kept++
				}
			}
		}
		if kept != best {
			t.Fatalf("kept %d, possible %d", kept, best)
		}
	})
}

func TestUniformMixedHasNoBetterSingleMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t, false)
		out, err := AssignUniform(in)
		if err != nil {
			t.Fatal(err)
		}
		for m, ps := range out {
			for _, p := range ps {
				for o := range in.Members {
					if slices.Contains(in.Members[o].Topics, p.Topic) && len(out[o])+1 < len(ps) {
						t.Fatalf("moving %v from %d (%d) to %d (%d) would be more even", p, m, len(ps), o, len(out[o]))
					}
				}
			}
		}
	})
}

// TestUniformIsStable: what it assigned, it assigns again.
func TestUniformIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t, rapid.Bool().Draw(t, "equal"))
		first, err := AssignUniform(in)
		if err != nil {
			t.Fatal(err)
		}
		for m := range in.Members {
			in.Members[m].Owned = first[m]
		}
		second, err := AssignUniform(in)
		if err != nil {
			t.Fatal(err)
		}
		for m := range first {
			if !slices.Equal(first[m], second[m]) {
				t.Fatalf("member %d: %v, then %v", m, first[m], second[m])
			}
		}
	})
}

// TestUniformPrefersTheRack: each member gets the partitions of its rack, as far
// as balance allows, and moves none for it.
func TestUniformPrefersTheRack(t *testing.T) {
	racks := [][]string{{"a"}, {"a"}, {"b"}, {"b"}, {"b"}, {"b"}, {"a"}, {"b"}}
	in := Input{
		Topics:  []Topic{{Name: "t", Partitions: 8, Racks: racks}},
		Members: []Member{{ID: "x", Rack: "b", Topics: []int32{0}}, {ID: "y", Rack: "a", Topics: []int32{0}}},
	}
	out, err := AssignUniform(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range out[0] {
		if racks[p.Partition][0] != "b" {
			t.Errorf("x in rack b got %d", p.Partition)
		}
	}
	if len(out[0]) != 4 || len(out[1]) != 4 {
		t.Fatalf("%v", out)
	}
	in.Members[0].Owned, in.Members[1].Owned = out[1], out[0]
	again, err := AssignUniform(in)
	if err != nil || !slices.Equal(again[0], out[1]) || !slices.Equal(again[1], out[0]) {
		t.Fatalf("moved for the rack: %v %v", again, err)
	}
}

func TestRangeKeepsNeighbours(t *testing.T) {
	in := Input{
		Topics:  []Topic{{Name: "a", Partitions: 5}, {Name: "b", Partitions: 5}},
		Members: []Member{{ID: "y", Topics: []int32{0, 1}}, {ID: "x", Topics: []int32{0, 1}}},
	}
	out, err := AssignRange(in)
	if err != nil {
		t.Fatal(err)
	}
	want := Assignment{{{0, 3}, {0, 4}, {1, 3}, {1, 4}}, {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}}}
	for m := range want {
		if !slices.Equal(out[m], want[m]) {
			t.Fatalf("member %d: %v, want %v", m, out[m], want[m])
		}
	}
}

func TestBadInput(t *testing.T) {
	if _, err := ByName("sticky"); !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	for _, in := range []Input{
		{Members: []Member{{ID: "m", Topics: []int32{0}}}},
		{Topics: []Topic{{Name: "a", Partitions: 1}, {Name: "b", Partitions: 1}}, Members: []Member{{ID: "m", Topics: []int32{1, 0}}}},
		{Topics: []Topic{{Name: "a", Partitions: -1}}},
	} {
		for _, name := range []string{Uniform, Range, RoundRobin} {
			assign, err := ByName(name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = assign(in)
			if _, ok := errors.AsType[*InputError](err); !ok {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// benchInput is 1,000 members on 10,000 partitions of 10 topics: one of the
// members has just joined or, when it is fresh, all of them have.
func benchInput(b *testing.B, mixed, fresh bool) Input {
	b.Helper()
	var in Input
	all := make([]int32, 10)
	for i := range all {
		all[i] = int32(i)
		in.Topics = append(in.Topics, Topic{Name: fmt.Sprintf("t%d", i), Partitions: 1000})
	}
	for i := range 999 {
		topics := all
		if mixed {
			topics = all[i%5:]
		}
		in.Members = append(in.Members, Member{ID: fmt.Sprintf("m%04d", i), Topics: topics})
	}
	out, err := AssignUniform(in)
	if err != nil {
		b.Fatal(err)
	}
	if fresh {
		out = nil
	}
	for m := range out {
		in.Members[m].Owned = out[m]
	}
	in.Members = append(in.Members, Member{ID: "new", Topics: all})
	return in
}

func BenchmarkAssign(b *testing.B) {
	for i := range 4 {
		mixed, fresh := i&1 > 0, i&2 > 0
		in := benchInput(b, mixed, fresh)
		for _, name := range []string{Uniform, Range, RoundRobin} {
			assign, err := ByName(name)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s/mixed=%v/fresh=%v", name, mixed, fresh), func(b *testing.B) {
				for b.Loop() {
					if _, err := assign(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
