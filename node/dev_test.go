package node

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// Dev prints one line when the cluster is ready, and ends with its context.
func TestDev(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &firstLine{done: make(chan struct{})}
	result := make(chan error, 1)
	go func() { result <- Dev(ctx, devOptions(1, t.TempDir()), out) }()
	select {
	case <-out.done:
	case err := <-result:
		t.Fatalf("ended early: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if line := out.b.String(); !strings.HasPrefix(line, "penstock dev: 1 node(s) ready: brokers 127.0.0.1:") || strings.Count(line, "\n") != 1 {
		t.Errorf("printed %q", line)
	}
}

// firstLine closes done with the first write.
type firstLine struct {
	b    bytes.Buffer
	done chan struct{}
}

func (f *firstLine) Write(p []byte) (int, error) {
	defer close(f.done)
	return f.b.Write(p)
}

// Brokers beyond the voters take part like the others.
func TestNonVoters(t *testing.T) {
	w := startWorld(t, 4, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Partitions: 4, ReplicationFactor: 3})
	leaders := make(map[int32]bool)
	for p := range 4 {
		w.mustProduce("t", int32(p), "v")
		_, leader, err := w.leader("t", p)
		if err != nil {
			t.Fatal(err)
		}
		leaders[leader] = true
	}
	if len(leaders) != 4 {
		t.Errorf("leaders %v", leaders)
	}
	md, err := pb.NewAdminServiceClient(w.any()).DescribeCluster(t.Context(), &pb.DescribeClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	voters := 0
	for _, b := range md.GetBrokers() {
		if b.GetVoter() {
			voters++
		}
	}
	if len(md.GetBrokers()) != 4 || voters != 3 || md.GetTopics() != 1 || md.GetPartitions() != 4 || md.GetLeaderlessPartitions() != 0 {
		t.Errorf("%v", md)
	}
}

// Node i listens where --base-port, --kafka-port and the help say.
func TestDevPorts(t *testing.T) {
	for _, tt := range []struct {
		base, kafka int
		want        []string // of each node: gRPC, Raft, HTTP, peers, Kafka
	}{
		{7070, 9092, []string{"7070 7071 7072 7073 9092", "7080 7081 7082 7083 9093", "7090 7091 7092 7093 9094"}},
		{0, 19092, []string{"0 0 0 0 19092", "0 0 0 0 19093"}},
		{7070, 0, []string{"7070 7071 7072 7073 0", "7080 7081 7082 7083 0"}},
	} {
		for i, want := range tt.want {
			c := devConfig(DevOptions{Nodes: len(tt.want), BasePort: tt.base, KafkaPort: tt.kafka}, "data", i)
			var ports []string
			for _, address := range []string{c.ListenGRPC[0].Address, c.ListenRaft, c.ListenHTTP, c.ListenPeer, c.ListenKafka[0].Address} {
				host, port, err := net.SplitHostPort(address)
				if err != nil || host != "127.0.0.1" {
					t.Errorf("node %d listens on %s: %v", i+1, address, err)
				}
				ports = append(ports, port)
			}
			if got := strings.Join(ports, " "); got != want {
				t.Errorf("node %d listens on %s, want %s", i+1, got, want)
			}
		}
	}
}

func TestDevRefuses(t *testing.T) {
	for _, opts := range []DevOptions{{Nodes: -1}, {Nodes: 3, BasePort: 65530}, {Nodes: 3, KafkaPort: 65534}, {KafkaPort: -1}} {
		opts.Options = Options{Logger: testLogger()}
		if _, err := StartDev(t.Context(), opts); err == nil {
			t.Errorf("%+v is accepted", opts)
		}
	}
	// A node that cannot start takes the others down with it.
	opts := devOptions(3, t.TempDir())
	opts.Configure = func(c *Config) {
		if c.NodeID == 2 {
			c.DataDir = "/dev/null/x"
		}
	}
	if _, err := StartDev(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "node 2: data.dir") || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
