package metadata

import (
	"fmt"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// The images' objects as messages of snapshots, and back.

func brokerState(b *Broker) *metav1.BrokerState {
	return &metav1.BrokerState{
		NodeId: b.NodeID, StorageId: storageState(&b.StorageID), Replaced: b.Replaced(), VotePending: b.VotePending, BrokerEpoch: b.Epoch, Fenced: b.Fenced,
		Grpc: endpointStates(b.GRPC), Kafka: endpointStates(b.Kafka),
		PeerAddress: b.PeerAddress, RaftAddress: b.RaftAddress, Rack: b.Rack, Version: b.Version, FeatureLevel: b.FeatureLevel,
		Decommissioning: b.Decommissioning, DecommissionThrottle: b.DecommissionThrottle,
	}
}

// storageState is empty for a data directory that was given up.
func storageState(id *ID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

func endpointStates(in []Endpoint) []*metav1.Endpoint {
	var out []*metav1.Endpoint
	for _, e := range in {
		out = append(out, &metav1.Endpoint{Listener: e.Listener, Address: e.Address})
	}
	return out
}

func topicState(t *Topic) *metav1.TopicState {
	s := &metav1.TopicState{
		Name: t.Name, TopicId: t.ID[:], Configs: t.Configs, Internal: t.Internal, CreatedIndex: t.CreatedIndex,
		Partitions: make([]*metav1.PartitionState, len(t.Partitions)),
	}
	// The messages of a topic are made in blocks: one by one they would be what a
	// snapshot spends most of its time on.
	n := 0
	for _, p := range t.Partitions {
		n += len(p.Replicas)
	}
	partitions, replicas, pointers := make([]metav1.PartitionState, len(t.Partitions)), make([]metav1.ReplicaState, n), make([]*metav1.ReplicaState, n)
	n = 0
	for i, p := range t.Partitions {
		ps := &partitions[i]
		ps.Leader, ps.LeaderEpoch, ps.PartitionEpoch = p.Leader, p.LeaderEpoch, p.PartitionEpoch
		ps.Isr, ps.Elr, ps.LastIsr, ps.LossyEpoch, ps.Lost = p.ISR, p.ELR, p.LastISR, p.LossyEpoch, p.Lost
		ps.Target, ps.Adding, ps.ReassignmentThrottle = p.Target, p.Adding, p.Throttle
		ps.Replicas = pointers[n : n+len(p.Replicas) : n+len(p.Replicas)]
		for j := range p.Replicas {
			r, rs := &p.Replicas[j], &replicas[n]
			rs.NodeId, rs.StorageId, rs.RecoveredBrokerEpoch = r.NodeID, storageState(&r.StorageID), r.RecoveredEpoch
			rs.LastEpoch, rs.LogEndOffset, rs.Damage = r.LastEpoch, r.LogEndOffset, metav1.Damage(r.Damage)
			pointers[n] = rs
			n++
		}
		s.Partitions[i] = ps
	}
	return s
}

func appliedCommand(r remembered) *metav1.AppliedCommand {
	a := &metav1.AppliedCommand{
		Id: r.id[:], Index: r.Result.Index, FirstProducerId: r.Result.FirstProducerID,
		ReplicationFactor: int32(r.Result.ReplicationFactor),
	}
	if !r.Result.TopicID.IsZero() {
		a.TopicId = r.Result.TopicID[:]
	}
	if r.Err != nil {
		a.ErrorCode, a.ErrorMessage = int32(r.Err.Code), r.Err.Message
	}
	for i, err := range r.Result.Refused {
		if err != nil {
			a.Refused = append(a.Refused, &metav1.RefusedChange{Change: uint32(i), ErrorCode: int32(err.Code), ErrorMessage: err.Message})
		}
	}
	a.Changes = uint32(len(r.Result.Refused))
	return a
}

func (im *Image) addEntry(e *metav1.ImageEntry) error {
	switch k := e.GetKind().(type) {
	case *metav1.ImageEntry_Broker:
		return im.addBroker(k.Broker)
	case *metav1.ImageEntry_Topic:
		return im.addTopic(k.Topic)
	case *metav1.ImageEntry_AppliedCommand:
		return im.addApplied(k.AppliedCommand)
	case *metav1.ImageEntry_StagedRegistration:
		return im.addStaged(k.StagedRegistration)
	case *metav1.ImageEntry_RetiredStorage:
		return im.addRetired(k.RetiredStorage)
	case *metav1.ImageEntry_DeletedTopic:
		return im.addDeletion(k.DeletedTopic)
	default:
		return fmt.Errorf("is of an unknown kind")
	}
}

func (im *Image) addBroker(s *metav1.BrokerState) error {
	storage, ok := storageOf(s.GetStorageId())
	if !ok || storage.IsZero() != s.GetReplaced() || im.Broker(s.GetNodeId()) != nil {
		return fmt.Errorf("broker %d is there twice or has no storage id", s.GetNodeId())
	}
	im.brokers = im.brokers.set(s.GetNodeId(), &Broker{
		NodeID: s.GetNodeId(), StorageID: storage, Epoch: s.GetBrokerEpoch(), Fenced: s.GetFenced(),
		GRPC: endpoints(s.GetGrpc()), Kafka: endpoints(s.GetKafka()),
		PeerAddress: s.GetPeerAddress(), RaftAddress: s.GetRaftAddress(),
		Rack: s.GetRack(), Version: s.GetVersion(), FeatureLevel: s.GetFeatureLevel(),
		Decommissioning: s.GetDecommissioning(), DecommissionThrottle: s.GetDecommissionThrottle(),
		VotePending: s.GetVotePending(),
	})
	return nil
}

// storageOf is the inverse of storageState.
func storageOf(b []byte) (id ID, ok bool) {
	if len(b) == 0 {
		return ID{}, true
	}
	return ParseID(b)
}

func (im *Image) addTopic(s *metav1.TopicState) error {
	id, ok := ParseID(s.GetTopicId())
	switch {
	case !ok || im.TopicByID(id) != nil || im.Topic(s.GetName()) != nil:
		return fmt.Errorf("topic %q is there twice or has no id", s.GetName())
	case len(s.GetPartitions()) == 0:
		return fmt.Errorf("topic %q has no partitions", s.GetName())
	}
	settings, err := parseSettings(s.GetConfigs())
	if err != nil {
		return fmt.Errorf("topic %q: %w", s.GetName(), err)
	}
	t := &Topic{
		Name: s.GetName(), ID: id, Internal: s.GetInternal(), Configs: s.GetConfigs(),
		CreatedIndex: s.GetCreatedIndex(), settings: settings, Partitions: make([]*Partition, len(s.GetPartitions())),
	}
	for i, ps := range s.GetPartitions() {
		p := &Partition{
			Leader: ps.GetLeader(), LeaderEpoch: ps.GetLeaderEpoch(), PartitionEpoch: ps.GetPartitionEpoch(),
			ISR: ps.GetIsr(), ELR: ps.GetElr(), LastISR: ps.GetLastIsr(), LossyEpoch: ps.GetLossyEpoch(), Lost: ps.GetLost(),
			Target: ps.GetTarget(), Adding: ps.GetAdding(), Throttle: ps.GetReassignmentThrottle(), Replicas: make([]Replica, len(ps.GetReplicas())),
		}
		for j, rs := range ps.GetReplicas() {
			storage, ok := storageOf(rs.GetStorageId())
			if !ok {
				return fmt.Errorf("a replica of topic %q has no storage id", s.GetName())
			}
			p.Replicas[j] = Replica{
				NodeID: rs.GetNodeId(), StorageID: storage, RecoveredEpoch: rs.GetRecoveredBrokerEpoch(),
				LastEpoch: rs.GetLastEpoch(), LogEndOffset: rs.GetLogEndOffset(), Damage: Damage(rs.GetDamage()),
			}
		}
		t.Partitions[i] = p
	}
	t.pending = pendingOf(t.Partitions)
	im.setTopic(t)
	im.topicNames = im.topicNames.set(id, t.Name)
	im.partitions += len(t.Partitions)
	return nil
}

func (im *Image) addApplied(a *metav1.AppliedCommand) error {
	id, ok := ParseID(a.GetId())
	_, twice := im.memory.indexes.get(id)
	_, sameIndex := im.memory.outcomes.get(a.GetIndex())
	if !ok || twice || sameIndex || im.memory.outcomes.len() == MemorySize {
		return fmt.Errorf("remembered command %x at index %d has no id, is there twice or one too many", a.GetId(), a.GetIndex())
	}
	o := Outcome{Result: Result{
		Index: a.GetIndex(), FirstProducerID: a.GetFirstProducerId(), ReplicationFactor: int(a.GetReplicationFactor()),
	}}
	o.Result.TopicID, _ = ParseID(a.GetTopicId())
	if a.GetErrorCode() != 0 {
		o.Err = &Error{Code: Code(a.GetErrorCode()), Message: a.GetErrorMessage()}
	}
	if a.GetChanges() > maxEntryBytes {
		return fmt.Errorf("remembered command %s had %d changes", id, a.GetChanges())
	}
	for _, r := range a.GetRefused() {
		if r.GetChange() >= a.GetChanges() {
			return fmt.Errorf("remembered command %s: refused change %d of %d", id, r.GetChange(), a.GetChanges())
		}
		o.Result.refuse(int(r.GetChange()), int(a.GetChanges()), &Error{Code: Code(r.GetErrorCode()), Message: r.GetErrorMessage()})
	}
	im.memory = im.memory.add(id, o)
	return nil
}

func (im *Image) addRetired(s *metav1.RetiredStorage) error {
	id, ok := ParseID(s.GetStorageId())
	if _, twice := im.retired.get(id); !ok || twice {
		return fmt.Errorf("retired storage id %x is there twice or none", s.GetStorageId())
	}
	im.retired = im.retired.set(id, Retired{StorageID: id, NodeID: s.GetNodeId(), Index: s.GetIndex()})
	return nil
}

func (im *Image) addDeletion(s *metav1.DeletedTopic) error {
	id, ok := ParseID(s.GetTopicId())
	if _, twice := im.deletions.get(id); !ok || twice {
		return fmt.Errorf("deleted topic %x is there twice or has no id", s.GetTopicId())
	}
	im.deletions = im.deletions.set(id, &Deletion{TopicID: id, Name: s.GetName(), Index: s.GetIndex(), Nodes: s.GetNodes()})
	return nil
}

func (im *Image) addStaged(s *metav1.StagedRegistration) error {
	id, ok := ParseID(s.GetStagingId())
	if !ok || len(s.GetChunks()) != 1 {
		return fmt.Errorf("staged registration %x has %d chunks, not 1, or no id", s.GetStagingId(), len(s.GetChunks()))
	}
	c := s.GetChunks()[0]
	st, _ := im.staged.get(c.GetNodeId())
	var chunks []*metav1.RegisterBroker
	if st != nil {
		if st.id != id || len(st.chunks) == maxStagingChunks {
			return fmt.Errorf("staged registration of node %d has too many chunks or another id", c.GetNodeId())
		}
		chunks = st.chunks
	}
	if int64(c.GetChunk()) != int64(len(chunks)) || (st == nil && im.staged.len() == maxStagings) {
		return fmt.Errorf("staged registration of node %d: chunk %d after %d, or one registration too many",
			c.GetNodeId(), c.GetChunk(), len(chunks))
	}
	im.staged = im.staged.set(c.GetNodeId(), &staging{id: id, index: s.GetIndex(), chunks: append(slices.Clip(chunks), c)})
	return nil
}
