package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// The coordinator knows how far its groups are behind, whoever leads the
// partitions, and shows it to clients and to machines.
func TestLagIsKnown(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 3, ReplicationFactor: 3})
	for p := range int32(3) {
		for i := range 4 {
			w.mustProduce("t", p, fmt.Sprint(i))
		}
	}
	commit := &pb.CommitOffsetsRequest{Group: "g"}
	for p := range int32(3) { // each has another leader
		commit.Offsets = append(commit.Offsets, &pb.OffsetCommit{Topic: "t", Partition: p, Offset: 1, LeaderEpoch: -1})
	}
	w.until("commit", 15*time.Second, func() error {
		_, err := w.coordinator("g").CommitOffsets(t.Context(), commit)
		return err
	})
	var coordinator string
	w.until("lag", 20*time.Second, func() error {
		out, err := w.coordinator("g").DescribeGroup(t.Context(), &pb.DescribeGroupRequest{Group: "g"})
		if err != nil {
			return err
		}
		for _, n := range w.d.Nodes() {
			if n.cfg.NodeID == out.GetCoordinator() {
				coordinator = n.Addresses().HTTP
			}
		}
		for p := range 3 {
			if l := out.GetLags()[p]; l.GetLag() != 3 || l.GetHighWatermark() != 4 || l.GetAgeMs() > 3000 || l.GetLagMs() < 0 {
				return fmt.Errorf("%v", out.GetLags())
			}
		}
		return nil
	})
	w.until("lag in the metrics", 20*time.Second, func() error {
		page := get(t, "http://"+coordinator+"/metrics")
		for _, want := range []string{
			`penstock_group_lag_records{group="g",partition="0",topic="t"} 3`, `penstock_group_lag_seconds{group="g",partition="0",topic="t"}`,
			`penstock_group_lag_records_sum{group="g"} 9`, `penstock_group_groups{state="empty"} 1`, `penstock_group_members{group="g"} 0`,
		} {
			if !strings.Contains(page, want) {
				return fmt.Errorf("no %s", want)
			}
		}
		return nil
	})
	w.mustProduce("t", 0, "one more")
	w.until("the lag grows", 20*time.Second, func() error {
		out, err := w.coordinator("g").DescribeGroup(t.Context(), &pb.DescribeGroupRequest{Group: "g"})
		if err == nil && out.GetLags()[0].GetLag() != 4 {
			err = fmt.Errorf("%v", out.GetLags())
		}
		return err
	})
}
