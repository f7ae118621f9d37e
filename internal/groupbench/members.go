package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/penstock/penstock/client"
)

// sightings are when each partition was read, and by whom.
type sightings struct {
	mu    sync.Mutex // guards the rest
	last  map[int32]sighting
	pause map[int32]time.Duration // the longest between two of the same reader
	first map[int]time.Time       // by reader
}

type sighting struct {
	reader int
	at     time.Time
}

func newSightings() *sightings {
	s := &sightings{}
	s.reset()
	return s
}

func (s *sightings) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.pause, s.first = map[int32]sighting{}, map[int32]time.Duration{}, map[int]time.Time{}
}

func (s *sightings) see(reader int, partition int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if before, ok := s.last[partition]; ok && before.reader == reader {
		s.pause[partition] = max(s.pause[partition], now.Sub(before.at))
	}
	s.last[partition] = sighting{reader, now}
	if s.first[reader].IsZero() {
		s.first[reader] = now
	}
}

// write produces to every partition, each every 2 ms, until ctx ends.
func (l *lab) write(ctx context.Context, partitions int32) error {
	p, err := l.client.NewProducer(client.WithPartitioner(client.ManualPartitioner()))
	if err != nil {
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		for partition := range partitions {
			p.Produce(context.WithoutCancel(ctx), &client.Record{Topic: "t", Partition: partition, Value: []byte("x")}, nil)
		}
		select {
		case <-tick.C:
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
			return errors.Join(err, c.Close())
		}
		for r := range polled.All() {
			seen.see(number, r.Partition)
		}
		polled.Release()
	}
}

const joinPartitions = 44 // four for each of the ten and the one

// join lets an eleventh member join ten under load, again and again.
func join(ctx context.Context, l *lab) error {
	if err := l.topic(ctx, joinPartitions); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make(chan error, 12)
	defer wg.Wait()
	defer cancel()
	seen := newSightings()
	wg.Go(func() { errs <- l.write(ctx, joinPartitions) })
	for i := range 10 {
		wg.Go(func() { errs <- l.read(ctx, i, seen) })
	}
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	var joined []time.Duration
	pause := time.Duration(0)
	for run := range l.size(20, 2) {
		seen.reset()
		number := 10 + run
		member, leave := context.WithCancel(ctx)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- l.read(member, number, seen) }()
		if err := sleep(ctx, 3*time.Second); err != nil {
			leave()
			return err
		}
		seen.mu.Lock()
		if at := seen.first[number]; !at.IsZero() {
			joined = append(joined, at.Sub(began))
		}
		for _, d := range seen.pause {
			pause = max(pause, d)
		}
		seen.mu.Unlock()
		leave()
		if err := <-done; err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	l.say("join: first record after %s (median), %s (worst) of %d joins; longest pause of a partition that stayed %s",
		percentile(joined, 0.5), percentile(joined, 1), len(joined), pause)
	return nil
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
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	seen := newSightings()
	wg.Go(func() { _ = l.write(ctx, partitions) })
	processes := make([]*exec.Cmd, 0, members)
	start := func() error {
		cmd := l.consume(ctx)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		pid := cmd.Process.Pid
		processes = append(processes, cmd)
		wg.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if n, err := strconv.Atoi(lines.Text()); err == nil {
					seen.see(pid, int32(n))
				}
			}
			_ = cmd.Wait()
		})
		return nil
	}
	for range members {
		if err := start(); err != nil {
			return err
		}
	}
	var took []time.Duration
	for range l.size(20, 2) {
		if err := sleep(ctx, 3*time.Second); err != nil {
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
	l.say("kill: all its partitions are read again after %s (median), %s (worst) of %d kills, session.grace 200ms", percentile(took, 0.5), percentile(took, 1), len(took))
	return nil
}

// killOne returns how long it takes until others read all that victim read.
func (l *lab) killOne(ctx context.Context, victim *exec.Cmd, seen *sightings) (time.Duration, error) {
	began := time.Now()
	if err := victim.Process.Kill(); err != nil {
		return 0, err
	}
	for {
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("nobody reads what %d read", victim.Process.Pid)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
		left := false
		latest := began
		seen.mu.Lock()
		for _, s := range seen.last {
			left = left || s.reader == victim.Process.Pid
		}
		seen.mu.Unlock()
		if !left {
			latest = time.Now()
			return latest.Sub(began), nil
		}
	}
}
