package broker

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// simBatch is a batch in the logs of some replicas, which share it.
type simBatch struct {
	next    record.Offset // the offset after it
	epoch   record.Epoch
	bytes   []byte
	image   int  // the newest that its coordinator had
	unknown bool // its coordinator heard that it may or may not be in the log
}

// simReplica is a replica of the one partition of __consumer_offsets, by the rules of
// DESIGN section 5: followers cut their logs to what the leader of a newer epoch has,
// the watermark is what all of the in-sync set of the leader's image have, and a set
// that is to grow counts from when it is proposed. Logs are always on disk.
type simReplica struct {
	log    []*simBatch
	hw     int // batches that are known to be committed
	epoch  record.Epoch
	leader int32
	synced bool // of a follower: its log is a beginning of its leader's

	partitionEpoch int32

	// Of a leader, in its epoch:
	began    int             // with so many batches
	acked    map[int32]int   // the batches that each follower has
	proposed map[int32]bool  // who is to be in sync, since partitionEpoch
	pending  []*simAppending // oldest first
	refuse   int             // so many appends are refused
	refused  []*simAppending // whose coordinators do not know yet
	changed  chan struct{}   // closed, and made anew, when something that Bounds waits for may be
}

func (r *simReplica) end() record.Offset {
	if len(r.log) == 0 {
		return 0
	}
	return r.log[len(r.log)-1].next
}

func (r *simReplica) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// simLog is what a coordinator has of the replica of its broker, in one leader epoch.
type simLog struct {
	n     *simNode
	epoch record.Epoch
}

func (l *simLog) leads() bool { return l.n.epoch == l.epoch && l.n.leader == l.n.id }

func errNotLeader() *api.Error {
	return api.Errorf(api.CodeNotLeader, "the partition has another leader by now")
}

// Append implements coordinator.Log.
func (l *simLog) Append(buf *record.Buf) coordinator.Appending {
	defer buf.Release()
	n, w := l.n, l.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	a := &simAppending{done: make(chan error, 1)}
	switch {
	case !l.leads() || !n.valid():
		a.done <- errNotLeader()
		return a
	case n.refuse > 0:
		n.refuse--
		w.counts.Refused++
		if hasDecision(buf.Bytes()) {
			w.counts.RefusedDecisions++
		}
		n.refused = append(n.refused, a)
		return a
	}
	if _, err := record.Validate(buf.Bytes(), record.Limits{Keys: true}); err != nil {
		a.done <- err
		return a
	}
	bytes := slices.Clone(buf.Bytes())
	record.Patch(bytes, n.end(), n.epoch)
	info, _ := record.Peek(bytes)
	a.batch, a.at = &simBatch{next: info.NextOffset(), epoch: n.epoch, bytes: bytes, image: n.at}, len(n.log)
	n.log = append(n.log, a.batch)
	n.pending = append(n.pending, a)
	if len(n.pending) > 1 {
		w.counts.Pipelined++
	}
	return a
}

// hasDecision reports whether a batch has records about groups and members, beside offsets.
func hasDecision(batch []byte) bool {
	for rec, err := range record.Records(batch, record.Limits{}) {
		if err == nil && binary.BigEndian.Uint16(rec.Key) != simKeyOffset {
			return true
		}
	}
	return false
}

// Bounds implements coordinator.Log.
func (l *simLog) Bounds(ctx context.Context) (start, end record.Offset, err error) {
	n, w := l.n, l.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	until := len(n.log)
	for {
		switch {
		case !l.leads():
			return 0, 0, errNotLeader()
		case n.hw >= until:
			return 0, n.offset(n.hw), nil
		}
		changed := n.changed
		w.mu.Unlock()
		select {
		case <-changed:
			err = nil
		case <-ctx.Done():
			err = ctx.Err()
		}
		w.mu.Lock()
		if err != nil {
			return 0, 0, err
		}
	}
}

// offset is where the first n batches end.
func (r *simReplica) offset(n int) record.Offset {
	if n == 0 {
		return 0
	}
	return r.log[n-1].next
}

// Read implements coordinator.Log.
func (l *simLog) Read(_ context.Context, from, end record.Offset, _ int) ([]record.Slice, error) {
	w := l.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range l.n.log {
		if b.next > from && b.next <= end {
			buf := record.NewBuf(slices.Clone(b.bytes))
			defer buf.Release()
			return []record.Slice{record.SliceOf(buf, 0, len(b.bytes))}, nil
		}
	}
	return nil, nil
}

// simAppending is an append on its way.
type simAppending struct {
	batch *simBatch // nil: it was refused
	at    int       // of the batch in the log
	done  chan error
}

// Wait implements coordinator.Appending.
func (a *simAppending) Wait(ctx context.Context) error {
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// doubt ends an append with an outcome that is not known.
func (a *simAppending) doubt(err *api.Error) {
	a.batch.unknown = true
	a.done <- err
}

// tellRefused lets a coordinator know of what was not appended. The caller holds mu.
func (r *simReplica) tellRefused() {
	for _, a := range r.refused {
		a.done <- api.Errorf(api.CodeNotEnoughReplicas, "nothing was appended")
	}
	r.refused = nil
}

// The metadata: the images of all times, of which each broker has one.

// simImage reads an image as the simulation needs it.
type simImage struct{ *metadata.Image }

func (im simImage) partition() *metadata.Partition { return im.Topic(offsetsTopic).Partitions[0] }

// lives are the topics there are, by name.
func (im simImage) topic(name string) (id api.TopicID, partitions int32) {
	t := im.Topic(name)
	if t == nil {
		return id, 0
	}
	return api.TopicID(t.ID), int32(len(t.Partitions))
}

func (w *simWorld) newest() simImage { return simImage{w.images[len(w.images)-1]} }

// command commits a command to the metadata log; false: it was refused.
func (w *simWorld) command(c *metav1.Command) bool {
	c.Version = 1
	w.mu.Lock()
	defer w.mu.Unlock()
	im, result, err := metadata.Apply(w.newest().Image, w.newest().Index()+1, c)
	if err == nil {
		w.images = append(w.images, im)
	}
	return err == nil && len(result.Refused) == 0
}

// elect makes another member of the in-sync set lead; false: none may.
func (w *simWorld) elect(fits func(*simNode) bool) bool {
	p := w.newest().partition()
	var candidates []int32
	for _, id := range p.ISR {
		if id != p.Leader && fits(w.node(id)) {
			candidates = append(candidates, id)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	id := candidates[w.rng.IntN(len(candidates))]
	w.notef("elect %d", id)
	if w.busy() {
		w.counts.MovedMidRebalance++
	}
	w.counts.Moved++
	topic := w.newest().Topic(offsetsTopic).ID
	return w.command(&metav1.Command{Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{Changes: []*metav1.LeaderChange{
		{TopicId: topic[:], PartitionEpoch: p.PartitionEpoch, Leader: id},
	}}}})
}

// propose asks for another in-sync set, as the leader's image has its epochs.
func (w *simWorld) propose(n *simNode, isr []int32) {
	im := n.image()
	topic, p := im.Topic(offsetsTopic).ID, im.partition()
	c := &metav1.IsrChange{TopicId: topic[:], LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range isr {
		c.Isr = append(c.Isr, &metav1.IsrMember{NodeId: id, BrokerEpoch: im.Broker(id).Epoch})
	}
	took := w.command(&metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: &metav1.ChangeIsr{
		NodeId: n.id, BrokerEpoch: im.Broker(n.id).Epoch, Changes: []*metav1.IsrChange{c},
	}}})
	w.notef("%d proposes %v: %v", n.id, isr, took)
}

// replicate lets a follower take the next step after its leader: match its log, or copy.
func (w *simWorld) replicate(f *simNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.node(f.leader)
	if l == nil || l == f || !f.connected() || !l.connected() || l.epoch != f.epoch || l.leader != l.id {
		return
	}
	if !f.synced {
		same := 0
		for same < len(f.log) && same < len(l.log) && f.log[same] == l.log[same] {
			same++
		}
		if same < f.hw {
			w.brokenf(keepsSane, "node %d would cut its log to %d batches, of which %d are committed", f.id, same, f.hw)
			return
		}
		w.counts.Lost += len(f.log) - same
		f.log, f.synced = slices.Clone(f.log[:same]), true
	} else {
		n := min(len(f.log)+1+w.rng.IntN(3), len(l.log))
		f.log = append(f.log, l.log[len(f.log):n]...)
	}
	l.acked[f.id] = len(f.log)
	w.advance(l)
	f.hw = max(f.hw, min(l.hw, len(f.log)))
}

// advance moves a leader's watermark, and ends what waited for it. The caller holds mu.
func (w *simWorld) advance(l *simNode) {
	p := l.image().partition()
	if !l.connected() || !l.valid() || l.leader != l.id || record.Epoch(p.LeaderEpoch) != l.epoch {
		return
	}
	hw := len(l.log)
	for _, n := range w.nodes {
		if n != l && (slices.Contains(p.ISR, n.id) || l.proposed[n.id]) {
			hw = min(hw, l.acked[n.id])
		}
	}
	if hw <= l.hw {
		return
	}
	for i := range hw {
		switch {
		case i == len(w.committed):
			w.committed = append(w.committed, l.log[i])
			w.replay(l.log[i])
		case w.committed[i] != l.log[i]:
			w.brokenf(keepsSane, "node %d commits another batch %d than was committed", l.id, i)
			return
		}
	}
	l.hw = hw
	for len(l.pending) > 0 && l.pending[0].at < hw {
		l.pending[0].done <- nil
		l.pending = l.pending[1:]
	}
	l.wake()
}

// tend lets a leader change its in-sync set: members that nobody hears go, who caught up comes.
func (w *simWorld) tend(l *simNode) {
	p := l.image().partition()
	if l.leader != l.id || !l.connected() || l.b.lapsed() || record.Epoch(p.LeaderEpoch) != l.epoch {
		return
	}
	for _, n := range w.nodes {
		in := slices.Contains(p.ISR, n.id)
		switch {
		case n == l:
		case in && len(p.ISR) > 2 && (!n.connected() || !w.healed && w.rng.IntN(40) == 0):
			w.propose(l, slices.DeleteFunc(slices.Clone(p.ISR), func(id int32) bool { return id == n.id }))
			return
		case !in && !l.proposed[n.id] && n.connected() && l.acked[n.id] >= max(l.hw, l.began) && n.epoch == l.epoch && n.synced:
			l.proposed[n.id] = true
			w.propose(l, append(slices.Clone(p.ISR), n.id))
			return
		}
	}
}
