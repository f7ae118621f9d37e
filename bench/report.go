package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is the outcome of a run. The JSON keys are part of the interface.
type Report struct {
	Workload         string  `json:"workload"`
	Records          int64   `json:"records"`
	Bytes            int64   `json:"bytes"` // of values
	Seconds          float64 `json:"seconds"`
	RecordsPerSec    float64 `json:"records_per_sec"`
	MiBPerSec        float64 `json:"mib_per_sec"`
	LatencyMS        Latency `json:"latency_ms"`
	Errors           int64   `json:"errors"`
	Acks             string  `json:"acks"`
	Durability       string  `json:"durability"`
	Replicas         int     `json:"replicas"`
	Partitions       int     `json:"partitions"`
	RecordSize       int     `json:"record_size"`
	Compression      string  `json:"compression"`
	Payload          string  `json:"payload"`
	WarmupSeconds    float64 `json:"warmup_s"`
	Processes        int     `json:"processes"` // brokers: penstock dev runs several in one
	FS               string  `json:"fs"`
	CPUSecondsPerGB  CPU     `json:"cpu_seconds_per_gb"` // GB = 10^9 bytes of values
	DiskBytes        int64   `json:"disk_bytes"`
	MeanBatchBytes   float64 `json:"mean_batch_bytes"`
	GitRev           string  `json:"git_rev"`
	TargetPerSec     int     `json:"target_records_per_sec,omitempty"`
	GeneratorLateP99 float64 `json:"generator_late_ms_p99,omitempty"`
	// Of e2e: the rate at which a consumer got the records, and from due to there.
	ConsumedPerSec float64  `json:"consumed_per_sec,omitempty"`
	EndToEndMS     *Latency `json:"end_to_end_ms,omitempty"`
	// Producers, or the consumers of consume that share the partitions; the greatest
	// size of their batches.
	Producers  int `json:"producers,omitempty"`
	BatchBytes int `json:"batch_bytes,omitempty"`
	// Spread means that each record went to the next partition.
	Spread bool `json:"spread,omitempty"`
	// Of consume: consumers that each read everything; how many bytes of values at the
	// end of the topic were read, 0: all; and what the brokers named had to fetch from
	// their disks.
	Readers         int    `json:"readers,omitempty"`
	Newest          int64  `json:"newest_bytes,omitempty"`
	BrokerDiskReads *int64 `json:"broker_disk_read_bytes,omitempty"`
}

// Latency holds percentiles in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// CPU is processor time in seconds a GB of values. Broker is nil when no
// process was named.
type CPU struct {
	Client float64  `json:"client"`
	Broker *float64 `json:"broker"`
}

// newHistogram counts microseconds up to ten minutes with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
}

func latency(h *hdrhistogram.Histogram) Latency {
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{P50: ms(50), P95: ms(95), P99: ms(99), P999: ms(99.9), Max: float64(h.Max()) / 1000}
}

// WriteJSON writes the report as one object on one line.
func (r *Report) WriteJSON(w io.Writer) error {
	return json.NewEncoder(w).Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	line(r.Workload, "%d records of %d B in %.2f s, %d errors", r.Records, r.RecordSize, r.Seconds, r.Errors)
	line("rate", "%.0f records/s, %.1f MiB/s", r.RecordsPerSec, r.MiBPerSec)
	if r.LatencyMS.Max > 0 {
		l := r.LatencyMS
		line("latency", "p50 %.2f  p95 %.2f  p99 %.2f  p99.9 %.2f  max %.2f ms%s", l.P50, l.P95, l.P99, l.P999, l.Max, r.queued())
	}
	if e := r.EndToEndMS; e != nil {
		line("consumed", "%.0f records/s; from due to the consumer p50 %.2f  p99 %.2f  p99.9 %.2f  max %.2f ms", r.ConsumedPerSec, e.P50, e.P99, e.P999, e.Max)
	}
	if r.BrokerDiskReads != nil {
		line("disk", "brokers read %.1f MiB from their disks", float64(*r.BrokerDiskReads)/(1<<20))
	}
	line("setting", "acks %s, %s, %d replicas, %d partitions, compression %s", r.Acks, r.Durability, r.Replicas, r.Partitions, r.Compression)
	line("payload", "%s, mean batch %.0f B", r.Payload, r.MeanBatchBytes)
	if r.CPUSecondsPerGB.Broker != nil {
		line("cpu", "client %.2f, brokers %.2f s/GB", r.CPUSecondsPerGB.Client, *r.CPUSecondsPerGB.Broker)
	} else {
		line("cpu", "client %.2f s/GB", r.CPUSecondsPerGB.Client)
	}
	line("where", "%d brokers, file system %s, warm-up %.0f s, revision %s", r.Processes, r.FS, r.WarmupSeconds, r.GitRev)
	return tw.Flush()
}

// queued says of what the latency is where it is none of the brokers' own: who sends as
// fast as it goes measures the producer's full memory.
func (r *Report) queued() string {
	if r.Workload == "produce" && r.TargetPerSec == 0 {
		return ", of a full queue (bench latency keeps a rate)"
	}
	return ""
}
