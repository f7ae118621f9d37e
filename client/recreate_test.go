package client

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A topic that is deleted and created again under a consumer is read from its
// beginning, also where others begin at the end: none of its records is older than the
// consumer. The position in the former one says nothing of it.
func TestTopicRecreated(t *testing.T) {
	for name, opts := range map[string][]ConsumerOpt{
		"partitions": {WithPartitions(tp("t", 0))},
		"topics":     {WithTopics("t")},
		"latest":     {WithTopics("t"), WithStart(Latest())},
		"group":      groupOpts(WithAutoOffsetReset(ResetLatest), WithAutoCommit(0)),
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.create("t", 1)
			c.fill(tp("t", 0), "old", 5, 5)
			cl := newTestClient(t, c)
			k := newTestConsumer(t, cl, opts...)
			if name == "group" || name == "latest" {
				require.Eventually(t, func() bool { at, ok := k.Position(tp("t", 0)); return ok && at == 5 }, 5*time.Second, time.Millisecond)
			} else {
				require.Equal(t, "old-0", read(t, k, 5)[0])
			}
			c.recreate("t", 1, 8)
			cl.meta.refresh()
			values := read(t, k, 8)
			for i := range 8 {
				require.Equal(t, fmt.Sprint("new-", i), values[i])
			}

			// A broker that is behind says what was.
			for _, behind := range []rune{1, 0} {
				c.mu.Lock()
				c.behind = behind
				c.mu.Unlock()
				news, _ := cl.meta.next()
				cl.meta.refresh()
				<-news
			}
			c.fill(tp("t", 0), "more", 1, 1)
			require.Equal(t, "more-0", read(t, k, 1)[0])
		})
	}
}
