package client

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Admin manages topics and groups and shows the cluster. Its calls retry what is
// safe to retry until their context ends, or three request timeouts have passed
// when it has no deadline.
type Admin struct{ c *Client }

// Admin returns the administrative calls of the client.
func (c *Client) Admin() *Admin { return &Admin{c: c} }

// askAdmin runs a call without effects on any broker.
func askAdmin[T any](ctx context.Context, c *Client, do func(context.Context, pb.AdminServiceClient) (T, error)) (T, error) {
	ctx, cancel := c.patient(ctx)
	defer cancel()
	var out T
	err := c.retry(ctx, notReady, func(ctx context.Context) (err error) {
		out, err = ask(ctx, c, func(ctx context.Context, conn *grpc.ClientConn, _ string) (T, error) {
			return do(ctx, pb.NewAdminServiceClient(conn))
		})
		return err
	})
	return out, err
}

// change runs a call with effects, once, on a broker that is known to answer: the
// outcome of a call that breaks is indefinite, and that is the caller's to judge.
// Refusals that had no effect are tried again.
func (a *Admin) change(ctx context.Context, do func(context.Context, pb.AdminServiceClient) error) error {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	return a.c.retry(ctx, refusedForNow, func(ctx context.Context) error {
		address, err := a.c.answering(ctx)
		if err != nil {
			return err
		}
		return a.c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
			return do(ctx, pb.NewAdminServiceClient(conn))
		})
	})
}

// answering finds a broker that answers now.
func (c *Client) answering(ctx context.Context) (string, error) {
	return ask(ctx, c, func(ctx context.Context, conn *grpc.ClientConn, address string) (string, error) {
		_, err := pb.NewAdminServiceClient(conn).DescribeCluster(ctx, &pb.DescribeClusterRequest{})
		return address, err
	})
}

// notReady reports whether a broker may answer later what it refused now.
func notReady(err error) bool {
	if _, ok := errors.AsType[*BootstrapError](err); ok {
		return false // all were asked: the caller should know at once
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case CodeShuttingDown, CodeOverloaded, CodeNotController, CodeLeaderNotAvailable, CodeOffsetNotAvailable:
		return true
	case CodeUnknown:
		return e.Retriable
	default:
		return false
	}
}

func refusedForNow(err error) bool { return notReady(err) && !IsIndefinite(err) }

// CreateTopic creates a topic.
func (a *Admin) CreateTopic(ctx context.Context, spec TopicSpec) (*CreatedTopic, error) {
	var out *CreatedTopic
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		resp, err := s.CreateTopic(ctx, &pb.CreateTopicRequest{
			Name: spec.Name, Partitions: spec.Partitions, ReplicationFactor: spec.ReplicationFactor,
			Configs: spec.Configs, ValidateOnly: spec.ValidateOnly,
		})
		if err != nil {
			return err
		}
		out = &CreatedTopic{Partitions: resp.GetPartitions(), ReplicationFactor: resp.GetReplicationFactor()}
		copy(out.ID[:], resp.GetTopicId())
		return nil
	})
	if err == nil && !spec.ValidateOnly {
		a.c.meta.refresh()
	}
	return out, err
}

// DeleteTopic deletes a topic and its records.
func (a *Admin) DeleteTopic(ctx context.Context, name string) error {
	err := a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		_, err := s.DeleteTopic(ctx, &pb.DeleteTopicRequest{Name: name})
		return err
	})
	if err == nil {
		a.c.meta.refresh()
	}
	return err
}

// AlterTopic sets configs and returns those in unset to their defaults.
func (a *Admin) AlterTopic(ctx context.Context, name string, set map[string]string, unset ...string) error {
	return a.change(ctx, func(ctx context.Context, s pb.AdminServiceClient) error {
		_, err := s.AlterTopic(ctx, &pb.AlterTopicRequest{Name: name, Set: set, Unset: unset})
		return err
	})
}

// DescribeTopic returns a topic with its partitions and all its configs.
func (a *Admin) DescribeTopic(ctx context.Context, name string) (*Topic, error) {
	resp, err := askAdmin(ctx, a.c, func(ctx context.Context, s pb.AdminServiceClient) (*pb.DescribeTopicResponse, error) {
		return s.DescribeTopic(ctx, &pb.DescribeTopicRequest{Name: name})
	})
	if err != nil {
		return nil, err
	}
	t := topicFrom(resp.GetTopic())
	for _, c := range resp.GetConfigs() {
		t.Configs = append(t.Configs, TopicConfig{
			Name: c.GetName(), Value: c.GetValue(), IsDefault: c.GetIsDefault(), Type: c.GetType(), Documentation: c.GetDocumentation(),
		})
	}
	return &t, nil
}

// ListTopics returns all topics by name, with the internal ones if asked.
func (a *Admin) ListTopics(ctx context.Context, internal bool) ([]Topic, error) {
	resp, err := askAdmin(ctx, a.c, func(ctx context.Context, s pb.AdminServiceClient) (*pb.MetadataResponse, error) {
		return s.Metadata(ctx, &pb.MetadataRequest{IncludeInternal: internal})
	})
	if err != nil {
		return nil, err
	}
	out := make([]Topic, 0, len(resp.GetTopics()))
	for _, t := range resp.GetTopics() {
		out = append(out, topicFrom(t))
	}
	slices.SortFunc(out, func(x, y Topic) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

// Cluster returns brokers, controller, and what is amiss in numbers, as the controller
// knows it. Where no controller answers within a second it is what some broker heard last,
// and Unconfirmed. Which leaders are damaged the brokers tell themselves, within another second.
func (a *Admin) Cluster(ctx context.Context) (*Cluster, error) {
	c, err := a.describeCluster(ctx)
	if err != nil {
		return nil, err
	}
	c.DamagedLeaders = a.damagedLeaders(ctx, c.Brokers)
	return c, nil
}

func (a *Admin) describeCluster(ctx context.Context) (*Cluster, error) {
	resp, err := askAdmin(ctx, a.c, func(ctx context.Context, s pb.AdminServiceClient) (*pb.DescribeClusterResponse, error) {
		return s.DescribeCluster(ctx, &pb.DescribeClusterRequest{Confirm: true})
	})
	if err != nil {
		return nil, err
	}
	return &Cluster{
		ID: resp.GetClusterId(), Controller: resp.GetController(), Brokers: brokersFrom(resp.GetBrokers()),
		Topics: int(resp.GetTopics()), Partitions: int(resp.GetPartitions()),
		Leaderless: int(resp.GetLeaderlessPartitions()), UnderReplicated: int(resp.GetUnderReplicatedPartitions()),
		UnderMinISR: int(resp.GetUnderMinIsrPartitions()), ImageIndex: resp.GetImageIndex(),
		FeatureLevel: resp.GetFeatureLevel(), Unconfirmed: resp.GetUnconfirmed(),
	}, nil
}

// ListOffsets looks an offset up in each partition: Earliest, Latest or AtTime.
// Answers are in the order of parts, each with an error of its own.
func (a *Admin) ListOffsets(ctx context.Context, where Offset, parts ...TopicPartition) ([]FoundOffset, error) {
	if where.kind == offsetExact || where.kind == offsetNone {
		return nil, &ConfigError{Faults: []string{"ListOffsets takes Earliest, Latest or AtTime; an offset needs no look-up"}}
	}
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	if err := a.c.checkPartitions(ctx, parts); err != nil {
		return nil, err
	}
	out := make([]FoundOffset, len(parts))
	todo := make([]int, len(parts))
	for i := range parts {
		out[i].TopicPartition, todo[i] = parts[i], i
	}
	for n := 1; ; n++ {
		todo = a.c.listOffsets(ctx, where, out, todo)
		if len(todo) == 0 {
			return out, nil
		}
		a.c.meta.refresh()
		if err := sleep(ctx, a.c.backoff(n)); err != nil {
			return out, errors.Join(out[todo[0]].Err, err)
		}
	}
}

// checkPartitions makes sure that the partitions exist.
func (c *Client) checkPartitions(ctx context.Context, parts []TopicPartition) error {
	for _, tp := range parts {
		if _, err := c.meta.partition(ctx, tp); err != nil {
			return err
		}
	}
	return nil
}

// resolve makes an exact offset of where for each partition. AtTime past the last
// record means the end.
func (a *Admin) resolve(ctx context.Context, where Offset, parts []TopicPartition) ([]FoundOffset, error) {
	if where.kind == offsetExact {
		out := make([]FoundOffset, len(parts))
		for i, tp := range parts {
			out[i] = FoundOffset{TopicPartition: tp, Offset: where.value, LeaderEpoch: -1}
		}
		return out, nil
	}
	out, err := a.ListOffsets(ctx, where, parts...)
	if err != nil {
		return nil, err
	}
	for i, f := range out {
		if f.Err == nil && f.Offset < 0 {
			end, err := a.ListOffsets(ctx, Latest(), f.TopicPartition)
			if err != nil {
				return nil, err
			}
			out[i] = end[0]
		}
		if out[i].Err != nil {
			return nil, out[i].Err
		}
	}
	return out, nil
}

func unknownPartition(tp TopicPartition, n int) *Error {
	return &Error{
		Code: CodeUnknownPartition, Message: "the topic has partitions 0 to " + TopicPartition{"", int32(n - 1)}.String()[1:],
		Topic: tp.Topic, Partition: tp.Partition,
	}
}

// Partitions lists the partitions of a topic.
func (a *Admin) Partitions(ctx context.Context, topic string) ([]TopicPartition, error) {
	ctx, cancel := a.c.patient(ctx)
	defer cancel()
	t, err := a.c.meta.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make([]TopicPartition, len(t.parts))
	for i := range out {
		out[i] = TopicPartition{topic, int32(i)}
	}
	return out, nil
}
