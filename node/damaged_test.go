package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// hurtAlone is a cluster in which the only in-sync replica of t-0 has come upon a batch that it
// cannot read, at offset 4 of 7. If there is another, follower, it ends in front of it.
func hurtAlone(t *testing.T, replicas int32) (w *world, c *client.Client, leader, follower int32) {
	t.Helper()
	w = startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: replicas, Configs: map[string]string{"min.insync.replicas": "1"}})
	w.until("all in sync", 15*time.Second, func() error { return w.inSync("t", int(replicas)) })
	w.mustProduce("t", 0, "record 0")
	c = w.connect(w.d.Brokers()...)
	described, err := c.Admin().DescribeTopic(t.Context(), "t")
	require.NoError(t, err)
	p := described.Partitions[0]
	leader = p.Leader
	if replicas > 1 {
		follower = p.Replicas[0] + p.Replicas[1] - leader
		w.stopNode(follower, true)
	}
	for i := 1; i < 7; i++ {
		require.EqualValues(t, i, w.mustProduce("t", 0, fmt.Sprint("record ", i)))
	}
	w.stop()
	segments, err := filepath.Glob(filepath.Join(w.dir, fmt.Sprintf("node-%d", leader), "t-0", "*.log"))
	require.NoError(t, err)
	require.Len(t, segments, 1)
	b, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	at := bytes.Index(b, []byte("record 4"))
	require.Positive(t, at)
	b[at] ^= 1
	require.NoError(t, os.WriteFile(segments[0], b, 0o600))
	w.start(3)
	w.until("the damage is found", 30*time.Second, func() error {
		_, _ = w.fetch("t", 0, 4, 0) // nobody reads where there is no follower
		all, err := c.Admin().Damaged(t.Context())
		if err == nil && (len(all) != 1 || all[0].CanGiveUp != (replicas > 1)) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	return w, c, leader, follower
}

// A leader that is the last holder of its partition, damaged, with a follower that cannot get past
// that: it stays so, serves both sides, and everybody can see it. When an operator gives up
// what is behind the damage, the partition has its leader, its replicas and its writers
// again, and the damaged copy is kept.
func TestDamagedLastHolder(t *testing.T) {
	w, c, leader, follower := hurtAlone(t, 2)
	tp := client.TopicPartition{Topic: "t"}
	all, err := c.Admin().Damaged(t.Context())
	require.NoError(t, err)
	require.Equal(t, []client.DamagedReplica{{
		TopicPartition: tp, NodeID: leader, Leads: true, Damage: "durable data is corrupt", WholeTo: 4, End: 7, CanGiveUp: true,
	}}, all)
	cluster, err := c.Admin().Cluster(t.Context())
	require.NoError(t, err)
	require.Equal(t, all, cluster.DamagedLeaders)
	w.until("the follower has all that it can get", 20*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(w.dir, fmt.Sprintf("node-%d", follower), "t-0", "00000000000000000000.log"))
		if err == nil && !bytes.Contains(b, []byte("record 3")) {
			err = fmt.Errorf("%d bytes", len(b))
		}
		return err
	})
	require.NoError(t, w.inSync("t", 1))
	require.False(t, cluster.Healthy())
	r, err := w.fetch("t", 0, 5, 0)
	require.NoError(t, err)
	require.Equal(t, "record 5", string(r.GetRecords()[0].GetValue()))
	_, err = w.produce("t", 0, "refused", pb.Acks_ACKS_LEADER)
	require.ErrorContains(t, err, "STORAGE_FAILED")

	w.until("the order is taken", 20*time.Second, func() error { return c.Admin().GiveUpDamaged(t.Context(), tp, -1) })
	w.requireOn(4)
	w.until("well", 20*time.Second, func() error {
		cluster, err := c.Admin().Cluster(t.Context())
		if err == nil && !cluster.Healthy() {
			err = fmt.Errorf("%+v", cluster)
		}
		return err
	})
	all, err = c.Admin().Damaged(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, leader, all[0].NodeID)
	kept, err := os.ReadFile(filepath.Join(all[0].Kept, "00000000000000000000.log"))
	require.NoError(t, err)
	require.Contains(t, string(kept), "record 6")
}

// A restart decides nothing: the damaged last holder leads again, serves both sides, and waits
// for the operator, whether it was stopped or died, and whoever else is there.
func TestDamagedLastHolderRestarts(t *testing.T) {
	w, c, leader, _ := hurtAlone(t, 2)
	tp := client.TopicPartition{Topic: "t"}
	want := []client.DamagedReplica{{
		TopicPartition: tp, NodeID: leader, Leads: true, Damage: "durable data is corrupt", WholeTo: 4, End: 7, CanGiveUp: true,
	}}
	still := func() {
		t.Helper()
		w.until("all is as it was", 30*time.Second, func() error {
			all, err := c.Admin().Damaged(t.Context())
			if err == nil && (len(all) != 1 || all[0] != want[0]) {
				err = fmt.Errorf("%#v", all)
			}
			return err
		})
		require.NoError(t, w.inSync("t", 1))
		var value string
		w.until("what is behind the damage", 10*time.Second, func() error {
			r, err := w.fetch("t", 0, 5, 0)
			if err == nil && len(r.GetRecords()) == 0 {
				err = errors.New("no record")
			}
			if err == nil {
				value = string(r.GetRecords()[0].GetValue())
			}
			return err
		})
		require.Equal(t, "record 5", value)
	}
	for _, clean := range []bool{true, false} {
		config := w.node(leader).cfg
		w.stopNode(leader, clean)
		w.restart(config)
		still()
	}
	w.stop()
	w.start(3)
	still()
	w.until("the order is taken", 20*time.Second, func() error { return c.Admin().GiveUpDamaged(t.Context(), tp, -1) })
	w.requireOn(4)
}

// Nothing is gained by giving up what only one replica has, damaged or not. With another
// that has copied what is whole, the partition goes on from there.
func TestDamagedOnlyReplica(t *testing.T) {
	w, c, leader, _ := hurtAlone(t, 1)
	tp := client.TopicPartition{Topic: "t"}
	cluster, err := c.Admin().Cluster(t.Context())
	require.NoError(t, err)
	require.Zero(t, cluster.UnderReplicated)
	require.False(t, cluster.Healthy(), "it takes no records, and all is well")
	wantCode(t, c.Admin().GiveUpDamaged(t.Context(), tp, -1), client.CodeInvalidState)
	other := leader%3 + 1
	results, err := c.Admin().AlterPartitionReassignments(t.Context(), 0, client.Reassignment{TopicPartition: tp, Replicas: []int32{leader, other}})
	require.NoError(t, err)
	require.NoError(t, results[0].Err)
	w.until("the new replica has what is whole", 20*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(w.dir, fmt.Sprintf("node-%d", other), "t-0", "00000000000000000000.log"))
		if err == nil && !bytes.Contains(b, []byte("record 3")) {
			err = fmt.Errorf("%d bytes", len(b))
		}
		return err
	})
	require.NoError(t, c.Admin().GiveUpDamaged(t.Context(), tp, -1))
	w.requireOn(4)
}

// requireOn requires that records go on behind the first n, which are all that is left.
func (w *world) requireOn(n int) {
	w.t.Helper()
	end := w.mustProduce("t", 0, "new") + 1 // a try whose outcome was unknown may be there, too
	w.until("two in sync", 30*time.Second, func() error { return w.inSync("t", 2) })
	got := w.readAll("t", 0, int(end))
	for i, value := range got {
		want := "new"
		if i < n {
			want = fmt.Sprint("record ", i)
		}
		require.Equal(w.t, want, value, "offset %d", i)
	}
	require.Greater(w.t, len(got), n)
}
