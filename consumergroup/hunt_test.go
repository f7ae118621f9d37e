package consumergroup

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// hunt is how many seeds TestHunt tries; package internal/mutants sets it, for a
// group with a fault in it.
var hunt = flag.Int("hunt", 200, "seeds of TestHunt")

// huntStop ends a run: an invariant is broken.
type huntStop string

type hunter struct{}

func (hunter) Fatalf(format string, args ...any) { panic(huntStop(fmt.Sprintf(format, args...))) }

// TestHunt runs groups from seeds: members that come, go, sleep past their
// session, come back as what they were, or as another process, or not at all; a
// coordinator that moves while they do; topics that grow and go. What TestModel
// checks is checked at every step, and at the end everybody comes to rest.
func TestHunt(t *testing.T) {
	hosted, released := 0, 0
	seeds := *hunt
	if testing.Short() { // as under the race detector
		seeds = min(seeds, 60)
	}
	for seed := range seeds {
		w := &huntWorld{model: newModel(), rng: rand.New(rand.NewPCG(uint64(seed), 6)), rolling: seed%3 != 0, cooperative: seed%2 == 0}
		if broken := w.run(); broken != "" {
			fmt.Printf("CAUGHT\t%d\t%s\n", seed, broken)
			t.Fatalf("seed %d: %s", seed, broken)
		}
		hosted += w.hosted
		released += w.released
	}
	fmt.Printf("SURVIVED\t%d\n", seeds)
	t.Logf("%d groups were hosted, %d released", hosted, released)
	if hosted < seeds/2 || released < seeds/2 {
		t.Errorf("%d groups were hosted, %d released: the hunt hardly sees what it is there for", hosted, released)
	}
}

func (w *huntWorld) run() (broken string) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case huntStop:
			broken = string(r)
		default:
			broken = fmt.Sprint("panic: ", r)
		}
	}()
	if w.rolling {
		for range 3 { // It begins as a group of the classic protocol.
			w.startOld()
		}
		w.drain(hunter{})
	}
	for range 600 {
		w.act()
		w.check(hunter{})
	}
	w.settle(hunter{})
	return ""
}

type huntWorld struct {
	*model
	rng *rand.Rand
	// rolling: there are clients of the classic protocol too; cooperative: of that kind.
	rolling, cooperative bool
}

// pick returns a client that fits; nil: none does.
func (w *huntWorld) pick(fits func(*modelClient) bool) *modelClient {
	fit := slices.DeleteFunc(slices.Clone(w.clients), func(c *modelClient) bool { return !fits(c) })
	if len(fit) == 0 {
		return nil
	}
	return fit[w.rng.IntN(len(fit))]
}

func (w *huntWorld) act() {
	if w.unheard && w.rng.IntN(8) == 0 {
		w.hear()
	}
	if w.rolling && w.rng.IntN(5) < 2 {
		w.actOld()
		return
	}
	alive := func(c *modelClient) bool { return !c.dead && c.old == nil }
	connected := func(c *modelClient) bool { return !c.dead && c.stream != 0 }
	owner := func(c *modelClient) bool { return !c.dead && len(c.owned) > 0 }
	switch n := w.rng.IntN(100); {
	case n < 5:
		w.start()
	case n < 27:
		if c := w.pick(func(c *modelClient) bool { return len(c.toGroup) > 0 }); c != nil {
			w.deliver(c)
		}
	case n < 49:
		if c := w.pick(func(c *modelClient) bool { return len(c.toMember) > 0 }); c != nil {
			w.receive(c)
		}
	case n < 57:
		if c := w.pick(owner); c != nil {
			w.read(hunter{}, c, c.list()[w.rng.IntN(len(c.owned))])
		}
	case n < 65:
		if c := w.pick(owner); c != nil {
			w.sendCommit(c, c.list()[w.rng.IntN(len(c.owned))])
		}
	case n < 72:
		if len(w.commits) > 0 {
			w.arrive(hunter{})
		}
	case n < 79:
		if c := w.pick(connected); c != nil {
			c.toGroup = append(c.toGroup, Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch, HasOwned: w.rng.IntN(2) == 0, Owned: c.list()})
		}
	case n < 83:
		w.tick(time.Duration(w.rng.IntN(4000)) * time.Millisecond)
	default:
		w.upset(n, alive, connected)
	}
}

// crowded bounds how many clients there are at once, and in a life.
func (w *huntWorld) crowded() bool {
	alive := 0
	for _, c := range w.clients {
		if !c.dead {
			alive++
		}
	}
	return alive >= 10 || len(w.clients) >= 30
}

func (w *huntWorld) start() {
	if w.crowded() {
		return
	}
	c := newModelClient(fmt.Sprintf("m%02d", len(w.clients)))
	c.topics = [][]string{{"a", "b"}, {"a", "b"}, {"a"}, {"b"}}[w.rng.IntN(4)]
	c.instance = []string{"", "", "s1", "s2"}[w.rng.IntN(4)]
	w.clients = append(w.clients, c)
	w.connect(c)
}

// actOld lets a client of the classic protocol do something.
func (w *huntWorld) actOld() {
	pick := func(fits func(*modelClient) bool) *modelClient {
		return w.pick(func(c *modelClient) bool { return !c.dead && c.old != nil && fits(c) })
	}
	everybody := func(*modelClient) bool { return true }
	var c *modelClient
	switch n := w.rng.IntN(100); {
	case n < 6:
		w.startOld()
	case n < 34:
		if c = pick(func(c *modelClient) bool { return len(c.old.requests) > 0 }); c != nil {
			w.deliverOld(c)
		}
	case n < 62:
		if c = pick(func(c *modelClient) bool { return len(c.old.answers) > 0 }); c != nil {
			w.takeOld(c)
		}
	case n < 90:
		if c = pick(func(c *modelClient) bool { return c.old.call == 0 }); c != nil {
			w.nextOld(c)
		}
	case n < 93:
		if c = pick(everybody); c != nil {
			w.reconnectOld(c)
		}
	case n < 94:
		if c = pick(everybody); c != nil {
			w.restartOld(c)
		}
	case n < 95:
		if c = pick(everybody); c != nil {
			w.leaveOld(c)
		}
	case n < 96:
		if c = pick(everybody); c != nil {
			w.sleep(c)
		}
	case n < 97:
		for _, c := range w.clients { // Those of the new protocol go.
			if !c.dead && c.stream != 0 {
				w.goodbye(c)
			}
		}
	default:
		if len(w.strays) > 0 {
			ev := w.strays[0]
			w.strays = w.strays[1:]
			w.request(ev)
		}
	}
}

func (w *huntWorld) startOld() {
	if w.crowded() {
		return
	}
	c := newModelClient("")
	c.epoch, c.old = -1, &oldClient{cooperative: w.cooperative}
	c.topics = [][]string{{"a", "b"}, {"a", "b"}, {"a"}, {"b"}}[w.rng.IntN(4)]
	c.old.stuck = w.rng.IntN(10) == 0
	w.clients = append(w.clients, c)
}

// leaveOld ends a client, most of the time with a farewell.
func (w *huntWorld) leaveOld(c *modelClient) {
	c.dead = true
	clear(c.owned)
	if w.rng.IntN(4) > 0 && c.id != "" {
		w.calls++
		w.request(ClassicEvent{Kind: ClassicLeave, Call: w.calls, MemberID: c.id})
	}
}

// upset does what members and coordinators are there to survive.
func (w *huntWorld) upset(n int, alive, connected func(*modelClient) bool) {
	c := w.pick(alive)
	if n < 88 {
		c = w.pick(connected)
	}
	switch {
	case n >= 97:
		w.world(n)
	case c == nil:
	case n < 86:
		w.disconnect(c)
	case n < 87:
		if c.stuck = w.rng.IntN(4) == 0; !c.stuck {
			w.goodbye(c)
		}
	case n < 88:
		w.sleep(c)
	case n < 92:
		w.connect(c)
	case n < 93:
		w.disconnect(c)
		c.dead = true
	case n < 95:
		w.disconnect(c)
		w.restart(c)
	default:
		if len(w.stale) > 0 {
			ev := w.stale[0]
			w.stale = w.stale[1:]
			w.step(ev)
		}
	}
}

func (w *huntWorld) world(n int) {
	switch {
	case n < 98:
		w.move(w.rng.IntN(3) == 0)
	case w.rng.IntN(8) == 0:
		delete(w.topics, "b")
		w.hear()
	case !w.rolling && w.rng.IntN(2) == 0: // Classic members assign by name, and commit by name.
		topics := slices.Sorted(maps.Keys(w.topics))
		w.recreate(topics[w.rng.IntN(len(topics))], w.rng.IntN(2) == 0)
	default:
		topic := slices.Sorted(maps.Keys(w.topics))[w.rng.IntN(len(w.topics))]
		w.topics[topic] = min(w.topics[topic]+1, 6)
		w.hear()
	}
}

func (w *huntWorld) goodbye(c *modelClient) {
	for len(c.toGroup) > 0 {
		w.deliver(c)
	}
	clear(c.owned)
	c.dead = true
	w.step(Event{Kind: EventLeave, MemberID: c.id, Stream: c.stream})
}

// sleep stops one process for longer than its session; the others go on.
func (w *huntWorld) sleep(sleeper *modelClient) {
	for range 11 {
		w.tick(time.Second)
		for _, c := range w.clients {
			switch {
			case c == sleeper || c.dead:
			case c.stream != 0:
				w.step(Event{Kind: EventHeartbeat, MemberID: c.id, Stream: c.stream, Epoch: c.epoch})
			case c.old != nil && c.old.call == 0:
				w.calls++
				w.request(ClassicEvent{Kind: ClassicHeartbeat, Call: w.calls, MemberID: c.id, Generation: c.epoch})
			}
		}
	}
}
