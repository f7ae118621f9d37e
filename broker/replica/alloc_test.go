package replica

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// taker is a partition that takes every push and acks it at once.
type taker struct{ sub *Subscription }

func (*taker) Begin(uint64) (Handshake, bool) { return Handshake{}, true }
func (*taker) Reply(HandshakeReply) Verdict   { return VerdictOK }
func (*taker) Gone(uint64)                    {}

func (p *taker) Push(m Push, _ []*record.Buf) Verdict {
	p.sub.Ack(Ack{Epoch: m.Epoch, Session: m.Session, Appended: m.To, Flushed: m.To, Written: m.To})
	return VerdictOK
}

type nowhere struct{}

func (nowhere) Open(context.Context, int32) (FollowerStream, error) {
	return nil, errors.New("no route")
}

// What a follower does with a decoded push, up to the ack in the next request,
// allocates nothing.
func TestFollowerAllocations(t *testing.T) {
	f, err := NewFollower(FollowerConfig{NodeID: 1, Transport: nowhere{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	part := &taker{}
	part.sub = f.Follow(testKey(0), 2, true, part)
	l := part.sub.link
	st := l.streams[kindInSync]
	l.mu.Lock()
	part.sub.phase, part.sub.session = subOn, 7
	l.mu.Unlock()
	r := &receiver{stream: st}
	buf := testBatch(100)
	m := &wire.Replicated{
		ReplicateResponse: &pb.ReplicateResponse{Pushes: []*pb.ReplicaPush{{TopicId: part.sub.key.Topic[:], SessionId: 7, BatchCount: 1}}},
		Batches:           []record.Slice{record.SliceOf(buf, 0, buf.Len())},
	}
	acked := 0
	take := func() {
		m.Pushes[0].To++
		if err := r.take(m); err != nil {
			t.Fatal(err)
		}
		st.collect(time.Time{}, false)
		acked += len(st.request.Acks)
	}
	const runs = 1000
	if got := testing.AllocsPerRun(runs, take); got != 0 {
		t.Errorf("%.0f allocations a push", got)
	}
	if acked < runs {
		t.Errorf("%d acks of %d pushes", acked, runs)
	}
}

// acked counts the acks that come for an endless partition.
type acked struct {
	endless
	acks int
}

func (p *acked) Ack(*Session, Ack) { p.acks++ }

// What a leader does to send a batch on a stream, and with the ack that comes for
// it, allocates nothing.
func TestLeaderStreamAllocations(t *testing.T) {
	server, err := NewServer(ServerConfig{Leaders: leaderMap{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []pb.StreamKind{pb.StreamKind_STREAM_KIND_IN_SYNC, pb.StreamKind_STREAM_KIND_CATCH_UP} {
		ls := newLeaderStream(server, nil, &pb.StreamOpen{Kind: kind})
		part := &acked{endless: endless{batch: testBatch(100)}}
		s := &Session{stream: ls, part: part, key: testKey(0), id: 1, epoch: 1, open: true}
		ls.sessions[s.key] = s
		req := &pb.ReplicateRequest{Acks: []*pb.ReplicaAck{{TopicId: s.key.Topic[:], LeaderEpoch: 1, SessionId: 1}}, CreditBytes: 1 << 20}
		batches := 0
		round := func() {
			s.Wake()
			ls.gather()
			batches += len(ls.message.Batches)
			ls.releaseFrom(0)
			ls.take(req)
		}
		round()
		const runs = 1000
		if got := testing.AllocsPerRun(runs, round); got != 0 {
			t.Errorf("%s: %.0f allocations a batch", kind, got)
		}
		if batches < runs || part.acks < runs {
			t.Errorf("%s: %d batches and %d acks in %d rounds", kind, batches, part.acks, runs)
		}
	}
}
