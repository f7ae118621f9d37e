package metadata

import (
	"iter"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Deletion remembers that a topic was deleted, for brokers that were not there.
// That an image does not mention a topic is no reason to delete its records: the
// image may be old, or the metadata may have been lost. A Deletion is one: a
// broker whose applied image has it, at or after its own registration, removes
// what it keeps of that topic id. It is gone when every broker that had a
// replica is known to have nothing left: it said so (ConfirmDeletions), it
// registered without one, or its disk was given up.
type Deletion struct {
	TopicID ID
	Name    string
	Index   uint64  // of the command that deleted the topic
	Nodes   []int32 // ascending: those that may still keep a replica
}

// Deletion returns what is remembered of a deleted topic.
func (im *Image) Deletion(topic ID) (*Deletion, bool) { return im.deletions.get(topic) }

// Deletions yields all that are remembered, by ascending topic id.
func (im *Image) Deletions() iter.Seq[*Deletion] { return values(im.deletions) }

func (im *Image) wasDeleted(topic ID) bool {
	_, ok := im.deletions.get(topic)
	return ok
}

// rememberDeletion is called for a topic that has just been removed.
func (im *Image) rememberDeletion(t *Topic) {
	if im.featureLevel < levelOperate {
		return
	}
	d := &Deletion{TopicID: t.ID, Name: t.Name, Index: im.index}
	for _, p := range t.Partitions {
		for i := range p.Replicas {
			if at, found := slices.BinarySearch(d.Nodes, p.Replicas[i].NodeID); !found {
				d.Nodes = slices.Insert(d.Nodes, at, p.Replicas[i].NodeID)
			}
		}
	}
	im.deletions = im.deletions.set(t.ID, d)
}

// forgetDeletions takes node out of those made at or below index, but for the
// topics that it keeps.
func (im *Image) forgetDeletions(node int32, index uint64, keeps func(topic ID) bool) {
	for id, d := range im.deletions.all() {
		if d.Index > index || !slices.Contains(d.Nodes, node) || keeps != nil && keeps(id) {
			continue
		}
		left := *d
		if left.Nodes = without(d.Nodes, node); left.Nodes == nil {
			im.deletions = im.deletions.remove(id)
			continue
		}
		im.deletions = im.deletions.set(id, &left)
	}
}

func (im *Image) confirmDeletions(c *metav1.ConfirmDeletions) *Error {
	b, err := im.session(c.GetNodeId(), c.GetBrokerEpoch())
	if err != nil {
		return err
	}
	im.forgetDeletions(b.NodeID, c.GetIndex(), nil)
	return nil
}
