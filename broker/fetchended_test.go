package broker

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// A fetch whose wait is ended answers with what there is, possibly less than it wanted
// and possibly nothing, and leaves every line it stood in.
func TestAWaitIsEnded(t *testing.T) {
	const all, end = 0, 20 // offsets: two batches of ten
	for name, tt := range map[string]struct {
		from     int
		minBytes int
		short    bool // no memory for readers
		before   bool // it is ended before it begins
		found    bool
	}{
		"nothing there":              {from: end, minBytes: 1},
		"less than it wanted":        {from: all, minBytes: 1 << 20, found: true},
		"in line for memory":         {from: all, minBytes: 1, short: true},
		"before it began":            {from: end, minBytes: 1, before: true},
		"before it began, with some": {from: all, minBytes: 1 << 20, before: true, found: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReadable(t, 2)
			arena := b.cfg.Arena
			if tt.short {
				require.True(t, arena.TryReserve(arena.ReadLimit(), math.MaxInt64))
				defer arena.Unreserve(arena.ReadLimit())
			}
			ended := make(chan struct{})
			if tt.before {
				close(ended)
			}
			req := fetchOf(record.Offset(tt.from), time.Hour, tt.minBytes)
			req.Ended = ended
			answer := make(chan []api.FetchResult, 1)
			go func() {
				results, _ := b.Fetch(t.Context(), req) // none with an error
				answer <- results
			}()
			l := b.table.get(api.PartitionRef{Topic: "t"})
			if !tt.before {
				until(t, "it waits", func() bool {
					return l.readers.waiting.Load() == 1 && (b.short.waiting.Load() == 1) == tt.short
				})
				close(ended)
			}
			var results []api.FetchResult
			select {
			case results = <-answer:
			case <-time.After(10 * time.Second):
				require.Fail(t, "it waits on")
			}
			require.Len(t, results, 1)
			require.Nil(t, results[0].Err)
			require.EqualValues(t, end, results[0].HighWatermark)
			require.Equal(t, tt.found, results[0].Bytes() > 0)
			results[0].Release()
			require.Zero(t, l.readers.waiting.Load())
			require.False(t, b.MemoryShort())
		})
	}
}
