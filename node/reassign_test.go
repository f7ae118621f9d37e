package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/client"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// mover is a world with a client that moves replicas.
type mover struct {
	*world
	client *client.Client
	admin  *client.Admin
}

func startMover(t *testing.T, nodes int) *mover {
	t.Helper()
	w := startWorld(t, nodes, 0)
	c, err := client.New(w.d.Brokers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &mover{world: w, client: c, admin: c.Admin()}
}

// create makes a topic of three replicas and returns where partition 0 has them,
// its leader first, and the broker that has none.
func (m *mover) create(topic string) (replicas []int32, spare int32) {
	m.t.Helper()
	m.createTopic(&pb.CreateTopicRequest{Name: topic, ReplicationFactor: 3})
	p := m.partition(topic)
	for _, n := range m.d.nodes {
		if !slices.Contains(p.Replicas, n.cfg.NodeID) {
			spare = n.cfg.NodeID
		}
	}
	return p.Replicas, spare
}

func (m *mover) partition(topic string) client.PartitionState {
	m.t.Helper()
	d, err := m.admin.DescribeTopic(m.t.Context(), topic)
	if err != nil {
		m.t.Fatal(err)
	}
	return d.Partitions[0]
}

func (m *mover) reassign(throttle int64, r client.Reassignment) error {
	m.t.Helper()
	results, err := m.admin.AlterPartitionReassignments(m.t.Context(), throttle, r)
	if err != nil {
		return err
	}
	return results[0].Err
}

func (m *mover) mustReassign(throttle int64, topic string, to ...int32) {
	m.t.Helper()
	if err := m.reassign(throttle, client.Reassignment{TopicPartition: client.TopicPartition{Topic: topic}, Replicas: to}); err != nil {
		m.t.Fatal(err)
	}
}

// moved waits until a partition has these replicas, all in sync, and nobody else
// has its data.
func (m *mover) moved(topic string, to ...int32) {
	m.t.Helper()
	m.until("move", 60*time.Second, func() error {
		p := m.partition(topic)
		if len(p.Adding)+len(p.Removing) > 0 || !slices.Equal(p.Replicas, to) || len(p.ISR) != len(to) {
			return fmt.Errorf("%+v", p)
		}
		for _, n := range m.d.nodes {
			_, err := os.Stat(m.folder(n, topic))
			if has := err == nil; has != slices.Contains(to, n.cfg.NodeID) {
				return fmt.Errorf("broker %d has data: %v", n.cfg.NodeID, has)
			}
		}
		return nil
	})
}

func (m *mover) folder(n *Node, topic string) string { return filepath.Join(n.cfg.DataDir, topic+"-0") }

// sameBytes checks that the replicas hold the same segments, byte for byte.
func (m *mover) sameBytes(topic string, on ...int32) {
	m.t.Helper()
	m.until("equal segments", 30*time.Second, func() error {
		var first map[string][]byte
		for _, id := range on {
			got := m.segments(topic, id)
			if first == nil {
				first = got
			}
			if len(got) != len(first) {
				return fmt.Errorf("broker %d has %d segments, broker %d %d", id, len(got), on[0], len(first))
			}
			for name, want := range first {
				if !bytes.Equal(got[name], want) {
					return fmt.Errorf("%s: %d bytes on broker %d, %d on broker %d", name, len(got[name]), id, len(want), on[0])
				}
			}
		}
		return nil
	})
}

func (m *mover) segments(topic string, id int32) map[string][]byte {
	m.t.Helper()
	names, err := filepath.Glob(filepath.Join(m.folder(m.node(id), topic), "*.log"))
	if err != nil {
		m.t.Fatal(err)
	}
	out := make(map[string][]byte)
	for _, name := range names {
		if out[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			m.t.Fatal(err)
		}
	}
	return out
}

// load produces numbered records with an idempotent producer until stop is called,
// which returns how many were acknowledged; all must be.
func (m *mover) load(topic string) (sent *atomic.Int64, stop func() int) {
	m.t.Helper()
	p, err := m.client.NewProducer(client.WithLinger(time.Millisecond))
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(m.t.Context())
	sent = new(atomic.Int64)
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			var batch []*client.Record
			for range 20 {
				n := sent.Load() + int64(len(batch))
				batch = append(batch, &client.Record{Topic: topic, Value: []byte(strconv.FormatInt(n, 10) + padding)})
			}
			if err := p.ProduceSync(m.t.Context(), batch...); err != nil {
				once.Do(func() { failed = err })
				return
			}
			sent.Add(int64(len(batch)))
		}
	})
	return sent, func() int {
		m.t.Helper()
		cancel()
		wg.Wait()
		if err := errors.Join(failed, p.Close(m.t.Context())); err != nil {
			m.t.Fatal(err)
		}
		return int(sent.Load())
	}
}

var padding = " " + string(bytes.Repeat([]byte("x"), 200))

// exactly checks that a topic holds the n records of load, each once, in order.
func (m *mover) exactly(topic string, n int) {
	m.t.Helper()
	for i, v := range m.readAll(topic, 0, n) {
		if i >= n || v != strconv.Itoa(i)+padding {
			m.t.Fatalf("offset %d of %d holds %.20q", i, n, v)
		}
	}
}

func (m *mover) produced(sent *atomic.Int64, more int64) {
	m.t.Helper()
	until := sent.Load() + more
	m.until("load", 60*time.Second, func() error {
		if n := sent.Load(); n < until {
			return fmt.Errorf("%d of %d", n, until)
		}
		return nil
	})
}

// A partition moves under load, with its leader: nothing is lost, nothing is there
// twice, the new replicas are what the old ones were.
func TestReassignUnderLoad(t *testing.T) {
	m := startMover(t, 4)
	from, spare := m.create("t")
	sent, stop := m.load("t")
	m.produced(sent, 200)
	to := []int32{spare, from[1], from[2]}
	m.mustReassign(0, "t", to...)
	m.moved("t", to...)
	m.until("leader", 10*time.Second, func() error {
		if p := m.partition("t"); p.Leader != spare {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	m.produced(sent, 200)
	// All of them at once, and the way back.
	back := []int32{from[0]}
	m.mustReassign(0, "t", back...)
	m.moved("t", back...)
	m.produced(sent, 200)
	m.mustReassign(0, "t", from...)
	m.moved("t", from...)
	m.produced(sent, 200)
	n := stop()
	m.exactly("t", n)
	m.sameBytes("t", from...)
}

// What was begun can be taken back: the new replica's data goes, and the others
// never noticed.
func TestReassignCancelled(t *testing.T) {
	m := startMover(t, 4)
	from, spare := m.create("t")
	sent, stop := m.load("t")
	m.produced(sent, 1000)
	m.mustReassign(1000, "t", spare, from[1], from[2])
	tp := client.TopicPartition{Topic: "t"}
	m.until("progress", 30*time.Second, func() error {
		list, err := m.admin.ListPartitionReassignments(t.Context())
		if err != nil || len(list) != 1 || len(list[0].Progress) != 1 {
			return fmt.Errorf("%+v %w", list, err)
		}
		c := list[0].Progress[0]
		if c.NodeID != spare || c.Offset <= 0 || c.Offset >= c.End || c.BytesBehind <= 0 || c.BytesBehind > c.LogBytes || c.RecordsBehind != c.End-c.Offset {
			return fmt.Errorf("%+v", c)
		}
		if !slices.Equal(list[0].Adding, []int32{spare}) || !slices.Equal(list[0].Removing, from[:1]) || list[0].Throttle != 1000 {
			t.Fatalf("%+v", list[0])
		}
		return nil
	})
	if err := m.reassign(0, client.Reassignment{TopicPartition: tp, Cancel: true}); err != nil {
		t.Fatal(err)
	}
	m.moved("t", from...)
	if p := m.partition("t"); p.Leader != from[0] {
		t.Errorf("the leader changed: %+v", p)
	}
	n := stop()
	m.exactly("t", n)
	m.sameBytes("t", from...)
	if e := (&client.Error{}); !errors.As(m.reassign(0, client.Reassignment{TopicPartition: tp, Cancel: true}), &e) || e.Code != client.CodeNoReassignmentInProgress {
		t.Errorf("cancelling nothing: %+v", e)
	}
}

// A move keeps to the rate that was asked for, and the same move with another rate
// goes on with that.
func TestReassignThrottled(t *testing.T) {
	m := startMover(t, 4)
	from, spare := m.create("t")
	sent, stop := m.load("t")
	m.produced(sent, 2000)
	stop() // beside other traffic catching up is slow anyway
	to := []int32{spare, from[1], from[2]}
	m.mustReassign(1, "t", to...)
	behind := func() (client.CatchUp, error) {
		list, err := m.admin.ListPartitionReassignments(t.Context())
		if err != nil || len(list) != 1 || len(list[0].Progress) != 1 {
			return client.CatchUp{}, fmt.Errorf("%+v %w", list, err)
		}
		return list[0].Progress[0], nil
	}
	var first client.CatchUp
	m.until("the first records", 30*time.Second, func() (err error) {
		if first, err = behind(); err == nil && first.Offset <= 0 {
			err = fmt.Errorf("%+v", first)
		}
		return err
	})
	for range 50 {
		m.mustProduce("t", 0, "more")
	}
	// Of a byte a second the first batch has used up the next hour.
	m.until("still moving", 30*time.Second, func() error {
		now, err := behind()
		if err == nil && now.Offset != first.Offset {
			t.Fatalf("from %+v to %+v at a byte a second", first, now)
		}
		return err
	})
	m.mustReassign(1<<30, "t", to...)
	m.moved("t", to...)
	m.sameBytes("t", to...)
}
