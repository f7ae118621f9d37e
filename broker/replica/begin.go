package replica

import (
	"github.com/penstock/penstock/broker/api"
)

// A follower that begins above offset 0 never sees the batches below, and so gets
// what they told of their producers with the reply that says where to begin. The
// leader reads that from its disk, aside from acks and pushes, for one partition
// after the other; and not many are in memory at a time on either side.

const (
	// statesAhead is how many bytes of producer states may wait to be sent.
	statesAhead = 2 << 20
	// repliesBytes is about how many of them one message takes.
	repliesBytes = 1 << 20
	// smallState may wait for the handshaker in any number.
	smallState = 16 << 10
)

// beginning is a reply that is to come with a producer state.
type beginning struct {
	key   Key
	part  LeaderPartition
	reply HandshakeReply
}

// prepare sees to it that beginnings are dealt with. The caller holds mu.
func (ls *leaderStream) prepare() {
	if ls.beginning || ls.over || len(ls.begins) == 0 || ls.stateBytes >= statesAhead {
		return
	}
	ls.beginning = true
	ls.server.streams.Go(ls.readStates)
}

// readStates completes beginnings until there are none, or enough wait to be sent.
func (ls *leaderStream) readStates() {
	for {
		ls.mu.Lock()
		if ls.over || len(ls.begins) == 0 || ls.stateBytes >= statesAhead {
			ls.beginning = false
			ls.mu.Unlock()
			return
		}
		b := ls.begins[0]
		ls.begins[0] = beginning{}
		ls.begins = ls.begins[1:]
		ls.mu.Unlock()
		state, err := b.part.ProducerState(b.reply.LogStart)
		if b.reply.Producers = state; err != nil {
			ls.server.cfg.Logger.Info("a follower cannot begin yet: the producer state is not there",
				"topic_id", b.key.Topic, "partition", b.key.Partition, "follower", ls.follower, "offset", b.reply.LogStart, "error", err)
			b.reply.Err = api.Errorf(api.CodeNotLeader, "the log has moved on: ask again")
		}
		m := replyToWire(b.key, b.reply)
		ls.mu.Lock()
		ls.replies = append(ls.replies, m)
		ls.stateBytes += len(m.GetProducerState())
		ls.signal()
		ls.mu.Unlock()
	}
}

// takeReplies moves replies into the message, as many as it should carry. The
// caller holds mu.
func (ls *leaderStream) takeReplies() {
	n, bytes := 0, 0
	for n < len(ls.replies) && bytes < repliesBytes {
		bytes += len(ls.replies[n].GetProducerState())
		n++
	}
	ls.response.Handshakes = ls.replies[:n:n]
	if ls.replies = ls.replies[n:]; len(ls.replies) == 0 {
		ls.replies = nil // the message has them
	}
	ls.stateBytes -= bytes
	ls.prepare()
}
