package broker

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

const (
	simNodes     = 3
	simSession   = 3 * time.Second // of brokers
	simMember    = 3 * time.Second // of members
	simRebalance = 4 * time.Second
	simGroup     = "g"
	simBeat      = 200 * time.Millisecond
)

// simWorld is a cluster of three brokers, as far as groups see it, with the members of
// one group. The driver's goroutine does one thing at a time and waits until everything
// rests, so a seed always runs alike.
type simWorld struct {
	rng   *rand.Rand
	trace io.Writer // nil: nobody reads it
	hash  interface {
		io.Writer
		Sum64() uint64
	}
	began  time.Time
	calls  sync.WaitGroup // goroutines of calls and sessions
	counts simCounts

	nodes    []*simNode
	clients  []*simClient
	streams  []*simStream        // open at the broker, or on the way there
	waiting  []*simCall          // on their way, at a broker, or on their way back
	numbers  int                 // of streams and calls
	bornAt   map[api.TopicID]int // which image had a topic first
	born     map[string]int
	classics int    // of 100 members that start, how many speak the classic protocol
	protocol string // that they have in common
	trouble  int    // how much, of 100
	healed   bool

	mu        sync.Mutex // guards what follows, and the nodes
	images    []*metadata.Image
	committed []*simBatch // of __consumer_offsets
	truth     simTruth
	err       error
	promise   simPromise
}

// simNode is a broker: what it has for groups is the product's, what is around that the
// simulation's.
type simNode struct {
	w      *simWorld
	id     int32
	b      *Broker
	at     int // the newest of images that it has
	loaded record.Epoch

	cut     bool // from the other brokers, the controller among them; clients reach it
	stopped bool // the process stands still, or is dead
	dead    bool
	slow    bool      // learns nothing of the metadata, unless it asks
	since   time.Time // cut or stopped
	until   time.Time

	// The session with the controller, as package cluster has it.
	heard       time.Time
	behind      int
	behindSince time.Time

	simReplica
}

func newSimWorld(seed uint64, trace io.Writer) *simWorld {
	w := &simWorld{
		rng: rand.New(rand.NewPCG(seed, 0x67726f757073)), trace: trace, hash: fnv.New64a(), began: time.Now(),
		born: map[string]int{}, bornAt: map[api.TopicID]int{}, truth: newSimTruth(),
	}
	w.images = []*metadata.Image{metadata.Empty()}
	must := func(c *metav1.Command) {
		if !w.command(c) {
			panic(fmt.Sprintf("the command was refused: %v", c))
		}
	}
	must(&metav1.Command{Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "c"}}})
	for id := int32(1); id <= simNodes; id++ {
		for _, c := range registered(id) {
			must(c)
		}
		must(&metav1.Command{Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: id, BrokerEpoch: int64(w.newest().Index())}}})
	}
	must(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: offsetsTopic, TopicId: append(make([]byte, 15), 0xff), Internal: true, Configs: offsetsConfigs(),
		Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{1, 2, 3}}},
	}}})
	w.trouble = 10 + w.rng.IntN(60)
	w.classics = []int{0, 0, 50, 100}[w.rng.IntN(4)]
	w.protocol = []string{simEager, simCooperative}[w.rng.IntN(2)]
	w.create("a", 3)
	w.create("b", 2)
	w.create("p", 2)
	for id := int32(1); id <= simNodes; id++ {
		w.nodes = append(w.nodes, &simNode{w: w, id: id})
	}
	for _, n := range w.nodes {
		n.start()
		n.leader, n.epoch, n.partitionEpoch, n.changed = metadata.NoNode, record.UnknownEpoch, -1, make(chan struct{})
		n.reconcile()
	}
	w.settle()
	return w
}

func (w *simWorld) node(id int32) *simNode {
	if id < 1 || int(id) > len(w.nodes) {
		return nil
	}
	return w.nodes[id-1]
}

// create makes a topic that never was: its id is of its name and of how often there was one.
func (w *simWorld) create(name string, partitions int) {
	w.born[name]++
	c := &metav1.CreateTopic{Name: name, TopicId: append([]byte(name), append(make([]byte, 14), byte(w.born[name]))...)}
	for range partitions {
		c.Partitions = append(c.Partitions, &metav1.PartitionAssignment{Replicas: []int32{1, 2, 3}})
	}
	w.command(&metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: c}})
	w.bornAt[api.TopicID(c.TopicId)] = len(w.images) - 1
}

// lifeOf is the how many-th topic of its name has an id.
func lifeOf(id api.TopicID) int { return int(id[15]) }

// brokenf notes the first broken promise. It may be called from everywhere.
func (w *simWorld) brokenf(p simPromise, format string, args ...any) {
	if w.err == nil {
		w.promise, w.err = p, fmt.Errorf("%s: after %v: %s", p, time.Since(w.began), fmt.Sprintf(format, args...))
	}
}

// notef writes a line of the trace.
func (w *simWorld) notef(format string, args ...any) {
	line := fmt.Sprintf("%12v "+format+"\n", append([]any{time.Since(w.began)}, args...)...)
	_, _ = io.WriteString(w.hash, line) // a hash takes everything
	if w.trace != nil {
		_, _ = io.WriteString(w.trace, line)
	}
}

// settle waits until nobody has anything to do, and gathers what came of it.
func (w *simWorld) settle() {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams = slices.DeleteFunc(w.streams, func(s *simStream) bool { return s.gather() })
	for _, c := range w.waiting {
		if c.done && !c.judged {
			c.judged = true
			w.judge(c)
		}
	}
}

// start begins a process.
func (n *simNode) start() {
	now := time.Now()
	n.b = &Broker{
		cfg:   Config{NodeID: n.id, Images: n, Membership: simMembership{n: n}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)},
		table: newTable(), stopping: make(chan struct{}), logger: slog.New(slog.DiscardHandler),
	}
	c, err := coordinator.New(coordinator.Config{
		NodeID: n.id, Topics: groupTopics{n}, Logger: n.b.logger, LoadGrace: simMember, SessionTimeout: simMember, RebalanceTimeout: simRebalance,
	})
	if err != nil {
		panic(err)
	}
	c.SetPartitions(1)
	n.b.coordinator, n.loaded = c, record.UnknownEpoch
	n.at, n.heard, n.behind = len(n.w.images)-1, now, 0
}

func (n *simNode) connected() bool { return !n.cut && !n.stopped }

// learns: the metadata log comes by itself, and not only when it is asked for.
func (n *simNode) learns() bool { return n.connected() && !n.slow }

func (n *simNode) image() simImage { return simImage{n.w.images[n.at]} }

// Image implements Images.
func (n *simNode) Image() *metadata.Image {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.image().Image
}

// Changed implements Images.
func (n *simNode) Changed(uint64) <-chan struct{} { return nil }

// WaitApplied implements Images.
func (n *simNode) WaitApplied(context.Context, uint64) error { return nil }

// ReadBarrier implements Images.
//
// Its answer comes a little later than everything that is in doubt now: an actor that reads
// the image meanwhile would see it or not.
func (n *simNode) ReadBarrier(context.Context) error {
	time.Sleep(time.Nanosecond)
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.counts.Barriers++
	if !n.connected() {
		return errors.New("no controller answers")
	}
	n.at = len(n.w.images) - 1
	return nil
}

// simMembership is a broker's session; nothing else of a Membership is asked for.
type simMembership struct {
	Membership
	n *simNode
}

// SessionValid implements Membership.
func (m simMembership) SessionValid(time.Time) bool {
	m.n.w.mu.Lock()
	defer m.n.w.mu.Unlock()
	return m.n.valid()
}

// valid is what cluster.Node says of its session. The caller holds mu.
func (n *simNode) valid() bool {
	now := time.Now()
	return now.Sub(n.heard) < simSession && (n.behind <= n.at || now.Sub(n.behindSince) < simSession)
}

// beat is a heartbeat that is answered.
func (n *simNode) beat() {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	now := time.Now()
	newest := len(n.w.images) - 1
	switch {
	case newest <= n.at:
	case now.Sub(n.heard) >= simSession:
		n.behind, n.behindSince = newest, now.Add(-simSession)
	case n.behind <= n.at:
		n.behind, n.behindSince = newest, now
	}
	n.heard = now
}

// hear applies more of the metadata log.
func (n *simNode) hear(most int) {
	n.w.mu.Lock()
	n.at = min(n.at+most, len(n.w.images)-1)
	n.w.mu.Unlock()
	n.reconcile()
}

// reconcile does as the image says, as the reconciler of a broker does. A coordinator that
// is replaced hears of its appends first, or first that it is none any more.
func (n *simNode) reconcile() {
	appendsFirst := n.w.rng.IntN(2) == 0
	if appendsFirst {
		n.follow()
		n.w.settle()
	}
	n.load()
	if !appendsFirst {
		n.w.settle()
		n.follow()
	}
	n.b.coordinator.TopicsChanged()
}

// follow has the replica act in the leader epoch of the image.
func (n *simNode) follow() {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	p := n.image().partition()
	if epoch := record.Epoch(p.LeaderEpoch); epoch != n.epoch {
		n.tellRefused()
		for _, a := range n.pending {
			a.doubt(errNotLeader())
		}
		n.epoch, n.leader, n.synced, n.pending = epoch, p.Leader, false, nil
		n.began, n.acked = len(n.log), map[int32]int{}
		n.wake()
	}
	if p.PartitionEpoch != n.partitionEpoch { // what was proposed before is in, or came too late
		n.partitionEpoch, n.proposed = p.PartitionEpoch, map[int32]bool{}
	}
}

// load begins and ends being a coordinator, as Broker.loadGroups does.
func (n *simNode) load() {
	w, p := n.w, n.image().partition()
	epoch, leads := record.Epoch(p.LeaderEpoch), p.Leader == n.id && !n.b.suspended.Load()
	switch {
	case leads && n.loaded != epoch:
		w.notef("%d loads epoch %d", n.id, epoch)
		for _, other := range w.nodes {
			if other != n && other.loaded != record.UnknownEpoch {
				w.counts.TwoCoordinators++
			}
		}
		n.follow() // who leads has begun to
		w.settle()
		n.b.coordinator.Load(0, epoch, &simLog{n, epoch})
		n.loaded = epoch
		w.counts.Loads++
	case !leads && n.loaded != record.UnknownEpoch:
		w.notef("%d unloads", n.id)
		n.b.coordinator.Unload(0)
		n.loaded = record.UnknownEpoch
	}
}

// tick is the broker's own look at its session.
func (n *simNode) tick() {
	before := n.b.suspended.Load()
	n.b.watchSession(time.Now())
	if n.b.suspended.Load() != before {
		n.w.notef("%d suspended: %v", n.id, !before)
		n.reconcile()
	}
}

// pass lets time pass: brokers are heard, replicate and learn, members beat.
func (w *simWorld) pass(d time.Duration) {
	for d > 0 && w.err == nil {
		step := min(d, simBeat)
		d -= step
		time.Sleep(step)
		w.settle()
		for _, n := range w.nodes {
			if n.connected() {
				n.beat()
			}
			if !n.stopped {
				n.tick()
				w.settle()
			}
			if n.learns() && (w.healed || w.rng.IntN(3) > 0) {
				n.hear(3)
				w.settle()
			}
		}
		for range 2 {
			w.move(w.nodes[w.rng.IntN(simNodes)])
		}
		w.relieve()
		w.remind()
	}
}

// move takes replication one step on.
func (w *simWorld) move(n *simNode) {
	w.mu.Lock()
	n.tellRefused()
	w.mu.Unlock()
	w.settle()
	w.replicate(n)
	w.tend(n)
	w.settle()
}

// relieve has the controller replace a leader that was silent for longer than its session.
func (w *simWorld) relieve() {
	l := w.node(w.newest().partition().Leader)
	if l == nil || l.connected() || !l.dead && time.Since(l.heard) <= simSession+100*time.Millisecond {
		return
	}
	w.elect((*simNode).connected)
}

// busy: the group is not where it should be.
func (w *simWorld) busy() bool {
	l := w.node(w.newest().partition().Leader)
	return w.truth.moving() || len(l.log) > l.hw
}
