package broker

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	commitlog "github.com/penstock/penstock/log"
)

// cleanerRest is how long a log is left alone after its compaction failed.
const cleanerRest = time.Minute

// cleaner compacts the logs of this broker's replicas, leaders and followers
// alike: each replica its own, for what matters is the same records, not the same
// bytes.
type cleaner struct {
	b    *Broker
	logs *commitlog.Cleaner

	// resting are logs whose compaction failed, until when. run alone uses it.
	resting map[*localReplica]time.Time

	dirtiest, seconds                 prometheus.Gauge
	read, written, reclaimed, dropped prometheus.Counter
	failures                          prometheus.Counter
}

func newCleaner(b *Broker) *cleaner {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "penstock", Subsystem: "compaction", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "penstock", Subsystem: "compaction", Name: name, Help: help})
	}
	return &cleaner{
		b: b, logs: commitlog.NewCleaner(b.cfg.Cleaner), resting: map[*localReplica]time.Time{},
		dirtiest:  gauge("max_dirty_ratio", "Dirty part of the dirtiest compacted log, 0 to 1."),
		seconds:   gauge("last_seconds", "How long the last compaction of a log took."),
		read:      counter("read_bytes_total", "Bytes that compaction read."),
		written:   counter("written_bytes_total", "Bytes that compaction wrote."),
		reclaimed: counter("reclaimed_bytes_total", "Bytes by which compaction made logs smaller."),
		dropped:   counter("dropped_records_total", "Records that compaction took out."),
		failures:  counter("failures_total", "Compactions of a log that failed."),
	}
}

func (c *cleaner) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.dirtiest, c.seconds, c.read, c.written, c.reclaimed, c.dropped, c.failures}
}

// Describe implements prometheus.Collector.
func (c *cleaner) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.collectors() {
		m.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *cleaner) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.collectors() {
		m.Collect(ch)
	}
}

// run compacts until ctx ends.
func (c *cleaner) run(ctx context.Context) {
	ticker := time.NewTicker(c.b.cfg.CleanerBackoff)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.round(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// round compacts the dirtiest log as long as there is one that is dirty enough;
// each at most once, so that one that is written to all the time keeps no other
// waiting.
func (c *cleaner) round(ctx context.Context) {
	had := map[*localReplica]bool{}
	for ctx.Err() == nil {
		l := c.next(had)
		if l == nil {
			return
		}
		had[l] = true
		c.compact(ctx, l)
	}
}

// next is the dirtiest log of those that are dirty enough and had no turn yet.
func (c *cleaner) next(had map[*localReplica]bool) *localReplica {
	now := c.b.cfg.Now()
	var dirtiest *localReplica
	most, shown := -1.0, 0.0
	resting := map[*localReplica]time.Time{}
	for _, l := range c.b.table.all() {
		dirt, eligible := l.log.Dirtiness(now)
		shown = max(shown, dirt.Ratio())
		if until, rests := c.resting[l]; rests {
			resting[l] = until
			eligible = eligible && !now.Before(until)
		}
		if ratio := dirt.Ratio(); eligible && !had[l] && ratio > most {
			dirtiest, most = l, ratio
		}
	}
	c.resting = resting // without replicas that are gone
	c.dirtiest.Set(shown)
	return dirtiest
}

func (c *cleaner) compact(ctx context.Context, l *localReplica) {
	did, err := c.logs.Compact(ctx, l.log)
	c.read.Add(float64(did.Read))
	c.written.Add(float64(did.Written))
	c.reclaimed.Add(float64(max(did.Before-did.After, 0)))
	c.dropped.Add(float64(did.Dropped))
	c.seconds.Set(did.Took.Seconds())
	_, failedBefore := c.resting[l]
	switch {
	case err == nil:
		delete(c.resting, l)
		l.logger.Info("compacted", "from", did.From, "to", did.To, "bytes_before", did.Before, "bytes_after", did.After, "dropped", did.Dropped, "took", did.Took)
		if did.Keyless > 0 {
			l.logger.Warn("records without a key were dropped: they are older than the topic's compaction", "records", did.Keyless)
		}
	case ctx.Err() != nil, errors.Is(err, commitlog.ErrClosed), errors.Is(err, commitlog.ErrBusy):
		// It gave way to something else; the next round tries again.
	default:
		c.failures.Inc()
		c.resting[l] = c.b.cfg.Now().Add(cleanerRest)
		if !failedBefore {
			l.logger.Warn("compaction failed and is tried again later", "error", err, "after", cleanerRest)
		}
		l.checkDamage()
	}
}
