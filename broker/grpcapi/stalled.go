package grpcapi

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/penstock/penstock/proto/wire"
)

// deliveries are the answers to fetch calls that may be on their way. What a client
// does not take stays in the memory for readers, which others may be waiting for.
type deliveries struct {
	mu  sync.Mutex // guards set; a leaf
	set map[*delivery]struct{}
}

// delivery is those of one call.
type delivery struct {
	wire.Delivery

	conn   io.Closer // nil: not known
	client string

	// Guarded by deliveries.mu.
	over  bool // the handler has returned
	idle  int  // looks in a row, since then, that found nothing on its way
	moves uint64
	since time.Time // of the last change of moves; zero: nothing is pending
}

func (s *deliveries) begin(ctx context.Context) *delivery {
	d := &delivery{client: clientHost(ctx)}
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.LocalAddr.(connAddr); ok {
			d.conn = a.conn
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = make(map[*delivery]struct{})
	}
	s.set[d] = struct{}{}
	return d
}

// end notes that a handler has returned. Its answers may still be on their way,
// and that of a unary call is not even encoded.
func (s *deliveries) end(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.over = true
}

// stalled forgets what has arrived and returns, once, the calls whose clients have
// taken nothing for longer than limit.
func (s *deliveries) stalled(now time.Time, limit time.Duration) []*delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*delivery
	for d := range s.set {
		switch moves := d.Moves(); {
		case d.Pending() == 0:
			d.since = time.Time{}
			if d.over {
				d.idle++
			}
			if d.idle > 1 {
				delete(s.set, d)
			}
		case d.since.IsZero() || moves != d.moves:
			d.moves, d.since = moves, now
		case now.Sub(d.since) >= limit:
			out = append(out, d)
			delete(s.set, d)
		}
	}
	return out
}

// collectInterval is the least time between two runs of the collector while memory
// for readers is short.
const collectInterval = 5 * time.Second

// Watch cuts the connections of clients that take nothing of their answers for
// longer than limit while others wait for the memory. gRPC has no way to end a
// single call whose client takes nothing: the status would wait behind the data.
// It returns when done is closed.
func (d *PublicDoor) Watch(done <-chan struct{}, limit time.Duration, logger *slog.Logger) {
	ticker := time.NewTicker(min(max(limit/4, time.Millisecond), time.Second))
	defer ticker.Stop()
	var collected time.Time
	cut := false
	for {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-done:
			return
		}
		if !d.open.Load() {
			continue
		}
		// The transport forgets what it had queued for a connection that broke; only
		// the collector finds it (see package wire), and with buffers that are used
		// again it seldom runs.
		if cut || d.services.Fetcher.MemoryShort() && now.Sub(collected) >= collectInterval {
			runtime.GC()
			collected = now
		}
		cut = d.cutStalled(now, limit, logger)
	}
}

// cutStalled reports whether it cut a connection.
func (d *PublicDoor) cutStalled(now time.Time, limit time.Duration, logger *slog.Logger) (cut bool) {
	if !d.services.Fetcher.MemoryShort() {
		limit = 1<<63 - 1
	}
	for _, s := range d.deliveries.stalled(now, limit) {
		if s.conn == nil {
			continue
		}
		cut = true
		logger.Warn("a consumer took nothing of its answer while others waited for memory: its connection is cut", "client", s.client, "after", limit)
		_ = s.conn.Close() // the transport reports what closing finds
	}
	return cut
}
