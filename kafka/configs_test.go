package kafka

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// configured is a cluster with a topic t, which notes how its configs are altered.
type configured struct {
	stub

	altered []api.AlterTopic
	brokers []api.Broker
}

func (*configured) DescribeTopic(_ context.Context, name string) (*api.Topic, error) {
	if name != "t" {
		return nil, api.Errorf(api.CodeUnknownTopic, "there is no topic %q", name)
	}
	return &api.Topic{Name: "t", Configs: []api.TopicConfig{
		{Name: "cleanup.policy", Type: "list", Value: "delete", IsDefault: true},
		{Name: "retention.bytes", Type: "long", Value: "-1", IsDefault: true},
		{Name: "retention.ms", Type: "long", Value: "1000"},
	}}, nil
}

func (c *configured) AlterTopic(_ context.Context, req *api.AlterTopic) error {
	c.altered = append(c.altered, *req)
	return nil
}

func (c *configured) Metadata(context.Context, []string, bool, string) (*api.Metadata, error) {
	return &api.Metadata{Brokers: c.brokers}, nil
}

func configuredDoor(t *testing.T, c *configured, opts Options) *Door {
	t.Helper()
	s := stubServices(stub{})
	s.Topics, s.Cluster = c, c
	opts.Arena, opts.Logger = record.NewArena(1<<20), slog.New(slog.DiscardHandler)
	d := New(opts, s)
	t.Cleanup(d.Close)
	return d
}

// The names under which Kafka's tools limit reassignments.
var (
	brokerThrottles = []string{"leader.replication.throttled.rate", "follower.replication.throttled.rate", "replica.alter.log.dirs.io.max.bytes.per.second"}
	topicThrottles  = []string{"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}
)

// Kafka's kafka-reassign-partitions.sh ends --verify and --cancel by removing the
// throttles of brokers and topics, whether there are any or not, and fails when that
// does. What is not set can be removed; a misspelled name cannot be set, so that
// nothing comes of removing it. What is known goes to the controller whether it is set
// as this broker knows or not: another may have set it since.
func TestIncrementalAlterConfigs(t *testing.T) {
	op := func(op kmsg.IncrementalAlterConfigOp, value *string, names ...string) (out []kmsg.IncrementalAlterConfigsRequestResourceConfig) {
		for _, name := range names {
			out = append(out, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: op, Value: value})
		}
		return out
	}
	const set, remove, add = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend
	broker, topic := kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeTopic
	for _, tt := range []struct {
		name    string
		kind    kmsg.ConfigResourceType
		of      string
		configs []kmsg.IncrementalAlterConfigsRequestResourceConfig
		want    error
		says    string
		altered *api.AlterTopic
	}{
		{"throttles of this broker", broker, "1", op(remove, nil, brokerThrottles...), nil, "", nil},
		{"throttles of all brokers", broker, "", op(remove, nil, brokerThrottles...), nil, "", nil},
		{"throttles of another broker", broker, "2", op(remove, nil, brokerThrottles...), kerr.InvalidRequest, `"2" is not this broker, which is 1`, nil},
		{"of no broker", broker, "one", op(remove, nil, brokerThrottles...), kerr.InvalidRequest, `"one" is not this broker`, nil},
		{"a throttle of a broker", broker, "1", op(set, new("1000"), brokerThrottles[0]), kerr.InvalidRequest, "leader.replication.throttled.rate cannot be set: the rate of reassignments is reassignment.throttle.bytes", nil},
		{"more of a broker", broker, "1", op(add, new("x"), "log.dirs"), kerr.InvalidRequest, "log.dirs cannot be set", nil},
		{"throttles of a topic", topic, "t", op(remove, nil, topicThrottles...), nil, "", nil},
		{"throttles of a topic that is not there", topic, "u", op(remove, nil, topicThrottles...), kerr.UnknownTopicOrPartition, "", nil},
		{"a throttle of a topic", topic, "t", op(set, new("*"), topicThrottles[0]), kerr.InvalidConfig, "penstock topic reassign --throttle", nil},
		{"what is set", topic, "t", op(remove, nil, "retention.ms"), nil, "", &api.AlterTopic{Name: "t", Set: map[string]string{}, Unset: []string{"retention.ms"}}},
		{"what is not set as far as is known", topic, "t", op(remove, nil, "retention.bytes"), nil, "", &api.AlterTopic{Name: "t", Set: map[string]string{}, Unset: []string{"retention.bytes"}}},
		{"both kinds", topic, "t", append(op(set, new("7"), "retention.ms"), op(remove, nil, topicThrottles...)...), nil, "", &api.AlterTopic{Name: "t", Set: map[string]string{"retention.ms": "7"}}},
		{"no value", topic, "t", op(set, nil, "retention.ms"), kerr.InvalidConfig, "retention.ms has no value", nil},
		{"twice", topic, "t", op(remove, nil, "retention.ms", "retention.ms"), kerr.InvalidRequest, "twice", nil},
		{"more of what is no list", topic, "t", op(add, new("1"), "retention.ms"), kerr.InvalidConfig, "retention.ms is not a list", nil},
		{"no such operation", topic, "t", op(9, new("1"), "retention.ms"), kerr.InvalidRequest, "operation 9", nil},
		{"of no such kind", 16, "t", op(remove, nil, "retention.ms"), kerr.InvalidRequest, "resources of type 16", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, trial := range []bool{true, false} {
				c := &configured{}
				client, _ := observed(t, configuredDoor(t, c, Options{}))
				req := kmsg.NewPtrIncrementalAlterConfigsRequest()
				req.SetVersion(1)
				req.ValidateOnly = trial
				req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: tt.kind, ResourceName: tt.of, Configs: tt.configs}}
				got := ask(t, client, req).(*kmsg.IncrementalAlterConfigsResponse).Resources[0] //nolint:forcetypeassert // what was asked for
				if trial {
					require.Empty(t, c.altered)
					continue
				}
				require.Equal(t, tt.want, kerr.ErrorForCode(got.ErrorCode))
				require.Contains(t, value(got.ErrorMessage), tt.says)
				if tt.altered == nil {
					require.Empty(t, c.altered)
				} else {
					require.Equal(t, []api.AlterTopic{*tt.altered}, c.altered)
				}
			}
		})
	}
}

// The older way names all that is to be set: nothing, of a broker, is what it has.
func TestAlterConfigs(t *testing.T) {
	config := func(name string, v *string) []kmsg.AlterConfigsRequestResourceConfig {
		return []kmsg.AlterConfigsRequestResourceConfig{{Name: name, Value: v}}
	}
	broker, topic := kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeTopic
	for _, tt := range []struct {
		name    string
		kind    kmsg.ConfigResourceType
		of      string
		configs []kmsg.AlterConfigsRequestResourceConfig
		want    error
		altered *api.AlterTopic
	}{
		{"nothing of this broker", broker, "1", nil, nil, nil},
		{"nothing of another", broker, "2", nil, kerr.InvalidRequest, nil},
		{"something of this broker", broker, "1", config(brokerThrottles[0], new("1")), kerr.InvalidRequest, nil},
		{"nothing of a topic", topic, "t", nil, nil, &api.AlterTopic{Name: "t", Set: map[string]string{}, Unset: []string{"retention.ms"}}},
		{"something of a topic", topic, "t", config("retention.bytes", new("5")), nil, &api.AlterTopic{Name: "t", Set: map[string]string{"retention.bytes": "5"}, Unset: []string{"retention.ms"}}},
		{"of a topic that is not there", topic, "u", nil, kerr.UnknownTopicOrPartition, nil},
		{"no value", topic, "t", config("retention.ms", nil), kerr.InvalidConfig, nil},
		{"of no such kind", 16, "t", nil, kerr.InvalidRequest, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &configured{}
			client, _ := observed(t, configuredDoor(t, c, Options{}))
			req := kmsg.NewPtrAlterConfigsRequest()
			req.SetVersion(2)
			req.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: tt.kind, ResourceName: tt.of, Configs: tt.configs}}
			got := ask(t, client, req).(*kmsg.AlterConfigsResponse).Resources[0] //nolint:forcetypeassert // what was asked for
			require.Equal(t, tt.want, kerr.ErrorForCode(got.ErrorCode), value(got.ErrorMessage))
			if tt.altered == nil {
				require.Empty(t, c.altered)
			} else {
				require.Equal(t, []api.AlterTopic{*tt.altered}, c.altered)
			}
		})
	}
}

// A broker shows what it was given, and what that means where it says nothing.
func TestDescribeConfigsOfABroker(t *testing.T) {
	up := api.Broker{}
	for _, tt := range []struct {
		name    string
		factor  int32
		brokers []api.Broker
		want    string
	}{
		{"as configured", 2, []api.Broker{up, up, up}, "2"},
		{"three of four", 0, []api.Broker{up, up, up, up}, "3"},
		{"as many as there are", 0, []api.Broker{up, {Fenced: true}, up, {Decommissioning: true}}, "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := configuredDoor(t, &configured{brokers: tt.brokers}, Options{ReplicationFactor: tt.factor, MaxConnections: 7, Configs: []BrokerConfig{{"offsets.topic.num.partitions", "int", "50"}, {"broker.rack", "string", "a"}}})
			client, _ := observed(t, d)
			req := kmsg.NewPtrDescribeConfigsRequest()
			req.SetVersion(4)
			req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: "1"}}
			got := ask(t, client, req).(*kmsg.DescribeConfigsResponse).Resources[0] //nolint:forcetypeassert // what was asked for
			require.Zero(t, got.ErrorCode)
			shown := make(map[string]string)
			names := make([]string, 0, len(got.Configs))
			for _, c := range got.Configs {
				require.True(t, c.ReadOnly)
				shown[c.Name], names = value(c.Value), append(names, c.Name)
			}
			require.IsIncreasing(t, names)
			require.Equal(t, map[string]string{
				"auto.create.topics.enable": "false", "broker.rack": "a", "connections.max.idle.ms": "600000", "default.replication.factor": tt.want,
				"max.connections": "7", "node.id": "1", "num.partitions": "1", "offsets.topic.num.partitions": "50", "socket.request.max.bytes": "104857600",
			}, shown)
		})
	}
}
