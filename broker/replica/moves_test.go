package replica

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Replicas that a reassignment added catch up at its rate, over all streams
// together; others on the same stream, and those in sync, are not held back.
func TestMovesKeepToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		server, err := NewServer(ServerConfig{Leaders: leaderMap{}, Logger: slog.New(slog.DiscardHandler), Traffic: new(Traffic)})
		if err != nil {
			t.Fatal(err)
		}
		moving := func() *endless { return &endless{batch: testBatch(100 << 10), moving: true} }
		open := func(kind pb.StreamKind) *leaderStream {
			return newLeaderStream(server, nil, &pb.StreamOpen{Kind: kind})
		}
		const catchUp = pb.StreamKind_STREAM_KIND_CATCH_UP
		server.SetMoveRate(rate)
		one := open(catchUp)
		sent := sends(t, one, []*endless{moving(), moving(), {batch: testBatch(100 << 10)}}, 10*time.Second)
		if n := sent[0] + sent[1]; n < 9*rate || n > 11*rate {
			t.Errorf("%d bytes in ten seconds at %d a second", n, rate)
		}
		if min(sent[0], sent[1]) < 3*rate {
			t.Errorf("two that move got %v", sent[:2])
		}
		if sent[2] < 100*rate {
			t.Errorf("one that does not move got %d bytes", sent[2])
		}
		// Another stream shares the rate, and a debt is paid before anything is sent.
		if n := sends(t, open(catchUp), []*endless{moving()}, 50*time.Millisecond)[0]; n > rate/2 {
			t.Errorf("%d bytes at once on another stream", n)
		}
		server.SetMoveRate(10 * rate)
		if n := sends(t, open(catchUp), []*endless{moving()}, 10*time.Second)[0]; n < 90*rate || n > 110*rate {
			t.Errorf("%d bytes in ten seconds at %d a second", n, 10*rate)
		}
		if n := sends(t, open(pb.StreamKind_STREAM_KIND_IN_SYNC), []*endless{moving()}, time.Second)[0]; n < 100*rate {
			t.Errorf("%d bytes to one that is in sync", n)
		}
		time.Sleep(time.Minute) // nobody is in sync any more whom catching up would give way to
		server.SetMoveRate(0)
		if n := sends(t, open(catchUp), []*endless{moving()}, time.Second)[0]; n < 100*rate {
			t.Errorf("%d bytes without a bound", n)
		}
	})
}
