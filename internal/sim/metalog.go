package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/cluster/controller"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/log/record"
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
	if err := im.Check(); err != nil {
		m.w.fail("image %d: %v", im.Index(), err)
	}
	m.w.checkImage(old, im, c)
	for _, n := range m.w.nodes {
		n.after(m.w.between(time.Millisecond, 30*time.Millisecond), "image", func() { m.deliver(n) })
	}
	return outcome{known: true, result: result, err: err}
}

// deliver brings a node that can reach the controller the newest image, or one on
// the way there.
func (m *metalog) deliver(n *node) {
	if m.controller < 0 || !m.w.net.both(n.id, m.controller) {
		return
	}
	have := int(n.image.Index())
	if behind := len(m.images) - 1 - have; behind > 0 {
		if m.w.chance(50) {
			have += 1 + m.w.rng.IntN(behind)
		} else {
			have += behind
		}
		n.learn(m.images[have])
	}
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
	d := controller.Decide(m.latest(), m.live, now, controller.DefaultOptions())
	for _, c := range d.Commands {
		m.commit(m.command(c))
	}
}

func (m *metalog) elect() {
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
	m.live = controller.NewLiveness(m.w.now)
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
	m.w.after(m.w.net.delay(), fmt.Sprintf("%d heartbeat arrives", n.id), func() {
		if m.controller != c || !m.quorum(c) || !m.w.net.open(c, n.id) {
			return // not answered, so the next one does not count either
		}
		m.live.Observe(m.latest(), m.w.now)
		m.live.Heard(h, m.w.now)
		n.after(m.w.net.delay(), "heartbeat answered", func() { n.heard = n.w.now })
	})
}

// propose sends a command to the controller. reply runs once, in the node's
// process, if that still lives.
func (m *metalog) propose(n *node, cmd *metav1.Command, reply func(outcome)) {
	answer := func(d time.Duration, o outcome) {
		n.after(d, "outcome", func() { reply(o) })
	}
	unknown := func() { answer(m.w.between(100*time.Millisecond, sessionTimeout), outcome{}) }
	c := m.controller
	if c < 0 || !m.w.net.open(n.id, c) {
		unknown()
		return
	}
	m.w.after(m.w.net.delay(), fmt.Sprintf("%d proposes", n.id), func() {
		switch {
		case m.controller != c || !m.quorum(c) || m.w.chance(1):
			// Nobody knows: it is in some log, or in none.
			if m.w.chance(50) {
				m.w.after(m.w.between(0, 4*time.Second), "an old command is committed", func() { m.commit(cmd) })
			}
			unknown()
			return
		}
		o := m.commit(cmd)
		if m.w.chance(1) { // sent twice
			m.w.after(m.w.between(0, time.Second), "a command again", func() { m.commit(cmd) })
		}
		if !m.w.net.open(c, n.id) || m.w.chance(2) {
			unknown()
			return
		}
		answer(m.w.net.delay(), o)
	})
}

// part is a partition and what is known to be true of it.
type part struct {
	index     int
	topic     metadata.ID
	name      string
	replicas  []int32
	synced    bool
	acksOne   bool // its producers do with acks=1
	committed []entry
	acked     []ackedRecord
	// lossy: an election was allowed to lose records, in that epoch.
	lossy      bool
	lossyEpoch record.Epoch
	leaders    []leading // by epoch
}

type ackedRecord struct {
	offset int
	e      entry
}

func (w *World) makeParts() {
	kinds := []struct{ synced, one bool }{{true, false}, {false, false}, {true, true}, {true, false}}
	for i, k := range kinds {
		p := &part{index: i, name: fmt.Sprintf("t%d", i), synced: k.synced, acksOne: k.one}
		p.topic[0], p.topic[15] = 0x70, byte(i+1)
		for j := range 3 {
			p.replicas = append(p.replicas, int32((i+j)%w.opts.Nodes))
		}
		w.parts = append(w.parts, p)
	}
}

// createTopics proposes what is missing until all topics exist.
func (m *metalog) createTopics() {
	missing := false
	for _, p := range m.w.parts {
		if m.latest().TopicByID(p.topic) != nil {
			continue
		}
		missing = true
		if m.controller < 0 || slices.ContainsFunc(p.replicas, func(id int32) bool { return m.latest().Broker(id) == nil }) {
			continue
		}
		configs := map[string]string{"min.insync.replicas": "2"}
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
