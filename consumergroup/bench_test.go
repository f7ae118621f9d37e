package consumergroup

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkJoin is one member joining 999 others on 10,000 partitions, and leaving
// again: all that the state machine does until the target stands and the members
// have been told.
func BenchmarkJoin(b *testing.B) {
	meta := &Metadata{Partitions: map[string]int32{}}
	var topics []string
	for i := range 10 {
		topics = append(topics, fmt.Sprint("t", i))
		meta.Partitions[topics[i]] = 1000
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
			Join: &Member{ID: id, Topics: topics, SessionTimeout: time.Hour, RebalanceTimeout: time.Hour},
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
