package metadata

import (
	"iter"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Retired is a data directory that was given up: nothing that comes with its
// storage id is let in again, whatever node it says it is.
type Retired struct {
	StorageID ID
	NodeID    int32  // whose it was
	Index     uint64 // at which it was retired
}

// Retired returns what is known of a data directory that was given up.
func (im *Image) Retired(storage ID) (Retired, bool) { return im.retired.get(storage) }

// RetiredStorages yields them all, by ascending storage id.
func (im *Image) RetiredStorages() iter.Seq[Retired] { return values(im.retired) }

// Replaced reports whether the broker's data directory was given up and no
// other one has registered yet. Such a broker has no storage id, is fenced, and
// its replicas hold nothing.
func (b *Broker) Replaced() bool { return b.StorageID.IsZero() }

// Loss is what giving a broker up would cost.
type Loss struct {
	// Possible counts partitions whose remaining holders may lack acknowledged
	// records: they were in sync before they restarted damaged or unclean.
	Possible int
	// Certain counts partitions that no remaining replica can lead.
	Certain int
	// Example names one of them; empty: none.
	Example string
}

// LossWithout says what giving up node's replicas would cost.
func (im *Image) LossWithout(node int32) Loss {
	var loss Loss
	for t := range im.Topics() {
		for i, p := range t.Partitions {
			q := p.clone()
			if !q.giveUp(node) || len(q.ISR)+len(q.ELR) > 0 {
				continue
			}
			if q.Lost {
				loss.Certain++
			} else {
				loss.Possible++
			}
			if loss.Example == "" {
				loss.Example = partitionName(t, int32(i))
			}
		}
	}
	return loss
}

// giveUp takes node out of every set of p, the caller's own copy, and reports
// whether it was in one. When nobody is left that could hold every acknowledged
// record, p is lost: only an operator's order makes a replica its leader.
func (p *Partition) giveUp(node int32) (changed bool) {
	if !p.InISR(node) && !p.InELR(node) && !slices.Contains(p.LastISR, node) {
		return false
	}
	p.ISR, p.ELR, p.LastISR = without(p.ISR, node), without(p.ELR, node), without(p.LastISR, node)
	p.Lost = len(p.ISR)+len(p.ELR)+len(p.LastISR) == 0
	return true
}

// absent returns the broker that a command would give up.
func (im *Image) absent(node int32, storageID []byte, what string) (*Broker, *Error) {
	b := im.Broker(node)
	if b == nil {
		return nil, Errorf(CodeUnknownBroker, "there is no broker %d", node)
	}
	if storage, _ := ParseID(storageID); storage != b.StorageID {
		return nil, Errorf(CodeIdentityConflict, "broker %d has the storage id %s by now, not %.16x", node, b.StorageID, storageID)
	}
	if !b.Fenced {
		return nil, Errorf(CodeInvalidState, "broker %d is alive: stop it before it is %s", node, what)
	}
	return b, nil
}

// wasGivenUp reports whether a storage id was node's and is retired: the command
// is a repetition.
func (im *Image) wasGivenUp(node int32, storageID []byte) bool {
	storage, _ := ParseID(storageID)
	r, ok := im.retired.get(storage)
	return ok && r.NodeID == node
}

func (im *Image) replaceBroker(c *metav1.ReplaceBroker) *Error {
	node := c.GetNodeId()
	if im.wasGivenUp(node, c.GetStorageId()) {
		return nil
	}
	b, err := im.absent(node, c.GetStorageId(), "replaced")
	if err != nil {
		return err
	}
	if loss := im.LossWithout(node); !c.GetAcceptLoss() && loss.Example != "" {
		return Errorf(CodeInvalidState, "broker %d is the last that surely holds every acknowledged record of %d partitions (%s is one): "+
			"%d of them would have no leader, of the others some records may be gone; "+
			"bring its disk back, or accept the loss", node, loss.Possible+loss.Certain, loss.Example, loss.Certain)
	}
	im.retire(b)
	fresh := *b
	// A process that still holds the old directory has no session any more.
	fresh.Epoch, fresh.StorageID, fresh.VotePending = int64(im.index), ID{}, c.GetVote() || b.VotePending
	im.brokers = im.brokers.set(node, &fresh)
	im.editReplicas(node, func(_ *Topic, _ int, p *Partition) *Partition {
		q := p.clone()
		q.Replicas = slices.Clone(p.Replicas)
		*q.Replica(node) = Replica{NodeID: node, LastEpoch: -1, LogEndOffset: -1, Damage: DamageMissing}
		if changed := q.giveUp(node); im.reelect(q, false) || changed {
			q.PartitionEpoch++
		}
		return q
	})
	return nil
}

// retire keeps b's storage id out for ever.
func (im *Image) retire(b *Broker) {
	im.staged = im.staged.remove(b.NodeID)
	im.forgetDeletions(b.NodeID, im.index, nil)
	if !b.Replaced() {
		im.retired = im.retired.set(b.StorageID, Retired{StorageID: b.StorageID, NodeID: b.NodeID, Index: im.index})
	}
}

func (im *Image) removeBroker(c *metav1.RemoveBroker) *Error {
	node := c.GetNodeId()
	if im.Broker(node) == nil && im.wasGivenUp(node, c.GetStorageId()) {
		return nil
	}
	b, err := im.absent(node, c.GetStorageId(), "removed")
	if err != nil {
		return err
	}
	if n := im.ReplicasOn(node); n > 0 {
		return Errorf(CodeInvalidState, "broker %d holds %d replicas: move them to other brokers first, or replace its disk", node, n)
	}
	im.forget(b)
	return nil
}

// forget takes a broker out for good.
func (im *Image) forget(b *Broker) {
	im.retire(b)
	im.brokers = im.brokers.remove(b.NodeID)
	im.raiseLevel()
}

func (im *Image) settleVote(c *metav1.SettleVote) *Error {
	b := im.Broker(c.GetNodeId())
	if storage, ok := ParseID(c.GetStorageId()); b == nil || !ok || storage != b.StorageID || !b.VotePending {
		return nil // settled before, or about another disk
	}
	fresh := *b
	fresh.VotePending = false
	im.brokers = im.brokers.set(b.NodeID, &fresh)
	return nil
}
