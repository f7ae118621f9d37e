package consumergroup

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelClient is a member as a program: it sees messages late, acknowledges
// late, dies, sleeps and reconnects. Its owned set is its own view.
type modelClient struct {
	id       string
	instance string
	topics   []string
	epoch    int32
	attach   int64
	stream   uint64 // 0: not connected
	owned    map[TopicPartition]struct{}
	dead     bool                     // the process is gone, or was told that it is fenced
	stuck    bool                     // its application never gives anything up, and takes nothing
	offsets  map[TopicPartition]int64 // the next to read of what it owns
	lives    map[TopicPartition]byte  // which life of its topic it reads
	dropped  map[TopicPartition]bool  // of a former life: the coordinator that came does not know of it

	old *oldClient // it speaks the classic protocol; nil: the new one

	toGroup  []Event  // in flight, in order
	toMember []Effect // in flight, in order
}

// model is a world with one group, its store and its clients.
type model struct {
	now     time.Time
	g       *Group
	out     Effects
	clients []*modelClient
	topics  map[string]int32
	lives   map[string]byte // how often each topic was created again
	unheard bool            // the group has not heard of it yet
	streams uint64
	stale   []Event       // in flight on streams that were replaced
	ghosts  []ghost       // processes that were started again under their old id
	commits []modelCommit // on their way, each by a call of its own

	committed map[TopicPartition]int64
	processed map[TopicPartition]int64 // somebody read everything below

	store    store
	deadline time.Time // of the group's timer

	// While the group is of the classic protocol it is c, and g is empty.
	c                *Classic
	oldOut           ClassicEffects
	calls            uint64
	strays           []ClassicEvent // in flight on connections that are gone
	changes          int            // of topics
	hosted, released int            // conversions
	highest          int32          // group epoch or generation so far
}

// store is what the group's log holds.
type store struct {
	epoch, target int32
	hash          int64
	members       map[string]Member
	targets       map[string][]Given // with the topics they were of when they were written
	currents      map[string]*Current
	classic       *StoredClassic
}

func (s *store) clearGroup() {
	s.epoch, s.target, s.hash = 0, 0, 0
	s.members, s.targets, s.currents = map[string]Member{}, map[string][]Given{}, map[string]*Current{}
}

// checkOwners: a coordinator may take over after any record.
func (s *store) checkOwners() {
	type place struct {
		p  TopicPartition
		of TopicID
	}
	owner := map[place]string{}
	for _, id := range slices.Sorted(maps.Keys(s.currents)) {
		c := s.currents[id]
		for _, p := range slices.Concat(c.Assigned, c.Revoking) {
			at := place{p.TopicPartition, p.TopicID}
			if other := owner[at]; other != "" && s.hash != 0 {
				panic(fmt.Sprintf("the log has %s for %s and for %s", p, other, id))
			}
			owner[at] = id
		}
	}
}

// restore makes the group anew, as a new coordinator does.
func (w *model) restore() (*Group, *Classic) {
	s, now := &w.store, w.now
	if s.classic != nil && (len(s.classic.Members) > 0 || len(s.members) == 0) {
		return New("g"), RestoreClassic(now, "g", s.classic, 0)
	}
	stored := &Stored{Epoch: s.epoch, Hash: s.hash, TargetEpoch: s.target, TargetIDs: map[string]TopicID{}}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		m := StoredMember{Member: s.members[id], Target: w.knownTarget(id, stored.TargetIDs), Current: s.currents[id]}
		if s.hash == 0 {
			m.Target, m.Current = nil, nil
		} else {
			m.Current = w.known(id, m.Current)
		}
		if len(m.Classic) > 0 {
			claims, _ := readModel(&ClassicMember{Protocols: m.Classic})
			m.Subscription = claims.Subscription
		}
		stored.Members = append(stored.Members, m)
	}
	return Restore(now, "g", stored, time.Second), nil
}

// failer is what a check tells.
type failer interface {
	Fatalf(format string, args ...any)
}

// modelCommit is an offset commit on its way.
type modelCommit struct {
	id        string
	epoch     int32
	partition TopicPartition
	offset    int64
	life      byte
}

// read lets a client process the next record of a partition that it believes to
// own. None may be skipped.
func (w *model) read(t failer, c *modelClient, p TopicPartition) {
	if c.lives[p] != w.lives[p.Topic] {
		return // there is nothing to read any more
	}
	if at := c.offsets[p]; at > w.processed[p] {
		t.Fatalf("%s reads %s at %d, nobody has read %d", c.id, p, at, w.processed[p])
	}
	c.offsets[p]++
	w.processed[p] = max(w.processed[p], c.offsets[p])
}

func (w *model) sendCommit(c *modelClient, p TopicPartition) {
	w.commits = append(w.commits, modelCommit{c.id, c.epoch, p, c.offsets[p], c.lives[p]})
}

// arrive gives the group the commit that has been on its way for longest. What
// is committed never goes back.
func (w *model) arrive(t failer) {
	m := w.commits[0]
	w.commits = w.commits[1:]
	if w.mayCommit(m.id, m.epoch, m.partition) != CodeNone {
		return
	}
	if m.life != w.lives[m.partition.Topic] {
		t.Fatalf("%s: %s committed %d of the topic that was deleted, to the one of its name, in epoch %d", m.partition, m.id, m.offset, m.epoch)
	}
	if m.offset < w.committed[m.partition] {
		t.Fatalf("%s: the committed offset went back from %d to %d, by %s in epoch %d", m.partition, w.committed[m.partition], m.offset, m.id, m.epoch)
	}
	w.committed[m.partition] = m.offset
}

// mayCommit asks the group whether it takes a commit.
func (w *model) mayCommit(id string, epoch int32, p TopicPartition) Code {
	if w.c != nil {
		code, _ := w.c.CheckCommit(id, "", epoch)
		return code
	}
	code, _ := w.g.CheckMember(id, "", epoch)
	if code == CodeNone {
		code, _ = w.g.CheckCommit(id, epoch, p, w.id(p.Topic))
	}
	return code
}

// ghost is what the former process of a member may still commit with.
type ghost struct {
	id    string
	epoch int32
}

const (
	modelSession   = 10 * time.Second
	modelRebalance = 20 * time.Second
)

func newModel() *model {
	w := &model{
		now: time.Unix(1_000_000, 0), g: New("g"),
		topics:    map[string]int32{"a": 3, "b": 2},
		lives:     map[string]byte{},
		committed: map[TopicPartition]int64{}, processed: map[TopicPartition]int64{},
	}
	w.store.clearGroup()
	return w
}

func (w *model) metadata() *Metadata {
	md := &Metadata{Partitions: maps.Clone(w.topics), IDs: map[string]TopicID{}}
	for topic := range w.topics {
		md.IDs[topic] = w.id(topic)
	}
	return md
}

func newModelClient(id string) *modelClient {
	return &modelClient{
		id: id, owned: map[TopicPartition]struct{}{}, offsets: map[TopicPartition]int64{},
		lives: map[TopicPartition]byte{}, dropped: map[TopicPartition]bool{},
	}
}

// begin lets a client that was given p read from what is committed.
func (w *model) begin(c *modelClient, p TopicPartition) {
	delete(c.dropped, p)
	c.offsets[p], c.lives[p] = w.committed[p], w.lives[p.Topic]
}

// step runs one event and the assignment it asks for.
func (w *model) step(ev Event) {
	if w.c != nil {
		// Nobody of the new protocol is in the group.
		defer func(d time.Time) { w.deadline = d }(w.deadline)
	}
	w.out.Reset()
	w.g.Step(w.now, ev, &w.out)
	assign := w.out.Assign
	w.carryOut()
	if assign {
		w.out.Reset()
		w.g.Step(w.now, Event{Kind: EventAssign}, &w.out)
		w.carryOut()
	}
	if w.g.OnlyClassic() {
		w.release()
	}
}

func (w *model) carryOut() {
	w.deadline = w.out.Deadline
	s := &w.store
	for _, e := range w.out.List {
		switch e.Kind {
		case EffectPersistGroup:
			s.epoch, s.hash = e.Epoch, e.Hash
		case EffectPersistMember:
			s.members[e.MemberID] = *e.Member
		case EffectPersistTarget:
			s.target = e.Epoch
		case EffectPersistTargetOf:
			s.targets[e.MemberID] = w.ofToday(e.Assigned)
		case EffectPersistCurrent:
			s.currents[e.MemberID] = e.Current
			s.checkOwners()
		case EffectReply:
			w.reply(*e.Reply)
		case EffectForgetMember:
			delete(s.members, e.MemberID)
			delete(s.targets, e.MemberID)
			delete(s.currents, e.MemberID)
		case EffectUpdate, EffectDrop:
			for _, c := range w.clients {
				if c.old == nil && c.stream == e.Stream {
					c.toMember = append(c.toMember, e)
				}
			}
		}
	}
}

func (w *model) connect(c *modelClient) {
	for _, ev := range c.toGroup {
		if ev.Kind == EventHeartbeat {
			w.stale = append(w.stale, ev)
		}
	}
	w.streams++
	c.stream = w.streams
	c.attach++
	c.toGroup, c.toMember = nil, nil
	c.toGroup = append(c.toGroup, Event{
		Kind: EventJoin, MemberID: c.id, Stream: c.stream, Epoch: c.epoch, Attach: c.attach, Owned: c.list(),
		Join: &Member{
			ID: c.id, InstanceID: c.instance, Topics: c.topics,
			SessionTimeout: modelSession, RebalanceTimeout: modelRebalance,
		},
	})
}

func (w *model) disconnect(c *modelClient) {
	if c.stream == 0 {
		return
	}
	stream := c.stream
	c.stream, c.toGroup, c.toMember = 0, nil, nil
	w.step(Event{Kind: EventDetach, MemberID: c.id, Stream: stream})
}

// restart is a new process under the id of the old one.
func (w *model) restart(c *modelClient) {
	if c.epoch > 0 {
		w.ghosts = append(w.ghosts, ghost{c.id, c.epoch})
	}
	c.epoch = 0
	clear(c.owned)
	w.connect(c)
	w.deliver(c)
}

func (c *modelClient) list() []TopicPartition { return sorted(c.owned) }

// receive lets the client take the next message.
func (w *model) receive(c *modelClient) {
	e := c.toMember[0]
	c.toMember = c.toMember[1:]
	if e.Kind == EffectDrop {
		c.dead, c.stream, c.toGroup, c.toMember = true, 0, nil, nil
		clear(c.owned)
		return
	}
	if c.stuck {
		return
	}
	c.epoch = e.Epoch
	next := setOf(e.Assigned)
	for p := range next {
		if _, had := c.owned[p]; !had {
			w.begin(c, p)
		}
	}
	if !maps.Equal(next, c.owned) {
		c.owned = next
		c.toGroup = append(c.toGroup, Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch, HasOwned: true, Owned: c.list()})
	}
}

func (w *model) deliver(c *modelClient) {
	ev := c.toGroup[0]
	c.toGroup = c.toGroup[1:]
	if ev.Kind == EventJoin {
		if !w.admits(ev) {
			w.out.Reset()
			w.out.List = append(w.out.List, Effect{Kind: EffectDrop, MemberID: ev.MemberID, Stream: ev.Stream, Code: CodeUnknownMember})
			w.carryOut()
			return
		}
		if m := w.g.members[c.id]; m != nil && m.away {
			w.believed(c)
		}
		ev.Metadata = w.metadata()
	}
	w.step(ev)
}

// admits turns a classic group for a member of the new protocol, as the shell does.
func (w *model) admits(ev Event) bool {
	switch {
	case w.c == nil:
	case w.c.Len() > 0 && (ev.Epoch != 0 || len(ev.Owned) > 0):
		return false
	case w.c.Len() > 0:
		w.host()
	default:
		w.g = Restore(w.now, "g", &Stored{Epoch: w.c.Generation()}, 0)
		w.c, w.store.classic, w.store.epoch = nil, nil, w.g.Epoch()
	}
	return true
}

// tick moves the clock and fires the group's timer when it is due.
func (w *model) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for !w.deadline.IsZero() && !w.deadline.After(w.now) {
		if w.c != nil {
			w.stepOld(ClassicEvent{Kind: ClassicTimer})
		} else {
			w.step(Event{Kind: EventTimer})
		}
	}
}

// move restarts the group from its store, as a new coordinator does: everybody
// stands where it stood. older: a build that does not write what members own had
// it in between; nobody is given anything before they have told.
func (w *model) move(older bool) {
	for _, c := range w.clients {
		c.stream, c.toGroup, c.toMember = 0, nil, nil
		if c.old != nil {
			w.reconnectOld(c)
		}
	}
	before, was := w.number(), w.g
	if older && w.g.hosted == 0 {
		w.store.hash = 0
	}
	if w.c != nil {
		before = 0 // A generation that was not stable is not persisted.
	}
	w.g, w.c = w.restore()
	if w.c != nil {
		w.highest = w.c.Generation()
		w.stepOld(ClassicEvent{Kind: ClassicTimer})
		return
	}
	if w.number() < before {
		panic(fmt.Sprintf("the epoch was %d and is %d after loading", before, w.number()))
	}
	if !slices.Equal(was.order, w.g.order) {
		panic(fmt.Sprintf("members %q came back as %q", was.order, w.g.order))
	}
	if w.store.hash != 0 {
		kept := 0
		for p, m := range was.holder {
			if was.topic[p] == deletedTopic() && w.g.holder[p] != nil {
				kept++ // nobody subscribed to it: the records may be of before that was found
				continue
			}
			if w.former(p.Topic, was.topic[p]) {
				continue
			}
			kept++
			if now := w.g.holder[p]; now == nil || now.ID != m.ID || now.owned[p] != m.owned[p] {
				panic(fmt.Sprintf("%s had %s, which the new coordinator does not know", m.ID, p))
			}
		}
		for p, m := range was.wanted {
			if w.former(p.Topic, was.metadata.IDs[p.Topic]) {
				continue
			}
			if now := w.g.wanted[p]; !was.dirty && (now == nil || now.ID != m.ID) {
				panic(fmt.Sprintf("%s was to have %s, which the new coordinator does not know", m.ID, p))
			}
		}
		if kept != len(w.g.holder) || !was.dirty && w.g.dirty {
			panic("the new coordinator knows of other owners, or assigns anew")
		}
	}
	if w.g.Len() > 0 {
		w.step(Event{Kind: EventMetadata, Metadata: w.metadata()})
	}
}

// counts reports whether the client's view matters: it lives, or sleeps, and
// the group has not fenced it.
func (w *model) counts(c *modelClient) bool {
	if w.c != nil {
		return !c.dead && c.old != nil && w.c.Has(c.id, "")
	}
	return !c.dead && w.g.Has(c.id)
}

func (w *model) check(t failer) {
	owner := map[TopicPartition]string{}
	for _, c := range w.clients {
		if !w.counts(c) {
			continue
		}
		for p := range c.owned {
			if c.dropped[p] {
				continue
			}
			if other, taken := owner[p]; taken {
				t.Fatalf("%s is owned by %s and by %s", p, other, c.id)
			}
			owner[p] = c.id
		}
	}
	for p, m := range w.g.holder {
		if _, ok := m.owned[p]; !ok || w.g.members[m.ID] != m {
			t.Fatalf("holder of %s is %s, which does not own it", p, m.ID)
		}
	}
	if n := w.number(); n < w.highest {
		t.Fatalf("the epoch fell from %d to %d", w.highest, n)
	}
	w.highest = w.number()
	if w.c == nil {
		w.checkCommits(t, owner)
	}
}

// checkCommits: no commit is accepted from anybody but the owner.
func (w *model) checkCommits(t failer, owner map[TopicPartition]string) {
	for topic, n := range w.topics {
		for i := range n {
			p := TopicPartition{topic, i}
			for _, z := range w.ghosts {
				if w.mayCommit(z.id, z.epoch, p) == CodeNone {
					t.Fatalf("%s accepted a commit by the former process of %s", p, z.id)
				}
			}
			for _, c := range w.clients {
				code := w.mayCommit(c.id, c.epoch, p)
				if code == CodeNone && owner[p] != "" && owner[p] != c.id {
					t.Fatalf("%s of %s accepted a commit by %s", p, owner[p], c.id)
				}
				_, owns := c.owned[p]
				if code == CodeGone && !w.former(topic, w.g.topic[p]) {
					t.Fatalf("%s refused a commit by %s: it is of the topic of today", p, c.id)
				}
				if code != CodeNone && code != CodeAway && owns && !c.dropped[p] && w.counts(c) && !w.excused(c, code) {
					t.Fatalf("%s refused a commit by its owner %s: %v", p, c.id, code)
				}
			}
		}
	}
}

// excused reports whether a classic client's commit may be refused though it owns
// the partition: when it is to join again, and when its generation is another than
// the group's, as after an answer that was lost: it is fenced then.
func (w *model) excused(c *modelClient, code Code) bool {
	return code == CodeGone || c.old != nil && (code == CodeRebalanceInProgress || code == CodeIllegalGeneration && c.epoch != w.g.members[c.id].epoch)
}

// settle lets everybody talk until nothing is in flight, and expires the rest.
func (w *model) settle(t failer) {
	if w.unheard {
		w.hear()
	}
	// Those that never join again are waited for, one after the other at worst.
	for i := 0; i < 40 || i < 300 && !w.rests(); i++ {
		for len(w.commits) > 0 {
			w.arrive(t)
		}
		for _, c := range w.clients {
			if !c.dead && c.stream == 0 && c.old == nil {
				w.connect(c)
			}
			if !c.dead && c.old != nil {
				w.nextOld(c)
			}
		}
		w.drain(t)
		w.tick(time.Second)
		for _, c := range w.clients {
			if !c.dead && c.stream != 0 {
				w.step(Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch})
			}
		}
	}
	live := 0
	owned := map[TopicPartition]bool{}
	wanted := map[string]bool{}
	for _, c := range w.clients {
		if !c.dead {
			live++
			maps.Insert(owned, maps.All(boolSet(c.owned)))
			for _, topic := range c.topics {
				wanted[topic] = true
			}
		}
	}
	if members := w.members(); live != members {
		t.Fatalf("%d live clients, %d members", live, members)
	}
	if live > 0 && !w.rests() {
		t.Fatalf("not stable: %s", w.state())
	}
	for topic, n := range w.topics {
		for i := range n {
			if p := (TopicPartition{topic, i}); wanted[topic] && !owned[p] {
				t.Fatalf("%s is left over", p)
			}
		}
	}
}

func (w *model) members() int {
	if w.c != nil {
		return w.c.Len()
	}
	return w.g.Len()
}

func (w *model) state() State {
	if w.c != nil {
		return w.c.State()
	}
	return w.g.State()
}

// rests reports whether the group has come to rest with all clients that live.
func (w *model) rests() bool {
	live := 0
	for _, c := range w.clients {
		if !c.dead {
			live++
		}
	}
	state := w.state()
	return live == w.members() && (live == 0 || state == StateStable || state == ClassicStable)
}

func boolSet(set map[TopicPartition]struct{}) map[TopicPartition]bool {
	b := map[TopicPartition]bool{}
	for p := range set {
		b[p] = true
	}
	return b
}

func (w *model) drain(t failer) {
	rounds := 0
	for busy := true; busy; rounds++ {
		if busy = false; rounds > 2000 {
			t.Fatalf("the members never come to rest")
		}
		for _, c := range w.clients {
			if len(c.toGroup) > 0 {
				w.deliver(c)
				busy = true
			}
			if len(c.toMember) > 0 {
				w.receive(c)
				busy = true
			}
			busy = w.drainOld(c) || busy
			w.check(t)
		}
	}
}

// TestModel: random lives of members; at every step a partition has one owner
// by the members' own view, and once all is quiet none is left over.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newModel()
		pick := func(t *rapid.T, fits func(*modelClient) bool) *modelClient {
			var fit []*modelClient
			for _, c := range w.clients {
				if fits(c) {
					fit = append(fit, c)
				}
			}
			if len(fit) == 0 {
				t.Skip("none fits")
			}
			return rapid.SampledFrom(fit).Draw(t, "client")
		}
		connected := func(c *modelClient) bool { return !c.dead && c.stream != 0 }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { w.check(t) },
			"start": func(t *rapid.T) {
				if len(w.clients) >= 12 {
					t.Skip("enough")
				}
				c := newModelClient(fmt.Sprintf("m%02d", len(w.clients)))
				c.topics = rapid.SampledFrom([][]string{{"a", "b"}, {"a", "b"}, {"a"}, {"b"}}).Draw(t, "topics")
				c.instance = rapid.SampledFrom([]string{"", "", "s1", "s2"}).Draw(t, "instance")
				w.clients = append(w.clients, c)
				w.connect(c)
			},
			"deliver": func(t *rapid.T) {
				w.deliver(pick(t, func(c *modelClient) bool { return len(c.toGroup) > 0 }))
			},
			"receive": func(t *rapid.T) {
				w.receive(pick(t, func(c *modelClient) bool { return len(c.toMember) > 0 }))
			},
			"deliverStale": func(t *rapid.T) {
				if len(w.stale) == 0 {
					t.Skip("none")
				}
				ev := w.stale[0]
				w.stale = w.stale[1:]
				w.step(ev)
			},
			"drain": func(t *rapid.T) { w.drain(t) },
			"heartbeat": func(t *rapid.T) {
				c := pick(t, connected)
				ev := Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch}
				if rapid.Bool().Draw(t, "owned") {
					ev.HasOwned, ev.Owned = true, c.list()
				}
				c.toGroup = append(c.toGroup, ev)
			},
			"disconnect": func(t *rapid.T) { w.disconnect(pick(t, connected)) },
			"reconnect": func(t *rapid.T) {
				w.connect(pick(t, func(c *modelClient) bool { return !c.dead }))
			},
			"restart": func(t *rapid.T) {
				c := pick(t, func(c *modelClient) bool { return !c.dead })
				w.disconnect(c)
				w.restart(c)
			},
			"crash": func(t *rapid.T) {
				c := pick(t, func(c *modelClient) bool { return !c.dead })
				w.disconnect(c)
				c.dead = true
			},
			"leave": func(t *rapid.T) {
				c := pick(t, connected)
				for len(c.toGroup) > 0 {
					w.deliver(c)
				}
				clear(c.owned)
				c.dead = true
				w.step(Event{Kind: EventLeave, MemberID: c.id, Stream: c.stream})
			},
			"time": func(t *rapid.T) {
				w.tick(time.Duration(rapid.IntRange(1, 6000).Draw(t, "ms")) * time.Millisecond)
			},
			"sleep": func(t *rapid.T) {
				sleeper := pick(t, connected)
				for range 11 {
					w.tick(time.Second)
					for _, c := range w.clients {
						if c != sleeper && connected(c) {
							w.step(Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch})
						}
					}
				}
			},
			"grow": func(t *rapid.T) {
				topic := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic")
				w.topics[topic] = min(w.topics[topic]+1, 6)
				w.step(Event{Kind: EventMetadata, Metadata: w.metadata()})
			},
			"read": func(t *rapid.T) {
				c := pick(t, func(c *modelClient) bool { return !c.dead && len(c.owned) > 0 })
				w.read(t, c, rapid.SampledFrom(c.list()).Draw(t, "partition"))
			},
			"commit": func(t *rapid.T) {
				c := pick(t, func(c *modelClient) bool { return !c.dead && len(c.owned) > 0 })
				w.sendCommit(c, rapid.SampledFrom(c.list()).Draw(t, "partition"))
			},
			"arrive": func(t *rapid.T) {
				if len(w.commits) == 0 {
					t.Skip("none")
				}
				w.arrive(t)
			},
			"delete": func(t *rapid.T) {
				delete(w.topics, "b")
				w.step(Event{Kind: EventMetadata, Metadata: w.metadata()})
			},
			"recreate": func(t *rapid.T) {
				w.recreate(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic"), rapid.Bool().Draw(t, "seen"))
			},
			"move": func(t *rapid.T) { w.move(rapid.Bool().Draw(t, "older")) },
		})
		w.settle(t)
	})
}
