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

// scrubPause is the least time between two rounds, and how long a round waits for logs
// that could not be read for now: a compaction is at them, or files are short.
const scrubPause = time.Minute

// scrubber reads the logs of this broker's replicas, one after the other, each once a
// round, so that damage in what nobody reads is found while other replicas are intact.
// Rounds begin an interval apart. Each goes through them in another order: a broker that
// is restarted again and again gets to all of them all the same.
type scrubber struct {
	b *Broker
	// read is Scrub of a commitlog.Scrubber.
	read func(context.Context, *commitlog.Log) (int64, error)

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
		b: b, read: commitlog.NewScrubber(b.cfg.Scrub).Scrub,
		bytes:     counter("bytes_total", "Bytes of segments that were read and checked."),
		damaged:   counter("damaged_total", "Replicas in which damage was found."),
		rounds:    counter("rounds_total", "How often all replicas were read."),
		last:      gauge("last_round_timestamp_seconds", "When all replicas had been read last, in Unix time; 0: never."),
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
	for pause(ctx, wait) {
		begin := time.Now()
		s.round(ctx)
		wait = max(s.b.cfg.ScrubInterval-time.Since(begin), scrubPause)
	}
}

// pause waits, and reports whether that was not for nothing: ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// round goes through the replicas that are there when it begins. Those that could not be
// read for now come again: the round ends when there are none of them left.
func (s *scrubber) round(ctx context.Context) {
	all := slices.Collect(maps.Values(s.b.table.all())) // in any order
	defer s.remaining.Set(0)
	unread := 0
	for left := all; len(left) > 0; {
		var again []*localReplica
		for i, l := range left {
			s.remaining.Set(float64(len(left) - i + len(again)))
			switch s.scrub(ctx, l) {
			case scrubLater:
				again = append(again, l)
			case scrubFailed:
				unread++
			case scrubDone:
			}
			if ctx.Err() != nil {
				return
			}
		}
		if left = again; len(left) > 0 && !pause(ctx, scrubPause) {
			return
		}
	}
	if unread > 0 {
		s.b.logger.Warn("the scrub could not read all replicas", "replicas", len(all), "not_read", unread)
		return
	}
	s.rounds.Inc()
	s.last.Set(float64(s.b.cfg.Now().Unix()))
	s.b.logger.Info("scrubbed all replicas", "replicas", len(all))
}

// scrubResult is what became of one replica in a round.
type scrubResult int

const (
	// scrubDone: it was read to its end or to its damage, or it is out of service.
	scrubDone scrubResult = iota
	// scrubLater: something else is at its files, or there are too many of them.
	scrubLater
	// scrubFailed: it could not be read, and not for damage of its own.
	scrubFailed
)

func (s *scrubber) scrub(ctx context.Context, l *localReplica) scrubResult {
	read, err := s.read(ctx, l.log)
	s.bytes.Add(float64(read))
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, commitlog.ErrClosed),
		errors.Is(err, commitlog.ErrFailed), errors.Is(err, commitlog.ErrDamaged):
		return scrubDone
	case errors.Is(err, commitlog.ErrBusy), errors.Is(err, commitlog.ErrOpenFiles):
		return scrubLater
	case l.log.Damage() != commitlog.DamageNone:
		s.damaged.Inc()
		l.logger.Error("a scrub found damage", "error", err)
		l.checkDamage()
		return scrubDone
	default:
		l.logger.Warn("a scrub could not read the log", "error", err)
		return scrubFailed
	}
}
