package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// voters are the nodes that the metadata quorum consists of.
const voters = 3

// metalog is the metadata log as brokers see it: commands go to the controller,
// are committed in one order or not, with outcomes that may stay unknown, and
// images reach the nodes late and with gaps.
type metalog struct {
	w      *World
	images []*metadata.Image
	ids    uint64
	// applied has the index at which each command was applied first.
	applied map[metadata.ID]uint64

	// reconciled is what each broker told the controller of its replicas.
	reconciled map[int32]reconciledTo

	controller int32 // -1: none
	lostSince  time.Time
	live       *controller.Liveness
}

type outcome struct {
	known  bool
	result metadata.Result
	err    error
}

func newMetalog(w *World) *metalog {
	m := &metalog{w: w, images: []*metadata.Image{metadata.Empty()}, controller: -1}
	w.meta = m
	m.commit(m.command(&metav1.Command{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "sim"}}}))
	return m
}

func (m *metalog) latest() *metadata.Image { return m.images[len(m.images)-1] }

// command gives a command its version and id.
func (m *metalog) command(c *metav1.Command) *metav1.Command {
	m.ids++
	c.Version = metadata.CommandLevel(c)
	c.Id = binary.BigEndian.AppendUint64(make([]byte, 8, 16), m.ids)
	return c
}

// commit appends a command.
func (m *metalog) commit(c *metav1.Command) outcome {
	old := m.latest()
	im, result, err := metadata.Apply(old, old.Index()+1, c)
	m.images = append(m.images, im)
	if d := c.GetDeleteTopic(); d != nil && err != nil && old.Topic(d.GetName()) != nil {
		m.w.counts.RefusedDeletions++ // the topic of that name is another one by now
	}
	m.w.checkCommand(old, im, c, result)
	if m.w.opts.Trace != nil {
		m.w.traceCommand(old, im, c, err)
	}
	for _, n := range m.w.nodes {
		n.after(m.w.between(time.Millisecond, m.w.mix.images), "image", func() { m.deliver(n) })
	}
	return outcome{known: true, result: result, err: err}
}

// later commits a command of the controller, some a while after it was decided, some
// twice: a controller that was deposed and came back may do so.
func (m *metalog) later(c *metav1.Command) {
	m.command(c)
	again := func() {
		m.w.after(m.w.between(0, 3*time.Second), "a command again", func() { m.commit(c) })
	}
	switch {
	case m.w.healed:
		m.commit(c)
	case m.w.chance(m.w.mix.late):
		m.w.counts.LateCommands++
		again()
	default:
		m.commit(c)
		if m.w.chance(m.w.mix.twice) {
			m.w.counts.RepeatedCommands++
			again()
		}
	}
}

// deliver brings a node that can reach the controller the newest image, or one on
// the way there; some as a snapshot.
func (m *metalog) deliver(n *node) {
	if m.controller < 0 || !m.w.net.both(n.id, m.controller) || n.blind.After(m.w.now) {
		return
	}
	have := int(n.image.Index())
	behind := len(m.images) - 1 - have
	if behind <= 0 {
		return
	}
	if m.w.chance(50) {
		have += 1 + m.w.rng.IntN(behind)
	} else {
		have += behind
	}
	im := m.images[have]
	if behind > 1 && m.w.chance(10) {
		im = m.install(im)
	}
	n.learn(im)
}

// install takes an image through its snapshot.
func (m *metalog) install(im *metadata.Image) *metadata.Image {
	m.w.counts.Snapshots++
	var b bytes.Buffer
	if err := metadata.WriteSnapshot(im, &b); err != nil {
		m.w.fail(Image, "snapshot of image %d: %v", im.Index(), err)
		return im
	}
	out, err := metadata.ReadSnapshot(&b)
	if err != nil {
		m.w.fail(Image, "snapshot of image %d: %v", im.Index(), err)
		return im
	}
	return out
}

func (m *metalog) catchUp(n *node) {
	if int(n.image.Index()) < len(m.images)-1 {
		m.deliver(n)
	}
}

// quorum reports whether a voter can commit.
func (m *metalog) quorum(id int32) bool {
	c := m.w.nodes[id]
	if !c.up || c.paused {
		return false
	}
	votes := 0
	for _, v := range m.w.nodes[:voters] {
		if v.up && !v.paused && m.w.net.both(id, v.id) {
			votes++
		}
	}
	return votes > voters/2
}

// tick is the controller's loop, and the election of one.
func (m *metalog) tick() {
	now := m.w.now
	if m.controller < 0 || !m.quorum(m.controller) {
		if m.lostSince.IsZero() {
			m.lostSince = now
		}
		if now.Sub(m.lostSince) >= 500*time.Millisecond {
			m.elect()
		}
		return
	}
	m.lostSince = time.Time{}
	for _, n := range m.w.nodes {
		switch {
		case !n.up && m.w.net.both(n.id, m.controller):
			m.live.Refused(n.id, now)
		case n.up && m.w.net.both(n.id, m.controller):
			m.live.Accepted(n.id)
		}
	}
	m.live.Observe(m.latest(), now)
	for _, c := range controller.Confirmations(m.latest(), m.reconciledTo) {
		m.later(c)
	}
	d := controller.Decide(m.latest(), m.live, now, controller.DefaultOptions())
	for _, c := range d.Commands {
		m.later(c)
	}
}

func (m *metalog) elect() {
	if m.w.healed && m.controller >= 0 && m.quorum(m.controller) {
		return
	}
	m.controller = -1
	var able []int32
	for id := range int32(voters) {
		if m.quorum(id) {
			able = append(able, id)
		}
	}
	if len(able) == 0 {
		return
	}
	m.controller = able[m.w.rng.IntN(len(able))]
	m.w.counts.ControllerChanges++
	m.lostSince = time.Time{}
	m.live, m.reconciled = controller.NewLiveness(m.w.now), map[int32]reconciledTo{}
	m.live.Observe(m.latest(), m.w.now)
}

// heartbeat carries a heartbeat there and its answer back.
func (m *metalog) heartbeat(n *node) {
	c := m.controller
	if c < 0 || !m.w.net.open(n.id, c) || !m.quorum(c) {
		return
	}
	h := controller.Heartbeat{
		NodeID: n.id, BrokerEpoch: n.brokerEpoch, WantShutdown: n.stopping,
		FlushStalled: !n.flushSince.IsZero() && m.w.now.Sub(n.flushSince) > flushStall,
	}
	if h.FlushStalled && !n.stallTold.Equal(n.flushSince) {
		n.stallTold = n.flushSince
		m.w.counts.Stalls++
	}
	told := reconciledTo{n.brokerEpoch, n.reconciled}
	m.w.after(m.w.net.delay(), fmt.Sprintf("%d heartbeat arrives", n.id), func() {
		if m.controller != c || !m.quorum(c) || !m.w.net.open(c, n.id) {
			return // not answered, so the next one does not count either
		}
		m.live.Observe(m.latest(), m.w.now)
		m.live.Heard(h, m.w.now)
		m.reconciled[h.NodeID] = told
		n.after(m.w.net.delay(), "heartbeat answered", func() { n.heard = n.w.now })
	})
}

// propose sends a command to the controller. reply runs once, in the node's
// process, if that still lives.
func (m *metalog) propose(n *node, cmd *metav1.Command, reply func(outcome)) {
	generation := n.generation
	answer := func(d time.Duration, o outcome) {
		n.afterIn(generation, d, "outcome", func() { reply(o) })
	}
	unknown := func() { answer(m.w.between(100*time.Millisecond, sessionTimeout), outcome{}) }
	c := m.controller
	if c < 0 || !m.w.net.open(n.id, c) {
		unknown()
		return
	}
	mix := &m.w.mix
	m.w.after(m.w.net.between(n.id, c), fmt.Sprintf("%d proposes", n.id), func() {
		rough := !m.w.healed
		if m.controller != c || !m.quorum(c) || rough && m.w.chance(mix.unknown) {
			// Nobody knows: it is in some log, or in none.
			if m.w.chance(50) {
				m.w.counts.LateCommands++
				m.w.after(m.w.between(0, 8*time.Second), "an old command is committed", func() { m.commit(cmd) })
			}
			unknown()
			return
		}
		o := m.commit(cmd)
		if rough && m.w.chance(mix.twice) {
			m.w.counts.RepeatedCommands++
			m.w.after(m.w.between(0, 3*time.Second), "a command again", func() { m.commit(cmd) })
		}
		if !m.w.net.open(c, n.id) || rough && m.w.chance(mix.unknown) {
			unknown()
			return
		}
		answer(m.w.net.between(c, n.id), o)
	})
}

// traceCommand shows a command and the partitions that it changed.
func (w *World) traceCommand(old, im *metadata.Image, c *metav1.Command, err error) {
	w.trace(fmt.Sprintf("COMMAND %d %.300s (%v)", im.Index(), fmt.Sprint(c.GetKind()), err))
	for _, p := range w.parts {
		was, is := old.TopicByID(p.topic), im.TopicByID(p.topic)
		if is != nil && was != is {
			q := is.Partitions[0]
			w.trace(fmt.Sprintf("  partition %d: leader %d of epoch %d (%d), in sync %v, eligible %v, last %v, lossy %d, replicas %+v",
				p.index, q.Leader, q.LeaderEpoch, q.PartitionEpoch, q.ISR, q.ELR, q.LastISR, q.LossyEpoch, q.Replicas))
		}
	}
}
