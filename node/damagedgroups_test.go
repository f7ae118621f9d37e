package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/consumergroup/coordinator"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// groupBeside is a group of the same partition of __consumer_offsets as g.
func groupBeside(n int) string {
	for i := 0; ; i++ {
		group := fmt.Sprint("beside", i)
		if coordinator.PartitionFor(group, 3) != coordinator.PartitionFor("g", 3) {
			continue
		}
		if n--; n < 0 {
			return group
		}
	}
}

// lost asks for the committed offset of a group until the answer is that it may be lost.
func (w *world) lost(group string) {
	w.t.Helper()
	w.until("what may be lost is not told", 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		out, err := w.coordinator(group).FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: group, Partitions: []*pb.TopicPartition{{Topic: "t"}}})
		if err == nil {
			w.t.Fatalf("%s has %v: what it had may be lost", group, out)
		}
		if detail(err).GetCode() == pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE && strings.Contains(err.Error(), "penstock group reset "+group) {
			return nil
		}
		return err
	})
}

// The last holder of a partition of groups cannot read a batch. Its groups are refused until an
// operator has that batch given up; then they have all that can be read, on both sides of it, and take
// commits. What was in it is not passed for what never was, by the next coordinator neither.
func TestDamagedGroups(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	c := w.connect(w.d.Brokers()...)
	gone, late := groupBeside(0), groupBeside(1)
	w.commit("g", 7)
	tp := client.TopicPartition{Topic: "__consumer_offsets", Partition: coordinator.PartitionFor("g", 3)}
	partition := func() client.PartitionState {
		t.Helper()
		described, err := c.Admin().DescribeTopic(t.Context(), tp.Topic)
		require.NoError(t, err)
		return described.Partitions[tp.Partition]
	}
	leader := partition().Leader
	w.commit(gone, 5)
	w.commit("g", 8)
	w.stop()
	for node := int32(1); node <= 3; node++ {
		if node != leader { // these disks were replaced
			require.NoError(t, os.RemoveAll(filepath.Join(w.dir, fmt.Sprintf("node-%d", node), fmt.Sprintf("__consumer_offsets-%d", tp.Partition))))
		}
	}
	path := filepath.Join(w.dir, fmt.Sprintf("node-%d", leader), fmt.Sprintf("__consumer_offsets-%d", tp.Partition), "00000000000000000000.log")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(b, []byte(gone))
	require.Positive(t, at)
	b[at] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	w.start(3)

	w.until("the damage is found", 30*time.Second, func() error {
		all, err := c.Admin().Damaged(t.Context())
		if err == nil && (len(all) != 1 || !all[0].CanGiveUp || all[0].TopicPartition != tp) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	page := func() string { return get(t, "http://"+w.node(leader).Addresses().HTTP+"/metrics") }
	require.Contains(t, page(), "penstock_group_partitions{state=\"failed\"} 1\n")
	_, err = w.coordinator("g").FetchOffsets(t.Context(), &pb.FetchOffsetsRequest{Group: "g"})
	require.Equal(t, pb.ErrorCode_ERROR_CODE_COORDINATOR_NOT_AVAILABLE, detail(err).GetCode(), "%v", err)
	require.ErrorContains(t, err, "penstock topic mend __consumer_offsets")

	w.until("the order is taken", 20*time.Second, func() error { return c.Admin().GiveUpDamaged(t.Context(), tp, -1) })
	require.EqualValues(t, 8, w.committed("g"), "a commit behind the damage")
	w.commit("g", 9)
	w.lost(gone)
	w.lost(late)
	require.Contains(t, page(), "penstock_group_partitions_incomplete 1\n")
	w.until("all is well", 30*time.Second, func() error {
		if in := len(partition().ISR); in != 3 {
			return fmt.Errorf("%d in sync", in)
		}
		cluster, err := c.Admin().Cluster(t.Context())
		if err == nil && !cluster.Healthy() {
			err = fmt.Errorf("%+v", cluster)
		}
		return err
	})
	kept, err := filepath.Glob(path + ".*.torn")
	require.NoError(t, err)
	require.Len(t, kept, 1)

	w.stopNode(leader, false)
	w.until("another leads", 30*time.Second, func() error {
		if p := partition(); p.Leader == leader || p.Leader < 0 {
			return fmt.Errorf("%d leads", p.Leader)
		}
		return nil
	})
	require.EqualValues(t, 9, w.committed("g"))
	w.lost(late)
	plan, err := c.Admin().PlanShift(t.Context(), gone, 0, client.TopicPartition{Topic: "t"})
	require.NoError(t, err)
	_, err = c.Admin().ApplyReset(t.Context(), gone, plan)
	require.NoError(t, err)
	require.EqualValues(t, 0, w.committed(gone))
}
