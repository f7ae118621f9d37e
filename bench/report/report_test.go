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

func TestFlags(t *testing.T) {
	_, err := parse([]string{"-curves", "moons"})
	require.ErrorContains(t, err, `"moons"`)
	o, err := parse([]string{"-curves", "nodes,sizes"})
	require.NoError(t, err)
	require.Equal(t, []string{"nodes", "sizes"}, o.curves)
}

func TestShortNumbers(t *testing.T) {
	for v, want := range map[float64]string{1: "1", 1000: "1000", 10_000: "10 k", 2_500_000: "2.5 M"} {
		require.Equal(t, want, short(v))
	}
}
