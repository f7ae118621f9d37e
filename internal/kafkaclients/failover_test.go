package kafkaclients

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
)

// stuck is a pause after which a client counts as one that does not come back.
const stuck = 20 * time.Second

// Under the load of real clients each broker dies twice, and in each round it is the
// leader of one client's partition, the coordinator of another's groups, and neither to
// the third: no acknowledged record is missing or there twice, no client is stuck.
func TestFailover(t *testing.T) {
	const rounds = 2
	s := newSuite(t)
	loads := s.startLoads(t)
	for range rounds {
		for left := []int{0, 1, 2}; len(left) > 0; {
			s.settle(t, loads)
			i, controller := s.victim(t, left)
			requireFlow(t, loads, "before node %d dies", left[i]+1)
			s.failOver(t, left[i], controller, loads)
			left = slices.Delete(left, i, i+1)
		}
	}
	for _, l := range loads {
		l.check(t, s)
	}
	reportPauses(t, loads)
}

// victim chooses one of some nodes, and says whether it is the controller: that one comes
// last. Taken in turn each would be it, for the next one becomes it.
func (s *suite) victim(t *testing.T, of []int) (i int, controller bool) {
	t.Helper()
	md, err := s.admin.BrokerMetadata(t.Context())
	require.NoError(t, err)
	if i = slices.IndexFunc(of, func(node int) bool { return int32(node+1) != md.Controller }); i >= 0 {
		return i, false
	}
	return 0, true
}

// failOver kills a node, starts it again once the others do its work, and notes how long
// each client paused. A node that is back before they do may lead again, and then it is
// the client's own patience with a broker that went away that counts.
func (s *suite) failOver(t *testing.T, node int, controller bool, loads []*load) {
	t.Helper()
	at := time.Now()
	s.kill(node)
	requireFlow(t, loads, "after node %d died", node+1)
	s.start(node)
	s.awaitReady(node)
	s.awaitInSync(t)
	for _, l := range loads {
		k := kill{role: l.role(int32(node + 1)), controller: controller}
		for i, p := range l.processes() {
			k.pauses[i] = longest(p, at)
			require.Less(t, k.pauses[i], stuck, "%s: %s was stuck when node %d died, %s", l.client.name, kinds[i], node+1, k.role)
		}
		l.kills = append(l.kills, k)
	}
}

// kinds are the processes of a load, in the order of its pauses.
var kinds = [3]string{"producer", "member, classic", "member, KIP-848"}

// load is a client that produces, and that reads it in two groups, one of each protocol.
type load struct {
	client              *client
	topic               string
	leader, coordinator int32 // the nodes that are to be it
	groups              [2]string
	producer            *process
	members             [2]*process
	kills               []kill
}

func (l *load) processes() [3]*process { return [3]*process{l.producer, l.members[0], l.members[1]} }

// The roles of a node to a load.
const (
	roleLeader      = "the leader"
	roleCoordinator = "the coordinator"
	roleNone        = "another"
)

func (l *load) role(node int32) string {
	switch node {
	case l.leader:
		return roleLeader
	case l.coordinator:
		return roleCoordinator
	default:
		return roleNone
	}
}

// kill is what the death of a node was to a load.
type kill struct {
	role       string
	controller bool // the node was it, too
	pauses     [3]time.Duration
}

// startLoads starts the clients, each with another node for its leader.
func (s *suite) startLoads(t *testing.T) []*load {
	t.Helper()
	const rate, most = 300, 200_000 // for ten minutes
	var loads []*load
	list := clients(t)
	for i := range list {
		c := &list[i]
		if !slices.Contains([]string{"franz-go", "confluent-kafka", "kafka-clients (Java)"}, c.name) {
			continue
		}
		l := &load{client: c, leader: int32(len(loads)%nodes) + 1, coordinator: int32((len(loads)+1)%nodes) + 1}
		l.topic = s.topicAt(t, l.leader)
		for k, protocol := range []string{"classic", "consumer"} {
			l.groups[k] = s.groupAt(t, l.topic+"-"+protocol, l.coordinator)
			// It stays until it has seen every record: some it may see twice.
			l.members[k] = c.start(t, "group", s.args(l.topic, 1_000_000, "group="+l.groups[k], "commit=auto", "protocol="+protocol)...)
		}
		l.producer = c.start(t, "produce", s.args(l.topic, most, "codec=none", "idempotent=true", "rate="+strconv.Itoa(rate))...)
		loads = append(loads, l)
	}
	require.Len(t, loads, nodes)
	return loads
}

// topicAt makes a topic of one partition whose preferred leader is a node.
func (s *suite) topicAt(t *testing.T, node int32) string {
	t.Helper()
	for range 20 * nodes {
		topic := s.newTopic(t, 1)
		found, err := s.admin.ListTopics(t.Context(), topic)
		require.NoError(t, err)
		if found[topic].Partitions[0].Replicas[0] == node {
			return topic
		}
	}
	require.Fail(t, "no topic has the preferred leader that it is to have", "node %d", node)
	return ""
}

// groupAt is a group, by a name that begins as told, that a node coordinates.
func (s *suite) groupAt(t *testing.T, name string, node int32) (group string) {
	t.Helper()
	var names []string
	for i := range 20 * nodes {
		names = append(names, fmt.Sprintf("%s-%d", name, i))
	}
	require.Eventually(t, func() bool {
		found := s.admin.FindGroupCoordinators(t.Context(), names...)
		i := slices.IndexFunc(names, func(n string) bool { return found[n].Err == nil && found[n].NodeID == node })
		if i < 0 {
			return false
		}
		group = names[i]
		return true
	}, 30*time.Second, 100*time.Millisecond, "node %d coordinates none of %v", node, names)
	return group
}

// settle lets the nodes lead and coordinate again what they are to.
func (s *suite) settle(t *testing.T, loads []*load) {
	t.Helper()
	require.Eventually(t, func() bool {
		if _, err := s.admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil); err != nil {
			return false
		}
		for _, l := range loads {
			topics, err := s.admin.ListTopics(t.Context(), l.topic)
			if err != nil || topics[l.topic].Partitions[0].Leader != l.leader {
				return false
			}
			found := s.admin.FindGroupCoordinators(t.Context(), l.groups[:]...)
			for _, g := range l.groups {
				if found[g].Err != nil || found[g].NodeID != l.coordinator {
					return false
				}
			}
		}
		return true
	}, 30*time.Second, 100*time.Millisecond, "the nodes do not lead and coordinate what they are to")
}

// requireFlow waits until every process has acknowledged or read something more.
func requireFlow(t *testing.T, loads []*load, when string, node int) {
	t.Helper()
	type waits struct {
		l      *load
		kind   int
		before int
	}
	var list []waits
	for _, l := range loads {
		for i, p := range l.processes() {
			list = append(list, waits{l, i, p.count()})
		}
	}
	for _, w := range list {
		p := w.l.processes()[w.kind]
		require.Eventually(t, func() bool { return p.count() > w.before }, stuck, 20*time.Millisecond,
			"%s: %s is stuck "+when+": %s", w.l.client.name, kinds[w.kind], node, p.errs.String())
	}
}

// check ends a load: what was acknowledged is there once, and both members saw it.
func (l *load) check(t *testing.T, s *suite) {
	t.Helper()
	l.producer.leave()
	acked := l.producer.wait(t)
	ends, err := s.admin.ListEndOffsets(t.Context(), l.topic)
	require.NoError(t, err)
	end, ok := ends.Lookup(l.topic, 0)
	require.True(t, ok)
	require.Equal(t, int64(len(acked)), end.Offset, "%s: records that are there, and no others were acknowledged", l.client.name)
	times := make(map[string]int)
	for _, r := range s.read(t, l.topic, len(acked)) {
		times[string(r.Value)]++
	}
	for _, line := range acked {
		value := "v" + strings.TrimPrefix(line, "acked ")
		require.Equal(t, 1, times[value], "%s: acknowledged record %s", l.client.name, value)
	}
	for i, m := range l.members {
		seen := func() map[string]bool {
			out := make(map[string]bool)
			for _, r := range rows(t, m.output()) {
				out[r.value] = true
			}
			return out
		}
		require.Eventually(t, func() bool { return len(seen()) >= len(acked) }, 30*time.Second, 200*time.Millisecond,
			"%s: the %s saw not all of %d records: %s", l.client.name, kinds[1+i], len(acked), m.errs.String())
		m.leave()
		m.wait(t)
		all := seen()
		for value := range times {
			require.True(t, all[value], "%s: the %s did not see %s", l.client.name, kinds[1+i], value)
		}
		t.Logf("%s: %d records, read by the %s %d times", l.client.name, len(all), kinds[1+i], m.count())
	}
}

// reportPauses says how long clients paused, and with RECORD set writes it into the
// documentation.
func reportPauses(t *testing.T, loads []*load) {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| client | killed | " + strings.Join(kinds[:], " | ") + " |\n|---|---|---|---|---|\n")
	for _, l := range loads {
		for _, role := range []string{roleLeader, roleCoordinator, roleNone} {
			fmt.Fprintf(&b, "| %s | %s |", l.client.name, role)
			for i := range kinds {
				b.WriteString(" " + l.paused(role, i) + " |")
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n")
	t.Log("longest pauses:\n" + b.String())
	if os.Getenv("RECORD") != "" {
		writeSection(t, "failover", b.String())
	}
}

// paused lists the pauses of a process when nodes of a role died, with a star where the
// node was the controller, too.
func (l *load) paused(role string, process int) string {
	kills := slices.DeleteFunc(slices.Clone(l.kills), func(k kill) bool { return k.role != role })
	slices.SortFunc(kills, func(a, b kill) int { return cmp.Compare(a.pauses[process], b.pauses[process]) })
	var out []string
	for _, k := range kills {
		text := strconv.FormatInt(k.pauses[process].Milliseconds(), 10)
		if k.controller {
			text += "\\*"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ") + " ms"
}

// longest is the longest time between two lines of which the later came after since.
func longest(p *process, since time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var most time.Duration
	for i := 1; i < len(p.times); i++ {
		if p.times[i].After(since) {
			most = max(most, p.times[i].Sub(p.times[i-1]))
		}
	}
	return most
}

// awaitInSync waits until every replica is in its partition's in-sync set.
func (s *suite) awaitInSync(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		all, err := s.admin.ListTopicsWithInternal(t.Context())
		if err != nil {
			return false
		}
		for _, topic := range all {
			for _, p := range topic.Partitions {
				if len(p.ISR) < len(p.Replicas) {
					return false
				}
			}
		}
		return true
	}, 30*time.Second, 50*time.Millisecond, "replicas stay out of sync")
}
