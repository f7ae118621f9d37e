package broker

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup/coordinator"
)

// maxLagSeries bounds the partitions whose lag is shown: past it a group has its
// totals only.
const maxLagSeries = 20_000

// lagPatience is how long a scrape waits for the groups. Where there are so many that
// they take longer it shows them as of the time before, and the next one these.
const lagPatience = time.Second

// groupMetrics shows the consumer groups that this broker coordinates. It reads
// them when somebody asks.
type groupMetrics struct {
	b                                             *Broker
	groups, members, lag, lagTime, memberLag, age *prometheus.Desc
	total, left, partitions, incomplete           *prometheus.Desc
	totalTime, memberTime, topicLag, topicTime    *prometheus.Desc

	looks sync.WaitGroup // look

	mu      sync.Mutex // guards what follows
	last    []api.GroupLag
	at      time.Time     // when last was so; zero: never
	looking chan struct{} // closed when the look under way has ended; nil: none is
	closed  bool
}

func newGroupMetrics(b *Broker) *groupMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_group_"+name, help, labels, nil)
	}
	return &groupMetrics{
		b:          b,
		groups:     desc("groups", "Consumer groups that this broker coordinates, by state.", "state"),
		members:    desc("members", "Members of a consumer group.", "group"),
		lag:        desc("lag_records", "Records between a group's committed offset, or the log start where a member has not committed yet, and the end of what can be read.", "group", "topic", "partition"),
		lagTime:    desc("lag_seconds", "For how long the next record that a group is to read has been readable.", "group", "topic", "partition"),
		memberLag:  desc("member_lag_records", "lag_records, summed over the partitions of a member.", "group", "member"),
		total:      desc("lag_records_sum", "lag_records, summed over the partitions of a group.", "group"),
		age:        desc("lag_age_seconds", "How old the oldest of the leaders' words are that the lag of a group is made of.", "group"),
		partitions: desc("partitions", "Partitions of __consumer_offsets that this broker coordinates, by state: loading, active, refusing (no commits), failed (nothing).", "state"),
		incomplete: desc("partitions_incomplete", "Partitions of __consumer_offsets that this broker coordinates of which records were given up as damaged, and would still count."),
		totalTime:  desc("lag_seconds_max", "The longest lag_seconds of the partitions of a group.", "group"),
		memberTime: desc("member_lag_seconds", "The longest lag_seconds of the partitions of a member.", "group", "member"),
		topicLag:   desc("topic_lag_records", "lag_records, summed over the partitions of a topic.", "group", "topic"),
		topicTime:  desc("topic_lag_seconds", "The longest lag_seconds of the partitions of a topic.", "group", "topic"),
		left:       desc("lag_partitions_not_shown", "Partitions whose lag is in the sums only, for there are too many."),
	}
}

// Describe implements prometheus.Collector.
func (m *groupMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.groups, m.members, m.lag, m.lagTime, m.memberLag, m.total, m.age, m.left, m.partitions, m.incomplete,
		m.totalTime, m.memberTime, m.topicLag, m.topicTime,
	} {
		ch <- d
	}
}

// newest returns the groups, as of so long ago. It waits lagPatience for them to be
// looked at anew; one look at a time is under way.
func (m *groupMetrics) newest() (groups []api.GroupLag, ago time.Duration) {
	m.mu.Lock()
	if m.looking == nil && !m.closed {
		m.looking = make(chan struct{})
		m.looks.Go(m.look)
	}
	looking := m.looking
	m.mu.Unlock()
	if looking != nil {
		wait := time.NewTimer(lagPatience)
		defer wait.Stop()
		select {
		case <-looking:
		case <-wait.C:
			m.b.logger.Debug("groups shown as of an earlier time", "waited", lagPatience)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.IsZero() {
		return nil, 0
	}
	return m.last, max(time.Since(m.at), 0)
}

// look asks the coordinator. It ends with the coordinator at the latest.
func (m *groupMetrics) look() {
	at := time.Now()
	groups, err := m.b.coordinator.Lags(context.Background())
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.b.logger.Warn("groups not looked at", "error", err)
	} else {
		m.last, m.at = groups, at
	}
	close(m.looking)
	m.looking = nil
}

// close waits for the look under way. The coordinator must be closed.
func (m *groupMetrics) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.looks.Wait()
}

// lagSum is the lag of several partitions.
type lagSum struct {
	records int64
	time    int64 // ms; the longest
	age     int64 // ms; of the oldest word
}

func (s *lagSum) add(l *api.PartitionLag) {
	s.records += l.Lag
	s.time, s.age = max(s.time, l.LagTime), max(s.age, l.Age)
}

// addTo adds to one of several sums.
func addTo(sums map[string]*lagSum, name string, l *api.PartitionLag) {
	s := sums[name]
	if s == nil {
		s = &lagSum{}
		sums[name] = s
	}
	s.add(l)
}

// Collect implements prometheus.Collector. A broker that has lost its controller shows no
// groups: they may be others' by now.
func (m *groupMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	partitions := m.b.coordinator.Partitions()
	for _, state := range coordinator.States() { // also those at 0, so that an alert has something to compare
		gauge(m.partitions, float64(partitions[state]), state.String())
	}
	gauge(m.incomplete, float64(m.b.coordinator.Incomplete()))
	groups, ago := m.newest()
	if m.b.lapsed() {
		return
	}
	states := map[string]int{}
	shown, left := 0, 0
	for i := range groups {
		g := &groups[i]
		states[g.State]++
		gauge(m.members, float64(g.Members), g.Group)
		var all lagSum
		members, topics := map[string]*lagSum{}, map[string]*lagSum{}
		for j := range g.Lags {
			l := &g.Lags[j]
			if l.Lag < 0 {
				continue
			}
			all.add(l)
			if l.MemberID != "" {
				addTo(members, l.MemberID, l)
			}
			if shown >= maxLagSeries {
				left++
				continue
			}
			shown++
			addTo(topics, l.Topic, l)
			partition := strconv.Itoa(int(l.Partition))
			gauge(m.lag, float64(l.Lag), g.Group, l.Topic, partition)
			gauge(m.lagTime, float64(l.LagTime)/1000, g.Group, l.Topic, partition)
		}
		gauge(m.total, float64(all.records), g.Group)
		gauge(m.totalTime, float64(all.time)/1000, g.Group)
		gauge(m.age, float64(all.age)/1000+ago.Seconds(), g.Group)
		for member, sum := range members {
			gauge(m.memberLag, float64(sum.records), g.Group, member)
			gauge(m.memberTime, float64(sum.time)/1000, g.Group, member)
		}
		if left > 0 {
			continue // sums of some of its partitions would be taken for those of all
		}
		for topic, sum := range topics {
			gauge(m.topicLag, float64(sum.records), g.Group, topic)
			gauge(m.topicTime, float64(sum.time)/1000, g.Group, topic)
		}
	}
	for state, n := range states {
		gauge(m.groups, float64(n), state)
	}
	gauge(m.left, float64(left))
}
