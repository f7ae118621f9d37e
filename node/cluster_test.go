package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/internal/arenatest"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func TestMain(m *testing.M) {
	flag.Bool("rewrite", false, "rewrite pages that tests compare")
	flag.Parse()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is a cluster under test, with connections to its nodes.
type world struct {
	t     *testing.T
	dir   string
	port  int // base port; 0: any, which a restart does not survive
	d     *DevCluster
	codec *wire.Codec
	conns map[string]*grpc.ClientConn
	// configure changes what the nodes start with; nil: nothing.
	configure func(*Config)
	logger    *slog.Logger // nil: testLogger
}

func testLogger() *slog.Logger {
	if os.Getenv("NODE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

func devOptions(nodes int, dir string) DevOptions {
	return DevOptions{Nodes: nodes, DataDir: dir, Options: Options{Version: "test", Logger: testLogger()}, Configure: func(c *Config) {
		c.DiskReserve = 1 << 20
		c.OffsetsPartitions = 3
	}}
}

// newWorld has no nodes yet.
func newWorld(t *testing.T, port int) *world {
	t.Helper()
	w := &world{t: t, port: port, dir: t.TempDir(), codec: wire.NewCodec(arenatest.New(t, 1<<20)), conns: make(map[string]*grpc.ClientConn)}
	t.Cleanup(func() {
		w.stop()
		for _, c := range w.conns {
			_ = c.Close()
		}
	})
	return w
}

func startWorld(t *testing.T, nodes, port int) *world {
	t.Helper()
	w := newWorld(t, port)
	w.start(nodes)
	return w
}

func (w *world) start(nodes int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	opts := devOptions(nodes, w.dir)
	opts.BasePort = w.port
	if w.logger != nil {
		opts.Logger = w.logger
	}
	if w.configure != nil {
		usual := opts.Configure
		opts.Configure = func(c *Config) {
			usual(c)
			w.configure(c)
		}
	}
	d, err := StartDev(ctx, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.d = d
}

func (w *world) stop() {
	if w.d == nil {
		return
	}
	if err := w.d.Stop(context.Background()); err != nil {
		w.t.Errorf("stop: %v", err)
	}
	for _, n := range w.d.nodes {
		arenatest.Empty(w.t, n.arena, fmt.Sprintf("the arena of node %d", n.cfg.NodeID))
	}
	w.d = nil
}

func (w *world) conn(address string) *grpc.ClientConn {
	w.t.Helper()
	if c := w.conns[address]; c != nil {
		return c
	}
	c, err := grpc.NewClient(address, append(wire.DialOptions(w.codec), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.conns[address] = c
	return c
}

func (w *world) any() *grpc.ClientConn { return w.conn(w.d.Brokers()[0]) }

func (w *world) createTopic(req *pb.CreateTopicRequest) *pb.CreateTopicResponse {
	w.t.Helper()
	resp, err := pb.NewAdminServiceClient(w.any()).CreateTopic(w.t.Context(), req)
	if err != nil {
		w.t.Fatalf("create topic: %v", err)
	}
	return resp
}

// until repeats f until it succeeds.
func (w *world) until(what string, limit time.Duration, f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leader is the connection to the leader of a partition, by any node's metadata.
func (w *world) leader(topic string, partition int) (*grpc.ClientConn, int32, error) {
	err := errors.New("no node is running")
	for _, address := range w.d.Brokers() {
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		md, mdErr := pb.NewAdminServiceClient(w.conn(address)).Metadata(ctx, &pb.MetadataRequest{Topics: []string{topic}})
		cancel()
		if mdErr != nil {
			err = mdErr
			continue
		}
		if len(md.GetTopics()) == 0 || md.GetTopics()[0].GetPartitions()[partition].GetLeader() < 0 {
			err = fmt.Errorf("no leader: %v", md.GetTopics())
			continue
		}
		leader := md.GetTopics()[0].GetPartitions()[partition].GetLeader()
		for _, b := range md.GetBrokers() {
			if b.GetNodeId() == leader {
				return w.conn(b.GetAddress()), leader, nil
			}
		}
	}
	return nil, 0, err
}

// produce appends one record and returns its offset.
func (w *world) produce(topic string, partition int32, value string, acks pb.Acks) (int64, error) {
	conn, _, err := w.leader(topic, int(partition))
	if err != nil {
		return -1, err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	out, err := wire.CallProduce(ctx, conn, &wire.Produce{ProduceRequest: &pb.ProduceRequest{
		Acks: acks, TimeoutMs: 5000,
		Partitions: []*pb.ProducePartition{{Topic: topic, Partition: partition, Records: []*pb.Record{{Key: []byte("k"), Value: []byte(value)}}}},
	}})
	if err != nil {
		return -1, err
	}
	if e := out.GetResults()[0].GetError(); e != nil {
		return -1, fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
	}
	return out.GetResults()[0].GetBaseOffset(), nil
}

func (w *world) mustProduce(topic string, partition int32, value string) int64 {
	w.t.Helper()
	offset := int64(-1)
	w.until("produce", 15*time.Second, func() (err error) {
		offset, err = w.produce(topic, partition, value, pb.Acks_ACKS_ALL)
		return err
	})
	return offset
}

// fetch returns what a partition holds from an offset on.
func (w *world) fetch(topic string, partition int32, from int64, wait time.Duration) (*pb.FetchPartitionResult, error) {
	conn, _, err := w.leader(topic, int(partition))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), wait+10*time.Second)
	defer cancel()
	out, err := wire.CallFetch(ctx, conn, &pb.FetchRequest{
		MaxWaitMs: uint32(wait.Milliseconds()), Structured: true,
		Partitions: []*pb.FetchPartition{{Topic: topic, Partition: partition, FetchOffset: from}},
	})
	if err != nil {
		return nil, err
	}
	defer out.Release()
	r := out.GetResults()[0]
	if e := r.GetError(); e != nil {
		return r, fmt.Errorf("%s: %s", e.GetCode(), e.GetMessage())
	}
	return r, nil
}

// readAll returns the values of a partition, reading until n are there.
func (w *world) readAll(topic string, partition int32, n int) []string {
	w.t.Helper()
	var values []string
	w.until("read", 15*time.Second, func() error {
		r, err := w.fetch(topic, partition, int64(len(values)), 100*time.Millisecond)
		if err != nil {
			return err
		}
		for _, rec := range r.GetRecords() {
			if rec.GetOffset() != int64(len(values)) {
				w.t.Fatalf("offset %d comes after %d records", rec.GetOffset(), len(values))
			}
			values = append(values, string(rec.GetValue()))
		}
		if len(values) < n {
			return fmt.Errorf("%d of %d records", len(values), n)
		}
		return nil
	})
	return values
}

func (w *world) listOffsets(topic string, query pb.OffsetQuery, ms int64) *pb.ListOffsetsResult {
	w.t.Helper()
	conn, _, err := w.leader(topic, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := pb.NewFetchServiceClient(conn).ListOffsets(w.t.Context(), &pb.ListOffsetsRequest{
		Partitions: []*pb.ListOffsetsPartition{{Topic: topic, Query: query, TimestampMs: ms}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetResults()[0]
}

// detail returns the typed error in a status; nil without one.
func detail(err error) *pb.Error {
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if e, ok := d.(*pb.Error); ok {
			return e
		}
	}
	return nil
}

func TestOneNode(t *testing.T) {
	w := startWorld(t, 1, 0)
	before := time.Now().UnixMilli()
	created := w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2})
	if created.GetPartitions() != 2 || created.GetReplicationFactor() != 1 || len(created.GetTopicId()) != 16 {
		t.Errorf("created %v", created)
	}
	for i := range 5 {
		if got := w.mustProduce("t", 0, fmt.Sprint(i)); got != int64(i) {
			t.Fatalf("record %d is at %d", i, got)
		}
	}
	if got := strings.Join(w.readAll("t", 0, 5), ""); got != "01234" {
		t.Errorf("read %q", got)
	}
	for _, acks := range []pb.Acks{pb.Acks_ACKS_LEADER, pb.Acks_ACKS_NONE} {
		if _, err := w.produce("t", 1, "x", acks); err != nil {
			t.Errorf("%s: %v", acks, err)
		}
	}
	w.readAll("t", 1, 2)
	for _, tt := range []struct {
		query pb.OffsetQuery
		ms    int64
		want  int64
	}{
		{pb.OffsetQuery_OFFSET_QUERY_EARLIEST, 0, 0},
		{pb.OffsetQuery_OFFSET_QUERY_LATEST, 0, 5},
		{pb.OffsetQuery_OFFSET_QUERY_TIMESTAMP, before, 0},
		{pb.OffsetQuery_OFFSET_QUERY_TIMESTAMP, time.Now().Add(time.Hour).UnixMilli(), -1},
	} {
		if got := w.listOffsets("t", tt.query, tt.ms); got.GetOffset() != tt.want || got.GetError() != nil {
			t.Errorf("%s %d: %v, want offset %d", tt.query, tt.ms, got, tt.want)
		}
	}
}

// A long poll ends when the record it waits for is committed, not at its limit.
func TestLongPoll(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t"})
	w.mustProduce("t", 0, "a")
	begin := time.Now()
	r, err := w.fetch("t", 0, 1, 150*time.Millisecond)
	if err != nil || len(r.GetRecords()) != 0 || time.Since(begin) < 150*time.Millisecond {
		t.Fatalf("at the end: %v, %v after %s", r, err, time.Since(begin))
	}
	type answer struct {
		r   *pb.FetchPartitionResult
		err error
	}
	got := make(chan answer, 1)
	begin = time.Now()
	go func() {
		r, err := w.fetch("t", 0, 1, 20*time.Second)
		got <- answer{r, err}
	}()
	time.Sleep(50 * time.Millisecond)
	w2 := *w
	w2.mustProduce("t", 0, "b")
	a := <-got
	if a.err != nil || len(a.r.GetRecords()) != 1 || time.Since(begin) > 10*time.Second {
		t.Fatalf("%v, %v after %s", a.r, a.err, time.Since(begin))
	}
}

func TestThreeNodes(t *testing.T) {
	w := startWorld(t, 3, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 3, ReplicationFactor: 3})
	const n = 30
	for p := range int32(3) {
		for i := range n {
			w.mustProduce("t", p, fmt.Sprint(i))
		}
	}
	for p := range int32(3) {
		for i, v := range w.readAll("t", p, n) {
			if v != fmt.Sprint(i) {
				t.Fatalf("partition %d: record %d is %q", p, i, v)
			}
		}
	}
	md, err := pb.NewAdminServiceClient(w.any()).DescribeTopic(t.Context(), &pb.DescribeTopicRequest{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	leaders := make(map[int32]bool)
	for _, p := range md.GetTopic().GetPartitions() {
		leaders[p.GetLeader()] = true
		if len(p.GetReplicas()) != 3 {
			t.Errorf("partition %v", p)
		}
	}
	if len(leaders) != 3 {
		t.Errorf("leaders are not spread: %v", leaders)
	}
}

// stopNode takes one node away, gracefully or as a crash looks from outside.
func (w *world) stopNode(id int32, graceful bool) {
	w.t.Helper()
	for i, n := range w.d.nodes {
		if n.cfg.NodeID != id {
			continue
		}
		w.d.nodes = append(append([]*Node(nil), w.d.nodes[:i]...), w.d.nodes[i+1:]...)
		if graceful {
			if err := n.Stop(context.Background()); err != nil {
				w.t.Fatalf("stop of node %d: %v", id, err)
			}
			return
		}
		n.listeners.close()
		n.peer.Stop()
		n.public.Stop()
		if err := n.close(); err != nil {
			w.t.Fatalf("crash of node %d: %v", id, err)
		}
		return
	}
	w.t.Fatalf("no node %d", id)
}

// Whoever leads may go: writing goes on, and no acknowledged record is missing.
func TestFailover(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprintf("graceful=%v", graceful), func(t *testing.T) {
			w := startWorld(t, 3, 0)
			w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3})
			acked := make(map[int64]string)
			for i := range 20 {
				v := fmt.Sprint(i)
				acked[w.mustProduce("t", 0, v)] = v
			}
			_, leader, err := w.leader("t", 0)
			if err != nil {
				t.Fatal(err)
			}
			w.stopNode(leader, graceful)
			begin := time.Now()
			for i := 20; i < 40; i++ {
				v := fmt.Sprint(i)
				acked[w.mustProduce("t", 0, v)] = v
				if i == 20 {
					t.Logf("first acknowledged write after %s", time.Since(begin))
				}
			}
			values := w.readAll("t", 0, 40)
			for offset, v := range acked {
				if int(offset) >= len(values) || values[offset] != v {
					t.Errorf("acknowledged record %q is not at %d", v, offset)
				}
			}
		})
	}
}

// freePorts finds a base port whose cluster of n nodes has its ports free.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		base := 10000 + rand.IntN(22000) // Below the ports of outgoing connections.
		opts := DevOptions{BasePort: base}
		free := true
		for i := range n {
			c := devConfig(opts, t.TempDir(), i)
			l, err := listen(t.Context(), &c)
			if err != nil {
				free = false
				break
			}
			l.close()
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

func TestRestartOfAllNodes(t *testing.T) {
	w := startWorld(t, 3, freePorts(t, 3))
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 2, ReplicationFactor: 3})
	for i := range 10 {
		w.mustProduce("t", int32(i%2), fmt.Sprint(i))
	}
	for range 2 {
		w.stop()
		w.start(3)
		for p := range int32(2) {
			w.readAll("t", p, 5)
		}
	}
	if got := w.mustProduce("t", 0, "after"); got != 5 {
		t.Errorf("the next record is at %d", got)
	}
}
