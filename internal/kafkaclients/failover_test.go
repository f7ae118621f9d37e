package kafkaclients

import (
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
	type load struct {
		client           *client
		topic            string
		producer, member *process
	}
	var loads []*load
	list := clients(t)
	for i := range list {
		if c := &list[i]; slices.Contains([]string{"franz-go", "confluent-kafka", "kafka-clients (Java)"}, c.name) {
			l := &load{client: c, topic: s.newTopic(t, 1)}
			l.member = c.start(t, "group", s.args(l.topic, count, "group="+l.topic, "commit=auto")...)
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
		s.kill(node)
		s.start(node)
		s.awaitReady(node)
		for _, l := range loads {
			if len(l.member.output()) < count {
				require.Eventually(t, flowing(l), 30*time.Second, 20*time.Millisecond, "%s is stuck after node %d died: %s", l.client.name, node+1, l.member.errs.String())
			}
		}
		s.awaitInSync(t)
	}
	for _, l := range loads {
		acked := l.producer.wait(t)
		require.Len(t, acked, count, l.client.name)
		l.member.wait(t)
		times := make(map[string]int)
		for _, r := range s.read(t, l.topic, count) {
			times[string(r.Value)]++
		}
		seen := make(map[string]bool)
		for _, r := range rows(t, l.member.output()) {
			seen[r.value] = true
		}
		for _, line := range acked {
			value := "v" + strings.TrimPrefix(line, "acked ")
			require.Equal(t, 1, times[value], "%s: acknowledged record %s", l.client.name, value)
			require.True(t, seen[value] || len(seen) < count, "%s: the member did not see %s", l.client.name, value)
		}
		t.Logf("%s: longest pause of the producer %v, of the group's member %v; %d of %d records seen by the member",
			l.client.name, longest(l.producer), longest(l.member), len(seen), count)
	}
}

// longest is the longest time between two lines.
func longest(p *process) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var most time.Duration
	for i := 1; i < len(p.times); i++ {
		most = max(most, p.times[i].Sub(p.times[i-1]))
	}
	return most.Round(time.Millisecond)
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
