package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// askers is how many ask at a time where not one does.
const askers = 16

// offsets measures what a monitor pays that asks for the committed offsets of all groups,
// one request a group: one after another, and askers at a time. What the nodes wrote
// meanwhile tells whether a read costs anything but messages.
func offsets(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, commitPartitions); err != nil {
		return err
	}
	m := &monitor{conns: map[int32]*grpc.ClientConn{}}
	defer m.close()
	if err := m.prepare(ctx, l, l.size(10_000, 100)); err != nil {
		return err
	}
	for _, way := range []struct {
		how     string
		callers int
	}{{"one after another", 1}, {strconv.Itoa(askers) + " at a time", askers}} {
		wrote, err := l.written()
		if err != nil {
			return err
		}
		began := time.Now()
		took, err := m.ask(ctx, way.callers)
		if err != nil {
			return err
		}
		total := time.Since(began)
		after, err := l.written()
		if err != nil {
			return err
		}
		l.say("offsets: of %d groups, a request each, %s: %s in all, %.0f/s; p50 %s, p99 %s, worst %s; the three nodes wrote %d bytes to disk a request",
			len(m.names), way.how, total.Round(time.Millisecond), float64(len(took))/total.Seconds(),
			percentile(took, 0.5), percentile(took, 0.99), percentile(took, 1), (after-wrote)/int64(len(took)))
	}
	return nil
}

// monitor asks for groups where they are coordinated.
type monitor struct {
	names []string
	nodes []int32 // their coordinators
	conns map[int32]*grpc.ClientConn
}

// prepare commits an offset of each of n groups.
func (m *monitor) prepare(ctx context.Context, l *lab, n int) error {
	for id := range l.cluster.Nodes() {
		conn, err := grpc.NewClient(l.cluster.Addr(id+1), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		m.conns[int32(id+1)] = conn
	}
	for i := range n {
		name := "group-" + strconv.Itoa(i)
		found, err := findCoordinator(ctx, m.conns[1], name)
		if err != nil {
			return err
		}
		m.names, m.nodes = append(m.names, name), append(m.nodes, found.GetNodeId())
	}
	return each(m.names, func(name string) error {
		i, err := strconv.Atoi(strings.TrimPrefix(name, "group-"))
		if err != nil {
			return err
		}
		return commitTo(ctx, m.conns[m.nodes[i]], name, 1, 1)
	})
}

// ask asks for every group once, and returns how long each took.
func (m *monitor) ask(ctx context.Context, callers int) ([]time.Duration, error) {
	took := make([]time.Duration, len(m.names))
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < len(m.names) && errs[c] == nil; i += callers {
				began := time.Now()
				errs[c] = m.one(ctx, i)
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	return took, errors.Join(errs...)
}

func (m *monitor) one(ctx context.Context, i int) error {
	out, err := pb.NewGroupServiceClient(m.conns[m.nodes[i]]).FetchOffsets(ctx, &pb.FetchOffsetsRequest{Group: m.names[i]})
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", m.names[i], err)
	}
	if n := len(out.GetResults()); n != 1 {
		return fmt.Errorf("%d offsets of %s, committed is one", n, m.names[i])
	}
	return nil
}

func (m *monitor) close() {
	for _, conn := range m.conns {
		_ = conn.Close()
	}
}

// written is how many bytes the nodes have had written to disk so far.
func (l *lab) written() (total int64, err error) {
	for _, pid := range l.cluster.Pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			rest, ok := strings.CutPrefix(line, "write_bytes:")
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}
