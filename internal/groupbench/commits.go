package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// groupsOf returns n groups that one broker coordinates, and a connection to it.
func (l *lab) groupsOf(ctx context.Context, n int) (names []string, node int32, conn *grpc.ClientConn, err error) {
	first, err := grpc.NewClient(l.cluster.Addr(1), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, 0, nil, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	node = -1
	for i := 0; len(names) < n; i++ {
		name := "group-" + strconv.Itoa(i)
		found, err := findCoordinator(ctx, first, name)
		if err != nil {
			return nil, 0, nil, err
		}
		if node < 0 {
			node = found.GetNodeId()
		}
		if found.GetNodeId() == node {
			names = append(names, name)
		}
	}
	conn, err = grpc.NewClient(l.cluster.Addr(int(node)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	return names, node, conn, err
}

// findCoordinator asks until there is one, for as long as a cluster may take to make the
// topic of the offsets.
func findCoordinator(ctx context.Context, conn *grpc.ClientConn, group string) (*pb.FindCoordinatorResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, coordinatorWait)
	defer cancel()
	for {
		found, err := pb.NewGroupServiceClient(conn).FindCoordinator(bounded, &pb.FindCoordinatorRequest{Group: group})
		if err == nil {
			return found, nil
		}
		if over := sleep(bounded, 100*time.Millisecond); over != nil {
			return nil, fmt.Errorf("no coordinator of %s within %s: %w", group, coordinatorWait, errors.Join(ctx.Err(), err))
		}
	}
}

const coordinatorWait = 30 * time.Second

const (
	// commitPartitions is how many partitions the topic of the commits has, and
	// loadPartitions that of the loads.
	commitPartitions = 12
	loadPartitions   = 100
	// commitWindow is how many commits of a member are under way at saturation.
	commitWindow = 16
	// commitRate is that of the open loop, in commits a second.
	commitRate = 5000
)

// commitTo commits the same number to n partitions, until the coordinator takes it.
func commitTo(ctx context.Context, conn *grpc.ClientConn, group string, n int, offset int64) error {
	req := &pb.CommitOffsetsRequest{Group: group}
	for p := range n {
		req.Offsets = append(req.Offsets, &pb.OffsetCommit{Topic: "t", Partition: int32(p), Offset: offset, LeaderEpoch: -1})
	}
	var last error
	for begin := time.Now(); time.Since(begin) < 30*time.Second; {
		resp, err := pb.NewGroupServiceClient(conn).CommitOffsets(ctx, req)
		last = err
		if err == nil && resp.GetResults()[0].GetError() == nil {
			return nil
		}
		if err == nil {
			last = errors.New(resp.GetResults()[0].GetError().GetMessage())
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("commit of %s: %w", group, last)
}

// commits measures one coordinator: by calls, and on the members' sessions.
func commits(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, commitPartitions); err != nil {
		return err
	}
	names, node, conn, err := l.groupsOf(ctx, l.size(200, 20))
	if err != nil {
		return err
	}
	conns := []*grpc.ClientConn{conn}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	for len(conns) < 4 {
		conn, err := grpc.NewClient(l.cluster.Addr(int(node)), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	for _, name := range names {
		if err := commitTo(ctx, conn, name, 1, 0); err != nil {
			return err
		}
	}
	l.say("commits: a commit is one request, here with the offset of 1 or of %d partitions, answered when it is on three disks; all through node %d", commitPartitions, node)
	if err := l.calls(ctx, conns, names); err != nil {
		return fmt.Errorf("calls: %w", err)
	}
	return l.sessions(ctx, conns, names)
}

// length is how long one way of committing is measured.
func (l *lab) length() time.Duration { return time.Duration(l.size(20, 2)) * time.Second }

// calls measures CommitOffsets, for groups without members.
func (l *lab) calls(ctx context.Context, conns []*grpc.ClientConn, names []string) error {
	for _, offsets := range []int{1, commitPartitions} {
		n, err := flood(ctx, conns, names, offsets, l.length())
		if err != nil {
			return err
		}
		l.sayRate(fmt.Sprintf("calls, %d callers, one under way each", len(names)), n, offsets)
	}
	took, err := paced(ctx, conns, names, l.length())
	if err != nil {
		return err
	}
	l.sayLatency("calls", took)
	return nil
}

// sessions measures SessionCommit.
func (l *lab) sessions(ctx context.Context, conns []*grpc.ClientConn, names []string) error {
	for _, offsets := range []int{1, commitPartitions} {
		s, err := attachAll(ctx, conns, names)
		if err != nil {
			return err
		}
		n, err := s.flood(offsets, commitWindow, l.length())
		s.close()
		if err != nil {
			return fmt.Errorf("sessions: %w", err)
		}
		l.sayRate(fmt.Sprintf("sessions, %d members, %d under way each", len(names), commitWindow), n, offsets)
	}
	s, err := attachAll(ctx, conns, names)
	if err != nil {
		return err
	}
	defer s.close()
	took, err := s.paced(commitRate, l.length())
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	l.sayLatency("sessions", took)
	return nil
}

func (l *lab) sayRate(how string, n int64, offsets int) {
	rate := float64(n) / l.length().Seconds()
	l.say("commits: %s: %.0f commits/s of %d partition(s), %.0f offsets/s", how, rate, offsets, rate*float64(offsets))
}

func (l *lab) sayLatency(how string, took []time.Duration) {
	l.say("commits: %s, open loop of %d commits/s of 1 partition: p50 %s, p99 %s, worst %s",
		how, commitRate, percentile(took, 0.5), percentile(took, 0.99), percentile(took, 1))
}

// flood commits as fast as the callers, one a group, are answered.
func flood(ctx context.Context, conns []*grpc.ClientConn, names []string, offsets int, length time.Duration) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var (
		n  atomic.Int64
		wg sync.WaitGroup
	)
	errs := make(chan error, len(names))
	for k, name := range names {
		wg.Go(func() {
			for i := int64(1); ctx.Err() == nil; i++ {
				if err := commitTo(ctx, conns[k%len(conns)], name, offsets, i); err != nil {
					if ctx.Err() == nil {
						errs <- err
					}
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return n.Load(), <-errs
}

// paced commits at commitRate whether or not the ones before are answered, and
// times each from when it was due.
func paced(ctx context.Context, conns []*grpc.ClientConn, names []string, length time.Duration) ([]time.Duration, error) {
	total := int(length.Seconds() * commitRate)
	took := make([]time.Duration, total)
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	begin := time.Now()
	for i := range total {
		due := begin.Add(time.Duration(i) * time.Second / commitRate)
		if wait := time.Until(due); wait > 0 {
			if err := sleep(ctx, wait); err != nil {
				return nil, err
			}
		}
		wg.Go(func() {
			if err := commitTo(ctx, conns[i%len(conns)], names[i%len(names)], 1, int64(i)); err != nil {
				failed.Store(&err)
			}
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return took, nil
}

// load fills one coordinator with offsets, starts its node anew, and waits until
// it answers for all of its groups.
func load(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, loadPartitions); err != nil {
		return err
	}
	names, node, conn, err := l.groupsOf(ctx, l.size(10_000, 100))
	if err != nil {
		return err
	}
	if err := each(names, func(name string) error { return commitTo(ctx, conn, name, loadPartitions, 1) }); err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := conn.Close(); err != nil {
		return err
	}
	// Every broker is down, so that this one leads what it led.
	for id := 1; id <= 3; id++ {
		if err := l.cluster.Stop(id, 30*time.Second); err != nil {
			return err
		}
	}
	before := make([]int64, 4)
	for id := 1; id <= 3; id++ {
		info, err := os.Stat(l.cluster.LogFile(id))
		if err != nil {
			return err
		}
		before[id] = info.Size()
	}
	if err := l.cluster.StartAll(); err != nil {
		return err
	}
	if err := each(names, func(name string) error { return l.committedAll(ctx, name) }); err != nil {
		return err
	}
	l.say("load: %d offsets of %d groups, all of which were node %d's", len(names)*loadPartitions, len(names), node)
	for id := 1; id <= 3; id++ {
		total, slowest, err := l.loadTimes(id, before[id])
		if err != nil {
			return err
		}
		if total > 0 {
			l.say("load: after the start of all nodes, node %d was loading for %s, of which %s for its slowest partition", id, total, slowest)
		}
	}
	return nil
}

// committedAll waits until a group's coordinator answers, and sees that nothing is missing.
func (l *lab) committedAll(ctx context.Context, name string) error {
	offsets, err := l.client.Admin().CommittedOffsets(ctx, name)
	if err == nil && len(offsets) != loadPartitions {
		err = fmt.Errorf("%d of %d offsets of %s are left", len(offsets), loadPartitions, name)
	}
	return err
}

// loadTimes reads from the log of a node, from a byte on, for how long it was loading
// some partition, and for how long the one that took longest.
func (l *lab) loadTimes(node int, from int64) (total, slowest time.Duration, err error) {
	b, err := os.ReadFile(l.cluster.LogFile(node))
	if err != nil {
		return 0, 0, err
	}
	var loads []span
	for line := range strings.Lines(string(b[from:])) {
		if !strings.Contains(line, "groups loaded") {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, field(line, "time"))
		if err != nil {
			return 0, 0, err
		}
		took, err := time.ParseDuration(field(line, "took"))
		if err != nil {
			return 0, 0, err
		}
		loads = append(loads, span{at.Add(-took), at})
		slowest = max(slowest, took)
	}
	return covered(loads), slowest, nil
}

// field is the value of key=value in a line of a log.
func field(line, key string) string {
	_, rest, _ := strings.Cut(line, key+"=")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return value
}

type span struct{ from, to time.Time }

// covered is for how long at least one of the spans lasted.
func covered(spans []span) (total time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var until time.Time
	for _, s := range spans {
		from := s.from
		if from.Before(until) {
			from = until
		}
		if s.to.After(from) {
			total += s.to.Sub(from)
			until = s.to
		}
	}
	return total
}

// groups measures what groups take of their coordinator's memory.
func groups(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, loadPartitions); err != nil {
		return err
	}
	names, node, conn, err := l.groupsOf(ctx, l.size(10_000, 100))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := commitTo(ctx, conn, names[0], 1, 1); err != nil {
		return err
	}
	before, err := resident(l.cluster.Pid(int(node)))
	if err != nil {
		return err
	}
	if err := each(names, func(name string) error { return commitTo(ctx, conn, name, 10, 1) }); err != nil {
		return err
	}
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	after, err := resident(l.cluster.Pid(int(node)))
	if err != nil {
		return err
	}
	l.say("groups: %d groups of 10 offsets each: resident memory of node %d from %d to %d MiB", len(names), node, before>>20, after>>20)
	return nil
}

// each runs f for all names, 64 at a time.
func each(names []string, f func(string) error) error {
	var wg sync.WaitGroup
	work := make(chan string)
	errs := make(chan error, len(names))
	for range 64 {
		wg.Go(func() {
			for name := range work {
				if err := f(name); err != nil {
					errs <- err
				}
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	wg.Wait()
	close(errs)
	return <-errs
}

func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
