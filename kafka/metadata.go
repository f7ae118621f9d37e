package kafka

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// noOperations says that authorized operations are not told.
const noOperations = -1 << 31

func metadata(ctx context.Context, d *Door, c *call, req *kmsg.MetadataRequest) (*kmsg.MetadataResponse, error) {
	resp := kmsg.NewPtrMetadataResponse()
	resp.AuthorizedOperations = noOperations
	all := req.Topics == nil || c.version == 0 && len(req.Topics) == 0
	req.Topics = distinct(req.Topics, func(t *kmsg.MetadataRequestTopic) metadataKey {
		return metadataKey{t.Topic != nil, value(t.Topic), t.TopicID}
	})
	named := make([]metadataTopic, len(req.Topics))
	names := make([]string, 0, len(req.Topics))
	for i := range req.Topics {
		t := &named[i]
		*t = d.metadataTopic(&req.Topics[i])
		if t.name != "" {
			names = append(names, t.name)
		}
	}
	if req.AllowAutoTopicCreation || c.version < 4 {
		d.autoCreate(ctx, names)
	}
	if c.patient {
		d.services.Cluster.AwaitLeaders(ctx, d.wanted(all, names))
	}
	md, err := d.services.Cluster.Metadata(ctx, d.wanted(all, names), true, c.listener)
	if err != nil {
		return nil, err
	}
	d.metadataBrokers(resp, md, c.listener)
	if all {
		for i := range md.Topics {
			resp.Topics = append(resp.Topics, metadataTopicOut(c, &md.Topics[i], md))
		}
		return resp, nil
	}
	found := make(map[string]*api.Topic, len(md.Topics))
	for i := range md.Topics {
		found[md.Topics[i].Name] = &md.Topics[i]
	}
	for i := range named {
		n := &named[i]
		if t := found[n.name]; t != nil {
			resp.Topics = append(resp.Topics, metadataTopicOut(c, t, md))
			continue
		}
		out := kmsg.NewMetadataResponseTopic()
		out.Topic, out.TopicID, out.ErrorCode = n.asked, n.id, c.fail(n.missing)
		out.AuthorizedOperations = noOperations
		resp.Topics = append(resp.Topics, out)
	}
	return resp, nil
}

// metadataKey is how a request names a topic.
type metadataKey struct {
	named bool
	name  string
	id    [16]byte
}

// metadataTopic is one topic of a request.
type metadataTopic struct {
	name    string // empty: nobody has it
	asked   *string
	id      [16]byte
	missing *kerr.Error // what to say when there is none
}

func (d *Door) metadataTopic(t *kmsg.MetadataRequestTopic) metadataTopic {
	if t.Topic != nil {
		n := metadataTopic{name: *t.Topic, asked: t.Topic, missing: kerr.UnknownTopicOrPartition}
		if !validName(n.name) {
			n.name, n.missing = "", kerr.InvalidTopicException
		}
		return n
	}
	name, _ := d.services.Cluster.TopicName(t.TopicID)
	return metadataTopic{name: name, id: t.TopicID, missing: kerr.UnknownTopicID}
}

// wanted names the topics to look up. Nothing may be asked for in three ways:
// every topic, none, and some.
func (d *Door) wanted(all bool, names []string) []string {
	if !all && len(names) == 0 {
		return []string{""} // No topic has this name.
	}
	return names
}

func (d *Door) metadataBrokers(resp *kmsg.MetadataResponse, md *api.Metadata, listener string) {
	resp.ClusterID, resp.ControllerID = &md.ClusterID, -1
	for i := range md.Brokers {
		b := &md.Brokers[i]
		host, port, ok := hostPort(d.services.Cluster.KafkaAddress(b.NodeID, listener))
		if !ok || b.Fenced {
			continue
		}
		out := kmsg.NewMetadataResponseBroker()
		out.NodeID, out.Host, out.Port, out.Rack = b.NodeID, host, port, rackOf(b)
		resp.Brokers = append(resp.Brokers, out)
		if b.NodeID == md.Controller {
			resp.ControllerID = b.NodeID
		}
	}
	if resp.ControllerID < 0 && len(resp.Brokers) > 0 {
		// Any broker passes changes on to the controller, as in Kafka without ZooKeeper.
		resp.ControllerID = d.services.Cluster.NodeID()
	}
}

func rackOf(b *api.Broker) *string {
	if b.Rack == "" {
		return nil
	}
	return &b.Rack
}

func metadataTopicOut(c *call, t *api.Topic, md *api.Metadata) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal, out.AuthorizedOperations = &t.Name, t.ID, t.Internal, noOperations
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		p, v := &t.Partitions[i], &out.Partitions[i]
		v.Default()
		v.Partition, v.Leader, v.LeaderEpoch = p.Partition, p.Leader, p.LeaderEpoch
		v.Replicas, v.ISR, v.OfflineReplicas = p.Replicas, p.ISR, offline(p.Replicas, md)
		if p.Leader < 0 {
			v.ErrorCode = c.fail(kerr.LeaderNotAvailable)
		}
		if c.version == 0 && v.ErrorCode == 0 && len(v.OfflineReplicas) > 0 {
			v.ErrorCode = c.fail(kerr.ReplicaNotAvailable)
		}
	}
	return out
}

// offline are the replicas on brokers that are not alive.
func offline(replicas []int32, md *api.Metadata) []int32 {
	out := []int32{}
	for _, id := range replicas {
		alive := slices.ContainsFunc(md.Brokers, func(b api.Broker) bool { return b.NodeID == id && !b.Fenced })
		if !alive {
			out = append(out, id)
		}
	}
	return out
}

// autoCreate makes the topics that are not there, if this door does so. What fails
// is told to nobody: the client is answered that there is no such topic, and asks
// again.
func (d *Door) autoCreate(ctx context.Context, names []string) {
	if !d.opts.AutoCreate || len(names) == 0 {
		return
	}
	md, err := d.services.Cluster.Metadata(ctx, names, true, "")
	if err != nil || len(md.Topics) == len(names) {
		return
	}
	there := make(map[string]bool, len(md.Topics))
	for i := range md.Topics {
		there[md.Topics[i].Name] = true
	}
	slots := make(chan struct{}, autoCreators)
	var wg sync.WaitGroup
	for _, name := range names {
		if there[name] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := d.services.Topics.CreateTopic(ctx, &api.CreateTopic{
				Name: name, Partitions: d.opts.NumPartitions, ReplicationFactor: d.opts.ReplicationFactor,
			})
			if e := asError(err); e != nil && e.Code != api.CodeTopicExists && !errors.Is(err, context.Canceled) {
				d.logger.Warn("a topic could not be created on first use", "topic", name, "error", e)
			}
		})
	}
	wg.Wait()
}

// autoCreators is how many topics of one request are created at once.
const autoCreators = 8

// validName checks Kafka's rules for topic names; the broker has them too, and the
// last word.
func validName(name string) bool {
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
