package metadata

import (
	"math"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// MaxCommandBytes is the largest encoded command that may be proposed. Apply
// does not measure: proposers split larger work (registrations into chunks).
const MaxCommandBytes = 512 << 10

// MaxProducerIDBlock is the most producer ids one command may take.
const MaxProducerIDBlock = 1_000_000

// Result is what a command came to when it was not refused.
type Result struct {
	// Index is the Raft index at which it was applied: for RegisterBroker the
	// broker epoch. A retry gets the index of the first time.
	Index uint64
	// TopicID and ReplicationFactor are those of a created, altered or deleted topic,
	// or of the one whose partition got a leader by order.
	TopicID           ID
	ReplicationFactor int
	// FirstProducerID begins the block of AllocateProducerIds; -1 for other commands.
	FirstProducerID int64
	// Refused has, for commands of many changes (ChangeIsr, ElectLeaders,
	// ReassignPartitions, FinishReassignments), an element for each:
	// nil where it was applied. It is nil when none was refused.
	Refused []*Error
}

// Apply returns the image after a command at a Raft index. It never changes im.
//
// The error is nil or an *Error. A refused command moves nothing but the index
// and the memory of outcomes. A command whose id is remembered is not applied
// again and gets its first outcome; one without an id is not remembered, which
// suits commands that name the epochs they change. An index that is not above
// the image's is refused and returns im itself.
func Apply(im *Image, index uint64, cmd *metav1.Command) (*Image, Result, error) {
	none := Result{Index: index, FirstProducerID: -1}
	if index <= im.index {
		return im, none, Errorf(CodeInvalidArgument, "index %d was applied before; the image is at %d", index, im.index)
	}
	id, hasID := ParseID(cmd.GetId())
	if !hasID && len(cmd.GetId()) != 0 {
		next := im.clone()
		next.index = index
		return next, none, Errorf(CodeInvalidArgument, "command id %.16x: must be 16 bytes that are not all zero, or absent", cmd.GetId())
	}
	if hasID {
		if o, ok := im.memory.get(id); ok {
			next := im.clone()
			next.index = index
			if o.Err != nil {
				return next, o.Result, o.Err
			}
			return next, o.Result, nil
		}
	}
	next := im.clone()
	next.index = index
	result := none
	err := next.apply(cmd, &result)
	if err != nil {
		// A step that refuses has changed nothing it could not give back.
		next = im.clone()
		next.index = index
		result = none
	}
	if hasID {
		next.memory = next.memory.add(id, Outcome{Result: result, Err: err})
	}
	if err != nil {
		return next, result, err
	}
	return next, result, nil
}

// apply changes im, a fresh copy that nobody else has seen.
func (im *Image) apply(cmd *metav1.Command, result *Result) *Error {
	if err := im.checkLevel(cmd); err != nil {
		return err
	}
	if set, ok := cmd.GetKind().(*metav1.Command_SetClusterId); ok {
		return im.setClusterID(set.SetClusterId)
	}
	if im.clusterID == "" {
		return Errorf(CodeInvalidArgument, "the first command must set the cluster id")
	}
	switch k := cmd.GetKind().(type) {
	case *metav1.Command_RegisterBroker:
		return im.registerBroker(k.RegisterBroker)
	case *metav1.Command_FenceBroker:
		return im.fenceBroker(k.FenceBroker)
	case *metav1.Command_UnfenceBroker:
		return im.unfenceBroker(k.UnfenceBroker)
	case *metav1.Command_CreateTopic:
		return im.createTopic(k.CreateTopic, result)
	case *metav1.Command_DeleteTopic:
		return im.deleteTopic(k.DeleteTopic, result)
	case *metav1.Command_AlterTopicConfig:
		return im.alterTopicConfig(k.AlterTopicConfig, result)
	case *metav1.Command_ChangeIsr:
		return im.changeISR(k.ChangeIsr, result)
	case *metav1.Command_ElectLeaders:
		im.electLeaders(k.ElectLeaders, result)
		return nil
	case *metav1.Command_ReassignPartitions:
		im.reassignPartitions(k.ReassignPartitions, result)
		return nil
	case *metav1.Command_FinishReassignments:
		im.finishReassignments(k.FinishReassignments, result)
		return nil
	case *metav1.Command_DecommissionBroker:
		return im.decommissionBroker(k.DecommissionBroker)
	case *metav1.Command_RecoverReplica:
		return im.recoverReplica(k.RecoverReplica)
	case *metav1.Command_AllocateProducerIds:
		return im.allocateProducerIDs(k.AllocateProducerIds, result)
	case *metav1.Command_ReplaceBroker:
		return im.replaceBroker(k.ReplaceBroker)
	case *metav1.Command_RemoveBroker:
		return im.removeBroker(k.RemoveBroker)
	case *metav1.Command_SettleVote:
		return im.settleVote(k.SettleVote)
	case *metav1.Command_AddPartitions:
		return im.addPartitions(k.AddPartitions, result)
	case *metav1.Command_ElectUnclean:
		return im.electUnclean(k.ElectUnclean, result)
	case *metav1.Command_ConfirmDeletions:
		return im.confirmDeletions(k.ConfirmDeletions)
	default:
		return Errorf(CodeUnsupported, "a command of a kind that this build does not know")
	}
}

func (im *Image) setClusterID(c *metav1.SetClusterId) *Error {
	switch {
	case c.GetClusterId() == "":
		return Errorf(CodeInvalidArgument, "the cluster id is empty")
	case len(c.GetClusterId()) > 64:
		return Errorf(CodeInvalidArgument, "the cluster id has %d characters; at most 64 are accepted", len(c.GetClusterId()))
	case im.clusterID != "" && im.clusterID != c.GetClusterId():
		return Errorf(CodeIdentityConflict, "the cluster has the id %s, it cannot become %s", im.clusterID, c.GetClusterId())
	}
	im.clusterID = c.GetClusterId()
	im.featureLevel = max(im.featureLevel, levelBase)
	return nil
}

func (im *Image) allocateProducerIDs(c *metav1.AllocateProducerIds, result *Result) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil {
		return err
	}
	if b.Fenced {
		return Errorf(CodeStaleBrokerEpoch, "broker %d is fenced", b.NodeID)
	}
	count := int64(c.GetCount())
	if count < 1 || count > MaxProducerIDBlock {
		return Errorf(CodeInvalidArgument, "%d producer ids asked for; 1 to %d are given at a time", count, MaxProducerIDBlock)
	}
	if im.nextProducerID > math.MaxInt64-count {
		return Errorf(CodeInvalidArgument, "the producer ids are used up: the next one is %d", im.nextProducerID)
	}
	result.FirstProducerID = im.nextProducerID
	im.nextProducerID += count
	return nil
}

// session returns the broker if epoch is the one of its present session.
func (im *Image) session(node int32, epoch int64) (*Broker, *Error) {
	b := im.Broker(node)
	if b == nil {
		return nil, Errorf(CodeStaleBrokerEpoch, "broker %d is not registered", node)
	}
	if b.Epoch != epoch {
		return nil, Errorf(CodeStaleBrokerEpoch, "broker %d has epoch %d, not %d", node, b.Epoch, epoch)
	}
	return b, nil
}

// setTopic puts t in the place of the topic of its name.
func (im *Image) setTopic(t *Topic) { im.topics = im.topics.set(t.Name, t) }

// editReplicas calls edit for every partition with a replica on node, in order
// of topic name and partition number. edit returns the partition it was given,
// or a changed copy.
func (im *Image) editReplicas(node int32, edit func(*Topic, int, *Partition) *Partition) {
	im.topics = im.topics.rewrite(func(t *Topic) (*Topic, bool) {
		var changed []*Partition
		for i, p := range t.Partitions {
			if p.Replica(node) == nil {
				continue
			}
			q := edit(t, i, p)
			if q == p {
				continue
			}
			if changed == nil {
				changed = append(make([]*Partition, 0, len(t.Partitions)), t.Partitions...)
			}
			changed[i] = q
		}
		if changed == nil {
			return t, false
		}
		return t.withPartitions(changed), true
	})
}
