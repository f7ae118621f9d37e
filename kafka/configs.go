package kafka

import (
	"context"
	"maps"
	"slices"
	"strconv"

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
		if id, err := strconv.ParseInt(name, 10, 32); name != "" && (err != nil || int32(id) != d.services.Cluster.NodeID()) {
			return nil, kafkaError(kerr.InvalidRequest, "%q is not this broker, which is %d", name, d.services.Cluster.NodeID())
		}
		return d.brokerConfigs(), nil
	default:
		return nil, kafkaError(kerr.InvalidRequest, "resources of type %d have no configs", kind)
	}
}

// brokerConfigs are those keys of a broker that mean what they mean in Kafka.
func (d *Door) brokerConfigs() []api.TopicConfig {
	number := func(name string, v int32) api.TopicConfig {
		return api.TopicConfig{Name: name, Value: strconv.Itoa(int(v)), Type: "int"}
	}
	return []api.TopicConfig{
		{Name: "auto.create.topics.enable", Value: strconv.FormatBool(d.opts.AutoCreate), Type: "boolean"},
		{Name: "connections.max.idle.ms", Value: strconv.FormatInt(d.opts.IdleTimeout.Milliseconds(), 10), Type: "long"},
		number("default.replication.factor", d.opts.ReplicationFactor),
		number("node.id", d.services.Cluster.NodeID()),
		number("num.partitions", max(d.opts.NumPartitions, 1)),
		number("socket.request.max.bytes", maxFrame),
	}
}

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
		if e == nil {
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
		if e == nil {
			e = d.alter(ctx, topic, &alter, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = c.code(e), messageOf(e)
		resp.Resources = append(resp.Resources, out)
	}
	return resp, nil
}

// alterable finds the topic whose configs are to change.
func (d *Door) alterable(ctx context.Context, kind kmsg.ConfigResourceType, name string) (*api.Topic, *api.Error) {
	if kind != kmsg.ConfigResourceTypeTopic {
		return nil, kafkaError(kerr.InvalidRequest, "only configs of topics can be changed; a broker's are in its file")
	}
	topic, err := d.services.Topics.DescribeTopic(ctx, name)
	return topic, asError(err)
}

// change notes one operation on a config.
func change(topic *api.Topic, alter *api.AlterTopic, c *kmsg.IncrementalAlterConfigsRequestResourceConfig) *api.Error {
	if c.Op == kmsg.IncrementalAlterConfigOpDelete {
		alter.Unset = append(alter.Unset, c.Name)
		return nil
	}
	if c.Value == nil {
		return kafkaError(kerr.InvalidConfig, "%s has no value", c.Name)
	}
	switch c.Op {
	case kmsg.IncrementalAlterConfigOpSet:
		alter.Set[c.Name] = *c.Value
		return nil
	case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
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
