package consumergroup

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Clients of the classic protocol in the model: programs that join, sync and
// heartbeat, one request at a time, and assign when they lead. The group goes from
// one protocol to the other as a coordinator's shell has it go.

// oldPhase is what a classic client is about to do.
type oldPhase uint8

const (
	oldJoins oldPhase = iota
	oldSyncs
	oldRests
)

// oldClient is the part of a modelClient that speaks the classic protocol; its
// generation is modelClient.epoch.
type oldClient struct {
	cooperative bool
	phase       oldPhase
	asked       ClassicKind // of the call that is under way
	call        uint64      // 0: none
	assignments map[string][]byte
	leads       bool
	stuck       bool // its application does not let it join again, until it is fenced
	saw         int  // changes of topics when it assigned
	protocol    string

	requests []ClassicEvent
	answers  []ClassicEffect
}

func (o *oldClient) protocols(c *modelClient) []ClassicProtocol {
	says := Subscription{Version: 3, Topics: c.topics, Generation: c.epoch}
	name := "range"
	if o.cooperative {
		name, says.Owned = "cooperative-sticky", c.list()
	}
	b, err := json.Marshal(says)
	if err != nil {
		panic(err)
	}
	// The second is there for those who like the other one.
	other := map[string]string{"range": "cooperative-sticky", "cooperative-sticky": "range"}[name]
	return []ClassicProtocol{{Name: name, Metadata: b}, {Name: other, Metadata: b}}
}

func readModel(m *ClassicMember) (claims Claims, ok bool) {
	if json.Unmarshal(m.Protocols[0].Metadata, &claims.Subscription) != nil {
		return claims, false
	}
	if len(m.Assignment) > 0 && json.Unmarshal(m.Assignment, &claims.Assigned) != nil {
		return claims, false
	}
	return claims, true
}

func writeModel(_ int16, ps []TopicPartition) []byte {
	b, err := json.Marshal(ps)
	if err != nil {
		panic(err)
	}
	return b
}

// send puts a request of c on its way.
func (w *model) send(c *modelClient, ev ClassicEvent) {
	w.calls++
	ev.Call = w.calls
	c.old.asked, c.old.call = ev.Kind, ev.Call
	c.old.requests = append(c.old.requests, ev)
}

// next lets an idle classic client do what it is about to do.
func (w *model) nextOld(c *modelClient) {
	o := c.old
	if o.call != 0 {
		return
	}
	if o.phase == oldRests && o.leads && o.saw != w.changes {
		o.phase, o.leads = oldJoins, false // A leader that sees other topics assigns anew.
	}
	switch o.phase {
	case oldJoins:
		if !o.cooperative {
			clear(c.owned) // An eager consumer gives everything up first.
		}
		w.send(c, ClassicEvent{
			Kind: ClassicJoin, ProtocolType: "consumer", RequireKnownID: true,
			NewID: fmt.Sprintf("c%03d", w.calls+1),
			Join: &ClassicMember{
				ID: c.id, SessionTimeout: modelSession, RebalanceTimeout: modelRebalance, Protocols: o.protocols(c),
			},
		})
	case oldSyncs:
		w.send(c, ClassicEvent{Kind: ClassicSync, MemberID: c.id, Generation: c.epoch, ProtocolType: "consumer", Protocol: o.protocol, Assignments: o.assignments})
	case oldRests:
		w.send(c, ClassicEvent{Kind: ClassicHeartbeat, MemberID: c.id, Generation: c.epoch})
	}
}

// takeOld lets a classic client take the next answer.
func (w *model) takeOld(c *modelClient) {
	o := c.old
	e := o.answers[0]
	o.answers = o.answers[1:]
	if e.Call != o.call {
		return // of a connection that is gone
	}
	asked := o.asked
	o.call = 0
	switch e.Code {
	case CodeNone:
	case CodeMemberIDRequired:
		c.id = e.MemberID
		return
	case CodeRebalanceInProgress:
		if !o.stuck || asked != ClassicHeartbeat {
			o.phase = oldJoins
		}
		return
	default:
		w.loseOld(c, e.Code)
		return
	}
	switch asked {
	case ClassicJoin:
		c.id, c.epoch, o.protocol, o.assignments, o.phase = e.MemberID, e.Generation, e.Protocol, nil, oldSyncs
		if o.leads = len(e.Members) > 0; o.leads {
			o.saw = w.changes
			o.assignments = w.lead(e.Members, o.cooperative)
		}
	case ClassicSync:
		w.ownOld(c, e)
	case ClassicHeartbeat, ClassicLeave, ClassicTimer:
	}
}

// loseOld: the client was fenced, and begins anew.
func (w *model) loseOld(c *modelClient, code Code) {
	clear(c.owned)
	c.old.phase, c.old.stuck, c.epoch = oldJoins, false, -1
	if code == CodeUnknownMember {
		c.id = ""
	}
}

func (w *model) ownOld(c *modelClient, e ClassicEffect) {
	assigned := e.Assigned
	if len(e.Assignment) > 0 {
		if err := json.Unmarshal(e.Assignment, &assigned); err != nil {
			panic(err)
		}
	}
	next := setOf(assigned)
	for p := range next {
		if _, had := c.owned[p]; !had {
			w.begin(c, p)
		}
	}
	c.old.phase = oldRests
	for p := range c.owned {
		if _, keeps := next[p]; !keeps {
			c.old.phase = oldJoins // It gave something up: somebody else waits for it.
		}
	}
	c.owned = next
}

// lead assigns as a consumer that leads: in turn, but cooperative ones leave out
// what another still has.
func (w *model) lead(members []ClassicListed, cooperative bool) map[string][]byte {
	owner, since := map[TopicPartition]string{}, map[TopicPartition]int32{}
	given := map[string][]TopicPartition{}
	subscribed := map[string][]string{}
	for _, m := range members {
		var says Subscription
		if err := json.Unmarshal(m.Metadata, &says); err != nil {
			panic(err)
		}
		for _, topic := range says.Topics {
			subscribed[topic] = append(subscribed[topic], m.ID)
		}
		for _, p := range says.Owned {
			if owner[p] == "" || says.Generation > since[p] {
				owner[p], since[p] = m.ID, says.Generation
			}
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(w.topics)) {
		for i := range w.topics[topic] {
			p := TopicPartition{topic, i}
			ids := subscribed[topic]
			if len(ids) == 0 {
				continue
			}
			id := ids[int(i)%len(ids)]
			if had := owner[p]; cooperative && had != "" && had != id {
				continue
			}
			given[id] = append(given[id], p)
		}
	}
	out := map[string][]byte{}
	for _, m := range members {
		out[m.ID] = writeModel(0, given[m.ID])
	}
	return out
}

// deliverOld gives the group the next request of a classic client.
func (w *model) deliverOld(c *modelClient) {
	ev := c.old.requests[0]
	c.old.requests = c.old.requests[1:]
	w.request(ev)
}

// request is what the shell does with one.
func (w *model) request(ev ClassicEvent) {
	if w.c == nil && w.g.Len() == 0 && ev.Kind == ClassicJoin {
		w.c = NewClassic("g", w.g.Epoch(), 0)
		w.g = New("g")
		w.store.clearGroup()
		w.store.classic = w.c.Stored()
	}
	switch {
	case w.c != nil:
		w.stepOld(ev)
	case w.g.Len() == 0:
		w.reply(ClassicEffect{Kind: ClassicReply, Call: ev.Call, Code: CodeUnknownMember})
	default:
		event := Event{Kind: EventClassic, Classic: &ev}
		if ev.Kind == ClassicJoin {
			claims, _ := readModel(ev.Join)
			event.Subscription, event.Metadata = &claims.Subscription, w.metadata()
		}
		w.step(event)
	}
}

func (w *model) stepOld(ev ClassicEvent) {
	w.oldOut.Reset()
	w.c.Step(w.now, ev, &w.oldOut)
	w.carryOutOld()
}

func (w *model) carryOutOld() {
	for _, e := range w.oldOut.List {
		if e.Kind == ClassicPersist {
			w.store.classic = e.Stored
			continue
		}
		w.reply(e)
	}
	w.deadline = w.oldOut.Deadline
}

func (w *model) reply(e ClassicEffect) {
	for _, c := range w.clients {
		if c.old != nil && c.old.call == e.Call && !c.dead {
			c.old.answers = append(c.old.answers, e)
		}
	}
}

// host and release are the two ways between the protocols.
func (w *model) host() {
	w.out.Reset()
	g, why := Host(w.now, w.c, readModel, &w.out)
	if g == nil {
		panic("the classic group cannot be hosted: " + why)
	}
	w.g, w.c = g, nil
	w.hosted++
	w.carryOut()
	w.store.classic = nil
}

func (w *model) release() {
	w.released++
	w.oldOut.Reset()
	w.c = w.g.Release(w.now, 0, writeModel, &w.oldOut)
	w.carryOutOld()
	w.store.clearGroup()
	w.g = New("g")
}

// number is the group epoch or the generation.
func (w *model) number() int32 {
	if w.c != nil {
		return w.c.Generation()
	}
	return w.g.Epoch()
}

// drainOld moves what is in flight to and from a classic client.
func (w *model) drainOld(c *modelClient) (busy bool) {
	o := c.old
	if o == nil || c.dead {
		return false
	}
	if len(o.requests) > 0 {
		w.deliverOld(c)
		busy = true
	}
	if len(o.answers) > 0 {
		w.takeOld(c)
		busy = true
	}
	if o.call == 0 && o.phase != oldRests {
		w.nextOld(c)
		busy = true
	}
	return busy
}

// restartOld is a new process in place of a classic client, without its id.
func (w *model) restartOld(c *modelClient) {
	o := c.old
	o.requests, o.answers, o.call, o.phase = nil, nil, 0, oldJoins
	clear(c.owned)
	c.id, c.epoch = "", -1
}

// reconnectOld loses what is in flight; what was sent may still arrive.
func (w *model) reconnectOld(c *modelClient) {
	o := c.old
	for _, ev := range o.requests {
		if ev.Kind != ClassicJoin || c.epoch > 0 {
			w.strays = append(w.strays, ev)
		}
	}
	o.requests, o.answers, o.call = nil, nil, 0
	if o.phase == oldSyncs && o.assignments != nil {
		o.phase = oldJoins
	}
}
