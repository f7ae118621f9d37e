package sim

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// part is a partition and what is known to be true of it.
type part struct {
	index     int
	topic     metadata.ID
	name      string
	replicas  []int32 // at first
	synced    bool
	acksOne   bool // its producers do with acks=1
	minISR    int  // at first
	committed []entry
	acked     []ackedRecord
	// values has the offset of each committed value.
	values map[int64]int
	// started is the furthest that a leader has let its log begin, deleted how far a
	// request was answered.
	started, deleted int
	// beyond: at some time nobody kept everything.
	beyond bool
	// unseen: records were lost that nobody knows of but those who still have them and
	// refuse to follow without. An operator has to look.
	unseen bool
	// lossyEpoch is of the last election that was allowed to lose records; lossy: one did.
	lossy      bool
	lossyEpoch record.Epoch
	leaders    []leading // by epoch
	// deletedAt is the index at which the topic was deleted (0: it is not), deletedFrom
	// the nodes that kept a replica then, and are waited for until they have none. closed:
	// its clients have given up.
	deletedAt   uint64
	deletedFrom []int32
	closed      bool
}

type ackedRecord struct {
	offset int
	e      entry
}

// makeParts draws the partitions: a synced one, a replicated one, a synced one that
// is written with acks=1, and one of another size.
func (w *World) makeParts() {
	type kind struct {
		synced, one   bool
		replicas, min int
	}
	kinds := []kind{{true, false, 3, 2}, {false, false, 3, 2}, {true, true, 3, 2}}
	others := []kind{
		{true, false, 3, 1},
		{false, false, 3, 1},
		{true, false, 2, 2},
		{true, false, w.opts.Nodes, 2},
		{false, false, w.opts.Nodes, 3},
		{true, false, w.opts.Nodes, 3},
	}
	kinds = append(kinds, others[w.rng.IntN(len(others))])
	for i, k := range kinds {
		p := &part{index: i, name: fmt.Sprintf("t%d", i), synced: k.synced, acksOne: k.one, minISR: k.min, values: map[int64]int{}}
		p.topic[0], p.topic[15] = 0x70, byte(i+1)
		for j := range k.replicas {
			p.replicas = append(p.replicas, int32((i+j)%w.opts.Nodes))
		}
		w.parts = append(w.parts, p)
	}
}

// replicas are the nodes that a partition is on, by the newest image.
func (w *World) replicas(p *part) []int32 {
	t := w.meta.latest().TopicByID(p.topic)
	if t == nil {
		return p.replicas
	}
	var out []int32
	for i := range t.Partitions[0].Replicas {
		out = append(out, t.Partitions[0].Replicas[i].NodeID)
	}
	return out
}

// createTopics proposes what is missing until all topics exist.
func (m *metalog) createTopics() {
	missing := false
	for _, p := range m.w.parts {
		if p.deletedAt != 0 || m.latest().TopicByID(p.topic) != nil {
			continue
		}
		missing = true
		if m.controller < 0 || slices.ContainsFunc(p.replicas, func(id int32) bool { return m.latest().Broker(id) == nil }) {
			continue
		}
		configs := map[string]string{"min.insync.replicas": strconv.Itoa(p.minISR)}
		if !p.synced {
			configs["durability"] = "replicated"
		}
		m.commit(m.command(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: p.name, TopicId: p.topic[:], Configs: configs, Partitions: []*metav1.PartitionAssignment{{Replicas: p.replicas}},
		}}}))
	}
	if missing {
		m.w.after(200*time.Millisecond, "topics again", m.createTopics)
	}
}
