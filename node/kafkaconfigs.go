package node

import (
	"cmp"
	"strconv"
	"time"

	"github.com/penstock/penstock/kafka"
)

// kafkaConfigs are the configs of this node that Kafka has, too, by Kafka's names, for
// clients that describe brokers. The door adds those that are its own.
func kafkaConfigs(c *Config) []kafka.BrokerConfig {
	number := func(name, kind string, v int64) kafka.BrokerConfig {
		return kafka.BrokerConfig{Name: name, Type: kind, Value: strconv.FormatInt(v, 10)}
	}
	millis := func(name, kind string, d time.Duration) kafka.BrokerConfig {
		return number(name, kind, d.Milliseconds())
	}
	text := func(name, v string) kafka.BrokerConfig {
		return kafka.BrokerConfig{Name: name, Type: "string", Value: v}
	}
	return []kafka.BrokerConfig{
		text("broker.rack", c.Rack),
		text("group.consumer.migration.policy", cmp.Or(c.GroupMigration, "bidirectional")),
		millis("group.initial.rebalance.delay.ms", "int", cmp.Or(c.InitialRebalance, 500*time.Millisecond)),
		text("log.dirs", c.DataDir),
		millis("log.cleaner.backoff.ms", "long", c.CleanerBackoff),
		number("log.cleaner.dedupe.buffer.size", "long", c.CleanerMemory),
		number("log.cleaner.io.max.bytes.per.second", "double", c.CleanerRate),
		number("offsets.retention.minutes", "int", int64(cmp.Or(c.OffsetsRetention, 7*24*time.Hour)/time.Minute)),
		number("offsets.topic.num.partitions", "int", int64(c.OffsetsPartitions)),
		number("offsets.topic.replication.factor", "int", int64(c.OffsetsReplicas)),
		millis("replica.lag.time.max.ms", "long", c.ReplicaLagMax),
	}
}
