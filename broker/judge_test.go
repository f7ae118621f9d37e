package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// unheard are images of a node that reaches no controller.
type unheard struct{ Images }

func (unheard) ReadBarrier(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Who waits for the metadata is bound by what it would wait for records, and by the
// broker's end.
func TestAskingForTheMetadataEnds(t *testing.T) {
	for _, tt := range []struct{ wait, stopped, took time.Duration }{
		{wait: 0, took: judgeWait},
		{wait: 2 * time.Second, took: 2 * time.Second},
		{wait: time.Minute, took: judgeWaitMost},
		{wait: time.Minute, stopped: 100 * time.Millisecond, took: 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &Broker{cfg: Config{Images: unheard{}}, stopping: make(chan struct{})}
			if tt.stopped > 0 {
				time.AfterFunc(tt.stopped, func() { close(b.stopping) })
			}
			began := time.Now()
			require.False(t, b.askMetadata(t.Context(), tt.wait))
			require.Equal(t, tt.took, time.Since(began))
		})
	}
}
