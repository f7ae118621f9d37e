package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The keys that the door itself looks at.
const (
	keyProduce     = 0
	keyFetch       = 1
	keyJoinGroup   = 11
	keySyncGroup   = 14
	keyApiVersions = 18
)

// entry is a line of the table: an API, the versions that work, and what answers it.
type entry struct {
	key      int16
	name     string
	min, max int16
	// listedMin is the lowest version that ApiVersions names, where that differs.
	listedMin int16
	request   func() kmsg.Request
	handle    handle

	flexibleFrom int16
	shape        shape
	stats        *stats
}

// handle answers a request. An error ends the connection.
type handle func(ctx context.Context, d *Door, c *call, req kmsg.Request) (kmsg.Response, error)

// flexible reports whether a version has compact lengths and tagged fields.
func (e *entry) flexible(version int16) bool { return version >= e.flexibleFrom }

// table is every API that is served, and the versions of each. What is not here is
// not advertised.
//
// The ranges are a union: librdkafka asks for low ones, others for none but high
// ones. Produce names the versions 0 to 2, which are refused: older librdkafka
// takes their absence for a broker that knows no compression and silently sends
// none, and Kafka itself does the same (KAFKA-18659). Produce 13 and Fetch 17
// stay out until all of a client's requests name topics by id.
func table() []entry {
	t := []entry{
		{key: keyProduce, name: "Produce", min: 3, max: 12, listedMin: 0, request: request[kmsg.ProduceRequest]}, // conn.produce
		{key: keyFetch, name: "Fetch", min: 4, max: 16, request: request[kmsg.FetchRequest]},                     // conn.fetch
		{key: 2, name: "ListOffsets", min: 1, max: 9, request: request[kmsg.ListOffsetsRequest], handle: on(listOffsets)},
		{key: 3, name: "Metadata", min: 0, max: 13, request: request[kmsg.MetadataRequest], handle: on(metadata)},
		{key: 8, name: "OffsetCommit", min: 2, max: 9, request: request[kmsg.OffsetCommitRequest], handle: on(offsetCommit)},
		{key: 9, name: "OffsetFetch", min: 1, max: 9, request: request[kmsg.OffsetFetchRequest], handle: on(offsetFetch)},
		{key: 10, name: "FindCoordinator", min: 0, max: 6, request: request[kmsg.FindCoordinatorRequest], handle: on(findCoordinator)},
		{key: keyJoinGroup, name: "JoinGroup", min: 0, max: 9, request: request[kmsg.JoinGroupRequest], handle: on(joinGroup)},
		{key: 12, name: "Heartbeat", min: 0, max: 4, request: request[kmsg.HeartbeatRequest], handle: on(heartbeat)},
		{key: 13, name: "LeaveGroup", min: 0, max: 5, request: request[kmsg.LeaveGroupRequest], handle: on(leaveGroup)},
		{key: keySyncGroup, name: "SyncGroup", min: 0, max: 5, request: request[kmsg.SyncGroupRequest], handle: on(syncGroup)},
		{key: 15, name: "DescribeGroups", min: 0, max: 6, request: request[kmsg.DescribeGroupsRequest], handle: on(describeGroups)},
		{key: 16, name: "ListGroups", min: 0, max: 5, request: request[kmsg.ListGroupsRequest], handle: on(listGroups)},
		{key: 17, name: "SaslHandshake", min: 0, max: 1, request: request[kmsg.SASLHandshakeRequest], handle: on(saslHandshake)},
		{key: keyApiVersions, name: "ApiVersions", min: 0, max: 4, request: request[kmsg.ApiVersionsRequest], handle: on(apiVersions)},
		{key: 19, name: "CreateTopics", min: 2, max: 7, request: request[kmsg.CreateTopicsRequest], handle: on(createTopics)},
		{key: 20, name: "DeleteTopics", min: 1, max: 6, request: request[kmsg.DeleteTopicsRequest], handle: on(deleteTopics)},
		{key: 21, name: "DeleteRecords", min: 0, max: 2, request: request[kmsg.DeleteRecordsRequest], handle: on(deleteRecords)},
		{key: 22, name: "InitProducerId", min: 0, max: 5, request: request[kmsg.InitProducerIDRequest], handle: on(initProducerID)},
		{key: 23, name: "OffsetForLeaderEpoch", min: 2, max: 4, request: request[kmsg.OffsetForLeaderEpochRequest], handle: on(offsetForLeaderEpoch)},
		{key: 32, name: "DescribeConfigs", min: 1, max: 4, request: request[kmsg.DescribeConfigsRequest], handle: on(describeConfigs)},
		{key: 33, name: "AlterConfigs", min: 0, max: 2, request: request[kmsg.AlterConfigsRequest], handle: on(alterConfigs)},
		{key: 35, name: "DescribeLogDirs", min: 1, max: 4, request: request[kmsg.DescribeLogDirsRequest], handle: on(describeLogDirs)},
		{key: 36, name: "SaslAuthenticate", min: 0, max: 2, request: request[kmsg.SASLAuthenticateRequest], handle: on(saslAuthenticate)},
		{key: 37, name: "CreatePartitions", min: 0, max: 3, request: request[kmsg.CreatePartitionsRequest], handle: on(createPartitions)},
		{key: 42, name: "DeleteGroups", min: 0, max: 2, request: request[kmsg.DeleteGroupsRequest], handle: on(deleteGroups)},
		{key: 43, name: "ElectLeaders", min: 0, max: 2, request: request[kmsg.ElectLeadersRequest], handle: on(electLeaders)},
		{key: 44, name: "IncrementalAlterConfigs", min: 0, max: 1, request: request[kmsg.IncrementalAlterConfigsRequest], handle: on(incrementalAlterConfigs)},
		{key: 45, name: "AlterPartitionReassignments", min: 0, max: 1, request: request[kmsg.AlterPartitionAssignmentsRequest], handle: on(alterPartitionReassignments)},
		{key: 46, name: "ListPartitionReassignments", min: 0, max: 0, request: request[kmsg.ListPartitionReassignmentsRequest], handle: on(listPartitionReassignments)},
		{key: 47, name: "OffsetDelete", min: 0, max: 0, request: request[kmsg.OffsetDeleteRequest], handle: on(offsetDelete)},
		{key: 60, name: "DescribeCluster", min: 0, max: 2, request: request[kmsg.DescribeClusterRequest], handle: on(describeCluster)},
		{key: 61, name: "DescribeProducers", min: 0, max: 0, request: request[kmsg.DescribeProducersRequest], handle: on(describeProducers)},
		{key: 68, name: "ConsumerGroupHeartbeat", min: 0, max: 1, request: request[kmsg.ConsumerGroupHeartbeatRequest], handle: on(consumerGroupHeartbeat)},
		{key: 69, name: "ConsumerGroupDescribe", min: 0, max: 1, request: request[kmsg.ConsumerGroupDescribeRequest], handle: on(consumerGroupDescribe)},
		{key: 75, name: "DescribeTopicPartitions", min: 0, max: 0, request: request[kmsg.DescribeTopicPartitionsRequest], handle: on(describeTopicPartitions)},
	}
	forms := shapes()
	for i := range t {
		e := &t[i]
		e.shape, e.stats = parseShape(forms[e.key]), &stats{}
		if e.key != keyProduce {
			e.listedMin = e.min
		}
		req := e.request()
		for e.flexibleFrom = 0; e.flexibleFrom <= e.max; e.flexibleFrom++ {
			if req.SetVersion(e.flexibleFrom); req.IsFlexible() {
				break
			}
		}
	}
	return t
}

// request makes an empty request of a kind.
func request[T any, P interface {
	*T
	kmsg.Request
	Default()
}]() kmsg.Request {
	p := P(new(T))
	p.Default()
	return p
}

// on lets a handler have its own types.
func on[Req kmsg.Request, Resp kmsg.Response](f func(ctx context.Context, d *Door, c *call, req Req) (Resp, error)) handle {
	return func(ctx context.Context, d *Door, c *call, req kmsg.Request) (kmsg.Response, error) {
		typed, ok := req.(Req)
		if !ok {
			return nil, malformed("%T came to a handler of another request", req)
		}
		return f(ctx, d, c, typed)
	}
}
