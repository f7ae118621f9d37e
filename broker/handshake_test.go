package broker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/log/record"
)

// stranger calls without a stream.
type stranger struct{}

func (stranger) Follower() int32    { return 2 }
func (stranger) BrokerEpoch() int64 { return 2 }
func (stranger) ID() uint64         { return 1 }

// A log start that moves while a handshake is answered: what was looked up of the log as it
// was does not go together with its epochs as they are.
func TestHandshakeWhileTheStartMoves(t *testing.T) {
	path := t.TempDir()
	l, closeAll := newLocalAt(t, path, testSettings(t))
	require.NoError(t, l.log.AppendFollower(0, 20, 0, []*record.Buf{batchAt(t, 0, 1, 5), batchAt(t, 5, 1, 5), batchAt(t, 10, 3, 10)}))
	closeAll()
	l, closeAll = newLocalAt(t, path, testSettings(t)) // the replica takes what its log holds
	defer closeAll()
	l.finish(l.assign(led(1, 4), nil))
	for _, refusedBelow := range []record.Offset{0, 8} {
		h := replica.Handshake{Epoch: 4, Session: 1, LastEpoch: 1, End: 9, Flushed: 9, RefusedBelow: refusedBelow}
		before := l.beginning(h.End)
		start := 12 + refusedBelow/8
		require.NoError(t, l.log.AdvanceStart(start))
		l.mu.Lock()
		l.step(partition.LogStart(start))
		_, ok := l.handshakeEvent(stranger{}, h, before)
		now := l.beginning(h.End)
		ev, again := l.handshakeEvent(stranger{}, h, now)
		todo := l.step(ev)
		reply, answer := l.handshakeReply(&replica.Session{})
		l.mu.Unlock()
		l.finish(todo)
		require.False(t, ok, "answered of two logs")
		require.True(t, again)
		require.True(t, answer)
		require.True(t, reply.Begin, "%+v", reply)
		require.Equal(t, record.Offset(10), reply.LogStart, "the first whole batch")
	}
}
