package node

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// What a broker syncs is in its histogram of flushes.
func TestFlushMetric(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 1, ReplicationFactor: 1})
	flushes := func() int {
		page := get(t, "http://"+w.d.Nodes()[0].Addresses().HTTP+"/metrics")
		m := regexp.MustCompile(`(?m)^penstock_flush_seconds_count (\d+)$`).FindStringSubmatch(page)
		require.NotNil(t, m)
		require.Regexp(t, `(?m)^penstock_flush_seconds_bucket\{le="\+Inf"\} `+m[1]+`$`, page)
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		return n
	}
	before := flushes()
	w.mustProduce("t", 0, "a record")
	require.Greater(t, flushes(), before)
}
