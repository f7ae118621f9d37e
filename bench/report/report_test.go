package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/bench"
	"github.com/stretchr/testify/require"
)

// TestEveryCurveIsDrawn draws curves of made-up values from their JSON; -plot-only
// measures nothing.
func TestEveryCurveIsDrawn(t *testing.T) {
	dir := t.TempDir()
	r := &report{}
	for i := len(definitions()) - 1; i >= 0; i-- { // put sorts
		c := definitions()[i].curve
		label := ""
		if c.Name == "codecs" {
			label = "zstd"
		}
		for _, x := range []float64{1, 1, 10} {
			c.add(produce, x, label, 1e6*x)
			c.add(consume, x, label, 3e6)
		}
		require.Len(t, c.Series[0].Points, 2, "runs of one point stay together")
		require.Equal(t, []float64{1e6, 1e6}, c.Series[0].Points[0].Values)
		r.put(&c)
		r.put(&c)
	}
	require.Len(t, r.Curves, len(definitions()))
	require.Equal(t, "partitions", r.Curves[0].Name)
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "curves.json"), b, 0o600))
	page := filepath.Join(dir, "page.md")
	require.NoError(t, os.WriteFile(page, []byte("before\n"+docsBegin+"old\n"+docsEnd+"after\n"), 0o600))
	require.NoError(t, run(t.Context(), &options{out: dir, docs: page, plotOnly: true}))
	shown, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(shown), "before\n"+docsBegin+"![Rate by partitions](partitions.svg)\n")
	require.NotContains(t, string(shown), "old")
	require.True(t, strings.HasSuffix(string(shown), docsEnd+"after\n"))
	for _, name := range curveNames() {
		f, err := os.Open(filepath.Join(dir, name+".svg"))
		require.NoError(t, err)
		text := ""
		for d := xml.NewDecoder(f); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
			if chars, ok := token.(xml.CharData); ok {
				text += string(chars)
			}
		}
		require.NoError(t, f.Close())
		require.Contains(t, text, "Rate by")
		require.Contains(t, text, produce)
	}
}

// TestCaptionsSayWhatTheRunsSaid: nothing of a caption is written down anywhere but in
// the reports of the runs.
func TestCaptionsSayWhatTheRunsSaid(t *testing.T) {
	in := func(change func(*bench.Report)) *bench.Report {
		r := &bench.Report{
			Workload: produce, RecordSize: 100, Payload: "10000 distinct values of random letters", Acks: "all", Durability: "synced", Replicas: 3, Partitions: 6,
			Producers: 1, BatchBytes: 262144, MeanBatchBytes: 200_000.7, Compression: "none", Processes: 3,
		}
		change(r)
		return r
	}
	out := func(change func(*bench.Report)) *bench.Report {
		r := &bench.Report{Workload: consumeWorkload, Producers: 1, Acks: "all", Compression: "none", Processes: 3}
		change(r)
		return r
	}
	same := func(*bench.Report) {}
	const client = "; the Go client in one further process"
	for name, tt := range map[string]struct {
		reports []*bench.Report
		want    string
	}{
		"producers": {
			[]*bench.Report{in(same), in(func(r *bench.Report) { r.Producers, r.MeanBatchBytes = 1000, 900 })},
			"produced: 100 B, 10000 distinct values of random letters, acks=all, synced, 3 replicas, 6 partitions, 1 to 1,000 producers, " +
				"batches of at most 262,144 B, or of one record, 900 to 200,000 B in the mean, no compression; 3 nodes" + client,
		},
		"consumers": {
			[]*bench.Report{in(same), out(func(r *bench.Report) { r.Producers, r.Readers, r.Newest = 0, 10, 1<<20 })},
			"produced: 100 B, 10000 distinct values of random letters, acks=all, synced, 3 replicas, 6 partitions, 1 producer, " +
				"batches of at most 262,144 B, or of one record, 200,000 B in the mean, no compression; " +
				"read: 10 consumers, each of which reads everything, the newest 1,048,576 B of values again and again; 3 nodes" + client,
		},
		"codecs": {
			[]*bench.Report{
				in(func(r *bench.Report) { r.Durability, r.RecordSize, r.Payload = "replicated", 200, "orders" }), out(same),
				in(func(r *bench.Report) {
					r.Durability, r.RecordSize, r.Payload, r.Compression = "replicated", 200, "orders", "zstd"
				}),
			},
			"produced: 200 B, orders, acks=all, replicated, 3 replicas, 6 partitions, 1 producer, " +
				"batches of at most 262,144 B, or of one record, 200,000 B in the mean, none, zstd compression; " +
				"read: 1 consumer from the start, again and again; 3 nodes" + client,
		},
		"nodes": {
			[]*bench.Report{out(same), out(func(r *bench.Report) { r.Processes = 9 })},
			"read: 1 consumer from the start, again and again; 3 to 9 nodes" + client,
		},
	} {
		require.Equal(t, tt.want, setting(tt.reports), name)
	}
	require.Equal(t, "1,234,567", thousands(1_234_567))
}

// TestAPageWithoutAPlaceIsFoundFirst: not after all was measured.
func TestAPageWithoutAPlaceIsFoundFirst(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "page.md")
	require.NoError(t, os.WriteFile(page, []byte("nothing\n"), 0o600))
	out := filepath.Join(dir, "out")
	err := run(t.Context(), &options{binary: filepath.Join(dir, "no"), dir: dir, out: out, docs: page, curves: curveNames()})
	require.ErrorContains(t, err, "no place for the plots")
	require.NoDirExists(t, out)
}

func TestFlags(t *testing.T) {
	_, err := parse([]string{"-curves", "moons"})
	require.ErrorContains(t, err, `"moons"`)
	o, err := parse([]string{"-curves", "nodes,sizes"})
	require.NoError(t, err)
	require.Equal(t, []string{"nodes", "sizes"}, o.curves)
}

func TestShortNumbers(t *testing.T) {
	for v, want := range map[float64]string{1: "1", 1000: "1000", 10_000: "10 k", 2_500_000: "2.5 M", 1 << 20: "1 Mi"} {
		require.Equal(t, want, short(v))
	}
}
