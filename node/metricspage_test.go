package node

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// The table of metrics is what a node registers: rewrite it with
// go test ./node -run TestMetricsPage -rewrite.
func TestMetricsPage(t *testing.T) {
	const path = "../docs/METRICS.md"
	w := startWorld(t, 1, 0)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	text, _, ok := bytes.Cut(got, []byte(metricsMark))
	require.True(t, ok, "%s has no line %q", path, metricsMark)
	want := slices.Concat(text, []byte(metricsMark), metricsTable(t, w.d.nodes[0].registry))
	if flag.Lookup("rewrite").Value.String() == "true" {
		require.NoError(t, os.WriteFile(path, want, 0o600))
		return
	}
	require.Equal(t, string(want), string(got), "rewrite it")
}

const metricsMark = "<!-- metrics -->\n"

// description is a metric as client_golang prints it, the only way to ask for its parts.
var description = regexp.MustCompile(`^Desc\{fqName: "(penstock_[a-z_]+)", help: "(.*)", unit: "", constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

func metricsTable(t *testing.T, registry *prometheus.Registry) []byte {
	t.Helper()
	descs := make(chan *prometheus.Desc, 1000)
	registry.Describe(descs)
	close(descs)
	var rows []string
	for d := range descs {
		if !strings.Contains(d.String(), `fqName: "penstock_`) {
			continue // Go's own and the process's
		}
		m := description.FindStringSubmatch(d.String())
		require.NotNil(t, m, "%v", d)
		labels := ""
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, strings.ReplaceAll(m[2], "|", `\|`)))
	}
	slices.Sort(rows)
	return []byte("\n| metric | labels | meaning |\n|---|---|---|\n" + strings.Join(rows, ""))
}
