package record_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/log/record"
)

// Headers stay as they were decoded while later records are, in the same batch and the
// next ones, whether their keys are the same at each position or not.
func TestHeadersAreTheCallersToKeep(t *testing.T) {
	var want, kept [][]record.Header
	var r record.Reader
	for b := range 5 {
		builder := record.NewBuilder(record.BuilderOptions{})
		records := 0
		for i := range 40 {
			var headers []record.Header
			for h := range (b*7 + i*3) % 100 { // none, some, more than room is taken for at once
				key := fmt.Sprintf("name-%d", h)
				switch i % 5 {
				case 1:
					key = fmt.Sprintf("name-%d-%d", h, i)
				case 2:
					key = strings.Repeat(key, 50)
				}
				headers = append(headers, record.Header{Key: key, Value: fmt.Appendf(nil, "%d-%d-%d", b, i, h)})
			}
			require.NoError(t, builder.Append(&record.Record{Headers: headers}))
			want = append(want, headers)
			records++
		}
		batch, err := builder.Build(nil)
		require.NoError(t, err)
		require.NoError(t, r.Reset(batch, record.Limits{}))
		for range records {
			var rec record.Record
			ok, err := r.Next(&rec)
			require.NoError(t, err)
			require.True(t, ok)
			kept = append(kept, rec.Headers)
		}
	}
	for _, headers := range kept {
		_ = append(headers, record.Header{Key: "the caller's"})
	}
	require.Equal(t, want, kept)
}
