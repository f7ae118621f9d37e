package punctual

import (
	"context"
	"testing"
	"time"
)

func TestNeverEarlyAndEndsWithItsContext(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 0, 300 * time.Microsecond, 5 * time.Millisecond} {
		due := time.Now().Add(d)
		Wait(t.Context(), due)
		if time.Now().Before(due) {
			t.Errorf("returned before %v had passed", d)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Wait(ctx, time.Now().Add(time.Hour)) // or the test never ends
}
