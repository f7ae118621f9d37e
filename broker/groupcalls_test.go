package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// takesAll is an empty partition of __consumer_offsets that keeps nothing of what it takes.
type takesAll struct{}

func (takesAll) Append(buf *record.Buf) coordinator.Appending                 { buf.Release(); return takesAll{} }
func (takesAll) Wait(context.Context) error                                   { return nil }
func (takesAll) Bounds(context.Context) (start, end record.Offset, err error) { return 0, 0, nil }
func (takesAll) Read(context.Context, record.Offset, record.Offset, int) ([]record.Slice, error) {
	return nil, nil
}

// confirming are images that a controller confirms, or not, and counts.
type confirming struct {
	fixedImage

	err   error
	then  *metadata.Image // what is known once it has
	asked int
	gate  atomic.Pointer[chan struct{}] // not nil: who looks at the image waits for it to close
}

func (c *confirming) Image() *metadata.Image {
	if gate := c.gate.Load(); gate != nil {
		<-*gate
	}
	return c.im
}

// stall has those who look at the image wait.
func (c *confirming) stall() (release func()) {
	gate := make(chan struct{})
	c.gate.Store(&gate)
	return func() {
		c.gate.Store(nil)
		close(gate)
	}
}

func (c *confirming) ReadBarrier(context.Context) error {
	c.asked++
	if c.err == nil && c.then != nil {
		c.im = c.then
	}
	return c.err
}

// groupBroker coordinates the group g, in which offset 7 of t-0 is committed.
func groupBroker(t *testing.T) (b *Broker, images *confirming, lapse func()) {
	t.Helper()
	offsets := func(replicas ...int32) *metav1.Command {
		return &metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: offsetsTopic, TopicId: append(make([]byte, 15), 8), Internal: true,
			Partitions: []*metav1.PartitionAssignment{{Replicas: replicas}},
		}}}
	}
	images = &confirming{fixedImage: fixedImage{twoBrokers(t, offsets(1, 2))}}
	now, lapsed := time.Now(), new(atomic.Bool)
	b = &Broker{cfg: Config{
		NodeID: 1, Images: images, Membership: session{until: now.Add(time.Second)},
		Now: func() time.Time {
			if lapsed.Load() {
				return now.Add(time.Second)
			}
			return now
		},
	}, table: newTable(), stopping: make(chan struct{}), logger: slog.New(slog.DiscardHandler)}
	var err error
	b.coordinator, err = coordinator.New(coordinator.Config{NodeID: 1, Topics: groupTopics{images}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.coordinator.Close()) })
	b.coordinator.SetPartitions(1)
	b.coordinator.Load(0, record.Epoch(images.im.Topic(offsetsTopic).Partitions[0].LeaderEpoch), takesAll{})
	require.Eventually(t, func() bool {
		results, err := b.CommitOffsets(t.Context(), &api.CommitOffsets{Group: "g", MemberEpoch: -1, Offsets: []api.OffsetCommit{
			{TopicPartition: api.TopicPartition{Topic: "t"}, Offset: 7, LeaderEpoch: -1},
		}})
		return err == nil && results[0].Err == nil
	}, 10*time.Second, time.Millisecond)
	return b, images, func() { lapsed.Store(true) }
}

// groupCalls are those about groups that are answered out of the coordinator's memory.
func (b *Broker) groupCalls(ctx context.Context) map[string]func() error {
	named := &api.FetchOffsets{Group: "g", Partitions: []api.TopicPartition{{Topic: "t"}}}
	return map[string]func() error{
		"an offset":       func() error { _, err := b.FetchOffsets(ctx, named); return err },
		"all offsets":     func() error { _, err := b.FetchOffsets(ctx, &api.FetchOffsets{Group: "g"}); return err },
		"a description":   func() error { _, err := b.DescribeGroup(ctx, "g"); return err },
		"no such group":   func() error { _, err := b.DescribeGroup(ctx, "h"); return err },
		"no group to end": func() error { return b.DeleteGroup(ctx, "h") },
		"a plan": func() error {
			_, err := b.ResetOffsets(ctx, "g", []api.OffsetCommit{{TopicPartition: api.TopicPartition{Topic: "t"}, Offset: 1}}, true)
			return err
		},
		"no such member": func() error {
			_, err := b.CommitOffsets(ctx, &api.CommitOffsets{Group: "g", MemberID: "m", MemberEpoch: 1})
			return err
		},
		"a session": func() error {
			join := api.JoinGroup{Group: "g", MemberID: "m", MemberEpoch: 1, Topics: []string{"t"}}
			return b.Session(ctx, join, make(chan api.SessionMessage), func(api.SessionUpdate) error { return nil })
		},
		"a heartbeat": func() error {
			_, err := b.ConsumerHeartbeat(ctx, &api.ConsumerHeartbeat{Group: "g", MemberID: "m", MemberEpoch: 1})
			return err
		},
		"a classic heartbeat": func() error {
			return b.HeartbeatClassic(ctx, &api.ClassicHeartbeat{Group: "g", MemberID: "m", Generation: 1})
		},
		"a classic assignment": func() error {
			_, err := b.SyncClassic(ctx, &api.ClassicSync{Group: "g", MemberID: "m", Generation: 1})
			return err
		},
	}
}

// A process that stood still until its session was over says nothing out of its memory,
// also before its next tick: its groups may have another coordinator.
func TestNothingIsRememberedAfterTheSession(t *testing.T) {
	b, _, lapse := groupBroker(t)
	for name, call := range b.groupCalls(t.Context()) {
		require.NotEqual(t, api.CodeNotCoordinator, api.CodeOf(call()), name)
	}
	groups, err := b.ListGroups(t.Context())
	require.NoError(t, err)
	require.Len(t, groups, 1)
	lapse()
	for name, call := range b.groupCalls(t.Context()) {
		require.Equal(t, api.CodeNotCoordinator, api.CodeOf(call()), name)
	}
	_, err = b.ListGroups(t.Context())
	require.Equal(t, api.CodeCoordinatorNotAvailable, api.CodeOf(err), "no groups is an answer, too")
}

// What is committed, and what is not, is said when the controller has confirmed since the
// question who coordinates the group, which is asked once.
func TestOffsetsAreConfirmed(t *testing.T) {
	b, images, _ := groupBroker(t)
	mine, others := api.TopicPartition{Topic: "t"}, api.TopicPartition{Topic: "t", Partition: 1}
	fetch := func(parts ...api.TopicPartition) ([]api.CommittedOffset, error) {
		return b.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g", Partitions: parts})
	}
	for _, parts := range [][]api.TopicPartition{{mine}, nil} {
		results, err := fetch(parts...)
		require.NoError(t, err)
		require.EqualValues(t, 7, results[0].Offset)
	}
	require.Equal(t, 2, images.asked, "once a call")
	results, err := fetch(mine, others, api.TopicPartition{Topic: "u"})
	require.NoError(t, err)
	require.EqualValues(t, -1, results[1].Offset)
	require.Equal(t, 3, images.asked)
	results, err = b.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "h"})
	require.NoError(t, err)
	require.Empty(t, results)
	require.Equal(t, 4, images.asked, "none at all is an answer, too")

	images.err = errors.New("no controller")
	_, err = fetch(others)
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err))
	_, err = b.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "h"})
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err))
	_, err = fetch(mine)
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err), "a newer one may be committed elsewhere")

	epoch := b.coordinator.Epoch("g")
	require.True(t, b.coordinates("g", epoch))
	require.False(t, b.coordinates("g", epoch+1), "it was replaced, and came back")

	images.err, images.then = nil, twoBrokers(t) // without the topic: as if another led it
	_, err = fetch(others)
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err), "it hears that it does not coordinate the group any more")
}

// So is what else is told of groups: what they are, that there is no such group, what a
// reset would do, and which there are.
func TestGroupsAreShownConfirmed(t *testing.T) {
	b, images, _ := groupBroker(t)
	to := []api.OffsetCommit{{TopicPartition: api.TopicPartition{Topic: "t"}, Offset: 1, LeaderEpoch: -1}}
	shown := map[string]struct {
		call func() error
		code api.Code // when it is confirmed
	}{
		"a description":     {func() error { _, err := b.DescribeGroup(t.Context(), "g"); return err }, api.CodeNone},
		"a plan":            {func() error { _, err := b.ResetOffsets(t.Context(), "g", to, true); return err }, api.CodeNone},
		"no such group":     {func() error { _, err := b.DescribeGroup(t.Context(), "h"); return err }, api.CodeUnknownGroup},
		"nothing to delete": {func() error { return b.DeleteGroup(t.Context(), "h") }, api.CodeUnknownGroup},
		"no offsets to delete": {func() error {
			_, err := b.DeleteOffsets(t.Context(), "h", []api.TopicPartition{{Topic: "t"}})
			return err
		}, api.CodeUnknownGroup},
	}
	expect := func(code func(confirmed api.Code) api.Code) {
		t.Helper()
		for name, what := range shown {
			before := images.asked
			require.Equal(t, code(what.code), api.CodeOf(what.call()), name)
			require.Equal(t, before+1, images.asked, "%s: once", name)
		}
	}
	notHere := func(api.Code) api.Code { return api.CodeNotCoordinator }
	expect(func(confirmed api.Code) api.Code { return confirmed })
	groups, err := b.ListGroups(t.Context())
	require.NoError(t, err)
	require.Len(t, groups, 1)

	images.err = errors.New("no controller")
	expect(notHere)
	_, err = b.ListGroups(t.Context())
	require.Equal(t, api.CodeCoordinatorNotAvailable, api.CodeOf(err))

	images.err, images.then = nil, twoBrokers(t) // without the topic: as if another led it
	expect(notHere)
	groups, err = b.ListGroups(t.Context())
	require.NoError(t, err)
	require.Empty(t, groups, "its coordinator lists it")
}

// What the request itself is wrong in is nobody's to confirm.
func TestWrongRequestsAskNoController(t *testing.T) {
	b, images, _ := groupBroker(t)
	images.err = errors.New("no controller")
	_, err := b.FetchOffsets(t.Context(), &api.FetchOffsets{})
	require.Equal(t, api.CodeInvalidGroupID, api.CodeOf(err))
	_, err = b.DescribeGroup(t.Context(), "")
	require.Equal(t, api.CodeInvalidGroupID, api.CodeOf(err))
	require.Zero(t, images.asked)
}

// away is a controller that is there again after a time.
type away struct {
	*confirming

	until time.Time
}

func (a away) ReadBarrier(ctx context.Context) error {
	select {
	case <-time.After(time.Until(a.until)):
		return a.confirming.ReadBarrier(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// While a controller is elected offsets are waited for, not refused, for as long as the
// caller would wait.
func TestOffsetsWaitForAController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, images, _ := groupBroker(t)
		fetch := func(after, patience time.Duration) (took time.Duration, err error) {
			began := time.Now()
			b.cfg.Images = away{images, began.Add(after)}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err = b.FetchOffsets(ctx, &api.FetchOffsets{Group: "g"})
			return time.Since(began), err
		}
		took, err := fetch(2*time.Second, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, took)
		took, err = fetch(2*time.Second, time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, took)
		took, err = fetch(time.Minute, time.Minute)
		require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err), "who asks may find another coordinator meanwhile")
		require.Equal(t, judgeWaitMost, took)
	})
}

// A member that comes back is told what it has without anything being written. By a
// broker that stood still until its session was over it is not.
func TestNobodyComesBackAfterTheSession(t *testing.T) {
	b, _, lapse := groupBroker(t)
	enough := errors.New("enough")
	join := api.JoinGroup{Group: "g", Topics: []string{"t"}, AttachNumber: 1}
	come := func() (u api.SessionUpdate, err error) {
		err = b.Session(t.Context(), join, make(chan api.SessionMessage), func(update api.SessionUpdate) error {
			u = update
			return enough
		})
		return u, err
	}
	var u api.SessionUpdate
	require.Eventually(t, func() bool { // a commit by nobody came first: the group may be busy with it
		var err error
		u, err = come()
		return errors.Is(err, enough)
	}, 10*time.Second, time.Millisecond)
	join.MemberID, join.MemberEpoch, join.Owned, join.AttachNumber = u.MemberID, u.MemberEpoch, u.Assignment, 2
	again, err := come()
	require.ErrorIs(t, err, enough)
	require.Equal(t, u.MemberID, again.MemberID)
	join.AttachNumber = 3
	lapse()
	_, err = come()
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err))
}
