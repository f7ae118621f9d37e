package kafkaclients

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Under the load of real clients each broker dies once, and with it every leader and
// every coordinator: no acknowledged record is missing or there twice, no client is
// stuck.
func TestFailover(t *testing.T) {
	s := newSuite(t)
	const (
		rate    = 300
		seconds = 24
		count   = rate * seconds
	)
	var loads []*load
	list := clients(t)
	for i := range list {
		if c := &list[i]; slices.Contains([]string{"franz-go", "confluent-kafka", "kafka-clients (Java)"}, c.name) {
			l := &load{client: c, topic: s.newTopic(t, 1)}
			// It stays until it has seen every record: some it may see twice.
			l.member = c.start(t, "group", s.args(l.topic, 1_000_000, "group="+l.topic, "commit=auto")...)
			l.producer = c.start(t, "produce", s.args(l.topic, count, "codec=none", "idempotent=true", "rate="+strconv.Itoa(rate))...)
			loads = append(loads, l)
		}
	}
	flowing := func(l *load) func() bool {
		before := len(l.member.output())
		return func() bool { return len(l.member.output()) > before }
	}
	for _, l := range loads {
		require.Eventually(t, flowing(l), 30*time.Second, 20*time.Millisecond, "%s reads nothing: %s", l.client.name, l.member.errs.String())
	}
	for node := range nodes {
		for _, l := range loads {
			l.kills = append(l.kills, s.about(t, node, l))
		}
		at := time.Now()
		s.kill(node)
		s.start(node)
		s.awaitReady(node)
		for _, l := range loads {
			if len(l.seen(t)) < count {
				require.Eventually(t, flowing(l), 30*time.Second, 20*time.Millisecond, "%s is stuck after node %d died: %s", l.client.name, node+1, l.member.errs.String())
			}
		}
		s.awaitInSync(t)
		for _, l := range loads {
			k := &l.kills[node]
			k.produced, k.consumed = longest(l.producer, at), longest(l.member, at)
		}
	}
	for _, l := range loads {
		acked := l.producer.wait(t)
		require.Len(t, acked, count, l.client.name)
		require.Eventually(t, func() bool { return len(l.seen(t)) >= count }, 30*time.Second, 100*time.Millisecond,
			"%s: the member saw not all of %d records: %s", l.client.name, count, l.member.errs.String())
		l.member.leave()
		l.member.wait(t)
		times := make(map[string]int)
		for _, r := range s.read(t, l.topic, count) {
			times[string(r.Value)]++
		}
		seen := l.seen(t)
		for _, line := range acked {
			value := "v" + strings.TrimPrefix(line, "acked ")
			require.Equal(t, 1, times[value], "%s: acknowledged record %s", l.client.name, value)
			require.True(t, seen[value], "%s: the member did not see %s", l.client.name, value)
		}
		t.Logf("%s: %d records, read by the member %d times", l.client.name, len(seen), len(rows(t, l.member.output())))
	}
	reportPauses(t, loads)
}

// load is a client that produces and one that reads it in a group of its own.
type load struct {
	client           *client
	topic            string
	producer, member *process
	kills            []kill
}

// seen are the values that the member has read.
func (l *load) seen(t *testing.T) map[string]bool {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range rows(t, l.member.output()) {
		seen[r.value] = true
	}
	return seen
}

// kill is what the death of a broker was to a load.
type kill struct {
	controller, leader, coordinator bool // what the broker was before
	produced, consumed              time.Duration
}

// about says what a node is to a load.
func (s *suite) about(t *testing.T, node int, l *load) kill {
	t.Helper()
	id := int32(node + 1)
	topics, err := s.admin.ListTopics(t.Context(), l.topic)
	require.NoError(t, err)
	found := s.admin.FindGroupCoordinators(t.Context(), l.topic)
	require.NoError(t, found.Error())
	md, err := s.admin.BrokerMetadata(t.Context())
	require.NoError(t, err)
	require.Empty(t, l.producer.ended(), "%s has produced everything before node %d dies", l.client.name, id)
	return kill{
		controller: md.Controller == id, leader: topics[l.topic].Partitions[0].Leader == id, coordinator: found[l.topic].NodeID == id,
	}
}

// reportPauses says how long clients paused, and with RECORD set writes it into the
// documentation.
func reportPauses(t *testing.T, loads []*load) {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| client | leader killed: producer | leader killed: group's member | coordinator killed: group's member | another broker killed: either |\n|---|---|---|---|---|\n")
	for _, l := range loads {
		worst := func(of func(k kill) (time.Duration, bool)) string {
			most, controller, known := time.Duration(0), false, false
			for _, k := range l.kills {
				if took, counts := of(k); counts && took >= most {
					most, controller, known = took, k.controller, true
				}
			}
			switch {
			case !known:
				return "–"
			case controller:
				return fmt.Sprintf("%d ms, the controller", most.Milliseconds())
			default:
				return fmt.Sprintf("%d ms", most.Milliseconds())
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", l.client.name,
			worst(func(k kill) (time.Duration, bool) { return k.produced, k.leader }),
			worst(func(k kill) (time.Duration, bool) { return k.consumed, k.leader }),
			worst(func(k kill) (time.Duration, bool) { return k.consumed, k.coordinator && !k.leader }),
			worst(func(k kill) (time.Duration, bool) { return max(k.produced, k.consumed), !k.leader && !k.coordinator }))
	}
	b.WriteString("\n")
	t.Log("longest pauses:\n" + b.String())
	if os.Getenv("RECORD") != "" {
		writeSection(t, "failover", b.String())
	}
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
