package broker

import (
	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
)

// logConfig is what a topic's settings mean for the logs of its partitions.
func logConfig(s metadata.TopicSettings) commitlog.Config {
	return commitlog.Config{
		SegmentBytes:   s.SegmentBytes,
		SegmentAge:     s.SegmentAge,
		RetentionAge:   s.RetentionAge,
		RetentionBytes: s.RetentionBytes,
		IndexInterval:  s.IndexInterval,
		Synced:         synced(s),
		FlushInterval:  s.FlushInterval,
		LogAppendTime:  s.LogAppendTime,
	}
}

func synced(s metadata.TopicSettings) bool { return s.Durability == metadata.Synced }

// offsetsConfigs are those of __consumer_offsets: an acknowledged commit is on
// disk, and no segment is removed for its age, for an old commit may be the
// newest of its group.
func offsetsConfigs() map[string]string {
	return map[string]string{
		metadata.ConfigDurability:     string(metadata.Synced),
		metadata.ConfigRetentionMS:    "-1",
		metadata.ConfigRetentionBytes: "-1",
	}
}

// topicConfigs lists every topic config with the value in force.
func topicConfigs(t *metadata.Topic) []api.TopicConfig {
	table := metadata.TopicConfigs()
	out := make([]api.TopicConfig, len(table))
	for i, c := range table {
		value, set := t.Configs[c.Name]
		if !set {
			value = c.Default
		}
		out[i] = api.TopicConfig{
			Name: c.Name, Value: value, IsDefault: !set, Type: c.Type,
			Documentation: c.Doc + " Accepted: " + c.Range + ".",
		}
	}
	return out
}
