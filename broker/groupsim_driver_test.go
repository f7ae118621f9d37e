package broker

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// run is one life of a group: trouble, then peace.
func (w *simWorld) run(steps int) {
	for range steps {
		w.act()
		time.Sleep(time.Duration(w.rng.Int64N(int64(10 * time.Millisecond))))
		w.settle()
		if w.err != nil {
			return
		}
	}
	w.heal()
}

// pick returns one of a list that fits; the zero value: none does.
func pick[T any](w *simWorld, list []T, fits func(T) bool) (one T) {
	var fit []T
	for _, x := range list {
		if fits(x) {
			fit = append(fit, x)
		}
	}
	if len(fit) > 0 {
		one = fit[w.rng.IntN(len(fit))]
	}
	return one
}

func (s *simStream) due() bool {
	return !s.node.stopped && (!s.opened || len(s.toServer) > 0 || s.left)
}

func (c *simClient) hasNews() bool {
	return c.awake() && (c.isDue() || c.stream != nil && len(c.stream.toClient) > 0)
}

func (c *simClient) hasToGive() bool {
	if !c.awake() || c.stuck || c.stream == nil && c.classic == nil {
		return false
	}
	for p := range c.owned {
		if !c.target[p] {
			return true
		}
	}
	return false
}

func (c *simClient) unconnected() bool { return c.awake() && c.stream == nil && c.classic == nil }

func (c *simClient) owns() bool { return c.awake() && len(c.owned) > 0 }

// act does one thing: most of the time work, and trouble as often as the seed says.
func (w *simWorld) act() {
	w.mend()
	switch n := w.rng.IntN(1000); {
	case n < 210:
		if s := pick(w, w.streams, (*simStream).due); s != nil {
			s.deliver()
		}
	case n < 400:
		if c := pick(w, w.clients, (*simClient).hasNews); c != nil {
			c.receive()
		}
	case n < 500:
		if c := pick(w, w.clients, (*simClient).owns); c != nil {
			c.read(pick(w, c.list(), func(api.TopicPartition) bool { return true }))
		}
	case n < 600:
		if c := pick(w, w.clients, (*simClient).owns); c != nil {
			c.store(pick(w, c.list(), func(api.TopicPartition) bool { return true }))
		}
	case n < 720:
		if c := pick(w, w.waiting, func(*simCall) bool { return true }); c != nil {
			w.arrive(c)
		}
	case n < 880:
		w.move(w.nodes[w.rng.IntN(simNodes)])
	case n < 910:
		if c := pick(w, w.clients, (*simClient).hasToGive); c != nil {
			c.giveUp()
		}
	case n < 930:
		if c := pick(w, w.clients, (*simClient).unconnected); c != nil {
			c.connect()
		}
	case n < 960:
		if l := pick(w, w.nodes, (*simNode).learns); l != nil {
			l.hear(1 + w.rng.IntN(3))
			w.settle()
		}
	case n < 968:
		w.look()
	case n < 976:
		w.pass(time.Duration(w.rng.IntN(600)) * time.Millisecond)
	case w.rng.IntN(100) < w.trouble:
		w.upset()
	}
}

// upset is one piece of trouble.
func (w *simWorld) upset() {
	switch n := w.rng.IntN(100); {
	case n < 45:
		w.upsetMembers()
	case n < 60:
		w.upsetTopics()
	case n < 68:
		w.operate()
	default:
		w.upsetBrokers()
	}
}

// chatter lets everybody go on a little, while time passes.
func (w *simWorld) chatter() {
	for range 1 + w.rng.IntN(4) {
		for _, s := range slices.Clone(w.streams) {
			if s.due() && (w.healed || w.rng.IntN(2) == 0) {
				s.deliver()
			}
		}
		for _, c := range w.clients {
			switch {
			case c.hasNews():
				c.receive()
			case c.hasToGive() && w.rng.IntN(2) == 0:
				c.giveUp()
			case c.unconnected() && w.rng.IntN(3) == 0:
				c.connect()
			}
		}
		for _, c := range slices.Clone(w.waiting) {
			if w.healed || w.rng.IntN(3) == 0 {
				w.arrive(c)
			}
		}
		w.move(w.nodes[w.rng.IntN(simNodes)])
	}
}

// remind has members beat.
func (w *simWorld) remind() {
	for _, c := range w.clients {
		if c.awake() && c.stream != nil && time.Since(c.beaten) > time.Second {
			c.beat(w.rng.IntN(4) == 0)
		}
	}
	w.chatter()
}

// askedOld counts what is asked of a coordinator that others may have replaced.
func (w *simWorld) askedOld(n *simNode) {
	if n.loaded == record.UnknownEpoch {
		return
	}
	if n.loaded < record.Epoch(w.newest().partition().LeaderEpoch) {
		w.counts.AskedOld++
	}
	if n.b.lapsed() {
		w.counts.AskedLapsed++
	}
}

func (w *simWorld) alive() (n int) {
	for _, c := range w.clients {
		if !c.dead {
			n++
		}
	}
	return n
}

func (w *simWorld) join() {
	if w.alive() >= 5 || len(w.clients) >= 14 {
		return
	}
	c := &simClient{
		w: w, id: fmt.Sprintf("m%02d", len(w.clients)), life: 1, calls: w.rng.IntN(3) == 0, stuck: w.rng.IntN(8) == 0,
		topics: [][]string{{"a", "b"}, {"a", "b"}, {"a"}, {"b"}}[w.rng.IntN(4)], instance: []string{"", "", "", "s1"}[w.rng.IntN(4)],
		owned: map[api.TopicPartition]*simOwned{}, target: map[api.TopicPartition]bool{},
	}
	if w.rng.IntN(2) == 0 {
		c.pattern = simPatterns[w.rng.IntN(len(simPatterns))]
	}
	if w.rng.IntN(100) < w.classics {
		c.classic = w.newClassic()
	}
	w.clients = append(w.clients, c)
	c.connect()
}

func (w *simWorld) upsetMembers() {
	c := pick(w, w.clients, (*simClient).awake)
	switch n := w.rng.IntN(60); {
	case n >= 50:
		w.roll()
	case n < 12 || c == nil:
		w.join()
	case n < 30:
		w.notef("%s loses its stream", c.id)
		c.hangUp()
		c.connect()
		if c.owns() {
			c.store(c.list()[0])
		}
	case n < 33:
		w.notef("%s dies", c.id)
		c.hangUp()
		c.dead = true
		w.counts.Died++
	case n < 36:
		w.notef("%s starts again", c.id)
		c.restart()
		w.counts.Restarted++
	case n < 45:
		w.notef("%s stands still", c.id)
		c.paused = time.Now().Add(time.Duration(500+w.rng.IntN(7000)) * time.Millisecond)
		w.counts.Paused++
	case c.classic != nil:
		w.notef("%s leaves", c.id)
		c.leaveClassic()
		c.dead = true
		w.counts.Left++
	case c.stream != nil:
		w.notef("%s leaves", c.id)
		clear(c.target)
		c.giveUp()
		c.stream.toServer = append(c.stream.toServer, api.SessionMessage{Leave: true})
		w.counts.Left++
	}
}

// roll has the members start again, one by one, with the other protocol.
func (w *simWorld) roll() {
	share := map[bool]int{true: 100, false: 0}
	c := pick(w, w.clients, func(c *simClient) bool { return c.awake() && share[c.classic != nil] != w.classics })
	if c == nil {
		w.classics = []int{0, 100, 50}[w.rng.IntN(3)]
		w.notef("of 100 members %d are to speak the classic protocol", w.classics)
		return
	}
	w.notef("%s is rolled", c.id)
	if w.rng.IntN(2) == 0 && c.classic != nil {
		c.leaveClassic()
	}
	c.restart()
	w.counts.Rolled++
}

func (w *simWorld) upsetTopics() {
	name := []string{"a", "b", "p", "q", "p", "q"}[w.rng.IntN(6)]
	id, partitions := w.newest().topic(name)
	drop := &metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: name, TopicId: id[:]}}}
	switch n := w.rng.IntN(10); {
	case partitions == 0:
		w.notef("topic %s is created", name)
		w.create(name, 1+w.rng.IntN(3))
		w.counts.Created++
		w.countMatch(name, &w.counts.MatchCreated)
	case n < 3:
		w.notef("topic %s is deleted", name)
		w.command(drop)
		w.counts.Deleted++
		w.countMatch(name, &w.counts.MatchDeleted)
	case n < 6:
		w.notef("topic %s is deleted and created again", name)
		w.command(drop)
		w.create(name, int(partitions))
		w.countMatch(name, &w.counts.MatchDeleted)
		w.counts.Deleted++
		w.counts.Created++
	case partitions < 5:
		w.notef("topic %s grows", name)
		w.command(&metav1.Command{Kind: &metav1.Command_AddPartitions{AddPartitions: &metav1.AddPartitions{
			Name: name, TopicId: id[:], From: partitions, Partitions: []*metav1.PartitionAssignment{{Replicas: []int32{1, 2, 3}}},
		}}})
		w.counts.Grown++
		w.countMatch(name, &w.counts.MatchGrown)
	}
}

// look asks a coordinator, an old one as soon as a new one, what is committed.
func (w *simWorld) look() {
	n := pick(w, w.nodes, func(n *simNode) bool { return n.loaded != record.UnknownEpoch })
	if n == nil || len(w.waiting) > 20 {
		return
	}
	c := w.call(&simCall{node: n})
	if name := []string{"", "a", "b", "p"}[w.rng.IntN(4)]; name != "" {
		c.parts = []api.TopicPartition{{Topic: name, Partition: w.rng.Int32N(3)}}
	}
}

// operate moves offsets of a group, which nobody may be in.
func (w *simWorld) operate() {
	n := pick(w, w.nodes, func(n *simNode) bool { return n.loaded != record.UnknownEpoch })
	if n == nil {
		return
	}
	p := api.TopicPartition{Topic: "a"}
	id, partitions := w.newest().topic(p.Topic)
	if partitions == 0 {
		return
	}
	p.Partition = w.rng.Int32N(partitions)
	to := w.rng.Int64N(w.truth.read[simPlace{id, p.Partition}] + 1)
	w.call(&simCall{node: n, reset: true, offsets: []api.OffsetCommit{{
		TopicPartition: p, Offset: record.Offset(to), LeaderEpoch: record.UnknownEpoch, Metadata: fmt.Sprintf("%s %d", simReset, w.numbers),
	}}})
}

func (w *simWorld) leader() *simNode { return w.node(w.newest().partition().Leader) }

func (w *simWorld) upsetBrokers() {
	l, n := w.leader(), w.rng.IntN(32)
	switch whole := !slices.ContainsFunc(w.nodes, func(n *simNode) bool { return !n.learns() }); {
	case n < 5:
		w.elect((*simNode).connected)
	case n < 10:
		w.doubt(l)
	case n < 14:
		w.notef("%d refuses", l.id)
		l.refuse += 1 + w.rng.IntN(2)
	case !whole: // one at a time
	case n < 18:
		w.take(cmp.Or(pick(w, w.nodes, func(*simNode) bool { return w.rng.IntN(3) == 0 }), l), "is cut off")
	case n < 24:
		w.take(cmp.Or(pick(w, w.nodes, func(*simNode) bool { return w.rng.IntN(3) == 0 }), l), "stands still")
	case n < 28:
		w.take(cmp.Or(pick(w, w.nodes, func(*simNode) bool { return w.rng.IntN(3) == 0 }), l), "learns nothing")
	default:
		w.take(l, "dies")
	}
}

// doubt has the leader say of some appends that are on their way that it does not know.
func (w *simWorld) doubt(l *simNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.rng.IntN(len(l.pending) + 1)
	for _, a := range l.pending[:n] {
		w.notef("%d does not know of the append of batch %d", l.id, a.at)
		a.doubt(api.Errorf(api.CodeRequestTimedOut, "the followers did not answer in time"))
	}
	l.pending = l.pending[n:]
}

// take has something happen to a broker, for a while.
func (w *simWorld) take(n *simNode, what string) {
	w.notef("%d %s", n.id, what)
	n.since = time.Now()
	n.until = n.since.Add(time.Duration(200+w.rng.IntN(7000)) * time.Millisecond)
	if n == w.leader() && w.rng.IntN(3) == 0 { // it does not hear of that any more
		w.elect(func(other *simNode) bool { return other != n && other.connected() })
	}
	switch what {
	case "learns nothing":
		n.slow = true
		w.counts.Slow++
	case "is cut off":
		n.cut = true
		w.counts.Cut++
	case "stands still":
		n.stopped = true
	case "dies":
		n.stopped, n.dead = true, true
		n.stop()
		w.counts.Crashed++
	}
}

// stop ends a process.
func (n *simNode) stop() {
	if err := n.b.coordinator.Close(); err != nil {
		panic(err)
	}
	n.loaded = record.UnknownEpoch
	n.w.settle()
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, a := range n.pending {
		a.batch.unknown = true
	}
	n.pending = nil
}

// mend ends what has lasted long enough.
func (w *simWorld) mend() {
	for _, n := range w.nodes {
		if n.learns() || time.Now().Before(n.until) || n.dead && w.leader() == n {
			continue
		}
		w.notef("%d is back", n.id)
		if n.stopped && time.Since(n.since) > simSession {
			w.counts.StoodStill++
		}
		n.cut, n.stopped, n.slow = false, false, false
		if n.dead {
			n.dead = false
			n.start()
			n.reconcile()
		}
	}
}

// heal is the end of all trouble: everybody comes to rest, and is looked at.
func (w *simWorld) heal() {
	w.notef("peace")
	w.healed = true
	for _, n := range w.nodes {
		n.until, n.refuse = time.Time{}, 0
	}
	for _, c := range w.clients {
		c.stuck, c.paused = false, time.Time{}
	}
	for range 300 {
		w.mend()
		w.pass(simBeat)
		if w.err != nil || w.unrest() == "" {
			break
		}
	}
	if why := w.unrest(); w.err == nil && why != "" {
		w.brokenf(keepsAtRest, "%s", why)
	}
	if w.err == nil {
		w.lookBack()
	}
}

// unrest says what is still to come; empty: nothing.
func (w *simWorld) unrest() string {
	l := w.leader()
	live := 0
	owner := map[api.TopicPartition]string{}
	for _, c := range w.clients {
		if c.dead {
			continue
		}
		live++
		switch {
		case !slices.Contains(w.truth.memberIDs(), c.memberID()):
			return c.id + " is not in the group"
		case c.classic != nil && !c.classic.settled(), c.classic == nil && (c.stream == nil || len(c.stream.toServer)+len(c.stream.toClient) > 0):
			return c.id + " has something to hear"
		}
		for _, p := range c.list() {
			if owner[p] != "" {
				return fmt.Sprintf("%v is %s's and %s's", p, owner[p], c.id)
			}
			owner[p] = c.id
			if o := c.owned[p]; !c.target[p] || o.asked != nil {
				return fmt.Sprintf("%s does not have %v, or is to give it up", c.id, p)
			}
		}
	}
	switch {
	case len(w.truth.memberIDs()) != live:
		return fmt.Sprintf("%d are alive, the group has the members %v", live, w.truth.memberIDs())
	case len(l.log) > l.hw || len(w.newest().partition().ISR) < simNodes || l.loaded != l.epoch:
		return fmt.Sprintf("the leader %d is not where it should be", l.id)
	}
	return w.leftOver(owner)
}

// leftOver names a partition that somebody wants and nobody has.
func (w *simWorld) leftOver(owner map[api.TopicPartition]string) string {
	for _, name := range sortedKeys(w.born) {
		_, partitions := w.newest().topic(name)
		wanted := slices.ContainsFunc(w.clients, func(c *simClient) bool { return !c.dead && (slices.Contains(c.topics, name) || c.byPattern(name)) })
		for i := range partitions {
			if p := (api.TopicPartition{Topic: name, Partition: i}); wanted && owner[p] == "" {
				return fmt.Sprintf("%v is nobody's", p)
			}
		}
	}
	return ""
}

// lookBack asks for everything that is committed, of a coordinator that may be loading yet.
func (w *simWorld) lookBack() {
	w.waiting = nil
	c := w.call(&simCall{node: w.leader()})
	w.arrive(c)
	for i := 0; i < 20 && (!c.judged || c.err != nil); i++ {
		w.pass(simBeat)
		if c.judged && c.err != nil {
			c = w.call(&simCall{node: w.leader()})
			w.arrive(c)
		}
	}
	switch {
	case w.err != nil:
	case !c.judged || c.err != nil:
		w.brokenf(keepsAtRest, "nobody says what is committed: %v", c.err)
	}
}

// close ends all goroutines.
func (w *simWorld) close() {
	for _, s := range w.streams {
		if s.opened {
			s.cancel()
		}
	}
	for _, n := range w.nodes {
		if err := n.b.coordinator.Close(); err != nil {
			panic(err)
		}
	}
	w.calls.Wait()
}
