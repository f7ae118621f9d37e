package kafkaclients

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// tryKadm does with franz-go's admin client what it has calls for and this broker serves.
func tryKadm(t *testing.T, s *suite) {
	t.Helper()
	t.Run("cluster", func(t *testing.T) { kadmCluster(t, s) })
	t.Run("topics", func(t *testing.T) { kadmTopics(t, s) })
	t.Run("configs", func(t *testing.T) { kadmConfigs(t, s) })
	t.Run("offsets", func(t *testing.T) { kadmOffsets(t, s) })
	t.Run("groups", func(t *testing.T) { kadmGroups(t, s) })
	t.Run("placement", func(t *testing.T) { kadmPlacement(t, s) })
}

func kadmCluster(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	brokers, err := s.admin.ListBrokers(ctx)
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2, 3}, brokers.NodeIDs())
	versions, err := s.admin.ApiVersions(ctx)
	require.NoError(t, err)
	require.Len(t, versions, nodes)
	for _, v := range versions {
		require.NoError(t, v.Err)
		_, served := v.KeyMaxVersion(47)
		require.True(t, served, "OffsetDelete")
	}
	md, err := s.admin.BrokerMetadata(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, md.Cluster)
	topic := s.newTopic(t, 2)
	s.produce(t, topic, 0, 10, time.Now())
	dirs, err := s.admin.DescribeAllLogDirs(ctx, nil)
	require.NoError(t, err)
	size := int64(0)
	for _, d := range dirs {
		require.NoError(t, d.Error())
		d.EachPartition(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == topic {
				size += p.Size
			}
		})
	}
	require.Positive(t, size)
}

func kadmTopics(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	name := "kadm" + strconv.Itoa(int(s.topic.Add(1)))
	tried, err := s.admin.ValidateCreateTopics(ctx, 2, 3, nil, name)
	require.NoError(t, err)
	require.NoError(t, tried.Error())
	created, err := s.admin.CreateTopic(ctx, -1, -1, map[string]*string{"retention.ms": new("60000")}, name)
	require.NoError(t, err)
	require.NoError(t, created.Err)
	require.Equal(t, int32(3), created.NumPartitions, "num.partitions")
	require.Equal(t, int16(3), created.ReplicationFactor, "default.replication.factor")
	again, err := s.admin.CreateTopic(ctx, 1, 1, nil, name)
	require.NoError(t, ignore(err, kerr.TopicAlreadyExists))
	require.ErrorIs(t, again.Err, kerr.TopicAlreadyExists)
	for _, bad := range []string{"", ".", "a/b", strings.Repeat("x", 250)} {
		refused, err := s.admin.CreateTopic(ctx, 1, 1, nil, bad)
		require.NoError(t, ignore(err, kerr.InvalidTopicException))
		require.ErrorIs(t, refused.Err, kerr.InvalidTopicException, "%q", bad)
	}
	many, err := s.admin.CreateTopic(ctx, 1, 7, nil, name+"x")
	require.NoError(t, ignore(err, kerr.InvalidReplicationFactor))
	require.ErrorIs(t, many.Err, kerr.InvalidReplicationFactor)
	grown, err := s.admin.UpdatePartitions(ctx, 5, name)
	require.NoError(t, err)
	require.NoError(t, grown.Error())
	require.Eventually(t, func() bool {
		topics, err := s.admin.ListTopics(ctx, name)
		return err == nil && len(topics[name].Partitions) == 5
	}, 10*time.Second, 20*time.Millisecond)
	fewer, err := s.admin.UpdatePartitions(ctx, 4, name)
	require.NoError(t, err)
	require.ErrorIs(t, fewer[name].Err, kerr.InvalidPartitions)
	deleted, err := s.admin.DeleteTopic(ctx, name)
	require.NoError(t, err)
	require.NoError(t, deleted.Err)
	gone, err := s.admin.DeleteTopic(ctx, name)
	require.NoError(t, ignore(err, kerr.UnknownTopicOrPartition))
	require.ErrorIs(t, gone.Err, kerr.UnknownTopicOrPartition)
}

// ignore leaves out an error that kadm gives for the call as well as for its part.
func ignore(err, expected error) error {
	if err == expected { // the very one
		return nil
	}
	return err
}

func kadmConfigs(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	topic := s.newTopic(t, 1)
	value := func(name string) string {
		configs, err := s.admin.DescribeTopicConfigs(ctx, topic)
		require.NoError(t, err)
		for _, c := range configs[0].Configs {
			if c.Key == name {
				return c.MaybeValue()
			}
		}
		return ""
	}
	alter := func(alter func() (kadm.AlterConfigsResponses, error)) error {
		t.Helper()
		r, err := alter()
		require.NoError(t, err)
		return r[0].Err
	}
	set := func(name, v string) []kadm.AlterConfig {
		return []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &v}}
	}
	require.NoError(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.AlterTopicConfigs(ctx, set("retention.bytes", "1000000"), topic)
	}))
	require.Equal(t, "1000000", value("retention.bytes"))
	require.NoError(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.ValidateAlterTopicConfigs(ctx, set("retention.bytes", "5"), topic)
	}))
	require.Equal(t, "1000000", value("retention.bytes"), "a trial changed it")
	require.ErrorIs(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.AlterTopicConfigs(ctx, set("retention.ms", "soon"), topic)
	}), kerr.InvalidConfig)
	require.ErrorIs(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.AlterTopicConfigs(ctx, set("no.such.key", "1"), topic)
	}), kerr.InvalidConfig)
	compact := "compact"
	require.NoError(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: &compact}}, topic)
	}))
	require.ElementsMatch(t, []string{"delete", "compact"}, strings.Split(value("cleanup.policy"), ","))
	require.NoError(t, alter(func() (kadm.AlterConfigsResponses, error) {
		return s.admin.AlterTopicConfigsState(ctx, set("retention.ms", "9000"), topic)
	}))
	require.Equal(t, "9000", value("retention.ms"))
	require.Equal(t, "delete", value("cleanup.policy"), "the old way resets the rest")
	brokers, err := s.admin.DescribeBrokerConfigs(ctx, 1, 2, 3)
	require.NoError(t, err)
	require.Len(t, brokers, nodes)
	for _, b := range brokers {
		require.NoError(t, b.Err)
		require.NotEmpty(t, b.Configs)
	}
}

func kadmOffsets(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	topic := s.newTopic(t, 1)
	now := time.Now()
	s.produce(t, topic, 0, 50, now.Add(-time.Hour))
	s.produce(t, topic, 50, 50, now)
	at := func(list func() (kadm.ListedOffsets, error)) int64 {
		t.Helper()
		offsets, err := list()
		require.NoError(t, err)
		o, ok := offsets.Lookup(topic, 0)
		require.True(t, ok)
		require.NoError(t, o.Err)
		return o.Offset
	}
	require.Equal(t, int64(0), at(func() (kadm.ListedOffsets, error) { return s.admin.ListStartOffsets(ctx, topic) }))
	require.Equal(t, int64(100), at(func() (kadm.ListedOffsets, error) { return s.admin.ListEndOffsets(ctx, topic) }))
	require.Equal(t, int64(100), at(func() (kadm.ListedOffsets, error) { return s.admin.ListCommittedOffsets(ctx, topic) }))
	require.Equal(t, int64(50), at(func() (kadm.ListedOffsets, error) {
		return s.admin.ListOffsetsAfterMilli(ctx, now.Add(-time.Minute).UnixMilli(), topic)
	}))
	require.GreaterOrEqual(t, at(func() (kadm.ListedOffsets, error) { return s.admin.ListMaxTimestampOffsets(ctx, topic) }), int64(50))
	require.Equal(t, int64(0), at(func() (kadm.ListedOffsets, error) { return s.admin.ListLocalLogStartOffsets(ctx, topic) }))
	var epochs kadm.OffsetForLeaderEpochRequest
	epochs.Add(topic, 0, 0)
	_, err := s.admin.OffsetForLeaderEpoch(ctx, epochs)
	require.NoError(t, err)
	var before kadm.Offsets
	before.AddOffset(topic, 0, 30, -1)
	deleted, err := s.admin.DeleteRecords(ctx, before)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	require.Equal(t, int64(30), at(func() (kadm.ListedOffsets, error) { return s.admin.ListStartOffsets(ctx, topic) }))
	var beyond kadm.Offsets
	beyond.AddOffset(topic, 0, 1000, -1)
	refused, err := s.admin.DeleteRecords(ctx, beyond)
	require.NoError(t, err)
	require.ErrorIs(t, refused[topic][0].Err, kerr.OffsetOutOfRange)
	var of kadm.TopicsSet
	of.Add(topic, 0)
	producers, err := s.admin.DescribeProducers(ctx, of)
	require.NoError(t, err)
	require.NotEmpty(t, producers[topic].Partitions[0].ActiveProducers)
}

func kadmGroups(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	topic, other := s.newTopic(t, 1), s.newTopic(t, 1)
	s.produce(t, topic, 0, 100, time.Now())
	group := "kadm-" + topic
	commit := func(name string, at int64) {
		var o kadm.Offsets
		o.AddOffset(name, 0, at, -1)
		require.NoError(t, s.admin.CommitAllOffsets(ctx, group, o))
	}
	commit(topic, 40)
	commit(other, 0)
	lags, err := s.admin.Lag(ctx, group)
	require.NoError(t, err)
	require.NoError(t, lags.Error())
	require.Equal(t, int64(60), lags[group].Lag.Total())
	listed, err := s.admin.ListGroups(ctx)
	require.NoError(t, err)
	require.Contains(t, listed.Groups(), group)

	// A member subscribes to one of the topics: its offsets stay.
	member, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers(), ",")...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	require.NoError(t, err)
	fs := member.PollFetches(ctx)
	require.NoError(t, fs.Err())
	described, err := s.admin.DescribeGroups(ctx, group)
	require.NoError(t, err)
	require.Equal(t, "Stable", described[group].State)
	var both kadm.TopicsSet
	both.Add(topic, 0)
	both.Add(other, 0)
	outcome, err := s.admin.DeleteOffsets(ctx, group, both)
	require.NoError(t, err)
	require.ErrorIs(t, outcome[topic][0], kerr.GroupSubscribedToTopic)
	require.NoError(t, outcome[other][0])
	busy, err := s.admin.DeleteGroup(ctx, group)
	require.NoError(t, ignore(err, kerr.NonEmptyGroup))
	require.ErrorIs(t, busy.Err, kerr.NonEmptyGroup)
	member.Close()
	require.Eventually(t, func() bool {
		outcome, err := s.admin.DeleteOffsets(ctx, group, both)
		return err == nil && outcome[topic][0] == nil
	}, 10*time.Second, 50*time.Millisecond, "the member has left")
	left, err := s.admin.FetchOffsets(ctx, group)
	require.NoError(t, err)
	require.Empty(t, left)
	deleted, err := s.admin.DeleteGroup(ctx, group)
	require.NoError(t, err)
	require.NoError(t, deleted.Err)
	_, err = s.admin.DeleteOffsets(ctx, group, both)
	require.ErrorIs(t, err, kerr.GroupIDNotFound)
}

func kadmPlacement(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	topic := s.newTopic(t, 1)
	topics, err := s.admin.ListTopics(ctx, topic)
	require.NoError(t, err)
	from := topics[topic].Partitions[0].Replicas
	var move kadm.AlterPartitionAssignmentsReq
	move.Assign(topic, 0, []int32{from[1], from[0], from[2]})
	moved, err := s.admin.AlterPartitionAssignments(ctx, move)
	require.NoError(t, err)
	require.NoError(t, moved.Error())
	var of kadm.TopicsSet
	of.Add(topic, 0)
	require.Eventually(t, func() bool {
		under, err := s.admin.ListPartitionReassignments(ctx, of)
		return err == nil && len(under) == 0
	}, 10*time.Second, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		if _, err := s.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, of); err != nil {
			return false
		}
		topics, err := s.admin.ListTopics(ctx, topic)
		return err == nil && topics[topic].Partitions[0].Leader == from[1]
	}, 10*time.Second, 50*time.Millisecond, "the first of the list leads")
}
