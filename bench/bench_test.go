package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestPayloadsAreDistinctAndDoNotShrink(t *testing.T) {
	pool := payloads(minPayloads, 100)
	seen := make(map[string]bool, len(pool))
	var all []byte
	for _, p := range pool {
		seen[string(p)] = true
		all = append(all, p...)
	}
	require.Len(t, seen, minPayloads)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	ratio := float64(len(enc.EncodeAll(all, nil))) / float64(len(all))
	require.Greater(t, ratio, 0.8)
	require.NoError(t, enc.Close())
}

func TestOptionsSayEveryFault(t *testing.T) {
	o := Options{RecordSize: 1, Payloads: 5, Acks: "2", Durability: "no"}
	err := o.fill("produce")
	require.ErrorIs(t, err, ErrOptions)
	for _, want := range []string{"no broker address", "record-size is 1", "payloads is 5", `acks is "2"`, `durability is "no"`} {
		require.ErrorContains(t, err, want)
	}
}

func TestOptionsDefaults(t *testing.T) {
	o := Options{Brokers: []string{"x"}}
	require.NoError(t, o.fill("latency"))
	require.Equal(t, 1000, o.Rate)
	require.Equal(t, 60*time.Second, o.Duration)
	require.Equal(t, 10_000, o.Payloads)
}

func TestReportKeys(t *testing.T) {
	var buf bytes.Buffer
	require.NoError(t, (&Report{}).WriteJSON(&buf))
	var keys map[string]any
	require.NoError(t, json.Unmarshal(buf.Bytes(), &keys))
	for _, k := range []string{
		"records", "bytes", "seconds", "records_per_sec", "mib_per_sec", "latency_ms", "errors", "acks", "durability",
		"replicas", "partitions", "record_size", "compression", "payload", "warmup_s", "processes", "fs",
		"cpu_seconds_per_gb", "disk_bytes", "mean_batch_bytes", "git_rev",
	} {
		require.Contains(t, keys, k)
	}
	require.Len(t, keys["latency_ms"], 5)
	require.Contains(t, keys["cpu_seconds_per_gb"], "broker")
}

func TestProcessTimeOfThisProcess(t *testing.T) {
	_, err := processTime(os.Getpid())
	require.NoError(t, err)
	_, err = processTime(1 << 30)
	require.Error(t, err)
}
