package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// simClassic is what a member of the classic protocol knows beside what every member does.
// It joins, syncs and beats by calls, one at a time; the epoch of its simClient is the
// generation that it synced in last, of which what it owns is.
type simClassic struct {
	member  string // its id, from the coordinator; empty: it has none
	version int16  // of what it says of itself
	careful bool   // it joins with the id that it is given first (KIP-394)

	joined int32               // the generation that it has to sync in; 0: none
	listed []api.ClassicListed // whom it is to assign to, as the leader of that generation
	leads  bool
	again  bool                   // it is to join again
	plan   map[string][]byte      // what it assigns, as the leader
	topics map[string]simAssigned // that it assigned
	ask    *simCall               // under way; nil: none
}

// simAssigned is which topic a leader assigned, and how many partitions it had.
type simAssigned struct {
	id         api.TopicID
	partitions int32
}

// Eager members give everything up before they join, cooperative ones what they are told to.
const (
	simEager       = "range"
	simCooperative = "cooperative-sticky"
)

func (w *simWorld) newClassic() *simClassic {
	version := int16(w.rng.IntN(4))
	if w.protocol == simCooperative {
		version = max(version, 1)
	}
	return &simClassic{version: version, careful: w.rng.IntN(2) == 0}
}

// memberID is how the group knows the client.
func (c *simClient) memberID() string {
	if c.classic != nil {
		return c.classic.member
	}
	return c.id
}

// settled: it has nothing to ask but to be kept.
func (k *simClassic) settled() bool { return k.joined == 0 && !k.again && k.member != "" }

// isDue: it has something to ask.
func (c *simClient) isDue() bool {
	k := c.classic
	return k != nil && k.ask == nil && (c.epoch == 0 || !k.settled() || time.Since(c.beaten) > simBeat)
}

// proceed sends what is due next.
func (c *simClient) proceed() {
	n := c.find()
	k := c.classic
	switch {
	case n == nil:
	case k.joined > 0:
		c.sync(n)
	case k.again || c.epoch == 0:
		c.joinClassic(n)
	case k.leads && !maps.Equal(k.topics, c.w.assignable(sortedKeys(k.topics))):
		c.w.notef("%s: the topics are others", c.id)
		k.again = true
	default:
		c.beaten = time.Now()
		c.request(n, fmt.Sprintf("%s beats in generation %d", k.member, c.epoch), func(ctx context.Context, b *Broker) (simHeard, error) {
			return nil, b.HeartbeatClassic(ctx, &api.ClassicHeartbeat{Group: simGroup, MemberID: k.member, InstanceID: c.instance, Generation: c.epoch})
		})
	}
}

// simHeard takes in what was answered; nil: there is nothing in it.
type simHeard func()

// request sends a request of the classic protocol.
func (c *simClient) request(n *simNode, what string, do func(context.Context, *Broker) (simHeard, error)) {
	c.classic.ask = c.w.call(&simCall{c: c, life: c.life, node: n, what: what, do: do})
}

func (c *simClient) joinClassic(n *simNode) {
	k, w := c.classic, c.w
	k.again = true // until it is answered
	if w.protocol == simEager {
		clear(c.owned)
		clear(c.target)
	}
	req := &api.ClassicJoin{
		Group: simGroup, MemberID: k.member, InstanceID: c.instance, ClientID: c.id, ProtocolType: "consumer", RequireKnownID: k.careful,
		Protocols:      []api.ClassicProtocol{{Name: w.protocol, Metadata: c.says()}},
		SessionTimeout: simMember.Milliseconds(), RebalanceTimeout: simRebalance.Milliseconds(),
	}
	w.counts.ClassicJoins++
	what := fmt.Sprintf("%s joins, of generation %d, with %v", cmp.Or(k.member, "somebody"), c.epoch, c.list())
	c.request(n, what, func(ctx context.Context, b *Broker) (simHeard, error) {
		j, err := b.JoinClassic(ctx, req)
		return func() {
			if j != nil && j.MemberID != "" && (err == nil || api.CodeOf(err) == api.CodeMemberIDRequired) {
				k.member = j.MemberID
			}
			if err == nil {
				k.joined, k.listed, k.leads = j.Generation, j.Members, j.Leader == j.MemberID
				k.plan, k.topics, k.again = nil, nil, false
				if j.SkipAssignment { // it took a place over, and does not know what was assigned: it asks for the next generation
					k.listed, k.topics = nil, map[string]simAssigned{"": {partitions: 1}}
				}
			}
		}, err
	})
}

// says is what a consumer tells of itself.
func (c *simClient) says() []byte {
	m := kmsg.ConsumerMemberMetadata{Version: c.classic.version, Topics: c.topics, Generation: -1}
	for _, p := range c.list() {
		if c.w.protocol == simCooperative {
			m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: p.Topic, Partitions: []int32{p.Partition}})
		}
	}
	if c.epoch > 0 {
		m.Generation = c.epoch
	}
	return m.AppendTo(nil)
}

func (c *simClient) sync(n *simNode) {
	k := c.classic
	req := &api.ClassicSync{
		Group: simGroup, MemberID: k.member, InstanceID: c.instance, Generation: k.joined, ProtocolType: "consumer", Protocol: c.w.protocol,
	}
	if k.leads && len(k.listed) > 0 {
		if k.plan == nil {
			k.plan = c.w.assignClassic(k)
			c.w.counts.ClassicAssigned++
		}
		req.Assignments = k.plan
	}
	generation := k.joined
	what := fmt.Sprintf("%s syncs in generation %d, %d assigned", k.member, generation, len(req.Assignments))
	c.request(n, what, func(ctx context.Context, b *Broker) (simHeard, error) {
		s, err := b.SyncClassic(ctx, req)
		if err == nil {
			c.w.checkSynced(req.MemberID, generation, s.Assignment)
		}
		return func() {
			if err == nil {
				c.synced(generation, s.Assignment)
			}
		}, err
	})
}

// synced takes an assignment. What is new it owns at once; a cooperative member gives up what
// is gone when its application is ready to, and joins again then.
func (c *simClient) synced(generation int32, assignment []byte) {
	c.w.notef("%s: generation %d, %v", c.id, generation, readSimAssignment(assignment))
	c.epoch, c.classic.joined, c.classic.listed, c.beaten = generation, 0, nil, time.Now()
	c.w.counts.ClassicSynced++
	clear(c.target)
	for _, p := range readSimAssignment(assignment) {
		c.target[p] = true
		if c.owned[p] == nil {
			c.w.claim(c, p, generation)
			c.owned[p] = &simOwned{pos: -1}
		}
	}
}

// heard takes the answer to what it asked.
func (c *simClient) heard(call *simCall) {
	k := c.classic
	if k == nil || k.ask != call {
		return // it does not wait for that any more
	}
	k.ask = nil
	syncing := k.joined > 0
	if call.heard != nil {
		call.heard()
	}
	switch api.CodeOf(call.err) {
	case api.CodeNone:
	case api.CodeMemberIDRequired:
		k.again = true
	case api.CodeUnknownMember:
		c.w.counts.Fenced++
		c.loseAll()
		*k = simClassic{version: k.version, careful: k.careful}
	case api.CodeFencedInstanceID:
		c.w.counts.Superseded++
		c.loseAll()
		c.dead = true
	case api.CodeIllegalGeneration:
		c.w.counts.ClassicFenced++
		c.loseAll()
		k.joined = 0
	case api.CodeRebalanceInProgress:
		k.again, k.joined = true, 0
	case api.CodeInconsistentProtocol:
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		c.w.brokenf(keepsSane, "%s was refused: %v", c.id, call.err)
	default:
		c.node = 0
		if syncing && c.w.rng.IntN(2) == 0 { // as Kafka's clients do; the others sync once more
			k.again, k.joined = true, 0
		}
	}
}

// giveUpClassic is giveUp of a cooperative member.
func (c *simClient) giveUpClassic() {
	before := len(c.owned)
	maps.DeleteFunc(c.owned, func(p api.TopicPartition, _ *simOwned) bool { return !c.target[p] })
	c.classic.again = c.classic.again || len(c.owned) < before
}

// leaveClassic says goodbye; whether anybody hears it is not waited for.
func (c *simClient) leaveClassic() {
	member, instance := c.classic.member, c.instance
	if n := c.find(); n != nil && member != "" {
		c.request(n, member+" leaves", func(ctx context.Context, b *Broker) (simHeard, error) {
			_, err := b.LeaveClassic(ctx, simGroup, []api.ClassicLeave{{MemberID: member, InstanceID: instance}})
			return nil, err
		})
	}
	c.loseAll()
}

// assignable are the topics that there are, of some.
func (w *simWorld) assignable(names []string) map[string]simAssigned {
	topics := map[string]simAssigned{}
	for _, name := range names {
		id, partitions := w.newest().topic(name)
		topics[name] = simAssigned{id, partitions}
	}
	return topics
}

// assignClassic is what a leader does: it shares all partitions among those who want them.
// Of cooperative members each keeps what it has; what is to move waits until it is given up.
func (w *simWorld) assignClassic(k *simClassic) map[string][]byte {
	said := map[string]*kmsg.ConsumerMemberMetadata{}
	names := map[string]bool{}
	for _, m := range k.listed {
		said[m.MemberID] = new(kmsg.ConsumerMemberMetadata)
		if err := said[m.MemberID].ReadFrom(m.Metadata); err != nil {
			w.brokenf(keepsSane, "what %s says of itself: %v", m.MemberID, err)
		}
		for _, topic := range said[m.MemberID].Topics {
			names[topic] = true
		}
	}
	k.topics = w.assignable(sortedKeys(names))
	owners := simOwners(said)
	given, counted := map[string][]api.TopicPartition{}, map[string]int{}
	for _, name := range sortedKeys(k.topics) {
		for i := range k.topics[name].partitions {
			p := api.TopicPartition{Topic: name, Partition: i}
			to := w.chooseClassic(said, counted, owners[p], name)
			counted[to]++
			if owner := owners[p]; owner == "" || owner == to {
				given[to] = append(given[to], p)
			}
		}
	}
	out := map[string][]byte{}
	for id := range said {
		out[id] = writeSimAssignment(given[id])
	}
	return out
}

// chooseClassic is who is to have a partition: who has it, most of the time, or who has least.
func (w *simWorld) chooseClassic(said map[string]*kmsg.ConsumerMemberMetadata, counted map[string]int, owner, topic string) string {
	var fit []string
	for _, id := range sortedKeys(said) {
		if slices.Contains(said[id].Topics, topic) {
			fit = append(fit, id)
		}
	}
	if slices.Contains(fit, owner) && (w.healed || w.rng.IntN(3) > 0) {
		return owner
	}
	least := slices.MinFunc(fit, func(a, b string) int { return counted[a] - counted[b] })
	if !w.healed && w.rng.IntN(3) == 0 {
		return fit[w.rng.IntN(len(fit))]
	}
	return least
}

// simOwners are who has what, by what members say: the newest generation counts, and nobody
// where two of one generation say so.
func simOwners(said map[string]*kmsg.ConsumerMemberMetadata) map[api.TopicPartition]string {
	owners, of := map[api.TopicPartition]string{}, map[api.TopicPartition]int32{}
	for _, id := range sortedKeys(said) {
		for _, t := range said[id].OwnedPartitions {
			for _, i := range t.Partitions {
				p := api.TopicPartition{Topic: t.Topic, Partition: i}
				if before, taken := of[p]; !taken || before < said[id].Generation {
					owners[p], of[p] = id, said[id].Generation
				}
			}
		}
	}
	return owners
}

func writeSimAssignment(parts []api.TopicPartition) []byte {
	var a kmsg.ConsumerMemberAssignment
	for _, p := range parts {
		a.Topics = append(a.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: p.Topic, Partitions: []int32{p.Partition}})
	}
	return a.AppendTo(nil)
}

func readSimAssignment(assignment []byte) (parts []api.TopicPartition) {
	if len(assignment) == 0 {
		return nil
	}
	var a kmsg.ConsumerMemberAssignment
	if err := a.ReadFrom(assignment); err != nil {
		panic(fmt.Sprintf("an assignment: %v", err))
	}
	for _, t := range a.Topics {
		for _, i := range t.Partitions {
			parts = append(parts, api.TopicPartition{Topic: t.Topic, Partition: i})
		}
	}
	return parts
}
