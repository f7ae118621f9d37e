package bench

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRunsAgainstACluster runs every workload on a cluster of one node. The
// figures mean nothing; that offsets agree is checked by the workloads.
func TestRunsAgainstACluster(t *testing.T) {
	dir := t.TempDir()
	d, err := node.StartDev(t.Context(), node.DevOptions{
		Nodes: 1, DataDir: dir, Options: node.Options{Logger: slog.New(slog.DiscardHandler)},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Stop(context.WithoutCancel(t.Context()))) }()
	options := Options{Brokers: d.Brokers(), Partitions: 3, Records: 20_000, Linger: time.Millisecond, GitRev: "abc"}

	var progress bytes.Buffer
	o := options
	o.Warmup, o.Producers, o.Compression, o.Progress = 50*time.Millisecond, 2, "zstd", &progress
	r, err := Produce(t.Context(), o)
	require.NoError(t, err)
	require.Nil(t, r.BrokerDiskReads, "of brokers that are not named")
	require.EqualValues(t, 20_000, r.Records)
	require.EqualValues(t, 2_000_000, r.Bytes)
	require.Zero(t, r.Errors)
	require.Positive(t, r.RecordsPerSec)
	require.Positive(t, r.LatencyMS.P50)
	require.Positive(t, r.MeanBatchBytes)
	require.Positive(t, r.CPUSecondsPerGB.Client)
	require.Nil(t, r.CPUSecondsPerGB.Broker)
	require.Equal(t, 3, r.Partitions)
	require.Equal(t, 1, r.Replicas)
	require.Equal(t, 2, r.Producers)
	require.Equal(t, client.DefaultBatchBytes, r.BatchBytes)
	require.Equal(t, "synced", r.Durability)
	require.Equal(t, "unknown", r.FS)
	var text bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	require.Contains(t, text.String(), "20000 records of 100 B")

	o = options
	o.Topic, o.Records, o.Spread, o.Partitions = "spread", 3000, true, 3
	r, err = Produce(t.Context(), o)
	require.NoError(t, err)
	require.True(t, r.Spread)
	c, err := client.New(d.Brokers())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	parts, err := c.Admin().Partitions(t.Context(), "spread")
	require.NoError(t, err)
	ends, err := c.Admin().ListOffsets(t.Context(), client.Latest(), parts...)
	require.NoError(t, err)
	for _, e := range ends {
		require.NoError(t, e.Err)
		require.EqualValues(t, 1000, e.Offset, "as many to each partition")
	}

	o = options
	o.Records = 30_000 // more than there may be: it goes round
	r, err = Consume(t.Context(), o)
	require.NoError(t, err)
	require.GreaterOrEqual(t, r.Records, int64(30_000))
	require.Equal(t, 100, r.RecordSize)
	require.Equal(t, 1, r.Producers)
	require.Zero(t, r.BatchBytes)

	o = options
	o.Records, o.Duration, o.Rate = 0, 300*time.Millisecond, 500
	r, err = OpenLoop(t.Context(), o)
	require.NoError(t, err)
	require.InDelta(t, 150, r.Records, 60)
	require.Equal(t, 500, r.TargetPerSec)
	require.GreaterOrEqual(t, r.LatencyMS.Max, r.LatencyMS.P50)

	o = options
	o.Newest, o.Readers, o.Records, o.Duration = 30_000, 2, 0, 200*time.Millisecond
	o.BrokerPids = []int{os.Getpid()}
	r, err = Consume(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 2, r.Readers)
	require.Zero(t, r.Producers)
	require.EqualValues(t, 30_000, r.Newest)
	require.Positive(t, r.Records)
	require.NotNil(t, r.BrokerDiskReads)

	o = options
	o.Topic, o.Records, o.Warmup = "single", 50, 20*time.Millisecond
	r, err = OneAtATime(t.Context(), o)
	require.NoError(t, err)
	require.EqualValues(t, 50, r.Records)
	require.Positive(t, r.LatencyMS.P99)

	for _, rate := range []int{0, 500} {
		o = options
		o.Topic, o.Records, o.Duration, o.Warmup, o.Rate = "e2e", 0, 300*time.Millisecond, 50*time.Millisecond, rate
		r, err = EndToEnd(t.Context(), o)
		require.NoError(t, err)
		require.Positive(t, r.ConsumedPerSec)
		require.Positive(t, r.EndToEndMS.P50)
		require.GreaterOrEqual(t, r.EndToEndMS.Max, r.EndToEndMS.P50)
	}

	o = options
	o.Topic = "none"
	_, err = Consume(t.Context(), o)
	require.ErrorContains(t, err, "none")
}

func TestScrapeTimes(t *testing.T) {
	page := "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			_, _ = w.Write([]byte(page))
		}
	}))
	defer http.DefaultClient.CloseIdleConnections()
	defer s.Close()
	got, err := scrapeTimes(t.Context(), []string{s.URL + "/metrics", s.URL + "/metrics"})
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, got)
	_, err = scrapeTimes(t.Context(), []string{s.URL + "/other"})
	require.ErrorContains(t, err, cpuMetric)
}
