package replica

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// beginner says to every follower that it begins at its start, with a large state.
type beginner struct {
	LeaderPartition // nil: nothing else is called

	start record.Offset
	state []byte

	mu    sync.Mutex
	fails int // how often there is no state first
}

func (b *beginner) Handshake(_ *Session, h Handshake) (HandshakeReply, bool) {
	return HandshakeReply{Epoch: h.Epoch, Session: h.Session, LogStart: b.start, Begin: true}, true
}

func (b *beginner) ProducerState(at record.Offset) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails--; b.fails >= 0 || at != b.start {
		return nil, errors.New("the start has moved on")
	}
	return b.state, nil
}

func (*beginner) Gone(*Session, bool) {}

// begun is a follower that keeps what it got, and then has no more to do.
type begun struct {
	done    chan<- struct{}
	replies []HandshakeReply
}

func (*begun) Begin(session uint64) (Handshake, bool) {
	return Handshake{Session: session, LastEpoch: -1}, true
}
func (*begun) Push(Push, []*record.Buf) Verdict { return VerdictStop }
func (*begun) Gone(uint64)                      {}
func (p *begun) Reply(r HandshakeReply) (verdict Verdict) {
	p.replies = append(p.replies, r)
	if r.Err != nil {
		return VerdictAgain
	}
	p.done <- struct{}{}
	return VerdictStop
}

type leaderMap map[Key]LeaderPartition

func (m leaderMap) Leader(k Key) (LeaderPartition, bool) {
	p, ok := m[k]
	return p, ok
}

// Many partitions begin at once, each with a large state: every one gets
// its own, in messages that the transport takes, and the leader that has none yet
// is asked again. At 0 there is nothing to send.
func TestProducerStatesTravel(t *testing.T) {
	const partitions, size = 40, 300 << 10
	leaders := leaderMap{}
	nodes := newNodes(t, 2, func(sc *ServerConfig, _ *FollowerConfig) { sc.Leaders = leaders })
	for p := range partitions {
		leaders[testKey(p)] = &beginner{start: record.Offset(p), state: bytes.Repeat([]byte{byte(p)}, size), fails: p % 3}
	}
	done := make(chan struct{}, partitions)
	followers := make([]*begun, partitions)
	for p := range followers {
		followers[p] = &begun{done: done}
		nodes[1].follower.Follow(testKey(p), 1, p%2 == 0, followers[p])
	}
	for range followers {
		<-done
	}
	for p, f := range followers {
		fails, want := p%3, size
		if p == 0 {
			want = 0
		}
		if len(f.replies) != fails+1 {
			t.Errorf("partition %d has %d replies, want %d", p, len(f.replies), fails+1)
			continue
		}
		last := f.replies[fails]
		if !last.Begin || last.LogStart != record.Offset(p) || len(last.Producers) != want || bytes.Count(last.Producers, []byte{byte(p)}) != want {
			t.Errorf("partition %d: begin %v at %d with %d bytes", p, last.Begin, last.LogStart, len(last.Producers))
		}
	}
}

// One message carries about a megabyte of states, whatever waits, and no more is
// read ahead of it than is needed.
func TestProducerStatesAreSentLittleByLittle(t *testing.T) {
	ls := &leaderStream{server: &Server{}, wake: make(chan struct{}, 1)}
	part := &beginner{start: 9, state: make([]byte, 700<<10)}
	const partitions = 20
	for p := range partitions {
		ls.begins = append(ls.begins, beginning{testKey(p), part, HandshakeReply{Begin: true, LogStart: 9}})
	}
	sent, messages := 0, 0
	for ; sent < partitions; messages++ {
		ls.mu.Lock()
		ls.prepare()
		ls.mu.Unlock()
		ls.server.streams.Wait()
		ls.mu.Lock()
		if len(ls.replies) > 3 {
			t.Errorf("%d states in memory", len(ls.replies))
		}
		ls.response.Handshakes = nil
		ls.takeReplies()
		ls.mu.Unlock()
		if n := len(ls.response.Handshakes); n < 1 || n > 2 {
			t.Fatalf("%d states in a message", n)
		}
		sent += len(ls.response.Handshakes)
		ls.server.streams.Wait()
	}
	small := &pb.ReplicaHandshakeReply{}
	for range 1000 {
		ls.replies = append(ls.replies, small)
	}
	if ls.takeReplies(); len(ls.response.Handshakes) != 1000 || ls.stateBytes != 0 {
		t.Errorf("%d plain replies in a message, %d bytes of states left", len(ls.response.Handshakes), ls.stateBytes)
	}
}
