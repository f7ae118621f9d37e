package kafka

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// A heartbeat that contradicts itself is refused in Kafka's word for it, and no
// coordinator hears of it.
func TestConsumerHeartbeatsAreChecked(t *testing.T) {
	type request = kmsg.ConsumerGroupHeartbeatRequest
	joins := func(r *request) {
		r.RebalanceTimeoutMillis, r.SubscribedTopicNames, r.Topics = 1000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	goes := func(epoch int32, instance *string) func(*request) {
		return func(r *request) { r.MemberEpoch, r.InstanceID = epoch, instance }
	}
	for _, tt := range []struct {
		name    string
		version int16
		change  func(*request)
		want    string
	}{
		{"a join", 1, joins, "ok"},
		{"a join by a pattern", 1, func(r *request) { joins(r); r.SubscribedTopicNames, r.SubscribedTopicRegex = nil, new("t.*") }, "ok"},
		{"a join of a static member", 1, func(r *request) { joins(r); r.InstanceID = new("i") }, "ok"},
		{"a join without a member id, which the broker makes", 0, func(r *request) { joins(r); r.MemberID = "" }, "ok"},
		{"a join without a member id, of a version whose members make it", 1, func(r *request) { joins(r); r.MemberID = "" }, "INVALID_REQUEST"},
		{"a join without a group", 1, func(r *request) { joins(r); r.Group = " " }, "INVALID_REQUEST"},
		{"a join with an empty instance id", 1, func(r *request) { joins(r); r.InstanceID = new("") }, "INVALID_REQUEST"},
		{"a join with an empty rack", 1, func(r *request) { joins(r); r.RackID = new("\t") }, "INVALID_REQUEST"},
		{"a join without a rebalance timeout", 1, func(r *request) { joins(r); r.RebalanceTimeoutMillis = -1 }, "INVALID_REQUEST"},
		{"a join that does not say what it owns", 1, func(r *request) { joins(r); r.Topics = nil }, "INVALID_REQUEST"},
		{"a join that owns something", 1, func(r *request) {
			joins(r)
			r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: [16]byte{1}, Partitions: []int32{0}}}
		}, "INVALID_REQUEST"},
		{"a join that wants nothing", 1, func(r *request) { joins(r); r.SubscribedTopicNames = nil }, "INVALID_REQUEST"},
		{"a heartbeat", 1, goes(3, nil), "ok"},
		{"a heartbeat without a member id", 0, func(r *request) { r.MemberEpoch, r.MemberID = 3, "" }, "INVALID_REQUEST"},
		{"a farewell", 1, goes(-1, nil), "ok"},
		{"a farewell of nobody", 0, func(r *request) { r.MemberEpoch, r.MemberID = -1, "" }, "INVALID_REQUEST"},
		{"a static member's for a while", 1, goes(-2, new("i")), "ok"},
		{"for a while, of a member that is not static", 1, goes(-2, nil), "INVALID_REQUEST"},
		{"an epoch that there is not", 1, goes(-3, new("i")), "INVALID_REQUEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &heartbeats{}
			client, _ := observed(t, b.door(t))
			resp := ask(t, client, asked(tt.version, func(r *request) { r.Group, r.MemberID = "g", "m"; tt.change(r) }))
			require.Equal(t, tt.want, codesIn(resp))
			require.Equal(t, tt.want == "ok", b.got != nil, "the coordinator was asked")
		})
	}
}

// What a member has of a topic that was deleted is the coordinator's to judge, and the
// ids of what it is to have are the coordinator's too: the door knows the topics of now.
func TestConsumerHeartbeatsNameTopicsByID(t *testing.T) {
	owned := func(id byte, topic string, partition int32) api.OwnedPartition {
		return api.OwnedPartition{TopicID: api.TopicID{id}, TopicPartition: api.TopicPartition{Topic: topic, Partition: partition}}
	}
	b := &heartbeats{result: api.ConsumerHeartbeatResult{
		HasAssignment: true, Assignment: []api.OwnedPartition{owned(1, "t", 0), owned(1, "t", 2), owned(9, "u", 1)},
	}}
	client, _ := observed(t, b.door(t))
	resp, ok := ask(t, client, asked(1, func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.Group, r.MemberID, r.MemberEpoch = "g", "m", 4
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{
			{TopicID: [16]byte{1}, Partitions: []int32{0, 2}}, {TopicID: [16]byte{7}, Partitions: []int32{5}},
		}
	})).(*kmsg.ConsumerGroupHeartbeatResponse)
	require.True(t, ok)
	require.Equal(t, []api.OwnedPartition{owned(1, "t", 0), owned(1, "t", 2), owned(7, "", 5)}, b.got.Owned)
	require.NotNil(t, resp.Assignment)
	require.Equal(t, []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{
		{TopicID: [16]byte{1}, Partitions: []int32{0, 2}}, {TopicID: [16]byte{9}, Partitions: []int32{1}},
	}, resp.Assignment.Topics)
}

// heartbeats is a coordinator that notes what it is asked. There is a topic t of id 1.
type heartbeats struct {
	refusing

	got    *api.ConsumerHeartbeat
	result api.ConsumerHeartbeatResult
}

func (h *heartbeats) ConsumerHeartbeat(_ context.Context, beat *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error) {
	h.got = beat
	return &h.result, nil
}

func (h *heartbeats) TopicName(id api.TopicID) (string, bool) {
	if id != (api.TopicID{1}) {
		return "", false
	}
	return "t", true
}

func (h *heartbeats) door(t *testing.T) *Door {
	t.Helper()
	d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, Services{
		Producer: h, Fetcher: h, Topics: h, Cluster: h, Replicas: h, Offsets: h, Groups: h, GroupAdmin: h, Placement: h, Growth: h,
	})
	t.Cleanup(d.Close)
	return d
}
