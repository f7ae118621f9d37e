package kafka

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The advertised versions are those that the clients of docs/KAFKA.md need, and no
// others. Some of them go by the lowest (librdkafka), some by the highest alone (kafkajs),
// some refuse brokers below theirs (@platformatic/kafka), and kafka-python takes the
// release of the broker from them: whoever changes one looks that up.
func TestAdvertisedVersions(t *testing.T) {
	want := map[string][2]int16{
		"Produce": {0, 12}, "Fetch": {4, 16}, "ListOffsets": {1, 9}, "Metadata": {0, 13}, "OffsetCommit": {2, 9}, "OffsetFetch": {1, 9},
		"FindCoordinator": {0, 6}, "JoinGroup": {0, 9}, "Heartbeat": {0, 4}, "LeaveGroup": {0, 5}, "SyncGroup": {0, 5},
		"DescribeGroups": {0, 6}, "ListGroups": {0, 5}, "DeleteGroups": {0, 2}, "OffsetDelete": {0, 0},
		"SaslHandshake": {0, 1}, "SaslAuthenticate": {0, 2}, "ApiVersions": {0, 4},
		"CreateTopics": {2, 7}, "DeleteTopics": {1, 6}, "CreatePartitions": {0, 3}, "DeleteRecords": {0, 2},
		"InitProducerId": {0, 5}, "OffsetForLeaderEpoch": {2, 4}, "DescribeProducers": {0, 0},
		"DescribeConfigs": {1, 4}, "AlterConfigs": {0, 2}, "IncrementalAlterConfigs": {0, 1}, "DescribeLogDirs": {1, 4}, "DescribeCluster": {0, 2},
		"ElectLeaders": {0, 2}, "AlterPartitionReassignments": {0, 1}, "ListPartitionReassignments": {0, 0},
		"ConsumerGroupHeartbeat": {0, 1}, "ConsumerGroupDescribe": {0, 1}, "DescribeTopicPartitions": {0, 0},
	}
	client, _ := observed(t, refusingDoor(t, &refusing{}))
	resp, ok := ask(t, client, asked(4, func(*kmsg.ApiVersionsRequest) {})).(*kmsg.ApiVersionsResponse)
	require.True(t, ok)
	names := make(map[int16]string)
	for _, e := range table() {
		names[e.key] = e.name
	}
	got := make(map[string][2]int16)
	for _, k := range resp.ApiKeys {
		got[names[k.ApiKey]] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	require.Equal(t, want, got)
	// Without a version of transactions that is final, clients use none of the newer ones.
	require.Empty(t, resp.FinalizedFeatures)
	require.Empty(t, resp.SupportedFeatures)
}

// Whatever the version of ApiVersions, it is answered, by a header without tagged fields:
// clients do not know yet what the broker speaks. A version that is not served has the
// answer of version 0, with what is, and the connection goes on.
func TestApiVersionsIsAnsweredWhateverItsVersion(t *testing.T) {
	client, _ := observed(t, refusingDoor(t, &refusing{}))
	for version := int16(0); version <= 4; version++ {
		resp, ok := ask(t, client, asked(version, func(r *kmsg.ApiVersionsRequest) { r.ClientSoftwareName, r.ClientSoftwareVersion = "c", "1" })).(*kmsg.ApiVersionsResponse)
		require.True(t, ok)
		require.Zero(t, resp.ErrorCode, "version %d", version)
		require.Len(t, resp.ApiKeys, len(table()))
	}
	for _, version := range []int16{5, 99, -1} {
		// Headers of versions to come may be others; this is one of today.
		b := header12(keyApiVersions, version, 0, 2, 'c', 2, '1', 0)
		_, err := client.Write(framed(b))
		require.NoError(t, err)
		body := readFrame(t, client)
		require.Equal(t, uint32(1), binary.BigEndian.Uint32(body))
		resp := kmsg.NewPtrApiVersionsResponse()
		require.NoError(t, resp.ReadFrom(body[4:]))
		require.Equal(t, kerr.UnsupportedVersion.Code, resp.ErrorCode, "version %d", version)
		require.Len(t, resp.ApiKeys, len(table()))
		requireAnswers(t, client)
	}
}
