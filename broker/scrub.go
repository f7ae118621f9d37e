package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	commitlog "github.com/penstock/penstock/log"
)

// scrubDelay is how long after a start the first round begins: a node that has just
// come up has other things to read.
const scrubDelay = 5 * time.Minute

// scrubber reads the logs of this broker's replicas, one after the other, each once a
// round, so that damage in what nobody reads is found while other replicas are intact.
// Rounds begin an interval apart. Each goes through them in another order: a broker that
// is restarted again and again gets to all of them all the same.
type scrubber struct {
	b    *Broker
	logs *commitlog.Scrubber

	bytes, damaged  prometheus.Counter
	rounds          prometheus.Counter
	last, remaining prometheus.Gauge
}

func newScrubber(b *Broker) *scrubber {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "penstock", Subsystem: "scrub", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "penstock", Subsystem: "scrub", Name: name, Help: help})
	}
	return &scrubber{
		b: b, logs: commitlog.NewScrubber(b.cfg.Scrub),
		bytes:     counter("bytes_total", "Bytes of segments that were read and checked."),
		damaged:   counter("damaged_total", "Replicas in which damage was found."),
		rounds:    counter("rounds_total", "How often all replicas were gone through."),
		last:      gauge("last_round_timestamp_seconds", "When the last round ended, in Unix time; 0: none has."),
		remaining: gauge("remaining_replicas", "Replicas that the present round has not gone through; 0: none is under way."),
	}
}

func (s *scrubber) collectors() []prometheus.Collector {
	return []prometheus.Collector{s.bytes, s.damaged, s.rounds, s.last, s.remaining}
}

// Describe implements prometheus.Collector.
func (s *scrubber) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range s.collectors() {
		m.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *scrubber) Collect(ch chan<- prometheus.Metric) {
	for _, m := range s.collectors() {
		m.Collect(ch)
	}
}

// run scrubs until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	if s.b.cfg.ScrubInterval <= 0 {
		return
	}
	wait := min(scrubDelay, s.b.cfg.ScrubInterval)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		begin := time.Now()
		s.round(ctx)
		wait = max(s.b.cfg.ScrubInterval-time.Since(begin), 0)
	}
}

// round goes through the replicas that are there when it begins.
func (s *scrubber) round(ctx context.Context) {
	all := slices.Collect(maps.Values(s.b.table.all())) // in any order
	defer s.remaining.Set(0)
	for i, l := range all {
		s.remaining.Set(float64(len(all) - i))
		s.scrub(ctx, l)
		if ctx.Err() != nil {
			return
		}
	}
	s.rounds.Inc()
	s.last.Set(float64(s.b.cfg.Now().Unix()))
	s.b.logger.Info("scrubbed all replicas", "replicas", len(all))
}

func (s *scrubber) scrub(ctx context.Context, l *localReplica) {
	read, err := s.logs.Scrub(ctx, l.log)
	s.bytes.Add(float64(read))
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, commitlog.ErrClosed), errors.Is(err, commitlog.ErrBusy),
		errors.Is(err, commitlog.ErrFailed), errors.Is(err, commitlog.ErrDamaged):
	case l.log.Damage() != commitlog.DamageNone:
		s.damaged.Inc()
		l.logger.Error("a scrub found damage", "error", err)
		l.checkDamage()
	default:
		l.logger.Warn("a scrub could not read the log", "error", err)
	}
}
