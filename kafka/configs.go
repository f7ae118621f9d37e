package kafka

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

func describeConfigs(ctx context.Context, d *Door, c *call, req *kmsg.DescribeConfigsRequest) (*kmsg.DescribeConfigsResponse, error) {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	resources := distinct(req.Resources, func(r *kmsg.DescribeConfigsRequestResource) resource {
		return resource{r.ResourceType, r.ResourceName}
	})
	for i := range resources {
		in := &resources[i]
		out := kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		configs, e := d.configsOf(ctx, in.ResourceType, in.ResourceName)
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		for j := range configs {
			if in.ConfigNames == nil || slices.Contains(in.ConfigNames, configs[j].Name) {
				out.Configs = append(out.Configs, configOut(&configs[j], in.ResourceType, req.IncludeSynonyms, req.IncludeDocumentation))
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	return resp, nil
}

// configsOf are the configs of a topic, or those of a broker that clients look at.
func (d *Door) configsOf(ctx context.Context, kind kmsg.ConfigResourceType, name string) ([]api.TopicConfig, *api.Error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		topic, err := d.services.Topics.DescribeTopic(ctx, name)
		if err != nil {
			return nil, asError(err)
		}
		return topic.Configs, nil
	case kmsg.ConfigResourceTypeBroker:
		if e := d.thisBroker(name); e != nil {
			return nil, e
		}
		return d.brokerConfigs(ctx)
	default:
		return nil, kafkaError(kerr.InvalidRequest, "resources of type %d have no configs", kind)
	}
}

// brokerConfigs are those keys of a broker that mean what they mean in Kafka.
func (d *Door) brokerConfigs(ctx context.Context) ([]api.TopicConfig, *api.Error) {
	replicas := d.opts.ReplicationFactor
	if replicas == 0 { // as the controller resolves it
		md, err := d.services.Cluster.Metadata(ctx, []string{""}, false, "")
		if err != nil {
			return nil, asError(err)
		}
		for i := range md.Brokers {
			if b := &md.Brokers[i]; !b.Fenced && !b.Decommissioning && replicas < maxDefaultReplicas {
				replicas++
			}
		}
	}
	number := func(name string, v int32) BrokerConfig { return BrokerConfig{name, "int", strconv.Itoa(int(v))} }
	all := append([]BrokerConfig{
		{"auto.create.topics.enable", "boolean", strconv.FormatBool(d.opts.AutoCreate)},
		{"connections.max.idle.ms", "long", strconv.FormatInt(d.opts.IdleTimeout.Milliseconds(), 10)},
		number("default.replication.factor", replicas),
		number("max.connections", int32(d.opts.MaxConnections)),
		number("node.id", d.services.Cluster.NodeID()),
		number("num.partitions", max(d.opts.NumPartitions, 1)),
		number("socket.request.max.bytes", maxFrame),
	}, d.opts.Configs...)
	slices.SortFunc(all, func(a, b BrokerConfig) int { return cmp.Compare(a.Name, b.Name) })
	out := make([]api.TopicConfig, len(all))
	for i, c := range all {
		out[i] = api.TopicConfig{Name: c.Name, Type: c.Type, Value: c.Value}
	}
	return out, nil
}

// maxDefaultReplicas is the default.replication.factor of a cluster that has the brokers.
const maxDefaultReplicas = 3

func sourceOf(c *api.TopicConfig) kmsg.ConfigSource {
	if c.IsDefault {
		return kmsg.ConfigSourceDefaultConfig
	}
	return kmsg.ConfigSourceDynamicTopicConfig
}

func configOut(c *api.TopicConfig, kind kmsg.ConfigResourceType, synonyms, documentation bool) kmsg.DescribeConfigsResponseResourceConfig {
	out := kmsg.NewDescribeConfigsResponseResourceConfig()
	out.Name, out.Value, out.IsDefault, out.Source = c.Name, &c.Value, c.IsDefault, sourceOf(c)
	if kind == kmsg.ConfigResourceTypeBroker {
		out.ReadOnly, out.Source = true, kmsg.ConfigSourceStaticBrokerConfig
	}
	if synonyms {
		s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		s.Name, s.Value, s.Source = c.Name, &c.Value, out.Source
		out.ConfigSynonyms = append(out.ConfigSynonyms, s)
	}
	switch c.Type {
	case "boolean":
		out.ConfigType = kmsg.ConfigTypeBoolean
	case "int":
		out.ConfigType = kmsg.ConfigTypeInt
	case "long":
		out.ConfigType = kmsg.ConfigTypeLong
	case "double":
		out.ConfigType = kmsg.ConfigTypeDouble
	case "list":
		out.ConfigType = kmsg.ConfigTypeList
	default:
		out.ConfigType = kmsg.ConfigTypeString
	}
	if documentation {
		out.Documentation = &c.Documentation
	}
	return out
}

// alterConfigs makes the configs named the only ones that are set: the old way,
// which resets what the caller left out.
func alterConfigs(ctx context.Context, d *Door, c *call, req *kmsg.AlterConfigsRequest) (*kmsg.AlterConfigsResponse, error) {
	resp := kmsg.NewPtrAlterConfigsResponse()
	for i := range req.Resources {
		in := &req.Resources[i]
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		alter := api.AlterTopic{Name: in.ResourceName, Set: make(map[string]string)}
		topic, e := d.alterable(ctx, in.ResourceType, in.ResourceName)
		for _, c := range in.Configs {
			if c.Value == nil {
				e = kafkaError(kerr.InvalidConfig, "%s has no value", c.Name)
				break
			}
			alter.Set[c.Name] = *c.Value
		}
		if e == nil && topic == nil {
			e = brokersAreFixed(&alter)
		} else if e == nil {
			for _, c := range topic.Configs {
				if _, stays := alter.Set[c.Name]; !stays && !c.IsDefault {
					alter.Unset = append(alter.Unset, c.Name)
				}
			}
			e = d.alter(ctx, topic, &alter, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		resp.Resources = append(resp.Resources, out)
	}
	return resp, nil
}

// incrementalAlterConfigs changes the configs named, and leaves the others (KIP-339).
func incrementalAlterConfigs(ctx context.Context, d *Door, c *call, req *kmsg.IncrementalAlterConfigsRequest) (*kmsg.IncrementalAlterConfigsResponse, error) {
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	for i := range req.Resources {
		in := &req.Resources[i]
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = in.ResourceType, in.ResourceName
		alter := api.AlterTopic{Name: in.ResourceName, Set: make(map[string]string)}
		topic, e := d.alterable(ctx, in.ResourceType, in.ResourceName)
		if once := distinct(in.Configs, func(c *kmsg.IncrementalAlterConfigsRequestResourceConfig) string { return c.Name }); e == nil && len(once) < len(in.Configs) {
			e = kafkaError(kerr.InvalidRequest, "the request names a config twice")
		}
		for j := 0; e == nil && j < len(in.Configs); j++ {
			e = change(topic, &alter, &in.Configs[j])
		}
		if e == nil && topic == nil {
			e = brokersAreFixed(&alter)
		} else if e == nil {
			e = d.alter(ctx, topic, &alter, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		resp.Resources = append(resp.Resources, out)
	}
	return resp, nil
}

// alterable finds the topic whose configs are to change; nil without an error for a
// broker.
func (d *Door) alterable(ctx context.Context, kind kmsg.ConfigResourceType, name string) (*api.Topic, *api.Error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		topic, err := d.services.Topics.DescribeTopic(ctx, name)
		return topic, asError(err)
	case kmsg.ConfigResourceTypeBroker:
		return nil, d.thisBroker(name)
	default:
		return nil, kafkaError(kerr.InvalidRequest, "resources of type %d have no configs that can be changed", kind)
	}
}

// thisBroker refuses the name of another broker: each answers for itself. No name
// means all of them.
func (d *Door) thisBroker(name string) *api.Error {
	id, err := strconv.ParseInt(name, 10, 32)
	if name != "" && (err != nil || int32(id) != d.services.Cluster.NodeID()) {
		return kafkaError(kerr.InvalidRequest, "%q is not this broker, which is %d", name, d.services.Cluster.NodeID())
	}
	return nil
}

// brokersAreFixed refuses to set what is in a broker's file. That something is not set
// any more costs nothing to grant: kafka-reassign-partitions.sh ends each reassignment by
// removing throttles, whether there are any or not.
func brokersAreFixed(alter *api.AlterTopic) *api.Error {
	if len(alter.Set) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(alter.Set)))
	if isThrottle(first) {
		return kafkaError(kerr.InvalidRequest, "%s cannot be set: %s", first, throttleInstead)
	}
	return kafkaError(kerr.InvalidRequest, "%s cannot be set: a broker's configs are in its file", first)
}

// throttleInstead says what is in place of the configs by which Kafka's tools bound the
// rate of a reassignment.
const throttleInstead = "the rate of reassignments is reassignment.throttle.bytes in the brokers' files, or that of penstock topic reassign --throttle"

// isThrottle reports whether a config, of a broker or of a topic, is one of those.
func isThrottle(name string) bool {
	return strings.HasSuffix(name, ".replication.throttled.rate") || strings.HasSuffix(name, ".replication.throttled.replicas")
}

// change notes one operation on a config. topic is nil for a broker.
func change(topic *api.Topic, alter *api.AlterTopic, c *kmsg.IncrementalAlterConfigsRequestResourceConfig) *api.Error {
	if c.Op == kmsg.IncrementalAlterConfigOpDelete {
		// What no topic can have is not set; the throttles of Kafka's own tools are such.
		if topic != nil && slices.ContainsFunc(topic.Configs, func(t api.TopicConfig) bool { return t.Name == c.Name }) {
			alter.Unset = append(alter.Unset, c.Name)
		}
		return nil
	}
	if c.Value == nil {
		return kafkaError(kerr.InvalidConfig, "%s has no value", c.Name)
	}
	if topic != nil && isThrottle(c.Name) {
		return kafkaError(kerr.InvalidConfig, "%s cannot be set: %s", c.Name, throttleInstead)
	}
	switch c.Op {
	case kmsg.IncrementalAlterConfigOpSet:
		alter.Set[c.Name] = *c.Value
		return nil
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
		if topic == nil {
			alter.Set[c.Name] = *c.Value // to be refused
			return nil
		}
		i := slices.IndexFunc(topic.Configs, func(t api.TopicConfig) bool { return t.Name == c.Name && t.Type == "list" })
		if i < 0 {
			return kafkaError(kerr.InvalidConfig, "%s is not a list", c.Name)
		}
		if len(*c.Value) > maxListText {
			return kafkaError(kerr.InvalidConfig, "a value of %d bytes for %s; a list has at most %d", len(*c.Value), c.Name, maxListText)
		}
		alter.Set[c.Name] = editList(topic.Configs[i].Value, *c.Value, c.Op == kmsg.IncrementalAlterConfigOpAppend)
		return nil
	default:
		return kafkaError(kerr.InvalidRequest, "operation %d on %s is none of set, delete, append and subtract", c.Op, c.Name)
	}
}

// alter carries changes out. A trial is one creation of a topic of the same configs
// that stops short of being one.
func (d *Door) alter(ctx context.Context, topic *api.Topic, alter *api.AlterTopic, validateOnly bool) *api.Error {
	if len(alter.Set)+len(alter.Unset) == 0 {
		return nil
	}
	if !validateOnly {
		return asError(d.services.Topics.AlterTopic(ctx, alter))
	}
	trial := &api.CreateTopic{Name: trialName, Partitions: 1, ReplicationFactor: 1, Configs: make(map[string]string), ValidateOnly: true}
	for _, c := range topic.Configs {
		if !c.IsDefault && !slices.Contains(alter.Unset, c.Name) {
			trial.Configs[c.Name] = c.Value
		}
	}
	maps.Copy(trial.Configs, alter.Set)
	_, err := d.services.Topics.CreateTopic(ctx, trial)
	return asError(err)
}

// trialName is a topic that only is thought of.
const trialName = "penstock-validate-configs"
