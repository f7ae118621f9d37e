package sim

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// report is what docs/reliability/sim-long.md says.
func (c *campaign) report(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "# The last long simulation\n\nWritten by `make sim-long`; `internal/sim` says what is simulated and what is checked.\n\n| | |\n|---|---|\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, fmt.Sprintf(format, args...))
	}
	row("date", "%s", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	row("revision", "%s", revision(t))
	row("machine", "%d CPUs, %s, %s %s/%s", runtime.NumCPU(), processor(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	row("time", "%v", c.took.Round(time.Second))
	row("seeds", "%d, from %d on", c.seeds, *firstFlag)
	row("events", "%d, of which at least %d a seed before all is healed", c.events, *eventsFlag)
	row("broken promises", "%d", len(c.bad))
	for _, r := range c.bad[:min(20, len(c.bad))] {
		row("seed", "%d: %v", r.Seed, r.Err)
	}
	fmt.Fprintf(&b, "\nWhat happened, how often:\n\n| what | times |\n|---|---|\n")
	v := reflect.ValueOf(c.counts)
	for i := range v.NumField() {
		fmt.Fprintf(&b, "| %s | %d |\n", words(v.Type().Field(i).Name), v.Field(i).Int())
	}
	return b.String()
}

// words makes "power cuts" of "PowerCuts".
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 && (name[i-1] >= 'a' || i+1 < len(name) && name[i+1] >= 'a') {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func revision(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(b)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown processor"
}
