package broker

import (
	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
)

// logConfig is what a topic's settings mean for the logs of its partitions.
func logConfig(s metadata.TopicSettings) commitlog.Config {
	c := commitlog.Config{
		SegmentBytes:     s.SegmentBytes,
		SegmentAge:       s.SegmentAge,
		RetentionAge:     s.RetentionAge,
		RetentionBytes:   s.RetentionBytes,
		IndexInterval:    s.IndexInterval,
		Synced:           synced(s),
		FlushInterval:    s.FlushInterval,
		LogAppendTime:    s.LogAppendTime,
		Compact:          s.Compact,
		MinDirtyRatio:    s.MinDirtyRatio,
		DeleteRetention:  s.DeleteRetention,
		MinCompactionLag: s.MinCompactionLag,
	}
	if !s.Delete {
		c.RetentionAge, c.RetentionBytes = metadata.Unlimited, metadata.Unlimited
	}
	return c
}

func synced(s metadata.TopicSettings) bool { return s.Durability == metadata.Synced }

// offsetsConfigs are those of __consumer_offsets: an acknowledged commit is on
// disk, and the newest commit of each group and partition stays, however old. The
// segments are small, for what is in the active one is loaded whole.
func offsetsConfigs() map[string]string {
	return map[string]string{
		metadata.ConfigDurability:    string(metadata.Synced),
		metadata.ConfigCleanupPolicy: "compact",
		metadata.ConfigSegmentBytes:  "104857600",
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
