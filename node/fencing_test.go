package node

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// A leader that has lost the controller fences itself: it neither acknowledges
// nor serves, for by then another may lead.
func TestLeaderWithoutControllerFencesItself(t *testing.T) {
	w := startWorld(t, 3, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3, Configs: map[string]string{"min.insync.replicas": "1"}})
	w.mustProduce("t", 0, "a")
	conn, leader, err := w.leader("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	for id := range int32(3) {
		if id+1 != leader {
			w.stopNode(id+1, false)
		}
	}
	w.until("self-fencing", 15*time.Second, func() error {
		fetched, err := wire.CallFetch(t.Context(), conn, &pb.FetchRequest{Partitions: []*pb.FetchPartition{{Topic: "t"}}})
		if err != nil {
			return err
		}
		defer fetched.Release()
		produced, err := produceTo(t, conn)
		if err != nil {
			return err
		}
		for _, e := range []*pb.Error{fetched.GetResults()[0].GetError(), produced} {
			if e.GetCode() != pb.ErrorCode_ERROR_CODE_NOT_LEADER {
				return fmt.Errorf("still leads: %v", e)
			}
		}
		return nil
	})
}

// produceTo sends one record to one broker, whoever leads.
func produceTo(t *testing.T, conn *grpc.ClientConn) (*pb.Error, error) {
	t.Helper()
	out, err := wire.CallProduce(t.Context(), conn, &wire.Produce{ProduceRequest: &pb.ProduceRequest{
		TimeoutMs: 200, Partitions: []*pb.ProducePartition{{Topic: "t", Records: []*pb.Record{{Value: []byte("x")}}}},
	}})
	if err != nil {
		return nil, err
	}
	return out.GetResults()[0].GetError(), nil
}

// Metadata names the addresses of the listener that was asked.
func TestNamedListeners(t *testing.T) {
	c := nodeConfig(t)
	c.ListenGRPC = []Endpoint{{"host", "127.0.0.1:0"}, {"inner", "127.0.0.1:0"}}
	c.AdvertiseGRPC = []Endpoint{{"host", "localhost:1"}, {"inner", "broker1:2"}}
	n, err := startNode(t, c)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, codec: wire.NewCodec(record.NewArena(1 << 20)), conns: make(map[string]*grpc.ClientConn)}
	defer func() {
		for _, conn := range w.conns {
			_ = conn.Close()
		}
		if err := n.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for i, want := range []string{"localhost:1", "broker1:2"} {
		client := w.conn(n.Addresses().GRPC[i].Address)
		md, err := pb.NewAdminServiceClient(client).Metadata(t.Context(), &pb.MetadataRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := md.GetBrokers()[0].GetAddress(); got != want {
			t.Errorf("listener %d: %s, want %s", i, got, want)
		}
	}
}

// The admin listener tells machines what the node is doing.
func TestAdmin(t *testing.T) {
	n, err := startNode(t, nodeConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "penstock_replicas 0", "/debug/pprof/": "404"} {
		if got := get(t, "http://"+n.Addresses().HTTP+path); !strings.Contains(got, want) {
			t.Errorf("%s: %q does not say %q", path, got, want)
		}
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if n.healthy() == nil || n.serves() == nil {
		t.Error("a stopped node is healthy or ready")
	}
}

// get returns the status and the body of a page.
func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status + " " + string(body)
}
