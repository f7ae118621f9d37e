package partition

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/log/record"
)

// TestWatermarkTwin holds a leader against a twin that recomputes, after every
// step and from scratch, what HW may be.
func TestWatermarkTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, 5).Draw(t, "replicas")
		synced := rapid.Bool().Draw(t, "synced")
		minISR := rapid.IntRange(1, 3).Draw(t, "min")
		tw := &twin{minISR: minISR, synced: synced, appended: make([]record.Offset, nodes), flushed: make([]record.Offset, nodes), isr: make([]bool, nodes)}
		for i := range nodes {
			tw.isr[i] = i == 0 || rapid.Bool().Draw(t, "isr")
		}
		r := New(Config{Node: 0})
		var out Effects
		now := time.Unix(0, 0)
		pe := int32(1)
		step := func(ev Event) {
			out.Reset()
			r.Step(now, ev, &out)
		}
		step(Assign(tw.assignment(pe)))
		for i := 1; i < nodes; i++ {
			step(Handshake(int32(i), 1, 1, 1, record.UnknownEpoch, 0, 0, record.UnknownEpoch, 0, 0, 0))
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				tw.appended[0] += record.Offset(rapid.IntRange(1, 5).Draw(t, "n"))
				step(Appended(r.End(), tw.appended[0], AcksNone, 0, time.Time{}))
			},
			"flush": func(t *rapid.T) {
				tw.flushed[0] = record.Offset(rapid.Int64Range(int64(tw.flushed[0]), int64(tw.appended[0])).Draw(t, "to"))
				step(Progress(tw.flushed[0], tw.flushed[0]))
			},
			"ack": func(t *rapid.T) {
				if nodes == 1 {
					t.Skip("no follower")
				}
				i := rapid.IntRange(1, nodes-1).Draw(t, "node")
				tw.appended[i] = record.Offset(rapid.Int64Range(int64(tw.appended[i]), int64(tw.appended[0])).Draw(t, "appended"))
				tw.flushed[i] = record.Offset(rapid.Int64Range(int64(tw.flushed[i]), int64(tw.appended[i])).Draw(t, "flushed"))
				step(Ack(int32(i), 1, 1, tw.appended[i], tw.flushed[i], 0))
			},
			"isr": func(t *rapid.T) {
				for i := 1; i < nodes; i++ {
					tw.isr[i] = rapid.Bool().Draw(t, "isr")
				}
				pe++
				step(Assign(tw.assignment(pe)))
			},
			"": func(t *rapid.T) {
				if want := tw.watermark(r.Followers(nil)); r.HighWatermark() != want {
					t.Fatalf("HW = %d, want %d (%+v)", r.HighWatermark(), want, tw)
				}
			},
		})
	})
}

type twin struct {
	minISR            int
	synced            bool
	appended, flushed []record.Offset
	isr               []bool
	hw                record.Offset
}

func (w *twin) assignment(pe int32) *Assignment {
	a := &Assignment{LeaderEpoch: 1, PartitionEpoch: pe, MinISR: w.minISR, Synced: w.synced}
	for i := range w.isr {
		a.Replicas = append(a.Replicas, Assigned{Node: int32(i), BrokerEpoch: 1, ISR: w.isr[i]})
	}
	return a
}

func (w *twin) watermark(followers []FollowerState) record.Offset {
	var counted []record.Offset
	members := 0
	for i, in := range w.isr {
		if in {
			members++
		}
		proposed := slices.ContainsFunc(followers, func(f FollowerState) bool { return int(f.Node) == i && f.Proposed })
		switch {
		case !in && !proposed:
		case w.synced:
			counted = append(counted, w.flushed[i])
		default:
			counted = append(counted, w.appended[i])
		}
	}
	if members >= min(w.minISR, len(w.isr)) {
		w.hw = max(w.hw, slices.Min(counted))
	}
	return w.hw
}
