// Package arenatest notices in tests that a reference to a buffer was lost: what
// has been closed must hold none.
package arenatest

import (
	"runtime"
	"testing"
	"time"

	"github.com/penstock/penstock/log/record"
)

// New makes an arena that must be empty when the test has ended and everything
// that was set up after it is closed.
func New(tb testing.TB, limit int64) *record.Arena {
	tb.Helper()
	a := record.NewArena(limit)
	tb.Cleanup(func() { Empty(tb, a, "the arena") })
	return a
}

// Empty fails the test unless nothing of an arena is referenced, now or within
// moments: a transport gives its references back from a goroutine of its own, and
// after a broken connection the collector does.
func Empty(tb testing.TB, a *record.Arena, name string) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); a.InUse() != 0 || a.Pinned() != 0; {
		if time.Now().After(deadline) {
			tb.Errorf("%s: %d bytes are still referenced, %d of them pinned", name, a.InUse(), a.Pinned())
			return
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}
