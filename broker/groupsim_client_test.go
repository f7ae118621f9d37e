package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// simClient is a member as a program. What it has, believes and asks is its own view; the
// messages between it and brokers take their time.
type simClient struct {
	w        *simWorld
	id       string
	life     int // how often its process was started
	instance string
	classic  *simClassic // nil: it speaks the new protocol
	topics   []string
	pattern  string // of more topics, for the new protocol; empty: none
	calls    bool   // commits by calls, else on its session
	stuck    bool   // gives nothing up
	dead     bool
	paused   time.Time // until then the process stands still

	node    int32 // that it takes for the coordinator; 0: it has to ask
	stream  *simStream
	epoch   int32
	attach  int64
	owned   map[api.TopicPartition]*simOwned
	target  map[api.TopicPartition]bool
	commit  *simCommit // under way; nil: none
	commits int
	beaten  time.Time
}

// simOwned is a partition that a client believes to own.
type simOwned struct {
	pos   int64       // the next to read; -1: it does not know yet
	topic api.TopicID // that it reads
	asked *simCall    // for pos
}

// simCommit is an offset on its way into the log; tag is the metadata beside it.
type simCommit struct {
	id     uint64
	tag    string
	stream *simStream // nil: by a call
}

// simStream is a session's stream, as both ends see it.
type simStream struct {
	n        int
	c        *simClient
	node     *simNode
	join     api.JoinGroup
	opened   bool // the broker has the join
	left     bool // the client does not listen any more
	toServer []api.SessionMessage
	toClient []simNews
	commits  map[uint64]string // the tags of commits, by number
	in       chan api.SessionMessage
	done     chan struct{} // closed when Session returned
	cancel   context.CancelFunc

	// What came since the last step; the world's mu guards it. The update that is newest
	// stands for all, as it does in the coordinator.
	update  *api.SessionUpdate
	answers []api.SessionCommitted
	ended   bool
	err     error
}

// simNews is one message to a client.
type simNews struct {
	update *api.SessionUpdate
	answer *api.SessionCommitted
	end    bool
	err    error
}

// gather takes what came in the last step; true: the stream is over. What comes with
// the end is lost with it: which of the two was first is nobody's promise.
func (s *simStream) gather() (over bool) {
	switch {
	case s.ended:
		s.toClient = append(s.toClient, simNews{end: true, err: s.err})
	default:
		if s.update != nil {
			s.toClient = append(s.toClient, simNews{update: s.update})
		}
		for i := range s.answers {
			s.toClient = append(s.toClient, simNews{answer: &s.answers[i]})
		}
	}
	s.update, s.answers = nil, nil
	return s.ended
}

// out is what the coordinator calls with what it says to the member.
func (s *simStream) out(u api.SessionUpdate) error {
	w := s.c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range u.Commits {
		w.checkAnswer(s, &a)
		s.answers = append(s.answers, a)
	}
	if len(u.Commits) == 0 {
		w.checkUpdate(s.c.id, &u)
		s.update = &u
	}
	return nil
}

// deliver gives the broker the next message of a stream.
func (s *simStream) deliver() {
	w := s.c.w
	switch {
	case s.node.stopped:
		return
	case !s.opened:
		s.opened = true
		ctx, cancel := context.WithCancel(context.Background())
		s.cancel, s.in, s.done = cancel, make(chan api.SessionMessage, 1024), make(chan struct{})
		w.notef("%d: stream %d joins with epoch %d, %v", s.node.id, s.n, s.join.MemberEpoch, s.join.Owned)
		w.askedOld(s.node)
		w.calls.Go(func() {
			err := s.node.b.Session(ctx, s.join, s.in, s.out)
			close(s.done)
			w.mu.Lock()
			defer w.mu.Unlock()
			s.ended, s.err = true, err
		})
	case len(s.toServer) > 0:
		m := s.toServer[0]
		s.toServer = s.toServer[1:]
		w.notef("%d: stream %d sends %s", s.node.id, s.n, describe(&m))
		w.askedOld(s.node)
		select {
		case s.in <- m:
		case <-s.done:
		}
	case s.left: // the broker finds out that nobody is there
		w.notef("%d: stream %d is cut", s.node.id, s.n)
		s.cancel()
	}
	w.settle()
}

func describe(m *api.SessionMessage) string {
	switch {
	case m.Leave:
		return "leave"
	case m.Commit != nil:
		o := m.Commit.Offsets[0]
		return fmt.Sprintf("commit %s-%d at %d %s", o.Topic, o.Partition, o.Offset, o.Metadata)
	}
	return fmt.Sprintf("heartbeat %d %v %v", m.Heartbeat.MemberEpoch, m.Heartbeat.HasOwned, m.Heartbeat.Owned)
}

func (c *simClient) list() []api.TopicPartition {
	return slices.SortedFunc(maps.Keys(c.owned), func(a, b api.TopicPartition) int {
		if n := strings.Compare(a.Topic, b.Topic); n != 0 {
			return n
		}
		return int(a.Partition - b.Partition)
	})
}

// awake: it does something by itself.
func (c *simClient) awake() bool { return !c.dead && !c.paused.After(time.Now()) }

// find asks a broker which is the coordinator, if it has to.
func (c *simClient) find() *simNode {
	if c.node == 0 {
		n := c.w.nodes[c.w.rng.IntN(simNodes)]
		if n.stopped {
			return nil
		}
		id, err := n.b.FindCoordinator(context.Background(), simGroup)
		if err != nil {
			return nil
		}
		c.node = id
	}
	return c.w.node(c.node)
}

// connect begins a stream; one that there is is given up.
func (c *simClient) connect() {
	n := c.find()
	if n == nil || c.classic != nil {
		return
	}
	c.hangUp()
	c.attach++
	c.w.numbers++
	c.stream = &simStream{n: c.w.numbers, c: c, node: n, commits: map[uint64]string{}, join: api.JoinGroup{
		Group: simGroup, MemberID: c.id, MemberEpoch: c.epoch, AttachNumber: c.attach, InstanceID: c.instance, Topics: c.topics, TopicPattern: c.pattern,
		SessionTimeout: simMember.Milliseconds(), RebalanceTimeout: simRebalance.Milliseconds(), Owned: c.list(),
	}}
	c.w.streams = append(c.w.streams, c.stream)
	c.w.notef("%s: stream %d to %d", c.id, c.stream.n, n.id)
}

// hangUp leaves a stream; what is in it may arrive yet.
func (c *simClient) hangUp() {
	if c.classic != nil {
		c.classic.ask, c.node = nil, 0
	}
	if c.stream == nil {
		return
	}
	if c.commit != nil && c.commit.stream == c.stream {
		c.commit = nil // it may be stored or not
	}
	c.stream.left = true
	c.stream = nil
}

func (c *simClient) loseAll() {
	clear(c.owned)
	clear(c.target)
	c.epoch = 0
	if c.commit != nil && c.commit.stream == nil {
		c.commit = nil
	}
}

// receive takes the next message that came, or does what is due.
func (c *simClient) receive() {
	if c.classic != nil {
		c.proceed()
		return
	}
	s := c.stream
	m := s.toClient[0]
	s.toClient = s.toClient[1:]
	switch {
	case m.end:
		c.ended(m.err)
	case m.answer != nil:
		c.w.notef("%s: answer %d: %v", c.id, m.answer.ID, codeOfAnswer(m.answer))
		if c.commit != nil && c.commit.id == m.answer.ID {
			c.commit = nil
		}
	default:
		c.updated(m.update)
	}
}

// updated takes an assignment. What is new it owns at once; what is gone it gives up when
// its application is ready to.
func (c *simClient) updated(u *api.SessionUpdate) {
	c.w.notef("%s: epoch %d, %v", c.id, u.MemberEpoch, u.Assignment)
	c.epoch = u.MemberEpoch
	clear(c.target)
	for _, p := range u.Assignment {
		c.target[p] = true
		if c.byPattern(p.Topic) {
			c.w.counts.Matched++
		}
		if c.owned[p] == nil {
			c.w.claim(c, p, u.MemberEpoch)
			c.owned[p] = &simOwned{pos: -1}
		}
	}
	if !c.stuck && c.w.rng.IntN(3) > 0 {
		c.giveUp()
	}
}

// giveUp drops what it is not to have any more, and says what it has.
func (c *simClient) giveUp() {
	if c.classic != nil {
		c.giveUpClassic()
		return
	}
	maps.DeleteFunc(c.owned, func(p api.TopicPartition, _ *simOwned) bool { return !c.target[p] })
	c.beat(true)
}

func (c *simClient) beat(owned bool) {
	if c.stream == nil {
		return
	}
	c.beaten = time.Now()
	h := api.GroupHeartbeat{MemberEpoch: c.epoch, HasOwned: owned}
	if owned {
		h.Owned = c.list()
	}
	c.stream.toServer = append(c.stream.toServer, api.SessionMessage{Heartbeat: h})
}

// ended hears why a session is over.
func (c *simClient) ended(err error) {
	w := c.w
	w.notef("%s: the session ended: %v", c.id, api.CodeOf(err))
	if c.commit != nil && c.commit.stream == c.stream {
		c.commit = nil
	}
	c.stream, c.node = nil, 0
	switch code := api.CodeOf(err); {
	case err == nil:
		c.dead = true
	case code == api.CodeUnknownMember, code == api.CodeFencedMemberEpoch:
		w.counts.Fenced++
		c.loseAll()
	case code == api.CodeFencedInstanceID:
		w.counts.Superseded++
		c.loseAll()
		c.dead = true
	case code == api.CodeCoordinatorLoading:
		w.counts.Loading++
	case !code.Retriable() && code != api.CodeUnknown:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.brokenf(keepsSane, "%s was refused: %v", c.id, err)
	}
}

// read processes the next record of a partition, if it may.
func (c *simClient) read(p api.TopicPartition) {
	o, w := c.owned[p], c.w
	switch today, _ := w.newest().topic(p.Topic); {
	case o.pos < 0 && o.asked == nil:
		o.asked = w.fetch(c, p)
	case o.pos >= 0 && o.topic == today && !today.IsZero(): // else there is nothing to read any more
		w.processed(c, p, o)
	}
}

// store commits the position of a partition.
func (c *simClient) store(p api.TopicPartition) {
	o := c.owned[p]
	byCall := c.calls || c.classic != nil
	if c.commit != nil || o.pos < 0 || o.topic.IsZero() || !byCall && c.stream == nil {
		return
	}
	c.commits++
	cm := &simCommit{id: uint64(c.commits), tag: simTag{c.memberID(), c.life, c.epoch, lifeOf(o.topic), c.commits}.String()}
	offsets := []api.OffsetCommit{{TopicPartition: p, Offset: record.Offset(o.pos), LeaderEpoch: record.UnknownEpoch, Metadata: cm.tag}}
	if byCall {
		if n := c.find(); n != nil {
			c.commit = cm
			call := &simCall{c: c, life: c.life, node: n, commit: cm, offsets: offsets, epoch: c.epoch, member: c.memberID()}
			if c.classic != nil {
				call.instance = c.instance
			}
			c.w.call(call)
		}
		return
	}
	cm.stream, c.commit = c.stream, cm
	c.stream.commits[cm.id] = cm.tag
	c.stream.toServer = append(c.stream.toServer, api.SessionMessage{Commit: &api.SessionCommit{ID: cm.id, MemberEpoch: c.epoch, Offsets: offsets}})
}

// restart is a new process under the id of the old one, of which things are on their way.
func (c *simClient) restart() {
	c.hangUp()
	c.life, c.attach, c.node, c.commit, c.paused = c.life+1, 0, 0, nil, time.Time{}
	c.loseAll()
	c.classic = nil
	if c.w.rng.IntN(100) < c.w.classics {
		c.classic = c.w.newClassic()
	}
	c.connect()
}

// simCall is one call, on its way to a broker, at it, or on its way back.
type simCall struct {
	n        int
	c        *simClient // nil: an operator's
	life     int        // of c
	epoch    int32
	member   string // of a commit, as the next
	instance string
	node     *simNode
	sent     bool
	what     string                                           // of a request of the classic protocol
	do       func(context.Context, *Broker) (simHeard, error) // is the request; nil: it is another call
	heard    simHeard                                         // what came of it
	commit   *simCommit                                       // nil: it asks what is committed
	reset    bool
	offsets  []api.OffsetCommit
	parts    []api.TopicPartition
	since    int // how much was committed when it was asked
	images   int // what the broker, at the least, knew of the metadata then

	done, judged bool // the world's mu guards it, and the rest
	results      []api.CommittedOffset
	err          error
	topics       map[string]api.TopicID // that the broker had all the time
	lapsed       bool                   // its session was over all the time
}

func (w *simWorld) call(c *simCall) *simCall {
	w.numbers++
	c.n, c.since, c.images = w.numbers, len(w.committed), c.node.at
	w.waiting = append(w.waiting, c)
	return c
}

func (w *simWorld) fetch(c *simClient, parts ...api.TopicPartition) *simCall {
	n := c.find()
	if n == nil {
		return nil
	}
	return w.call(&simCall{c: c, life: c.life, node: n, parts: parts})
}

// run has the broker answer, on a goroutine of the call.
func (c *simCall) run() {
	w, b := c.node.w, c.node.b
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	topics, lapsed := c.node.topics(), b.lapsed()
	var results []api.CommittedOffset
	var err error
	var heard simHeard
	switch {
	case c.do != nil:
		heard, err = c.do(ctx, b)
	case c.reset:
		var moved []api.ResetOffset
		moved, err = b.ResetOffsets(ctx, simGroup, c.offsets, false)
		for _, m := range moved {
			results = append(results, api.CommittedOffset{TopicPartition: m.TopicPartition, Err: m.Err})
		}
	case c.commit != nil:
		results, err = b.CommitOffsets(ctx, &api.CommitOffsets{
			Group: simGroup, MemberID: c.member, InstanceID: c.instance, MemberEpoch: c.epoch, Offsets: c.offsets,
		})
	default:
		results, err = b.FetchOffsets(ctx, &api.FetchOffsets{Group: simGroup, Partitions: c.parts})
	}
	now := c.node.topics()
	lapsed = lapsed && b.lapsed()
	maps.DeleteFunc(topics, func(name string, id api.TopicID) bool { return now[name] != id })
	w.mu.Lock()
	defer w.mu.Unlock()
	c.done, c.results, c.err, c.topics, c.lapsed, c.heard = true, results, err, topics, lapsed, heard
}

// topics are those that a broker knows.
func (n *simNode) topics() map[string]api.TopicID {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	ids := map[string]api.TopicID{}
	for name := range n.w.born {
		if id, partitions := n.image().topic(name); partitions > 0 {
			ids[name] = id
		}
	}
	return ids
}

// arrive takes a call on: to its broker, or, when that has answered, back.
func (w *simWorld) arrive(c *simCall) {
	switch {
	case !c.sent && !c.node.stopped:
		c.sent = true
		w.notef("%d: call %d %s", c.node.id, c.n, c)
		w.askedOld(c.node)
		w.calls.Go(c.run)
		w.settle()
	case c.judged && !c.node.stopped && !c.awaited():
		w.waiting = slices.DeleteFunc(w.waiting, func(other *simCall) bool { return other == c })
		w.notef("call %d is answered: %v", c.n, c.outcome())
		if c.c != nil && c.c.life == c.life && c.c.awake() {
			c.c.answered(c)
		}
	}
}

// awaited: who asked stands still, and will hear later.
func (c *simCall) awaited() bool {
	return c.c != nil && c.c.life == c.life && !c.c.dead && !c.c.awake()
}

func (c *simCall) String() string {
	switch {
	case c.do != nil:
		return c.what
	case c.reset:
		return fmt.Sprintf("resets to %d", c.offsets[0].Offset)
	case c.commit != nil:
		return fmt.Sprintf("commits %s-%d at %d %s", c.offsets[0].Topic, c.offsets[0].Partition, c.offsets[0].Offset, c.commit.tag)
	}
	return fmt.Sprintf("asks for %v", c.parts)
}

// outcome is the error of a call, or of its only partition.
func (c *simCall) outcome() string {
	switch {
	case c.err != nil:
		return api.CodeOf(c.err).String()
	case len(c.results) > 0 && c.results[0].Err != nil:
		return c.results[0].Err.Code.String()
	}
	var b strings.Builder
	for _, r := range c.results {
		fmt.Fprintf(&b, "%s-%d:%d ", r.Topic, r.Partition, r.Offset)
	}
	return b.String()
}

// answered hears what became of a call.
func (c *simClient) answered(call *simCall) {
	if call.do != nil {
		c.heard(call)
		return
	}
	if call.err != nil {
		c.node = 0
	}
	if call.commit != nil {
		if c.commit == call.commit {
			c.commit = nil
		}
		return
	}
	for _, o := range c.owned {
		if o.asked != call {
			continue
		}
		o.asked = nil
		if call.err != nil || call.topics[call.parts[0].Topic].IsZero() {
			break // it asks again
		}
		o.topic, o.pos = call.topics[call.parts[0].Topic], max(int64(call.results[0].Offset), 0)
	}
}

func codeOfAnswer(a *api.SessionCommitted) api.Code {
	switch {
	case a.Err != nil:
		return a.Err.Code
	case len(a.Failed) > 0:
		return a.Failed[0].Err.Code
	}
	return api.CodeNone
}
