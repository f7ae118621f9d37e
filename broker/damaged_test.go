package broker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// damagedLeader is the last holder of a partition of which [10, 30) cannot be believed,
// and that leads in epoch 3 because the metadata says so.
func damagedLeader(t *testing.T) *localReplica {
	t.Helper()
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	scrubbed(t, l, fsys)
	closeAll()
	l, closeAll = newLocalOn(t, fsys, "/d", -1, testSettings(t))
	t.Cleanup(closeAll)
	l.b.shareMemory()
	l.b.cfg.Images = fixedImage{image(t)}
	a := alone()
	a.LeaderEpoch, a.PartitionEpoch, a.MayLeadDamaged = 3, 3, true
	l.finish(l.assign(a, nil))
	require.Equal(t, partition.RoleLeader, l.role())
	require.Equal(t, record.Offset(30), l.log.End())
	require.Equal(t, record.Offset(10), l.logEnd())
	return l
}

// The end of a damaged leader's log is where it ceases to be whole, whoever asks:
// nobody waits for what can never be read.
func TestADamagedLeaderEndsAtItsLimit(t *testing.T) {
	l := damagedLeader(t)
	ref := api.PartitionRef{Topic: "t"}

	// Groups are loaded from what there is.
	groups := &offsetsLog{l, 3}
	waits, cancel := context.WithCancel(t.Context())
	cancel()
	start, end, err := groups.Bounds(waits)
	require.NoError(t, err, "it waits for an end that no watermark reaches")
	require.Equal(t, [2]record.Offset{0, 10}, [2]record.Offset{start, end})
	slices, err := groups.Read(t.Context(), start, end, 1<<20)
	require.NoError(t, err)
	require.Len(t, slices, 1)
	slices[0].Release()

	ends, err := l.b.EpochEnds(t.Context(), []api.EpochQuery{
		{PartitionRef: ref, LeaderEpoch: -1, Epoch: 3}, {PartitionRef: ref, LeaderEpoch: -1, Epoch: 1},
	})
	require.NoError(t, err)
	for i, epoch := range []record.Epoch{3, 1} {
		require.Nil(t, ends[i].Err)
		require.Equal(t, epoch, ends[i].Epoch)
		require.Equal(t, record.Offset(10), ends[i].End)
	}

	for _, tt := range []struct {
		from record.Offset
		code api.Code
	}{{10, api.CodeNone}, {11, api.CodeOffsetOutOfRange}, {30, api.CodeOffsetOutOfRange}} {
		var r api.FetchResult
		l.b.readFrom(l, &r, &api.FetchPartition{PartitionRef: ref, Offset: tt.from, MaxBytes: 1 << 20, LeaderEpoch: -1}, reading{room: 1 << 20, must: true})
		require.Equal(t, tt.code, api.CodeOf(asError(r.Err)), "fetch from %d: %v", tt.from, r.Err)
		require.Equal(t, record.Offset(10), r.HighWatermark)
	}

	l.mu.Lock()
	l.step(partition.Assign(behindOne(3, 4)))
	l.step(partition.Handshake(2, 2, 3, 1, 1, 10, 10, 1, 10, 0, 0))
	l.step(partition.Ack(2, 3, 1, 10, 10, 0))
	l.mu.Unlock()
	behind := l.catchUp([]int32{2})
	require.Len(t, behind, 1)
	require.Zero(t, behind[0].RecordsBehind, "a follower that has all there is: %+v", behind[0])
}

// behindOne is an assignment in which this broker leads and 2 is not in sync.
func behindOne(epoch record.Epoch, partitionEpoch int32) *partition.Assignment {
	a := alone()
	a.LeaderEpoch, a.PartitionEpoch = epoch, partitionEpoch
	a.Replicas = append(a.Replicas, partition.Assigned{Node: 2, BrokerEpoch: 2})
	return a
}

// The limit is that of the log that was damaged: it ends with it, also where the next
// leader says to begin anew before anything else came.
func TestALimitEndsWithItsLog(t *testing.T) {
	l := damagedLeader(t)
	next := behindOne(4, 5)
	next.Leader = 2
	next.Replicas[1].ISR = true
	l.finish(l.assign(next, nil))
	f := followerSide{l}
	leader := newLocal(t, testSettings(t))
	require.NoError(t, leader.log.Reset(50))
	producers, err := leader.log.ProducerState(50)
	require.NoError(t, err)
	_, ok := f.Begin(1)
	require.True(t, ok)
	f.Reply(replica.HandshakeReply{Epoch: 4, Session: 1, AnswerEpoch: -1, LogStart: 50, Begin: true, Producers: producers})
	require.Equal(t, record.Offset(50), l.log.End())
	require.Equal(t, record.Offset(50), l.logEnd())
	require.False(t, l.damaged.Load())
}
