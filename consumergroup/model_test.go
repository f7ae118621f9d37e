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
	streams uint64
	stale   []Event       // in flight on streams that were replaced
	ghosts  []ghost       // processes that were started again under their old id
	commits []modelCommit // on their way, each by a call of its own

	committed map[TopicPartition]int64
	processed map[TopicPartition]int64 // somebody read everything below

	storedEpoch   int32
	storedMembers map[string]Member
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
}

// read lets a client process the next record of a partition that it believes to
// own. None may be skipped.
func (w *model) read(t failer, c *modelClient, p TopicPartition) {
	if at := c.offsets[p]; at > w.processed[p] {
		t.Fatalf("%s reads %s at %d, nobody has read %d", c.id, p, at, w.processed[p])
	}
	c.offsets[p]++
	w.processed[p] = max(w.processed[p], c.offsets[p])
}

func (w *model) sendCommit(c *modelClient, p TopicPartition) {
	w.commits = append(w.commits, modelCommit{c.id, c.epoch, p, c.offsets[p]})
}

// arrive gives the group the commit that has been on its way for longest. What
// is committed never goes back.
func (w *model) arrive(t failer) {
	m := w.commits[0]
	w.commits = w.commits[1:]
	code, _ := w.g.CheckMember(m.id, m.epoch)
	if code == CodeNone {
		code, _ = w.g.CheckCommit(m.id, m.epoch, m.partition)
	}
	if code != CodeNone {
		return
	}
	if m.offset < w.committed[m.partition] {
		t.Fatalf("%s: the committed offset went back from %d to %d, by %s in epoch %d", m.partition, w.committed[m.partition], m.offset, m.id, m.epoch)
	}
	w.committed[m.partition] = m.offset
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
	return &model{
		now: time.Unix(1_000_000, 0), g: New("g"),
		topics:        map[string]int32{"a": 3, "b": 2},
		storedMembers: map[string]Member{}, committed: map[TopicPartition]int64{}, processed: map[TopicPartition]int64{},
	}
}

func (w *model) metadata() *Metadata { return &Metadata{Partitions: maps.Clone(w.topics)} }

// step runs one event and the assignment it asks for.
func (w *model) step(ev Event) {
	w.out.Reset()
	w.g.Step(w.now, ev, &w.out)
	assign := w.out.Assign
	w.carryOut()
	if assign {
		w.out.Reset()
		w.g.Step(w.now, Event{Kind: EventAssign}, &w.out)
		w.carryOut()
	}
}

func (w *model) carryOut() {
	for _, e := range w.out.List {
		switch e.Kind {
		case EffectPersistGroup:
			w.storedEpoch = e.Epoch
		case EffectPersistMember:
			w.storedMembers[e.MemberID] = *e.Member
		case EffectForgetMember:
			delete(w.storedMembers, e.MemberID)
		case EffectUpdate, EffectDrop:
			for _, c := range w.clients {
				if c.stream == e.Stream {
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
			c.offsets[p] = w.committed[p]
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
		ev.Metadata = w.metadata()
	}
	w.step(ev)
}

// tick moves the clock and fires the group's timer when it is due.
func (w *model) tick(d time.Duration) {
	w.now = w.now.Add(d)
	for !w.out.Deadline.IsZero() && !w.out.Deadline.After(w.now) {
		w.step(Event{Kind: EventTimer})
	}
}

// move restarts the group from its store, as a new coordinator does.
func (w *model) move() {
	for _, c := range w.clients {
		c.stream, c.toGroup, c.toMember = 0, nil, nil
	}
	var members []Member
	for _, id := range slices.Sorted(maps.Keys(w.storedMembers)) {
		members = append(members, w.storedMembers[id])
	}
	if lived := slices.Clone(w.g.order); !slices.Equal(lived, slices.Sorted(maps.Keys(w.storedMembers))) {
		panic(fmt.Sprintf("members %q would come back as %q", lived, slices.Sorted(maps.Keys(w.storedMembers))))
	}
	before := w.g.Epoch()
	w.g = Restore(w.now, "g", w.storedEpoch, members, time.Second)
	if w.g.Epoch() != before {
		panic(fmt.Sprintf("the epoch was %d and is %d after loading", before, w.g.Epoch()))
	}
	w.step(Event{Kind: EventMetadata, Metadata: w.metadata()})
}

// counts reports whether the client's view matters: it lives, or sleeps, and
// the group has not fenced it.
func (w *model) counts(c *modelClient) bool { return !c.dead && w.g.Has(c.id) }

func (w *model) check(t failer) {
	owner := map[TopicPartition]string{}
	for _, c := range w.clients {
		if !w.counts(c) {
			continue
		}
		for p := range c.owned {
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
	w.checkCommits(t, owner)
}

// checkCommits: no commit is accepted from anybody but the owner.
func (w *model) checkCommits(t failer, owner map[TopicPartition]string) {
	for topic, n := range w.topics {
		for i := range n {
			p := TopicPartition{topic, i}
			for _, z := range w.ghosts {
				code, _ := w.g.CheckMember(z.id, z.epoch)
				if code == CodeNone {
					code, _ = w.g.CheckCommit(z.id, z.epoch, p)
				}
				if code == CodeNone {
					t.Fatalf("%s accepted a commit by the former process of %s", p, z.id)
				}
			}
			for _, c := range w.clients {
				code, _ := w.g.CheckMember(c.id, c.epoch)
				if code == CodeNone {
					code, _ = w.g.CheckCommit(c.id, c.epoch, p)
				}
				if code == CodeNone && owner[p] != "" && owner[p] != c.id {
					t.Fatalf("%s of %s accepted a commit by %s", p, owner[p], c.id)
				}
				_, owns := c.owned[p]
				if code != CodeNone && code != CodeAway && owns && w.counts(c) {
					t.Fatalf("%s refused a commit by its owner %s: %v", p, c.id, code)
				}
			}
		}
	}
}

// settle lets everybody talk until nothing is in flight, and expires the rest.
func (w *model) settle(t failer) {
	for range 40 {
		for len(w.commits) > 0 {
			w.arrive(t)
		}
		for _, c := range w.clients {
			if !c.dead && c.stream == 0 {
				w.connect(c)
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
	if live != w.g.Len() {
		t.Fatalf("%d live clients, %d members", live, w.g.Len())
	}
	if live > 0 && w.g.State() != StateStable {
		t.Fatalf("not stable: %s", w.g.State())
	}
	for topic, n := range w.topics {
		for i := range n {
			if p := (TopicPartition{topic, i}); wanted[topic] && !owned[p] {
				t.Fatalf("%s is left over", p)
			}
		}
	}
}

func boolSet(set map[TopicPartition]struct{}) map[TopicPartition]bool {
	b := map[TopicPartition]bool{}
	for p := range set {
		b[p] = true
	}
	return b
}

func (w *model) drain(t failer) {
	for busy := true; busy; {
		busy = false
		for _, c := range w.clients {
			if len(c.toGroup) > 0 {
				w.deliver(c)
				busy = true
			}
			if len(c.toMember) > 0 {
				w.receive(c)
				busy = true
			}
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
				c := &modelClient{id: fmt.Sprintf("m%02d", len(w.clients)), owned: map[TopicPartition]struct{}{}, offsets: map[TopicPartition]int64{}}
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
			"move": func(*rapid.T) { w.move() },
		})
		w.settle(t)
	})
}
