package cluster

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Heartbeats that are answered do not make a leader: one whose metadata stands still
// cannot know that others were elected. It stops when a session has passed, and at
// once when its disk hangs, for then it is relieved at once.
func TestNoSessionWithoutTheNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{cfg: Config{SessionTimeout: 3 * time.Second}}
		n.fsm = newFSM(slog.New(slog.DiscardHandler), 1, nil)
		n.session = newSession(n)
		k := &keeper{session: n.session, sent: map[uint64]sentRequest{}}
		sequence := uint64(0)
		answer := func(index uint64) {
			t.Helper()
			sequence++
			k.sent[sequence] = sentRequest{at: time.Now(), proves: time.Now()}
			if n.session.heard.Load() == nil {
				now := time.Now()
				n.session.heard.Store(&now)
			}
			require.NoError(t, k.received(&pb.HeartbeatResponse{Sequence: sequence, ImageIndex: index}))
		}
		valid := func() bool { return n.SessionValid(time.Now()) }
		apply := func(index uint64) {
			im := metadata.Empty()
			for im.Index() < index {
				im, _, _ = metadata.Apply(im, index, nil)
			}
			n.fsm.publish(im)
		}
		require.False(t, valid(), "it has not registered")
		answer(0)
		require.True(t, valid())

		for range 6 { // it is told of ever newer metadata and applies nothing
			answer(10 + sequence)
			require.True(t, valid())
			time.Sleep(500 * time.Millisecond)
		}
		answer(20)
		require.False(t, valid(), "a session without news")
		apply(11)
		require.True(t, valid(), "what it lacked when it fell behind has come")
		answer(30)
		require.True(t, valid())
		n.SetFlushStalled(true)
		require.False(t, valid(), "its disk hangs, and there is news")
		apply(30)
		require.True(t, valid())
		n.SetFlushStalled(false)
		answer(31)
		require.True(t, valid())

		apply(31)
		time.Sleep(4 * time.Second)
		require.False(t, valid(), "nobody has heard of it")
		answer(40)
		require.False(t, valid(), "others were elected meanwhile, and it does not know whom")
		answer(41)
		require.False(t, valid())
		apply(41)
		require.True(t, valid())
	})
}
