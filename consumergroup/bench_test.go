package consumergroup

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkJoin is one member joining 999 others on 10,000 partitions, and leaving
// again: all that the state machine does until the target stands and the members
// have been told. They are of ten topics, by name, or of 10,000 that a pattern matches.
func BenchmarkJoin(b *testing.B) {
	b.Run("topics=10", func(b *testing.B) { benchJoin(b, 10, "") })
	b.Run("topics=10000", func(b *testing.B) { benchJoin(b, 10_000, ".*") })
}

func benchJoin(b *testing.B, n int, pattern string) {
	b.Helper()
	meta := &Metadata{Partitions: map[string]int32{}, Matches: map[string][]string{}}
	var topics []string
	for i := range n {
		topics = append(topics, fmt.Sprintf("t%05d", i))
		meta.Partitions[topics[i]] = int32(10_000 / n)
	}
	if pattern != "" {
		meta.Matches[pattern], topics = topics, nil
	}
	g, now, stream := New("g"), time.Unix(0, 0), uint64(0)
	var out Effects
	step := func(ev Event) {
		out.Reset()
		g.Step(now, ev, &out)
	}
	join := func(id string) {
		stream++
		step(Event{
			Kind: EventJoin, MemberID: id, Stream: stream, Attach: 1, Metadata: meta,
			Join: &Member{ID: id, Topics: topics, Pattern: pattern, SessionTimeout: time.Hour, RebalanceTimeout: time.Hour},
		})
	}
	for i := range 999 {
		join(fmt.Sprintf("m%04d", i))
	}
	step(Event{Kind: EventAssign})
	for b.Loop() {
		join("new")
		step(Event{Kind: EventAssign})
		step(Event{Kind: EventLeave, MemberID: "new", Stream: stream, Final: true})
		step(Event{Kind: EventAssign})
	}
}
