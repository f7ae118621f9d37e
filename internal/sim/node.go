package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

const (
	sessionTimeout = 3 * time.Second
	heartbeatEvery = 250 * time.Millisecond
	tickEvery      = 200 * time.Millisecond
	flushStall     = 5 * time.Second
	// sessionBits is the room for the replication sessions of one process.
	sessionBits = 24
)

// node is a broker: a process that comes and goes, and a disk that stays.
type node struct {
	w     *World
	id    int32
	disks []*disk // by partition; nil: none
	// files and data are the file system and the process's use of it, if the logs are real.
	files *vfs.Mem
	data  *dataDir
	// clean is the broker epoch in the marker of a clean stop; -1: none.
	clean int64
	// failing: the next flush of some partition fails; hung: flushes wait until then.
	failing bool
	hung    time.Time
	// slow: until then flushes take long; blind: until then no newer image comes.
	slow, blind time.Time
	// full: until then the disk takes no more records.
	full time.Time
	skew time.Duration

	up         bool
	paused     bool
	stopping   bool
	generation int // of the process
	backlog    []func()

	image       *metadata.Image
	brokerEpoch int64 // 0: not registered
	// reconciled is the index of the image by which this process last brought its
	// replicas in line; 0: none yet.
	reconciled uint64
	replicas   []*replica
	departed   []*departed
	sessions   uint64
	heard      time.Time // when a controller last answered
	suspended  bool
	streams    []partition.Heard // when each other node's replication stream was last heard
	flushSince time.Time         // of the oldest flush under way; zero: none
	stallTold  time.Time         // which of those the controller was told of, as one that hangs
}

func newNode(w *World, id int32) *node {
	return &node{w: w, id: id, clean: -1, image: metadata.Empty(), files: vfs.NewMem()}
}

// log returns what the node holds of a partition.
func (n *node) log(part int) []entry {
	if part >= len(n.disks) || n.disks[part] == nil {
		return nil
	}
	return n.disks[part].entries
}

// logStart is where that begins.
func (n *node) logStart(part int) int {
	if part >= len(n.disks) || n.disks[part] == nil {
		return 0
	}
	return n.disks[part].start
}

func (n *node) storage() []byte {
	b := make([]byte, 16)
	b[0], b[15] = 0xd1, byte(n.id+1)
	return b
}

// run does something in the process now, or when it goes on.
func (n *node) run(do func()) {
	if n.paused {
		n.backlog = append(n.backlog, do)
		return
	}
	do()
}

// after schedules something in this process: it does not happen in the next one.
func (n *node) after(d time.Duration, what string, do func()) {
	n.afterIn(n.generation, d, what, do)
}

// afterIn schedules something in the process of a generation.
func (n *node) afterIn(generation int, d time.Duration, what string, do func()) {
	n.w.after(d, fmt.Sprintf("%d %s", n.id, what), func() {
		if n.up && n.generation == generation {
			n.run(do)
		}
	})
}

func (n *node) every(d time.Duration, what string, do func()) {
	n.after(d, what, func() {
		do()
		n.every(d, what, do)
	})
}

// failedLog reports whether one of the logs takes nothing any more.
func (n *node) failedLog() bool {
	return slices.ContainsFunc(n.replicas, func(r *replica) bool { return r != nil && r.failed })
}

// flushFailed notes a flush that fails; the machine may be about to go altogether.
func (n *node) flushFailed() {
	n.failing = false
	n.w.counts.FailedFlushes++
	if n.w.healed || !n.w.chance(40) {
		return
	}
	n.after(n.w.between(time.Millisecond, 300*time.Millisecond), "the machine goes", func() {
		n.w.counts.PowerCuts++
		n.powerCut()
		n.w.restart(n, n.w.downTime())
	})
}

// clock is what the process believes the time is.
func (n *node) clock() time.Time { return n.w.now.Add(n.skew) }

// start begins a process: it recovers its logs and registers.
func (n *node) start() {
	if n.up || n == n.w.gone {
		return
	}
	n.generation++
	n.up, n.paused, n.stopping, n.backlog = true, false, false, nil
	n.brokerEpoch, n.sessions, n.suspended, n.reconciled = 0, 0, false, 0
	n.failing, n.hung, n.slow, n.blind, n.flushSince = false, time.Time{}, time.Time{}, time.Time{}, time.Time{} // a full disk stays full
	n.heard = n.w.now
	n.replicas = make([]*replica, len(n.w.parts))
	n.streams, n.departed = nil, nil
	if n.w.opts.Quiet != nil {
		n.openDir(n.files)
	}
	r := &metav1.RegisterBroker{NodeId: n.id, StorageId: n.storage(), CleanStop: n.clean >= 0, CleanStopEpoch: max(n.clean, 0), FeatureLevel: metadata.Version}
	n.clean = -1
	for i, d := range n.disks {
		if d == nil {
			continue
		}
		d.recover()
		n.w.checkMembers(n.w.parts[i])
		n.open(i, partition.DamageNone)
		r.Replicas = append(r.Replicas, &metav1.RecoveredReplica{
			TopicId: n.w.parts[i].topic[:], Partition: 0,
			LastEpoch: int32(d.lastEpoch()), LogEndOffset: int64(len(d.entries)), Damage: metav1.Damage(d.damage),
		})
	}
	cmd := n.w.meta.command(&metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: r}})
	n.after(n.w.between(10*time.Millisecond, 300*time.Millisecond), "registers", func() { n.register(cmd) })
	n.every(heartbeatEvery, "heartbeat", n.heartbeat)
	n.every(tickEvery, "tick", n.tick)
}

// register proposes the registration until its outcome is known.
func (n *node) register(cmd *metav1.Command) {
	n.w.meta.propose(n, cmd, func(o outcome) {
		if !o.known || o.err != nil {
			n.after(n.w.between(50*time.Millisecond, 400*time.Millisecond), "registers again", func() { n.register(cmd) })
			return
		}
		n.brokerEpoch = int64(o.result.Index)
		n.sessions = uint64(n.brokerEpoch) << sessionBits
		n.heard = n.w.now
		n.reconcile()
	})
}

// open makes the shell of a replica.
func (n *node) open(part int, damage partition.Damage) *replica {
	for len(n.disks) < len(n.w.parts) {
		n.disks = append(n.disks, nil)
	}
	d := n.disks[part]
	switch {
	case d == nil && n.data != nil:
		d = n.data.open(part)
		if d.damage == partition.DamageNone {
			d.damage = damage
		}
	case d == nil:
		d = &disk{damage: damage}
		n.disks[part] = d
	}
	for len(n.replicas) < len(n.w.parts) {
		n.replicas = append(n.replicas, nil)
	}
	r := newReplica(n, part, d)
	n.replicas[part] = r
	return r
}

// reconcile brings the replicas in line with the image. Nothing is led or
// followed before the node's own registration is in it.
func (n *node) reconcile() {
	if n.brokerEpoch == 0 || int64(n.image.Index()) < n.brokerEpoch {
		return
	}
	for len(n.replicas) < len(n.w.parts) {
		n.replicas = append(n.replicas, nil)
	}
	n.dropAll() // first: a new topic may want the folder of an old one of its name
	for i, p := range n.w.parts {
		t := n.image.TopicByID(p.topic)
		if t == nil {
			continue
		}
		mine, r := t.Partitions[0].Replica(n.id), n.replicas[i]
		if mine == nil { // it may stay until the partition is well elsewhere
			if r != nil {
				r.step(partition.Assign(broker.Assignment(t, t.Partitions[0], n.image)))
			}
			continue
		}
		if r == nil {
			damage := partition.DamageNone
			if mine.RecoveredEpoch == n.brokerEpoch && mine.Damage != metadata.DamageFailed {
				damage = partition.Damage(mine.Damage)
			}
			r = n.open(i, damage)
		}
		if r = n.report(r, t.Partitions[0]); r.reporting {
			continue
		}
		a := broker.Assignment(t, t.Partitions[0], n.image)
		a.MayLeadDamaged = r.damaged && t.Partitions[0].Leader == n.id && mine.Damage == metadata.DamageNone
		r.step(partition.Assign(a))
		r.follow()
	}
	n.reconciled = n.image.Index()
}

// report tells the metadata what a replica holds, when damage was found, or when an
// election waits to hear. It returns the replica, which is
// opened anew if it is damaged.
func (n *node) report(r *replica, q *metadata.Partition) *replica {
	if r.reporting {
		r.reporting = r.toldAt == 0 || n.image.Index() < r.toldAt
		return r
	}
	leads := r.state.Role() == partition.RoleLeader
	tells := r.hurt && (!leads || r.givesUp)
	if r.failed || !tells && !n.image.WantsPosition(q, n.id) {
		return r
	}
	n.w.counts.Reports++
	if tells {
		r.withdraw()
		r.die()
		if leads {
			r.gone, r.pushing = true, nil
		}
		r = n.open(r.part, partition.DamageNone)
	}
	r.reporting = true
	n.tell(r)
	return r
}

// tell proposes what report has to tell, until it is known to be in the metadata log.
func (n *node) tell(r *replica) {
	t := n.image.TopicByID(n.w.parts[r.part].topic)
	if t == nil || n.replicas[r.part] != r || t.Partitions[0].Replica(n.id) == nil {
		r.reporting = false
		return
	}
	cmd := n.w.meta.command(&metav1.Command{Kind: &metav1.Command_RecoverReplica{RecoverReplica: &metav1.RecoverReplica{
		NodeId: n.id, BrokerEpoch: n.brokerEpoch, LeaderEpoch: t.Partitions[0].LeaderEpoch, Unflushed: !n.w.parts[r.part].synced,
		Replica: &metav1.RecoveredReplica{
			TopicId: n.w.parts[r.part].topic[:], LastEpoch: int32(r.disk.lastEpoch()), LogEndOffset: int64(len(r.disk.entries)),
			Damage: metav1.Damage(r.disk.damage),
		},
	}}})
	n.w.meta.propose(n, cmd, func(o outcome) {
		if o.known && o.err == nil {
			r.toldAt = o.result.Index
			n.reconcile()
			return
		}
		n.after(n.w.between(0, 500*time.Millisecond), "tells again", func() { n.tell(r) })
	})
}

// learn takes a newer image.
func (n *node) learn(im *metadata.Image) {
	if im.Index() <= n.image.Index() {
		return
	}
	if im.Index() > n.image.Index()+1 {
		n.w.counts.SkippedImages++
	}
	n.image = im
	if b := im.Broker(n.id); n.brokerEpoch != 0 && b != nil && b.Epoch > n.brokerEpoch {
		// A registration of an earlier process came late: what this one recovered
		// is no longer what the metadata goes by. It ends.
		n.kill()
		n.w.counts.Superseded++
		n.w.restart(n, n.w.between(10*time.Millisecond, 500*time.Millisecond))
		return
	}
	n.reconcile()
}

// heartbeat asks the controller to go on believing in this broker. Only what is
// answered counts, on both sides.
func (n *node) heartbeat() {
	if n.brokerEpoch != 0 {
		n.w.meta.heartbeat(n)
	}
}

func (n *node) tick() {
	lost := n.w.now.Sub(n.heard) > sessionTimeout
	if lost && !n.suspended {
		n.w.counts.Suspensions++
	}
	n.suspended = lost
	n.keepAlive()
	for _, r := range n.replicas {
		if r == nil {
			continue
		}
		if r.suspended != lost {
			r.suspended = lost
			r.step(partition.Suspend(lost))
		}
		if r.state.Role() == partition.RoleLeader || r.state.RefusesLead() {
			r.step(partition.Tick(n.streams))
			r.pushAll()
		} else {
			r.follow()
		}
	}
	n.w.meta.catchUp(n)
}

// keepAlive lets the others hear that this node's streams are there, though nothing
// may travel on them.
func (n *node) keepAlive() {
	for _, to := range n.w.nodes {
		if to == n || !to.up || to.paused || !n.w.net.open(n.id, to.id) || n.w.net.frozen[n.id][to.id].After(n.w.now) {
			continue
		}
		heard := partition.Heard{Node: n.id, At: to.clock()}
		if i := slices.IndexFunc(to.streams, func(h partition.Heard) bool { return h.Node == n.id }); i >= 0 {
			to.streams[i] = heard
		} else {
			to.streams = append(to.streams, heard)
		}
	}
}

// kill ends the process as SIGKILL does: the page cache stays.
func (n *node) kill() { n.end(false) }

// end ends the process, or its machine.
func (n *node) end(powerCut bool) {
	if n.data != nil {
		for _, d := range n.disks {
			if d != nil {
				d.forget(powerCut)
			}
		}
		n.files = n.data.remains(powerCut)
		_ = n.data.close(false) // of what is a copy by now
	}
	n.up, n.paused, n.backlog = false, false, nil
	n.generation++
	for _, r := range n.replicas {
		if r != nil {
			r.die()
		}
	}
	n.replicas = nil
}

// powerCut ends the machine: what was not synced goes, in part.
func (n *node) powerCut() {
	n.end(true)
	for _, d := range n.disks {
		if d != nil && d.real == nil {
			d.powerCut(n.w)
		}
	}
}

// pause is SIGSTOP.
func (n *node) pause() { n.paused = true }

// resume is SIGCONT: what waited happens now.
func (n *node) resume() {
	if !n.paused {
		return
	}
	n.paused = false
	backlog := n.backlog
	n.backlog = nil
	for i, do := range backlog {
		if n.paused || !n.up {
			n.backlog = append(n.backlog, backlog[i:]...)
			return
		}
		do()
	}
}

// stop asks for a clean stop, which the controller grants by fencing.
func (n *node) stop() {
	n.stopping = true
	n.w.counts.CleanStops++
	for _, r := range n.replicas {
		if r != nil && r.state.Role() == partition.RoleLeader {
			r.step(partition.Drain(true))
		}
	}
	n.waitForStop(20)
}

func (n *node) waitForStop(tries int) {
	n.after(200*time.Millisecond, "waits to stop", func() {
		b := n.image.Broker(n.id)
		if b == nil || b.Epoch != n.brokerEpoch || !b.Fenced {
			if tries > 0 {
				n.waitForStop(tries - 1)
				return
			}
			n.kill() // nobody fenced it in time
			return
		}
		for _, r := range n.replicas {
			if r == nil {
				continue
			}
			if r.failed {
				n.kill() // no clean stop with a failed log
				return
			}
			r.disk.durable = len(r.disk.entries)
			r.checkpoint()
		}
		epoch := n.brokerEpoch
		if n.data != nil && n.data.close(true) != nil {
			epoch = -1
		}
		n.kill()
		n.clean = epoch
	})
}
