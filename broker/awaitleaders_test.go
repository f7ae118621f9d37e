package broker

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// movingImages is an image that changes.
type movingImages struct {
	mu      sync.Mutex
	im      *metadata.Image
	changed chan struct{}
}

func (m *movingImages) Image() *metadata.Image {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.im
}

func (m *movingImages) Changed(after uint64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.im.Index() > after {
		now := make(chan struct{})
		close(now)
		return now
	}
	return m.changed
}

func (m *movingImages) WaitApplied(context.Context, uint64) error { return nil }
func (m *movingImages) ReadBarrier(context.Context) error         { return nil }

func (m *movingImages) move(im *metadata.Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.im = im
	close(m.changed)
	m.changed = make(chan struct{})
}

// Who asks for leaders waits while the one that the metadata names has just gone, and
// not longer than it may take to elect another.
func TestAwaitLeaders(t *testing.T) {
	before := twoBrokers(t)
	after := twoBrokers(t, &metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: 2, BrokerEpoch: before.Broker(2).Epoch}}})
	epoch := record.Epoch(before.Topic("t").Partitions[1].LeaderEpoch)
	require.Greater(t, record.Epoch(after.Topic("t").Partitions[1].LeaderEpoch), epoch)
	for _, tt := range []struct {
		name   string
		topics []string
		gone   bool
		epoch  record.Epoch // of the follower when the stream ended
		then   func(m *movingImages, l *localReplica)
		waits  time.Duration
	}{
		{"nobody is gone", []string{"t"}, false, epoch, nil, 0},
		{"another is elected", []string{"t"}, true, epoch, func(m *movingImages, _ *localReplica) {
			time.Sleep(time.Second)
			m.move(after)
		}, time.Second},
		{"another is elected, all topics", nil, true, epoch, func(m *movingImages, _ *localReplica) {
			time.Sleep(time.Second)
			m.move(after)
		}, time.Second},
		{"nothing happens", []string{"t"}, true, epoch, nil, leaderDoubt},
		{"it is reached again", []string{"t"}, true, epoch, func(_ *movingImages, l *localReplica) {
			time.Sleep(10*leaderLook - time.Millisecond)
			l.gone.Store(nil)
		}, 10 * leaderLook},
		{"it goes again and again", []string{"t"}, true, epoch, func(_ *movingImages, l *localReplica) {
			for range 5 {
				time.Sleep(time.Second)
				l.doubtLeader()
			}
		}, leaderDoubt},
		{"of another topic", []string{"other"}, true, epoch, nil, 0},
		{"of an earlier epoch", []string{"t"}, true, epoch - 1, nil, 0},
		{"long ago", []string{"t"}, true, epoch, func(_ *movingImages, l *localReplica) {
			l.gone.Store(&goneLeader{epoch, time.Now().Add(-leaderDoubt)})
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &movingImages{im: before, changed: make(chan struct{})}
				b := &Broker{cfg: Config{NodeID: 1, Images: m, Now: time.Now}, table: newTable()}
				l := &localReplica{b: b, key: replica.Key{Topic: api.TopicID{15: 9}, Partition: 1}, topic: "t", partition: 1}
				l.epochNow.Store(int32(tt.epoch))
				b.table.change([]*localReplica{l}, nil)
				if tt.gone {
					l.doubtLeader()
				}
				var done sync.WaitGroup
				if tt.then != nil {
					done.Go(func() { tt.then(m, l) })
				}
				if tt.name == "long ago" {
					done.Wait()
				}
				began := time.Now()
				b.AwaitLeaders(t.Context(), tt.topics)
				require.Equal(t, tt.waits, time.Since(began))
				done.Wait()
			})
		})
	}
}

// The end of the leader's stream begins the doubt, an answered handshake ends it.
func TestWhenALeaderIsInDoubt(t *testing.T) {
	l := newLocal(t, testSettings(t))
	f := follow(t, l)
	require.Nil(t, l.gone.Load())
	f.Gone(1)
	require.Equal(t, record.Epoch(1), l.gone.Load().epoch)
	h, ok := f.Begin(2)
	require.True(t, ok)
	require.NotNil(t, l.gone.Load(), "nobody has answered")
	f.Reply(replica.HandshakeReply{Epoch: 1, Session: h.Session, AnswerEpoch: -1, Matched: true})
	require.Nil(t, l.gone.Load())
}
