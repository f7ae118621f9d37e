package node

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// safeBuffer is written by the loggers of several nodes.
type safeBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

// A cluster that stops as a whole does so quickly and without a decision: a node
// that fenced those which closed before it would leave the next start with half
// of every in-sync set.
func TestDevStopIsQuiet(t *testing.T) {
	for range 3 {
		w := newWorld(t, 0)
		logs := &safeBuffer{}
		opts := devOptions(3, w.dir)
		opts.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelInfo}))
		d, err := StartDev(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		w.d = d
		w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 6, ReplicationFactor: 3})
		for p := range 6 {
			w.mustProduce("t", int32(p), "v")
		}
		logs.take()
		began := time.Now()
		w.stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopping took %v", took)
		}
		for line := range strings.Lines(logs.take()) {
			if strings.Contains(line, "deci") || strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				t.Errorf("not quiet: %s", line)
			}
		}
	}
}
