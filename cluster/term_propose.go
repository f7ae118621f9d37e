package cluster

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// apply puts a command into the metadata log, under the feature level that it
// needs, and returns what it came to when this node has applied it. A *metadata.Error with NOT_CONTROLLER says that it
// will not be applied, one with REQUEST_TIMED_OUT that it may be.
func (t *term) apply(ctx context.Context, cmd *metav1.Command) (metadata.Result, error) {
	cmd.Version = metadata.CommandLevel(cmd)
	data, err := proto.Marshal(cmd)
	if err != nil {
		return metadata.Result{}, fmt.Errorf("encode command: %w", err)
	}
	if len(data) > metadata.MaxCommandBytes {
		return metadata.Result{}, newError(pb.ErrorCode_ERROR_CODE_REQUEST_TOO_LARGE,
			"the change takes %d bytes of the metadata log; at most %d are allowed in one", len(data), metadata.MaxCommandBytes)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTry)
	defer cancel()
	f := t.node.raft.Apply(data, proposeTry)
	if err := t.node.await(ctx, f); err != nil {
		if raftRefused(err) {
			return metadata.Result{}, newError(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, "node %d did not take the change: %v", t.node.cfg.NodeID, err)
		}
		return metadata.Result{}, newError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, "the change may or may not be applied: %v", err)
	}
	select {
	case t.spread <- struct{}{}:
	default:
	}
	a, ok := f.Response().(applied)
	if !ok {
		return metadata.Result{}, newError(pb.ErrorCode_ERROR_CODE_UNKNOWN, "the metadata log answered %T", f.Response())
	}
	return a.result, a.err
}

// propose decides and proposes what a broker asked for.
func (t *term) propose(ctx context.Context, req *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	if err := t.awaitReady(ctx); err != nil {
		return nil, err
	}
	id, ok := metadata.ParseID(req.GetCommandId())
	if !ok {
		return nil, newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "command id %x: must be 16 bytes", req.GetCommandId())
	}
	if v := req.GetVoter(); v != nil {
		return t.changeVoter(ctx, v)
	}
	if o, ok := t.node.Image().Applied(id); ok {
		// A retry. Answered from memory here, so that a topic is not placed twice.
		if o.Err != nil {
			return nil, o.Err
		}
		return t.answer(ctx, req, o.Result)
	}
	cmd := &metav1.Command{Id: req.GetCommandId(), TimeMs: time.Now().UnixMilli()}
	switch k := req.GetKind().(type) {
	case *pb.ProposeRequest_CreateTopic, *pb.ProposeRequest_AddPartitions:
		return t.placeAndApply(ctx, req, cmd)
	case *pb.ProposeRequest_Register:
		if err := t.checkRegistration(k.Register); err != nil {
			return nil, err
		}
		cmd.Kind = &metav1.Command_RegisterBroker{RegisterBroker: k.Register}
	case *pb.ProposeRequest_ChangeIsr:
		cmd.Kind = &metav1.Command_ChangeIsr{ChangeIsr: k.ChangeIsr}
	case *pb.ProposeRequest_DeleteTopic:
		cmd.Kind = &metav1.Command_DeleteTopic{DeleteTopic: k.DeleteTopic}
	case *pb.ProposeRequest_AlterTopic:
		cmd.Kind = &metav1.Command_AlterTopicConfig{AlterTopicConfig: k.AlterTopic}
	case *pb.ProposeRequest_Decommission:
		return t.decommission(ctx, req, cmd)
	case *pb.ProposeRequest_Rebalance:
		return t.rebalance(ctx, req)
	case *pb.ProposeRequest_ElectPreferred:
		return t.electPreferred(ctx, req, cmd)
	case *pb.ProposeRequest_Reassign:
		cmd.Kind = &metav1.Command_ReassignPartitions{ReassignPartitions: k.Reassign}
	case *pb.ProposeRequest_Recover:
		cmd.Kind = &metav1.Command_RecoverReplica{RecoverReplica: k.Recover}
	case *pb.ProposeRequest_AllocateProducerIds:
		cmd.Kind = &metav1.Command_AllocateProducerIds{AllocateProducerIds: k.AllocateProducerIds}
	default:
		operate, err := t.prepareOperate(req)
		if err != nil {
			return nil, err
		}
		if operate == nil {
			return nil, newError(pb.ErrorCode_ERROR_CODE_UNSUPPORTED, "a proposal of a kind that node %d does not know", t.node.cfg.NodeID)
		}
		cmd.Kind = operate.GetKind()
	}
	result, err := t.apply(ctx, cmd)
	if err != nil {
		return nil, err
	}
	t.tellOperate(cmd)
	return t.answer(ctx, req, result)
}

// answer responds to a proposal once what belongs to it is done.
func (t *term) answer(ctx context.Context, req *pb.ProposeRequest, r metadata.Result) (*pb.ProposeResponse, error) {
	resp := t.respond(req, r)
	if err := t.afterOperate(ctx, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// checkRegistration refuses what Apply would accept but nobody could work with.
func (t *term) checkRegistration(r *metav1.RegisterBroker) error {
	if r.GetNodeId() < 1 || r.GetPeerAddress() == "" {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT,
			"registration of node %d at %q: needs a node id of at least 1 and a peer address", r.GetNodeId(), r.GetPeerAddress())
	}
	return nil
}

func (t *term) respond(req *pb.ProposeRequest, r metadata.Result) *pb.ProposeResponse {
	resp := &pb.ProposeResponse{
		Index: r.Index, FirstProducerId: r.FirstProducerID, ReplicationFactor: int32(r.ReplicationFactor),
	}
	if !r.TopicID.IsZero() {
		resp.TopicId = r.TopicID[:]
	}
	for i := range changesOf(req) {
		e := &pb.Error{Partition: -1}
		if i < len(r.Refused) && r.Refused[i] != nil {
			refused := r.Refused[i]
			e.Code, e.Message, e.Retriable = pb.ErrorCode(refused.Code), refused.Message, retriable(refused.Code)
		}
		resp.Results = append(resp.Results, e)
	}
	return resp
}

// changesOf is the number of changes of a proposal that are answered one by one.
func changesOf(req *pb.ProposeRequest) int {
	switch k := req.GetKind().(type) {
	case *pb.ProposeRequest_ChangeIsr:
		return len(k.ChangeIsr.GetChanges())
	case *pb.ProposeRequest_Reassign:
		return len(k.Reassign.GetPartitions())
	case *pb.ProposeRequest_ElectPreferred:
		return len(k.ElectPreferred.GetPartitions())
	default:
		return 0
	}
}

// placeAndApply proposes a topic or more partitions of one, placed over the
// brokers that are alive. One is placed at a time, so that each placement sees
// the one before.
func (t *term) placeAndApply(ctx context.Context, req *pb.ProposeRequest, cmd *metav1.Command) (*pb.ProposeResponse, error) {
	select {
	case t.creating <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	result, err := func() (metadata.Result, error) {
		defer func() { <-t.creating }()
		im := t.node.Image()
		if err := t.fillPlaced(im, req, cmd); err != nil {
			return metadata.Result{}, err
		}
		if validateOnly(req) {
			// What Apply would say, and nothing comes of it.
			cmd.Version = metadata.CommandLevel(cmd)
			_, result, err := metadata.Apply(im, im.Index()+1, cmd)
			return result, err
		}
		return t.apply(ctx, cmd)
	}()
	if err != nil {
		return nil, err
	}
	if validateOnly(req) {
		return t.respond(req, result), nil
	}
	return t.answer(ctx, req, result)
}

func validateOnly(req *pb.ProposeRequest) bool {
	return req.GetCreateTopic().GetValidateOnly() || req.GetAddPartitions().GetValidateOnly()
}

func (t *term) fillPlaced(im *metadata.Image, req *pb.ProposeRequest, cmd *metav1.Command) error {
	if ask := req.GetAddPartitions(); ask != nil {
		add, err := t.addPartitions(im, ask)
		cmd.Kind = &metav1.Command_AddPartitions{AddPartitions: add}
		return err
	}
	create, err := t.place(im, req.GetCreateTopic())
	cmd.Kind = &metav1.Command_CreateTopic{CreateTopic: create}
	return err
}

// place fills in what the proposal leaves open. What is wrong with the rest of
// it is for Apply to say, but for what makes a placement impossible.
func (t *term) place(im *metadata.Image, ask *pb.CreateTopicProposal) (*metav1.CreateTopic, error) {
	if err := metadata.ValidateTopicName(ask.GetName()); err != nil {
		return nil, err
	}
	if im.Topic(ask.GetName()) != nil {
		return nil, newError(pb.ErrorCode_ERROR_CODE_TOPIC_EXISTS, "topic %s exists", ask.GetName())
	}
	if _, err := metadata.ParseSettings(ask.GetConfigs()); err != nil {
		return nil, err
	}
	partitions, rf := int(ask.GetPartitions()), int(ask.GetReplicationFactor())
	if partitions == 0 {
		partitions = 1
	}
	if rf == 0 {
		for b := range im.Brokers() {
			if !b.Fenced && !b.Decommissioning && rf < 3 {
				rf++
			}
		}
	}
	id := newCommandID()
	seed := fnv.New64a()
	_, _ = seed.Write(id) // a hash's Write never fails
	assignments, err := controller.Place(im, partitions, rf, seed.Sum64())
	if err != nil {
		return nil, err
	}
	return &metav1.CreateTopic{
		Name: ask.GetName(), TopicId: id, Partitions: assignments, Configs: ask.GetConfigs(), Internal: ask.GetInternal(),
	}, nil
}

// appliedEverywhere waits until every broker that is not fenced has told that it
// applied index, or a short time passed: a client that goes on to any broker
// then finds there what it was told. It is a courtesy, not a promise.
func (t *term) appliedEverywhere(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, t.node.cfg.AppliedWait)
	defer cancel()
	for {
		done, progressed := t.appliedBy(index)
		if done {
			return
		}
		select {
		case <-progressed:
		case <-t.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// appliedBy reports whether all brokers have applied index, and else when to
// look again.
func (t *term) appliedBy(index uint64) (bool, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for b := range t.node.Image().Brokers() {
		if b.Fenced || b.NodeID == t.node.cfg.NodeID {
			continue
		}
		// A broker without a stream is stopping, starting or gone.
		s := t.brokers[b.NodeID]
		if s != nil && s.epoch == b.Epoch && s.stream != nil && s.applied < index {
			return false, t.progressed
		}
	}
	return true, nil
}

// Join adds a node to the quorum without a vote, or takes in the new address of
// one that is in it, which keeps its vote. Only the controller answers.
func (n *Node) Join(ctx context.Context, r *pb.JoinRequest) (*pb.JoinResponse, error) {
	t := n.term.Load()
	if t == nil {
		return nil, Status(n.notController())
	}
	if err := t.join(ctx, r); err != nil {
		return nil, Status(err)
	}
	return &pb.JoinResponse{ClusterId: n.ClusterID()}, nil
}

func (t *term) join(ctx context.Context, r *pb.JoinRequest) error {
	n := t.node
	if err := t.awaitReady(ctx); err != nil {
		return err
	}
	if err := n.checkCaller(r.GetClusterId(), r.GetNodeId(), r.GetStorageId()); err != nil {
		return err
	}
	id, _ := metadata.ParseID(r.GetStorageId())
	if r.GetRaftAddress() == "" || len(r.GetRaftAddress()) > maxAddress {
		return newError(pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, "raft address %q: must have 1 to %d characters", r.GetRaftAddress(), maxAddress)
	}
	if known, conflict := n.conflict(r.GetNodeId(), id, r.GetRaftAddress()); conflict {
		return &IdentityConflictError{NodeID: r.GetNodeId(), Known: known, Found: id}
	}
	if level := n.Image().FeatureLevel(); max(r.GetFeatureLevel(), 1) < level {
		return newError(pb.ErrorCode_ERROR_CODE_UNSUPPORTED, "node %d knows feature level %d, the cluster is at %d: it needs a newer release",
			r.GetNodeId(), max(r.GetFeatureLevel(), 1), level)
	}
	for _, s := range n.configuration() {
		if s.ID == serverID(id) && string(s.Address) == r.GetRaftAddress() {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTry)
	defer cancel()
	err := n.await(ctx, n.raft.AddNonvoter(serverID(id), raft.ServerAddress(r.GetRaftAddress()), 0, proposeTry))
	switch {
	case err == nil:
		n.logger.Info("node joined the metadata quorum, or moved in it", "node", r.GetNodeId(), "storage_id", id, "address", r.GetRaftAddress())
		return nil
	case raftRefused(err):
		return n.notController()
	default:
		return newError(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT, "node %d may or may not have joined: %v", r.GetNodeId(), err)
	}
}
