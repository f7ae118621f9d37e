package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What becomes fetchable does not wait for a poll of others: the broker is asked to
// answer that at once. One of an earlier release, which cannot be, has it wait shortly.
func TestAPollHoldsUpNobody(t *testing.T) {
	cases := map[string]func(t *testing.T, c *fakeCluster, k *Consumer){
		"seek": func(t *testing.T, c *fakeCluster, k *Consumer) {
			t.Helper()
			c.fill(tp("t", 1), "a", 10, 5)
			require.Equal(t, numbers("a", 10), read(t, k, 10))
			c.poll(0, tp("t", 0), tp("t", 1))
			require.NoError(t, k.Seek(tp("t", 1), At(5)))
			require.Equal(t, numbers("a", 10)[5:], read(t, k, 5))
		},
		"resume": func(t *testing.T, c *fakeCluster, k *Consumer) {
			t.Helper()
			c.poll(0, tp("t", 0), tp("t", 1))
			k.Pause(tp("t", 1))
			c.fill(tp("t", 1), "a", 1, 1) // is fetched, and not delivered
			c.poll(0, tp("t", 0))
			c.fill(tp("t", 1), "b", 1, 1)
			k.Resume(tp("t", 1))
			require.Equal(t, []string{"a-0", "b-0"}, read(t, k, 2))
		},
		"room": func(t *testing.T, c *fakeCluster, k *Consumer) {
			t.Helper()
			c.fill(tp("t", 1), "a", 10, 1) // a record an answer
			c.poll(0, tp("t", 0))
			require.Equal(t, numbers("a", 10), read(t, k, 10))
		},
	}
	for name, run := range cases {
		for _, older := range []bool{false, true} {
			broker := "broker"
			if older {
				broker = "older broker"
			}
			t.Run(name+"/"+broker, func(t *testing.T) {
				c := newFakeCluster(t, 1)
				c.older = older
				c.create("t", 2)
				var broken brokenStreams
				k := newTestConsumer(t, newTestClient(t, c, WithHooks(&broken)), WithTopics("t"),
					WithFetchMaxWait(time.Minute), WithFetchMaxPartitionBytes(1))
				run(t, c, k)
				c.poll(0, tp("t", 0), tp("t", 1)) // of all, in the end
				c.mu.Lock()
				defer c.mu.Unlock()
				require.Equal(t, older, c.between == 0, "requests in between: %d", c.between)
				require.Equal(t, 1, c.streams)
				require.Empty(t, broken.all())
			})
		}
	}
}
