package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/penstock/penstock/client"
)

// write produces to every partition, each every 2 ms, until ctx ends.
func (l *lab) write(ctx context.Context, partitions int32) error {
	p, err := l.client.NewProducer(client.WithPartitioner(client.ManualPartitioner()))
	if err != nil {
		return err
	}
	failed := make(chan error, 1) // the first
	promise := func(_ *client.Record, err error) {
		if err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		for partition := range partitions {
			p.Produce(context.WithoutCancel(ctx), &client.Record{Topic: "t", Partition: partition, Value: []byte("x")}, promise)
		}
		select {
		case <-tick.C:
		case err := <-failed:
			return errors.Join(fmt.Errorf("write: %w", err), p.Close(context.WithoutCancel(ctx)))
		case <-ctx.Done():
			return p.Close(context.WithoutCancel(ctx))
		}
	}
}

// read is a member of its own client, until ctx ends.
func (l *lab) read(ctx context.Context, number int, seen *sightings) error {
	c, err := client.New(l.cluster.Addrs())
	if err != nil {
		return err
	}
	k, err := c.NewConsumer(client.WithGroup("g"), client.WithTopics("t"), client.WithStart(client.Latest()))
	if err != nil {
		return errors.Join(err, c.Close())
	}
	for {
		polled, err := k.Poll(ctx)
		if ctx.Err() != nil {
			return errors.Join(k.Close(context.WithoutCancel(ctx)), c.Close())
		}
		if err != nil {
			return errors.Join(fmt.Errorf("member %d: %w", number, err), c.Close())
		}
		for r := range polled.All() {
			seen.see(number, r.Partition, time.Now())
		}
		polled.Release()
	}
}

// together runs what goes on beside a measurement, such as writers and members, for as
// long as it takes. The first of them that fails ends it: what is measured without
// them is not what is to be measured.
func together(ctx context.Context, measure func(ctx context.Context, beside func(func(context.Context) error)) error) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	g, ctx := errgroup.WithContext(ctx)
	err := measure(ctx, func(f func(context.Context) error) { g.Go(func() error { return f(ctx) }) })
	done()
	failed := g.Wait()
	if failed != nil && errors.Is(err, context.Canceled) {
		return failed
	}
	return errors.Join(err, failed)
}

const joinPartitions = 44 // four for each of the ten and the one

const (
	// window is how long a join is looked at, or until the first record where that
	// takes longer.
	window = 3 * time.Second
	// stuck is after how long a member that reads nothing fails the run.
	stuck = time.Minute
)

// join lets an eleventh member join ten under load, again and again.
func join(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, joinPartitions); err != nil {
		return err
	}
	return together(ctx, func(ctx context.Context, beside func(func(context.Context) error)) error {
		seen := newSightings()
		beside(func(ctx context.Context) error { return l.write(ctx, joinPartitions) })
		for i := range 10 {
			beside(func(ctx context.Context) error { return l.read(ctx, i, seen) })
		}
		if err := sleep(ctx, 5*time.Second); err != nil {
			return err
		}
		var joined []time.Duration
		var pause time.Duration
		for run := range l.size(20, 2) {
			first, longest, err := l.joinOne(ctx, 10+run, seen)
			if err != nil {
				return err
			}
			joined, pause = append(joined, first), max(pause, longest)
			if err := sleep(ctx, time.Second); err != nil {
				return err
			}
		}
		l.say("join: first record after %s (median), %s (worst) of %d joins; longest pause of a partition that stayed %s",
			percentile(joined, 0.5), percentile(joined, 1), len(joined), pause)
		return nil
	})
}

// joinOne returns how long it takes until a member that joins has its first record, and
// the longest pause meanwhile of a partition that stayed where it was.
func (l *lab) joinOne(ctx context.Context, number int, seen *sightings) (first, pause time.Duration, err error) {
	began := time.Now()
	seen.reset(began)
	member, leave := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- l.read(member, number, seen) }()
	defer func() {
		leave()
		err = errors.Join(err, <-done)
	}()
	if err := sleep(ctx, window); err != nil {
		return 0, 0, err
	}
	err = waitUntil(ctx, func() bool {
		_, ok := seen.firstOf(number)
		return ok || len(done) > 0
	})
	at, ok := seen.firstOf(number)
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("the first record of member %d: %w", number, err)
	case !ok:
		return 0, 0, fmt.Errorf("member %d ended before it had a record", number)
	}
	return at.Sub(began), seen.longestPause(time.Now()), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kill lets members die and waits until what they read is read by others.
func kill(ctx context.Context, l *lab) error {
	const partitions, members = 12, 4
	if err := l.topic(ctx, partitions); err != nil {
		return err
	}
	return together(ctx, func(ctx context.Context, beside func(func(context.Context) error)) error {
		seen := newSightings()
		beside(func(ctx context.Context) error { return l.write(ctx, partitions) })
		processes := make([]*exec.Cmd, 0, members)
		start := func() error {
			cmd, wait, err := l.consumeInto(ctx, seen)
			if err != nil {
				return err
			}
			processes = append(processes, cmd)
			beside(func(context.Context) error { wait(); return nil })
			return nil
		}
		for range members {
			if err := start(); err != nil {
				return err
			}
		}
		var took []time.Duration
		for range l.size(20, 2) {
			if err := sleep(ctx, window); err != nil {
				return err
			}
			victim := processes[0]
			processes = processes[1:]
			d, err := l.killOne(ctx, victim, seen)
			if err != nil {
				return err
			}
			took = append(took, d)
			if err := start(); err != nil {
				return err
			}
		}
		l.say("kill: all its partitions are read again after %s (median), %s (worst) of %d kills, session.grace %s",
			percentile(took, 0.5), percentile(took, 1), len(took), l.graceText())
		return nil
	})
}

func (l *lab) graceText() string {
	if l.grace == 0 {
		return "not set: session timeout 10s"
	}
	return l.grace.String()
}

// consumeInto starts a member that is a process, whose number it is; wait returns when
// it has ended.
func (l *lab) consumeInto(ctx context.Context, seen *sightings) (cmd *exec.Cmd, wait func(), err error) {
	cmd = l.consume(ctx)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return cmd, func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				seen.see(cmd.Process.Pid, int32(n), time.Now())
			}
		}
		_ = cmd.Wait() // it is killed in the end; one that ended by itself reads nothing, which killOne finds
	}, nil
}

// killOne returns how long it takes until others read all that victim read. A victim
// that reads nothing yet is waited for: its death would cost nothing.
func (l *lab) killOne(ctx context.Context, victim *exec.Cmd, seen *sightings) (time.Duration, error) {
	pid := victim.Process.Pid
	if err := waitUntil(ctx, func() bool { return seen.reads(pid) }); err != nil {
		return 0, fmt.Errorf("process %d was to be killed, but reads nothing: %w", pid, err)
	}
	began := time.Now()
	if err := victim.Process.Kill(); err != nil {
		return 0, err
	}
	if err := waitUntil(ctx, func() bool { return !seen.reads(pid) }); err != nil {
		return 0, fmt.Errorf("nobody reads what process %d read: %w", pid, err)
	}
	return time.Since(began), nil
}

// errStuck means that something did not come within a minute.
var errStuck = fmt.Errorf("not within %s", stuck)

// waitUntil looks every millisecond whether something holds.
func waitUntil(ctx context.Context, holds func() bool) error {
	for began := time.Now(); !holds(); {
		if time.Since(began) > stuck {
			return errStuck
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
