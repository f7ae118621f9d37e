package broker

import (
	"context"
	"slices"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// CreateTopic asks the controller for a topic and returns once this broker has
// applied it.
func (b *Broker) CreateTopic(ctx context.Context, req *api.CreateTopic) (api.CreatedTopic, error) {
	if req.Name == offsetsTopic {
		return api.CreatedTopic{}, api.Errorf(api.CodeInvalidTopic, "%q is internal: the brokers create it", req.Name).At(req.Name, -1)
	}
	return b.createTopic(ctx, req, false)
}

func (b *Broker) createTopic(ctx context.Context, req *api.CreateTopic, internal bool) (api.CreatedTopic, error) {
	if err := metadata.ValidateTopicName(req.Name); err != nil {
		return api.CreatedTopic{}, topicError(req.Name, err)
	}
	if _, err := metadata.ParseSettings(req.Configs); err != nil {
		return api.CreatedTopic{}, topicError(req.Name, err)
	}
	partitions := req.Partitions
	if partitions == 0 {
		partitions = 1
	}
	resp, err := b.cfg.Controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_CreateTopic{CreateTopic: &pb.CreateTopicProposal{
		Name: req.Name, Partitions: partitions, ReplicationFactor: req.ReplicationFactor,
		Configs: req.Configs, ValidateOnly: req.ValidateOnly, Internal: internal,
	}}})
	if err != nil {
		return api.CreatedTopic{}, topicError(req.Name, err)
	}
	created := api.CreatedTopic{ID: api.TopicIDFrom(resp.GetTopicId()), Partitions: partitions, ReplicationFactor: resp.GetReplicationFactor()}
	if req.ValidateOnly {
		return created, nil // No image comes of it that could be waited for.
	}
	return created, topicError(req.Name, b.settled(ctx, resp.GetIndex()))
}

// DeleteTopic removes a topic and its records.
func (b *Broker) DeleteTopic(ctx context.Context, name string) error {
	if err := b.changeable(name); err != nil {
		return err
	}
	return b.change(ctx, name, &pb.ProposeRequest{Kind: &pb.ProposeRequest_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: name}}})
}

// AlterTopic changes configs of a topic.
func (b *Broker) AlterTopic(ctx context.Context, req *api.AlterTopic) error {
	if err := b.changeable(req.Name); err != nil {
		return err
	}
	return b.change(ctx, req.Name, &pb.ProposeRequest{Kind: &pb.ProposeRequest_AlterTopic{AlterTopic: &metav1.AlterTopicConfig{
		Name: req.Name, Set: req.Set, Unset: req.Unset,
	}}})
}

func (b *Broker) changeable(name string) error {
	if name == offsetsTopic {
		return api.Errorf(api.CodeInvalidTopic, "%q is internal and cannot be changed", name).At(name, -1)
	}
	return nil
}

func (b *Broker) change(ctx context.Context, name string, req *pb.ProposeRequest) error {
	resp, err := b.cfg.Controller.Propose(ctx, req)
	if err != nil {
		return topicError(name, err)
	}
	return topicError(name, b.settled(ctx, resp.GetIndex()))
}

// settled waits until this broker acts by a change that was made.
func (b *Broker) settled(ctx context.Context, index uint64) error {
	if err := b.cfg.Images.WaitApplied(ctx, index); err != nil {
		return err
	}
	return b.applied.wait(ctx, index)
}

// topicError maps an error and names the topic in it.
func topicError(name string, err error) error {
	err = proposalError(err)
	if e, ok := err.(*api.Error); ok { //nolint:errorlint // proposalError returns it bare.
		return e.At(name, -1)
	}
	return err
}

// DescribeTopic returns a topic with its configs.
func (b *Broker) DescribeTopic(_ context.Context, name string) (*api.Topic, error) {
	t := b.cfg.Images.Image().Topic(name)
	if t == nil {
		return nil, api.Errorf(api.CodeUnknownTopic, "there is no topic %q", name).At(name, -1)
	}
	out := topicOut(t)
	out.Configs = topicConfigs(t)
	return &out, nil
}

// Metadata returns the brokers, with their addresses on a listener, and topics:
// those named that exist, or all.
func (b *Broker) Metadata(_ context.Context, topics []string, includeInternal bool, listener string) (*api.Metadata, error) {
	im := b.cfg.Images.Image()
	md := b.cluster(im, listener)
	if len(topics) > 0 {
		for _, name := range topics {
			if t := im.Topic(name); t != nil {
				md.Topics = append(md.Topics, topicOut(t))
			}
		}
		return &md, nil
	}
	for t := range im.Topics() {
		if includeInternal || !t.Internal {
			md.Topics = append(md.Topics, topicOut(t))
		}
	}
	return &md, nil
}

func (b *Broker) cluster(im *metadata.Image, listener string) api.Metadata {
	md := api.Metadata{ClusterID: im.ClusterID(), Controller: metadata.NoNode, ImageIndex: im.Index()}
	if node, ok := b.cfg.Controller.Controller(); ok {
		md.Controller = node
	}
	voters := b.cfg.Controller.Voters()
	for broker := range im.Brokers() {
		md.Brokers = append(md.Brokers, api.Broker{
			NodeID: broker.NodeID, Address: address(broker, listener), Rack: broker.Rack, Fenced: broker.Fenced,
			BrokerEpoch: broker.Epoch, Voter: slices.Contains(voters, broker.NodeID), Version: broker.Version,
			RaftAddress: broker.RaftAddress, PeerAddress: broker.PeerAddress, Decommissioning: broker.Decommissioning,
			Replaced: broker.Replaced(), VotePending: broker.VotePending, FeatureLevel: broker.FeatureLevel,
		})
	}
	return md
}

// Address is the gRPC address of a node on a listener; empty when unknown.
func (b *Broker) Address(nodeID int32, listener string) string {
	broker := b.cfg.Images.Image().Broker(nodeID)
	if broker == nil {
		return ""
	}
	return address(broker, listener)
}

func address(broker *metadata.Broker, listener string) string {
	return addressIn(broker.GRPC, listener)
}

// addressIn falls back to the first listener: a broker that has none of that name
// can still be tried.
func addressIn(endpoints []metadata.Endpoint, listener string) string {
	for _, e := range endpoints {
		if e.Listener == listener {
			return e.Address
		}
	}
	if len(endpoints) > 0 {
		return endpoints[0].Address
	}
	return ""
}

// Health counts what is amiss in the cluster, as this broker knows it; to confirm is to
// ask the controller first, for a broker that was cut off knows that all is well. A voter
// that never registered is shown as fenced: a cluster of three with one broker
// up is not well because nobody has heard of the others yet.
func (b *Broker) Health(ctx context.Context, listener string, confirm bool) (*api.ClusterHealth, error) {
	unconfirmed := confirm && !b.askMetadata(ctx, 0)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	im := b.cfg.Images.Image()
	h := &api.ClusterHealth{Metadata: b.cluster(im, listener), TopicCount: im.TopicCount(), PartitionCount: im.PartitionCount(), FeatureLevel: im.FeatureLevel(), Unconfirmed: unconfirmed}
	for _, id := range b.cfg.Controller.Voters() {
		if im.Broker(id) == nil {
			h.Brokers = append(h.Brokers, api.Broker{NodeID: id, Fenced: true, Voter: true})
		}
	}
	replicas := make(map[int32]int)
	for t := range im.Topics() {
		for _, p := range t.Partitions {
			for i := range p.Replicas {
				replicas[p.Replicas[i].NodeID]++
			}
			if p.Leader == metadata.NoNode {
				h.Leaderless++
			}
			if p.UnderReplicated() {
				h.UnderReplicated++
			}
			if len(p.ISR) < t.MinISR(p) {
				h.UnderMinISR++
			}
		}
	}
	for i := range h.Brokers {
		h.Brokers[i].Replicas = replicas[h.Brokers[i].NodeID]
	}
	return h, nil
}

func topicOut(t *metadata.Topic) api.Topic {
	out := api.Topic{
		Name: t.Name, ID: api.TopicID(t.ID), Internal: t.Internal, Durability: string(t.Settings().Durability),
		ReplicationFactor: int32(t.ReplicationFactor()), Partitions: make([]api.Partition, len(t.Partitions)),
	}
	for i, p := range t.Partitions {
		replicas := nodes(p)
		out.Partitions[i] = api.Partition{
			Partition: int32(i), Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
			Replicas: replicas, ISR: p.ISR, ELR: p.ELR, Adding: p.Adding, Removing: p.Removing(),
			LastISR: p.LastISR, Lost: p.Lost,
		}
	}
	return out
}
