package kafka

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// assigning is a group whose target assignment is older than its epoch.
type assigning struct{ stub }

func (assigning) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	return &api.GroupDescription{Type: api.GroupTypeConsumer, State: "assigning", Epoch: 7, AssignmentEpoch: 6}, nil
}

func TestAGroupHasTwoEpochs(t *testing.T) {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{"g"}
	services := stubServices(stub{})
	services.GroupAdmin = assigning{}
	resp, err := consumerGroupDescribe(t.Context(), &Door{services: services}, &call{stats: &stats{}}, req)
	require.NoError(t, err)
	require.Equal(t, int32(7), resp.Groups[0].Epoch)
	require.Equal(t, int32(6), resp.Groups[0].AssignmentEpoch)
}

// shared is a group whose member has partitions of t, of a topic that is no more and of one
// whose id nobody wrote down.
type shared struct{ stub }

func (shared) TopicName(id api.TopicID) (string, bool) { return "t", id == api.TopicID{1} }

func (shared) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	list := []api.TopicPartition{{Topic: "gone", Partition: 0}, {Topic: "old", Partition: 3}, {Topic: "t", Partition: 0}, {Topic: "t", Partition: 2}}
	ids := []api.TopicID{{9}, {}, {1}, {1}}
	return &api.GroupDescription{Type: api.GroupTypeConsumer, State: "stable", Members: []api.GroupMember{{
		MemberID: "m", Assigned: list, AssignedIDs: ids, Target: list[2:], TargetIDs: ids[2:],
	}}}, nil
}

// Topics are named by the ids that the group has, not by those of what has their names
// now. What is of no topic any more is left out, as in Kafka.
func TestAGroupNamesTheTopicsItHas(t *testing.T) {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{"g"}
	services := stubServices(stub{})
	services.GroupAdmin, services.Cluster = shared{}, shared{}
	resp, err := consumerGroupDescribe(t.Context(), &Door{services: services}, &call{stats: &stats{}}, req)
	require.NoError(t, err)
	m := resp.Groups[0].Members[0]
	known := kmsg.AssignmentTopicPartition{TopicID: [16]byte{1}, Topic: "t", Partitions: []int32{0, 2}}
	require.Equal(t, []kmsg.AssignmentTopicPartition{{Topic: "old", Partitions: []int32{3}}, known}, m.Assignment.TopicPartitions)
	require.Equal(t, []kmsg.AssignmentTopicPartition{known}, m.TargetAssignment.TopicPartitions)
}

// slowGroups are groups each of which waits a second for the controller.
type slowGroups struct{ stub }

func (slowGroups) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	time.Sleep(time.Second)
	return &api.GroupDescription{}, nil
}

// Groups of one request wait for the controller together, not one after the other.
func TestGroupsWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := stubServices(stub{})
		services.GroupAdmin = slowGroups{}
		d, c := &Door{services: services}, &call{stats: &stats{}}
		names := make([]string, lookUps)
		for i := range names {
			names[i] = strconv.Itoa(i)
		}
		began := time.Now()
		old, err := describeGroups(t.Context(), d, c, &kmsg.DescribeGroupsRequest{Groups: slices.Clone(names)})
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(began))
		resp, err := consumerGroupDescribe(t.Context(), d, c, &kmsg.ConsumerGroupDescribeRequest{Groups: slices.Clone(names)})
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(began))
		for i, name := range names {
			require.Equal(t, name, old.Groups[i].Group, "in the order of the request")
			require.Equal(t, name, resp.Groups[i].Group)
		}
	})
}
