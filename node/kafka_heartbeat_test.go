package node

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// heartbeater is a member of group g that speaks KIP-848 by hand, and reads topic t.
type heartbeater struct {
	t        *testing.T
	ctx      context.Context
	cl       *kgo.Client
	id       string
	instance *string
	epoch    int32
	owned    []kmsg.ConsumerGroupHeartbeatRequestTopic
	// keeps: it goes on listing what it has, whatever it is told.
	keeps bool
}

// beat sends one heartbeat, again while the coordinator loads, as clients do; the member
// then has what it is told to.
func (h *heartbeater) beat() *kerr.Error {
	h.t.Helper()
	for {
		if e := h.try(); e != kerr.CoordinatorLoadInProgress {
			return e
		}
	}
}

func (h *heartbeater) try() *kerr.Error {
	h.t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.InstanceID, req.MemberEpoch = "g", h.id, h.instance, h.epoch
	switch {
	case h.epoch == 0:
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 60_000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	case h.epoch > 0:
		req.Topics = append([]kmsg.ConsumerGroupHeartbeatRequestTopic{}, h.owned...)
	}
	resp, err := req.RequestWith(h.ctx, h.cl)
	require.NoError(h.t, err)
	if e, ok := kerr.ErrorForCode(resp.ErrorCode).(*kerr.Error); ok { //nolint:errorlint // it is bare
		return e
	}
	h.epoch = resp.MemberEpoch
	if resp.Assignment != nil && !h.keeps {
		h.owned = nil
		for _, topic := range resp.Assignment.Topics {
			h.owned = append(h.owned, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: topic.TopicID, Partitions: topic.Partitions})
		}
	}
	return nil
}

// partitions counts what the member has.
func (h *heartbeater) partitions() (n int) {
	for _, topic := range h.owned {
		n += len(topic.Partitions)
	}
	return n
}

// commit commits an offset of partition 0.
func (h *heartbeater) commit(offset int64) *kerr.Error {
	h.t.Helper()
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = offset
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.InstanceID, req.Generation = "g", h.id, h.instance, h.epoch
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	resp, err := req.RequestWith(h.ctx, h.cl)
	require.NoError(h.t, err)
	e, _ := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode).(*kerr.Error) //nolint:errorlint // it is bare
	return e
}

// described is what ConsumerGroupDescribe says of the member.
func (h *heartbeater) described() *kmsg.ConsumerGroupDescribeResponseGroupMember {
	h.t.Helper()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{"g"}
	resp, err := req.RequestWith(h.ctx, h.cl)
	require.NoError(h.t, err)
	require.NoError(h.t, kerr.ErrorForCode(resp.Groups[0].ErrorCode))
	i := slices.IndexFunc(resp.Groups[0].Members, func(m kmsg.ConsumerGroupDescribeResponseGroupMember) bool { return m.MemberID == h.id })
	require.GreaterOrEqual(h.t, i, 0)
	return &resp.Groups[0].Members[i]
}

// until has members beat until what they are to come to holds.
func until(ctx context.Context, t *testing.T, what string, ok func() bool, members ...*heartbeater) {
	t.Helper()
	for !ok() {
		require.NoError(t, ctx.Err(), what)
		for _, h := range members {
			require.Nil(t, h.beat(), what)
		}
	}
}

// A static member of KIP-848 joins, leaves for a while, comes back and is replaced, by the
// codes of Kafka. The one thing that differs is in docs/KAFKA.md: a second one that lives
// takes the place of the first.
func TestKafkaStaticMembers(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "t", 4)
	member := func(id string, instance *string) *heartbeater {
		return &heartbeater{t: t, ctx: ctx, cl: cl, id: id, instance: instance}
	}
	other, first := member("other", nil), member("first", new("i"))
	shared := func(h *heartbeater) func() bool {
		return func() bool { return h.partitions() == 2 && other.partitions() == 2 }
	}
	until(ctx, t, "they share the partitions", shared(first), other, first)
	place := first.owned

	second := member("second", new("i"))
	until(ctx, t, "the second one has the place of the first", shared(second), second, other)
	require.Equal(t, place, second.owned)
	require.Equal(t, kerr.FencedInstanceID, first.beat())
	require.Equal(t, kerr.FencedInstanceID, first.commit(1))
	for _, epoch := range []int32{-1, -2} {
		first.epoch = epoch
		require.Equal(t, kerr.FencedInstanceID, first.beat(), "the place is not the first one's to give up")
	}
	require.Nil(t, second.beat(), "the second one stays")

	second.epoch = -2
	require.Nil(t, second.beat())
	require.Equal(t, int32(-2), second.epoch)
	require.Nil(t, other.beat())
	require.Equal(t, 2, other.partitions(), "the place is kept")
	third := member("third", new("i"))
	until(ctx, t, "the third one has the place of the second", shared(third), third, other)
	require.Equal(t, place, third.owned)
	require.Equal(t, kerr.FencedInstanceID, second.beat(), "who left for a while has been replaced")

	third.epoch = -1
	require.Nil(t, third.beat())
	until(ctx, t, "the other one has all", func() bool { return other.partitions() == 4 }, other)
	third.epoch = 1
	require.Equal(t, kerr.UnknownMemberID, third.beat(), "there is no such instance any more")
	unnamed := member("other", nil)
	unnamed.epoch = -2
	require.Equal(t, kerr.InvalidRequest, unnamed.beat(), "a member that is not static leaves for good")
}

// A member that speaks in an epoch older than the one in which it spoke last is fenced, as
// in Kafka: a request of it was under way for long, or a former process of it lives. That
// harms nobody who speaks in the epoch of now.
func TestKafkaMembersAreFencedByTheirEpoch(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "t", 2)
	h, other := &heartbeater{t: t, ctx: ctx, cl: cl, id: "m"}, &heartbeater{t: t, ctx: ctx, cl: cl, id: "other"}
	until(ctx, t, "it has the topic", func() bool { return h.partitions() == 2 }, h)
	former := h.epoch
	until(ctx, t, "they share the topic", func() bool { return h.partitions() == 1 && other.partitions() == 1 }, h, other)
	require.Nil(t, h.beat())
	now := h.epoch
	require.Greater(t, now, former)

	for _, epoch := range []int32{former, now + 1} {
		h.epoch = epoch
		require.Equal(t, kerr.FencedMemberEpoch, h.beat(), "epoch %d, the member's is %d", epoch, now)
	}
	h.epoch = now
	require.Nil(t, h.beat())
	require.Equal(t, 1, h.partitions())
	h.epoch, h.owned = 0, nil
	until(ctx, t, "it joins anew", func() bool { return h.partitions() == 1 }, h, other)
}

// A topic is deleted and created again while a member of KIP-848 reads it. Until the
// member lists what it has of the former topic no more, it is not given the new one.
func TestKafkaTopicRecreatedUnderAMember(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "t", 2)
	h := &heartbeater{t: t, ctx: ctx, cl: cl, id: "m"}
	until(ctx, t, "it has the topic", func() bool { return h.partitions() == 2 }, h)
	former, epoch := h.owned[0].TopicID, h.epoch
	require.Nil(t, h.commit(1000))
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.TimeoutMillis, remove.TopicNames, remove.Topics = 10_000, []string{"t"}, []kmsg.DeleteTopicsRequestTopic{{Topic: new("t")}}
	removed, err := remove.RequestWith(ctx, cl)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(removed.Topics[0].ErrorCode))
	createKafkaTopic(ctx, t, cl, "t", 2)

	h.keeps = true
	for range 20 {
		require.Nil(t, h.beat())
		require.Equal(t, epoch, h.epoch, "it was given something although it has the former topic")
	}
	require.Equal(t, kerr.UnknownTopicOrPartition, h.commit(1001), "an offset of the former topic")
	described := h.described()
	require.Empty(t, described.Assignment.TopicPartitions, "what it has is of no topic of now, whatever has the name")
	require.NotEqual(t, former, described.TargetAssignment.TopicPartitions[0].TopicID)
	require.Zero(t, committed(ctx, t, cl, "g"))
	h.keeps, h.owned = false, nil
	until(ctx, t, "it has the new topic", func() bool { return h.partitions() == 2 }, h)
	require.NotEqual(t, former, h.owned[0].TopicID)
	described = h.described()
	require.Equal(t, described.TargetAssignment, described.Assignment)
	require.Len(t, described.Assignment.TopicPartitions, 1)
	require.Equal(t, kmsg.AssignmentTopicPartition{TopicID: h.owned[0].TopicID, Topic: "t", Partitions: []int32{0, 1}}, described.Assignment.TopicPartitions[0])
	require.Nil(t, h.commit(3))
	require.Equal(t, int64(3), committed(ctx, t, cl, "g"))
}
