package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestPayloadsAreDistinctAndDoNotShrink(t *testing.T) {
	pool := Payloads(minPayloads, 100)
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

func TestPayloadsOfEverySizeAreDistinct(t *testing.T) {
	const n, size = 10_000, 300
	block := make([]byte, 3*n) // values overlap
	places := map[*byte]bool{}
	for _, p := range cut(block, n, size) {
		require.Len(t, p, size)
		places[&p[0]] = true
	}
	require.Len(t, places, n)
	for _, p := range orders(minPayloads, 200) {
		require.Len(t, p, 200)
		require.Contains(t, string(p), `"order_id"`)
	}
}

func TestAStampIsToldFromAPayload(t *testing.T) {
	due := time.Unix(1_700_000_000, 123)
	value := []byte("0123456789")
	got, ok := stamped(stamp(value, due))
	require.True(t, ok)
	require.True(t, due.Equal(got))
	require.Equal(t, "0123456789", string(value), "the pool keeps its values")
	_, ok = stamped(value)
	require.False(t, ok)
}

func TestProcessFigures(t *testing.T) {
	resident, err := Resident(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, resident, int64(1<<20))
	_, err = DiskReads(os.Getpid())
	require.NoError(t, err)
	for _, of := range []func(int) (int64, error){Resident, DiskReads} {
		_, err = of(1 << 30)
		require.Error(t, err)
	}
	require.NoError(t, TouchMemory(1<<20))
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

func TestDataIsNotPutOnTmpfs(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "new")
	if FileSystem(t.TempDir()) == "tmpfs" {
		t.Skip("TMPDIR is on tmpfs")
	}
	dir, err := DataFolder(parent, "x-")
	require.NoError(t, err)
	require.DirExists(t, dir)
	require.Equal(t, parent, filepath.Dir(dir))

	const memory = "/dev/shm"
	if FileSystem(memory) != "tmpfs" {
		t.Skip(memory + " is no tmpfs here")
	}
	_, err = DataFolder(memory, "x-")
	require.ErrorIs(t, err, ErrOptions)
	require.ErrorContains(t, err, memory)
	t.Setenv("TMPDIR", memory)
	t.Chdir(t.TempDir())
	dir, err = DataFolder("", "x-")
	require.NoError(t, err)
	require.Equal(t, "bin", filepath.Base(filepath.Dir(dir)))
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
	_, err := ProcessTime(os.Getpid())
	require.NoError(t, err)
	_, err = ProcessTime(1 << 30)
	require.Error(t, err)
}

// The latency of a producer that sends as fast as it goes is not the brokers': the
// report says so, and does for no other.
func TestReportSaysWhatTheLatencyIsOf(t *testing.T) {
	text := func(r Report) string {
		r.LatencyMS = Latency{P50: 1, Max: 2}
		var b strings.Builder
		require.NoError(t, r.WriteText(&b))
		return b.String()
	}
	require.Contains(t, text(Report{Workload: "produce", Processes: 3}), "of a full queue (bench latency keeps a rate)")
	require.NotContains(t, text(Report{Workload: "produce", TargetPerSec: 100}), "full queue")
	require.NotContains(t, text(Report{Workload: "latency"}), "full queue")
	require.Contains(t, text(Report{Workload: "produce", Processes: 3}), "3 brokers")
}
