package node

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Of two live consumers of one static id the newer one reads, through gRPC: the older one
// loses what it had, hears why with every Poll, and does not take the place back.
func TestTwoConsumersOfOneStaticID(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2})
	lost, taken := make(chan []client.TopicPartition, 4), make(chan []client.TopicPartition, 4)
	consumer := func(opts ...client.ConsumerOpt) *client.Consumer {
		cl, err := client.New(w.d.Brokers())
		require.NoError(t, err)
		t.Cleanup(func() { _ = cl.Close() })
		k, err := cl.NewConsumer(append(opts, client.WithGroup("g"), client.WithTopics("t"), client.WithInstanceID("i"), client.WithManualCommit())...)
		require.NoError(t, err)
		return k
	}
	told := func(ch chan []client.TopicPartition) client.ConsumerOpt {
		return client.OnAssigned(func(_ *client.Consumer, parts []client.TopicPartition) { ch <- parts })
	}
	first := make(chan []client.TopicPartition, 4)
	older := consumer(told(first), client.OnLost(func(_ *client.Consumer, parts []client.TopicPartition) { lost <- parts }))
	require.Len(t, receive(t, first), 2)
	w.mustProduce("t", 0, "x")
	newer := consumer(told(taken))
	require.Len(t, receive(t, lost), 2)
	require.Len(t, receive(t, taken), 2)
	for range 2 {
		_, err := older.Poll(within(t, 30*time.Second))
		if err == nil { // what was fetched before is in the application's hands
			_, err = older.Poll(within(t, 30*time.Second))
		}
		require.Equal(t, client.CodeFencedInstanceID, client.CodeOf(err))
	}
	require.Empty(t, older.Assignment())
	err := older.CommitRecords(within(t, 30*time.Second), &client.Record{Topic: "t", Offset: 0})
	require.Equal(t, client.CodeFencedInstanceID, client.CodeOf(err))
	polled, err := newer.Poll(within(t, 30*time.Second))
	require.NoError(t, err)
	require.Equal(t, 1, polled.Len())
	require.NoError(t, newer.Commit(within(t, 30*time.Second)))
	require.NoError(t, older.Close(context.WithoutCancel(t.Context())))
	require.Len(t, newer.Assignment(), 2, "the older one's farewell takes nothing from the newer")
}

func receive(t *testing.T, ch chan []client.TopicPartition) []client.TopicPartition {
	t.Helper()
	select {
	case parts := <-ch:
		return parts
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}

// The same at the Kafka door, with the classic protocol: the older one hears
// FENCED_INSTANCE_ID in its heartbeats and commits.
func TestTwoKafkaMembersOfOneStaticID(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t"})
	w.coordinator("g")
	cl := w.kafkaClient()
	request := func(req kmsg.Request) kmsg.Response {
		t.Helper()
		resp, err := cl.SeedBrokers()[0].Request(within(t, 30*time.Second), req)
		require.NoError(t, err)
		return resp
	}
	join := func() (member string, generation int32) {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", new(kmsg.ConsumerMemberMetadata).AppendTo(nil)
		for {
			req := kmsg.NewPtrJoinGroupRequest()
			req.Group, req.InstanceID, req.ProtocolType, req.MemberID = "g", new("i"), "consumer", member
			req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30_000, 30_000
			req.Protocols = append(req.Protocols, p)
			resp := request(req).(*kmsg.JoinGroupResponse) //nolint:forcetypeassert // It answers that.
			member = resp.MemberID
			if kerr.ErrorForCode(resp.ErrorCode) == nil {
				return member, resp.Generation
			}
		}
	}
	older, generation := join()
	newer, _ := join()
	require.NotEqual(t, older, newer)
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.InstanceID, beat.MemberID, beat.Generation = "g", new("i"), older, generation
	require.ErrorIs(t, kerr.ErrorForCode(request(beat).(*kmsg.HeartbeatResponse).ErrorCode), kerr.FencedInstanceID) //nolint:forcetypeassert // It answers that.
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.InstanceID, commit.MemberID, commit.Generation = "g", new("i"), older, generation
	topic, part := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
	topic.Topic, topic.Partitions = "t", append(topic.Partitions, part)
	commit.Topics = append(commit.Topics, topic)
	committed := request(commit).(*kmsg.OffsetCommitResponse) //nolint:forcetypeassert // It answers that.
	require.ErrorIs(t, kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode), kerr.FencedInstanceID)
}
