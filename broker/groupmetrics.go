package broker

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/consumergroup/coordinator"
)

// maxLagSeries bounds the partitions whose lag is shown: past it a group has its
// totals only.
const maxLagSeries = 20_000

// groupMetrics shows the consumer groups that this broker coordinates. It reads
// them when somebody asks.
type groupMetrics struct {
	b                                             *Broker
	groups, members, lag, lagTime, memberLag, age *prometheus.Desc
	total, left, partitions                       *prometheus.Desc
}

func newGroupMetrics(b *Broker) *groupMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_group_"+name, help, labels, nil)
	}
	return &groupMetrics{
		b:          b,
		groups:     desc("groups", "Consumer groups that this broker coordinates, by state.", "state"),
		members:    desc("members", "Members of a consumer group.", "group"),
		lag:        desc("lag_records", "Records between a group's committed offset and the end of what can be read.", "group", "topic", "partition"),
		lagTime:    desc("lag_seconds", "For how long the next record that a group is to read has been readable.", "group", "topic", "partition"),
		memberLag:  desc("member_lag_records", "lag_records, summed over the partitions of a member.", "group", "member"),
		total:      desc("lag_records_sum", "lag_records, summed over the partitions of a group.", "group"),
		age:        desc("lag_age_seconds", "How old the oldest of the leaders' words are that the lag of a group is made of.", "group"),
		partitions: desc("partitions", "Partitions of __consumer_offsets that this broker coordinates, by state: loading, active, refusing (no commits), failed (nothing).", "state"),
		left:       desc("lag_partitions_not_shown", "Partitions whose lag is in the sums only, for there are too many."),
	}
}

// Describe implements prometheus.Collector.
func (m *groupMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.groups, m.members, m.lag, m.lagTime, m.memberLag, m.total, m.age, m.left, m.partitions} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What a busy coordinator does not
// answer within a second is left out.
func (m *groupMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	partitions := m.b.coordinator.Partitions()
	for _, state := range coordinator.States() { // also those at 0, so that an alert has something to compare
		gauge(m.partitions, float64(partitions[state]), state.String())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	groups, err := m.b.coordinator.Lags(ctx)
	if err != nil {
		m.b.logger.Debug("groups not shown", "error", err)
		return
	}
	states := map[string]int{}
	shown, left := 0, 0
	for i := range groups {
		g := &groups[i]
		states[g.State]++
		gauge(m.members, float64(g.Members), g.Group)
		var sum, oldest int64
		members := map[string]int64{}
		for _, l := range g.Lags {
			if l.Lag < 0 {
				continue
			}
			sum += l.Lag
			oldest = max(oldest, l.Age)
			if l.MemberID != "" {
				members[l.MemberID] += l.Lag
			}
			if shown >= maxLagSeries {
				left++
				continue
			}
			shown++
			partition := strconv.Itoa(int(l.Partition))
			gauge(m.lag, float64(l.Lag), g.Group, l.Topic, partition)
			gauge(m.lagTime, float64(l.LagTime)/1000, g.Group, l.Topic, partition)
		}
		gauge(m.total, float64(sum), g.Group)
		gauge(m.age, float64(oldest)/1000, g.Group)
		for member, lag := range members {
			gauge(m.memberLag, float64(lag), g.Group, member)
		}
	}
	for state, n := range states {
		gauge(m.groups, float64(n), state)
	}
	gauge(m.left, float64(left))
}
