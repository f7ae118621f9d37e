package kafka

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/penstock/penstock/broker/api"
)

// stats are the counters of one API. Whoever serves a request has them at hand: the
// hot path adds to a few numbers and looks nothing up. What the labels may be is
// known beforehand, an API, a code of Kafka's or a reason, so that no client can
// make a series.
type stats struct {
	requests, received, sent atomic.Uint64 // of the last two the bytes, frames and all
	nanos                    atomic.Uint64 // the sum of what the buckets count
	buckets                  [len(latencyBounds) + 1]atomic.Uint64
	errors                   [maxCode + 2]atomic.Uint64 // by code; Kafka's lowest is -1
}

// maxCode bounds the codes that are told apart; a test knows them all.
const maxCode = 160

// latencyBounds are the buckets of answers' times, in nanoseconds.
var latencyBounds = [...]time.Duration{ //nolint:gochecknoglobals // a constant, but for the language
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// began counts a request of so many bytes.
func (s *stats) began(bytes int) {
	s.requests.Add(1)
	s.received.Add(uint64(bytes))
}

// answered counts an answer of so many bytes to a request that had arrived then.
func (s *stats) answered(arrived time.Time, bytes int) {
	took := time.Since(arrived)
	i := 0
	for i < len(latencyBounds) && took > latencyBounds[i] {
		i++
	}
	s.buckets[i].Add(1)
	s.nanos.Add(uint64(max(took, 0)))
	s.sent.Add(uint64(bytes))
}

// code is codeOf that counts what is not 0.
func (s *stats) code(e *api.Error) int16 {
	return s.counted(codeOf(e))
}

// ofGroup is code for what a group's coordinator answers. That a write of its log may or
// may not have happened is, in Kafka's words, a coordinator that is not available: clients
// look for it and ask again.
func (s *stats) ofGroup(e *api.Error) int16 {
	if e != nil && e.Code == api.CodeRequestTimedOut {
		return s.fail(kerr.CoordinatorNotAvailable)
	}
	return s.code(e)
}

// fail is code for an error that Kafka has and nobody explains.
func (s *stats) fail(e *kerr.Error) int16 { return s.counted(e.Code) }

// counted counts a code that is not 0.
func (s *stats) counted(code int16) int16 {
	if code == 0 {
		return 0
	}
	i := int(code) + 1
	if i < 0 || i >= len(s.errors) {
		i = 0 // UNKNOWN_SERVER_ERROR
	}
	s.errors[i].Add(1)
	return code
}

// cut is why a connection was ended from this side.
type cut uint8

const (
	notCut cut = iota
	cutOverLimit
	cutIdle
	cutSlow
	cutHoarding
	cutStalled
	cutStalledShort
	cutMalformed
	cuts // how many there are
)

// label is its name in the metrics.
func (c cut) label() string {
	return [cuts]string{
		cutOverLimit: "max_connections", cutIdle: "idle", cutSlow: "slow_request", cutHoarding: "incomplete_request",
		cutStalled: "stalled", cutStalledShort: "stalled_memory", cutMalformed: "malformed",
	}[c]
}

// String says it in a log.
func (c cut) String() string {
	return [cuts]string{
		cutOverLimit:    "there are too many connections",
		cutIdle:         "it was idle for too long",
		cutSlow:         "its request came too slowly",
		cutHoarding:     "its request fills memory and does not get complete",
		cutStalled:      "it took nothing of its answer for " + sendGrace.String(),
		cutStalledShort: "it took nothing of its answer while others waited for memory",
		cutMalformed:    "its request was malformed, or is not served",
	}[c]
}

// metrics shows the door to Prometheus. What no client has used yet has no series.
type metrics struct {
	d        *Door
	accepted atomic.Uint64
	cut      [cuts]atomic.Uint64

	requests, errors, seconds, received, sent *prometheus.Desc
	connections, acceptedTotal, cutTotal      *prometheus.Desc
	incomplete                                *prometheus.Desc
}

func newMetrics(d *Door) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_kafka_"+name, help, labels, nil)
	}
	return &metrics{
		d:             d,
		requests:      desc("requests_total", "Requests of Kafka clients.", "api"),
		errors:        desc("errors_total", "Errors in answers to Kafka clients: a request that names several topics, partitions or groups may have several.", "api", "error"),
		seconds:       desc("request_seconds", "From a whole request to its answer; Fetch, JoinGroup and SyncGroup wait for what they ask for.", "api"),
		received:      desc("received_bytes_total", "Bytes of requests.", "api"),
		sent:          desc("sent_bytes_total", "Bytes of answers.", "api"),
		connections:   desc("connections", "Connections of Kafka clients."),
		acceptedTotal: desc("connections_accepted_total", "Connections that were accepted."),
		cutTotal:      desc("connections_cut_total", "Connections that this broker ended, by why.", "reason"),
		incomplete:    desc("incomplete_request_bytes", "Memory of requests that have not arrived as a whole."),
	}
}

// Metrics shows the door to Prometheus.
func (d *Door) Metrics() prometheus.Collector { return d.metrics }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.requests, m.errors, m.seconds, m.received, m.sent, m.connections, m.acceptedTotal, m.cutTotal, m.incomplete} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for i := range m.d.listed {
		e := &m.d.listed[i]
		requests := e.stats.requests.Load()
		if requests == 0 {
			continue
		}
		counter(m.requests, requests, e.name)
		counter(m.received, e.stats.received.Load(), e.name)
		counter(m.sent, e.stats.sent.Load(), e.name)
		m.collectSeconds(ch, e)
		for j := range e.stats.errors {
			if n := e.stats.errors[j].Load(); n > 0 {
				counter(m.errors, n, e.name, errorName(int16(j-1)))
			}
		}
	}
	for why := notCut + 1; why < cuts; why++ {
		counter(m.cutTotal, m.cut[why].Load(), why.label())
	}
	counter(m.acceptedTotal, m.accepted.Load())
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	gauge(m.connections, int64(m.d.Connections()))
	gauge(m.incomplete, m.d.intake.inArena.Load()+m.d.intake.onHeap.Load())
}

func (m *metrics) collectSeconds(ch chan<- prometheus.Metric, e *entry) {
	buckets := make(map[float64]uint64, len(latencyBounds))
	count := uint64(0)
	for i := range e.stats.buckets {
		count += e.stats.buckets[i].Load()
		if i < len(latencyBounds) {
			buckets[latencyBounds[i].Seconds()] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(m.seconds, count, time.Duration(e.stats.nanos.Load()).Seconds(), buckets, e.name)
}

// errorName is Kafka's name of a code.
func errorName(code int16) string {
	if e := kerr.TypedErrorForCode(code); e != nil && e.Code == code {
		return e.Message
	}
	return strconv.Itoa(int(code))
}
