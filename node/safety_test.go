package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// What the in-sync replicas have not confirmed is not readable, and asking for
// it is not out of range.
func TestNothingIsReadAboveTheHighWatermark(t *testing.T) {
	w := startWorld(t, 3, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	w.mustProduce("t", 0, "committed")
	conn, leader, err := w.leader("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	// The followers lose their streams, but are in the in-sync set for a while. Somebody
	// listens where the leader was: it is not taken for dead.
	address := w.node(leader).listeners.peer.Addr().String()
	w.node(leader).peer.Stop()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	for range 2 {
		out, err := wire.CallProduce(t.Context(), conn, &wire.Produce{ProduceRequest: &pb.ProduceRequest{
			Acks: pb.Acks_ACKS_LEADER, Partitions: []*pb.ProducePartition{{Topic: "t", Records: []*pb.Record{{Value: []byte("alone")}}}},
		}})
		if err != nil || out.GetResults()[0].GetError() != nil {
			t.Fatalf("%v %v", out, err)
		}
	}
	for offset := int64(1); offset <= 2; offset++ {
		out, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{MaxWaitMs: 50, Partitions: []*pb.FetchPartition{{Topic: "t", FetchOffset: offset}}})
		if err != nil {
			t.Fatal(err)
		}
		r := out.GetResults()[0]
		if len(out.Batches) != 0 || r.GetError() != nil || r.GetHighWatermark() != 1 {
			t.Errorf("offset %d: %v, %d batches", offset, r, len(out.Batches))
		}
		out.Release()
	}
	for offset, code := range map[int64]pb.ErrorCode{3: pb.ErrorCode_ERROR_CODE_UNSPECIFIED, 4: pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE} {
		out, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{Partitions: []*pb.FetchPartition{{Topic: "t", FetchOffset: offset}}})
		if err != nil {
			t.Fatal(err)
		}
		if r := out.GetResults()[0]; r.GetError().GetCode() != code || len(out.Batches) != 0 {
			t.Errorf("offset %d of a log that ends at 3: %v, %d batches", offset, r, len(out.Batches))
		}
		out.Release()
	}
}

// node is a running node of the world.
func (w *world) node(id int32) *Node {
	w.t.Helper()
	for _, n := range w.d.nodes {
		if n.cfg.NodeID == id {
			return n
		}
	}
	w.t.Fatalf("no node %d", id)
	return nil
}

// Data that the metadata does not mention is kept.
func TestUnknownDataIsSetAside(t *testing.T) {
	c := nodeConfig(t)
	n, err := startNode(t, c)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 0)
	w.d = &DevCluster{nodes: []*Node{n}}
	defer func() { w.d = nil }()
	w.createTopic(&pb.CreateTopicRequest{Name: "precious"})
	w.mustProduce("precious", 0, strings.Repeat("needle", 10))
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(c.DataDir, "raft"), filepath.Join(t.TempDir(), "raft")); err != nil {
		t.Fatal(err)
	}
	if n, err = startNode(t, c); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if !holds(t, c.DataDir, "needle") {
		t.Error("the data of a topic that the metadata does not mention is gone")
	}
	if aside, err := filepath.Glob(filepath.Join(c.DataDir, "precious-0.*.stray")); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

// holds reports whether a file below dir contains text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || strings.Contains(string(data), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Records that were acknowledged are there after the topic's leader and the
// controller crashed one after the other, with a restart between.
func TestCrashesOneAfterTheOther(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	n := 0
	for range 3 {
		for range 10 {
			w.mustProduce("t", 0, "v")
			n++
		}
		_, leader, err := w.leader("t", 0)
		if err != nil {
			t.Fatal(err)
		}
		config := w.node(leader).cfg
		w.stopNode(leader, false)
		w.mustProduce("t", 0, "v")
		n++
		again, err := startNode(t, config)
		if err != nil {
			t.Fatal(err)
		}
		w.d.nodes = append(w.d.nodes, again)
		w.until("full in-sync set", 15*time.Second, func() error { return w.inSync("t", 3) })
	}
	if got := len(w.readAll("t", 0, n)); got != n {
		t.Errorf("%d records, %d were acknowledged", got, n)
	}
}

// inSync is nil when all partitions of a topic have n in-sync replicas.
func (w *world) inSync(topic string, n int) error {
	md, err := pb.NewAdminServiceClient(w.any()).DescribeTopic(w.t.Context(), &pb.DescribeTopicRequest{Name: topic})
	if err != nil {
		return err
	}
	for _, p := range md.GetTopic().GetPartitions() {
		if len(p.GetIsr()) != n {
			return fmt.Errorf("in-sync set %v", p.GetIsr())
		}
	}
	return nil
}

// A partition whose only replica is gone (the process died before it had made
// the folder of a new topic) is led again, with what there is.
func TestMissingOnlyReplicaLeadsAgain(t *testing.T) {
	c := nodeConfig(t)
	n, err := startNode(t, c)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 0)
	w.d = &DevCluster{nodes: []*Node{n}}
	defer func() { w.d = nil }()
	w.createTopic(&pb.CreateTopicRequest{Name: "new"})
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob(filepath.Join(c.DataDir, "*", "new-0"))
	if direct, _ := filepath.Glob(filepath.Join(c.DataDir, "new-0")); err != nil || len(folders)+len(direct) != 1 {
		t.Fatalf("%v %v %v", folders, direct, err)
	} else if err := os.RemoveAll(append(folders, direct...)[0]); err != nil {
		t.Fatal(err)
	}
	if n, err = startNode(t, c); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	w.d = &DevCluster{nodes: []*Node{n}}
	w.mustProduce("new", 0, "v")
}

// The last holder of a partition is never emptied: what is left of it after its
// file lost bytes is served.
func TestDamagedOnlyReplicaServesItsPrefix(t *testing.T) {
	c := nodeConfig(t)
	n, err := startNode(t, c)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 0)
	w.d = &DevCluster{nodes: []*Node{n}}
	defer func() { w.d = nil }()
	w.createTopic(&pb.CreateTopicRequest{Name: "old"})
	w.mustProduce("old", 0, "first")
	w.mustProduce("old", 0, "last")
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(c.DataDir, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".log" && filepath.Base(filepath.Dir(path)) == "old-0" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files[0], info.Size()-1); err != nil {
		t.Fatal(err)
	}
	if n, err = startNode(t, c); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	w.d = &DevCluster{nodes: []*Node{n}}
	w.until("read what is left", 15*time.Second, func() error {
		r, err := w.fetch("old", 0, 0, 0)
		if err == nil && r.GetHighWatermark() != 1 {
			err = fmt.Errorf("%v", r)
		}
		return err
	})
	if !holds(t, c.DataDir, "first") {
		t.Error("the last holder was emptied")
	}
}

// A replica that lost acknowledged bytes leaves the in-sync set, starts over from
// its leader, and comes back, without a record missing.
func TestDamagedReplicaIsRebuilt(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
	const records = 5
	for i := range records {
		w.mustProduce("t", 0, fmt.Sprint(i))
	}
	w.stop()
	files, err := filepath.Glob(filepath.Join(w.dir, "node-2", "*", "t-0", "*.log"))
	if direct, _ := filepath.Glob(filepath.Join(w.dir, "node-2", "t-0", "*.log")); err == nil {
		files = append(files, direct...)
	}
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files[0], info.Size()-1); err != nil {
		t.Fatal(err)
	}
	w.start(3)
	w.until("three in sync", 20*time.Second, func() error {
		md, err := pb.NewAdminServiceClient(w.any()).Metadata(t.Context(), &pb.MetadataRequest{Topics: []string{"t"}})
		if err != nil {
			return err
		}
		if p := md.GetTopics()[0].GetPartitions()[0]; len(p.GetIsr()) != 3 || p.GetLeader() < 0 {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
	if got := w.readAll("t", 0, records); len(got) != records {
		t.Errorf("%v", got)
	}
	again, err := os.Stat(files[0])
	if err != nil || again.Size() != info.Size() {
		t.Errorf("%v, %v; want %d bytes", again, err, info.Size())
	}
}

// A leader that comes upon a flipped bit, in what it had long synced, hands over to a
// replica that is intact, starts over from it, and comes back, while it runs.
func TestCorruptLeaderIsRebuilt(t *testing.T) {
	const partitions, records, victim = 3, 5, 2
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: partitions, ReplicationFactor: 3})
	for p := range int32(partitions) {
		for i := range records {
			w.mustProduce("t", p, fmt.Sprint(i))
		}
	}
	w.stop()
	segments, err := filepath.Glob(filepath.Join(w.dir, "node-2", "t-*", "*.log"))
	if err != nil || len(segments) != partitions {
		t.Fatalf("%v %v", segments, err)
	}
	for _, path := range segments {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.start(3)
	describe := func() []*pb.PartitionInfo {
		md, err := pb.NewAdminServiceClient(w.any()).Metadata(t.Context(), &pb.MetadataRequest{Topics: []string{"t"}})
		if err != nil {
			t.Fatal(err)
		}
		return md.GetTopics()[0].GetPartitions()
	}
	var led int32
	w.until("node 2 leads", 20*time.Second, func() error {
		for _, p := range describe() {
			if p.GetLeader() == victim && len(p.GetIsr()) == 3 {
				led = p.GetPartition()
				return nil
			}
		}
		return fmt.Errorf("%v", describe())
	})
	if got := w.readAll("t", led, records); len(got) != records {
		t.Errorf("%v", got)
	}
	path := filepath.Join(w.dir, "node-%d", fmt.Sprintf("t-%d", led), filepath.Base(segments[0]))
	w.until("node 2 is in sync again, with the bytes of the others", 20*time.Second, func() error {
		if p := describe()[led]; len(p.GetIsr()) != 3 {
			return fmt.Errorf("%v", p)
		}
		rebuilt, err := os.ReadFile(fmt.Sprintf(path, victim))
		if err != nil {
			return err
		}
		intact, err := os.ReadFile(fmt.Sprintf(path, 1))
		if err == nil && !bytes.Equal(rebuilt, intact) {
			err = errors.New("the files differ")
		}
		return err
	})
}
