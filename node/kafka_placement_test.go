package node

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka's tools move replicas, see how they move, take that back, and elect leaders.
func TestKafkaClientsMoveReplicas(t *testing.T) {
	m := startMover(t, 4)
	from, spare := m.create("t")
	ctx := within(t, time.Minute)
	cl := m.kafkaClient()

	factor := true // may change
	alter := func(topic string, partition int32, replicas []int32) kmsg.AlterPartitionAssignmentsResponseTopicPartition {
		t.Helper()
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.AllowReplicationFactorChange = factor
		rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
		rt.Topic = topic
		p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		p.Partition, p.Replicas = partition, replicas
		rt.Partitions = append(rt.Partitions, p)
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, cl)
		require.NoError(t, err)
		require.Zero(t, resp.ErrorCode)
		require.Len(t, resp.Topics, 1)
		require.Len(t, resp.Topics[0].Partitions, 1)
		return resp.Topics[0].Partitions[0]
	}
	list := func(topics ...kmsg.ListPartitionReassignmentsRequestTopic) []kmsg.ListPartitionReassignmentsResponseTopic {
		t.Helper()
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		req.Topics = topics
		resp, err := req.RequestWith(ctx, cl)
		require.NoError(t, err)
		require.Zero(t, resp.ErrorCode)
		return resp.Topics
	}
	require.Empty(t, list())
	require.Equal(t, kerr.NoReassignmentInProgress.Code, alter("t", 0, nil).ErrorCode)
	require.Equal(t, kerr.InvalidReplicaAssignment.Code, alter("t", 0, []int32{}).ErrorCode)
	require.Equal(t, kerr.InvalidReplicaAssignment.Code, alter("t", 0, []int32{1, 9}).ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, alter("t", 1, []int32{1}).ErrorCode)
	factor = false
	require.Equal(t, kerr.InvalidReplicationFactor.Code, alter("t", 0, from[:2]).ErrorCode)
	require.Zero(t, alter("t", 0, from).ErrorCode)
	factor = true
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, alter("none", 0, []int32{1}).ErrorCode)

	// With its data on the way it is seen to move; then it is taken back.
	sent, stop := m.load("t")
	m.produced(sent, 1000)
	m.mustReassign(1000, "t", spare, from[1], from[2])
	var moving []kmsg.ListPartitionReassignmentsResponseTopic
	m.until("it is seen to move", 10*time.Second, func() error {
		if moving = list(); len(moving) != 1 {
			return fmt.Errorf("%+v", moving)
		}
		return nil
	})
	require.Equal(t, []int32{spare}, moving[0].Partitions[0].AddingReplicas)
	require.Equal(t, from[:1], moving[0].Partitions[0].RemovingReplicas)
	require.Equal(t, slices.Concat(from, []int32{spare}), moving[0].Partitions[0].Replicas)
	other := kmsg.NewListPartitionReassignmentsRequestTopic()
	other.Topic, other.Partitions = "t", []int32{7}
	require.Empty(t, list(other))
	require.Zero(t, alter("t", 0, nil).ErrorCode)
	m.moved("t", from...)
	require.Zero(t, alter("t", 0, []int32{from[1], from[0], spare}).ErrorCode)
	m.moved("t", from[1], from[0], spare)
	m.exactly("t", stop())

	elect := func(kind int8, all bool) *kmsg.ElectLeadersResponse {
		t.Helper()
		req := kmsg.NewPtrElectLeadersRequest()
		req.ElectionType = kind
		if !all {
			rt := kmsg.NewElectLeadersRequestTopic()
			rt.Topic, rt.Partitions = "t", []int32{0, 5}
			req.Topics = append(req.Topics, rt)
		}
		resp, err := req.RequestWith(ctx, cl)
		require.NoError(t, err)
		return resp
	}
	require.Equal(t, kerr.InvalidRequest.Code, elect(1, true).ErrorCode, "an unclean election names no replica")
	// A broker that has not heard of the move yet finds nothing to elect.
	m.until("leader", 10*time.Second, func() error {
		all := elect(0, true)
		require.Zero(t, all.ErrorCode)
		for _, rt := range all.Topics {
			require.Equal(t, "t", rt.Topic)
			require.Zero(t, rt.Partitions[0].ErrorCode)
		}
		if p := m.partition("t"); p.Leader != from[1] {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	named := elect(0, false)
	require.Equal(t, kerr.ElectionNotNeeded.Code, named.Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, named.Topics[0].Partitions[1].ErrorCode)
}
