package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/probe"
)

const (
	away        = nodes // the node that falls behind
	stopLimit   = 30 * time.Second
	calm        = 10 * time.Second // load on the whole cluster, and before the node comes back, for the comparison
	loadKept    = 512 << 20        // bytes of each partition of the load
	behindBytes = 1000             // a record's value
	catchUpPoll = 20 * time.Millisecond
	settleLimit = 2 * time.Minute
)

// catchup measures how fast a follower that was away gets what it missed, once on
// an idle cluster, beside what the disk takes, and once under load.
func (l *lab) catchup(ctx context.Context) (err error) {
	c, stop, err := l.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	rate, err := l.loadRate(ctx, c)
	if err != nil {
		return err
	}
	var idle, raw, share, loaded, ratio, alone []float64
	for range l.runs {
		r, err := l.behind(ctx, c, 0)
		if err != nil {
			return fmt.Errorf("idle: %w", err)
		}
		l.say("  idle: %.0f MB/s, the bare disk %.0f MB/s", r.rate, r.raw)
		idle, raw, share = append(idle, r.rate), append(raw, r.raw), append(share, 100*r.rate/r.raw)
		if r, err = l.behind(ctx, c, rate); err != nil {
			return fmt.Errorf("under load: %w", err)
		}
		l.say("  under load: %.0f MB/s, p99 %.1f ms; of the whole cluster %.1f ms, without the node %.1f ms", r.rate, r.during, r.whole, r.before)
		loaded, ratio, alone = append(loaded, r.rate), append(ratio, r.during/r.whole), append(alone, r.before/r.whole)
	}
	setting := fmt.Sprintf("one of %d nodes, %g GiB behind in %d partitions led by the others, to the last partition in sync", nodes, l.gib, partitions)
	l.table.add(figure{"catch-up on an idle cluster", setting, "MB/s", idle})
	l.table.add(figure{"bare disk: read of a leader's files, write and fdatasync of as much", fmt.Sprintf("the same minute, page cache dropped, %d files side by side, pieces of 1 MiB, a sync every 8 MiB", partitions), "MB/s", raw})
	l.table.add(figure{"share of the bare disk's rate", setting, "%", share})
	load := fmt.Sprintf("%s, under %d records/s of 100 B", setting, rate)
	l.table.add(figure{"catch-up under load", load, "MB/s", loaded})
	l.table.add(figure{"writers' p99 during it, to that of the whole cluster before", load, "ratio", ratio})
	l.table.add(figure{"writers' p99 without the node, to that of the whole cluster", load, "ratio", alone})
	return nil
}

// caughtUp is one return of the node: rates in MB/s, times in ms.
//
// whole, before and during are the writers' p99 with all nodes, without the one,
// and while it catches up.
type caughtUp struct{ rate, raw, whole, before, during float64 }

// behind stops the node, writes what it will miss, and lets it come back; under a
// load of so many records/s, if any.
func (l *lab) behind(ctx context.Context, c *chaos.Cluster, rate int) (found caughtUp, err error) {
	cl, err := client.New(c.Addrs(), client.WithClientID("benchrun"))
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	topic := l.topic("behind")
	if _, err := cl.Admin().CreateTopic(ctx, client.TopicSpec{Name: topic, Partitions: partitions, ReplicationFactor: nodes}); err != nil {
		return found, err
	}
	w := &writers{}
	if rate > 0 {
		if w, err = l.writers(ctx, cl); err != nil {
			return found, err
		}
		if err := errors.Join(c.WaitHealthy(ctx, healthWait), l.warmMemory()); err != nil {
			return found, err
		}
		if err := w.start(ctx, l, c, cl, rate); err != nil {
			return found, err
		}
		now := time.Now()
		if err := w.stop(ctx); err != nil {
			return found, err
		}
		found.whole = w.p99(now.Add(-calm), now)
	}
	if err := errors.Join(c.WaitHealthy(ctx, healthWait), c.Stop(away, stopLimit)); err != nil {
		return found, err
	}
	records := int64(l.gib * (1 << 30) / behindBytes)
	if _, err := l.load(ctx, c, "produce", "--topic", topic, "--records", strconv.FormatInt(records, 10), "--record-size", strconv.Itoa(behindBytes)); err != nil {
		return found, err
	}
	if err := l.dropCaches(); err != nil {
		return found, err
	}
	if rate == 0 {
		if err := l.warmMemory(); err != nil {
			return found, err
		}
		if found.raw, err = l.rawCopy(c, topic); err != nil {
			return found, err
		}
		if err := l.dropCaches(); err != nil {
			return found, err
		}
	}
	if err := l.warmMemory(); err != nil {
		return found, err
	}
	if err := w.start(ctx, l, c, cl, rate); err != nil {
		return found, err
	}
	began := time.Now()
	err = c.Start(away)
	if err == nil {
		err = l.inSync(ctx, cl, topic)
	}
	took := time.Since(began)
	if err := errors.Join(err, w.stop(ctx)); err != nil {
		return found, err
	}
	bytes, err := size(c, away, topic)
	if err != nil {
		return found, err
	}
	found.rate = float64(bytes) / 1e6 / took.Seconds()
	found.before, found.during = w.p99(began.Add(-calm), began), w.p99(began, began.Add(took))
	if err := c.WaitHealthy(ctx, settleLimit); err != nil {
		return found, err
	}
	return found, errors.Join(w.drop(ctx, l, c), l.drop(ctx, c, topic))
}

// inSync waits until the node is in every in-sync set of a topic.
func (l *lab) inSync(ctx context.Context, cl *client.Client, topic string) error {
	for {
		t, err := cl.Admin().DescribeTopic(ctx, topic)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err == nil && !slices.ContainsFunc(t.Partitions, func(p client.PartitionState) bool { return !slices.Contains(p.ISR, away) }) {
			return nil
		}
		if err := pause(ctx, catchUpPoll); err != nil {
			return err
		}
	}
}

// segments are the files of a topic on a node.
func segments(c *chaos.Cluster, node int, topic string) ([]string, error) {
	return filepath.Glob(filepath.Join(c.DataDir(node), topic+"-*", "*.log"))
}

func size(c *chaos.Cluster, node int, topic string) (sum int64, err error) {
	files, err := segments(c, node, topic)
	for _, name := range files {
		info, statErr := os.Stat(name)
		if statErr != nil {
			return 0, statErr
		}
		sum += info.Size()
	}
	return sum, err
}

// dropCaches lets the leaders read from the disk, as far as this user may.
func (l *lab) dropCaches() error {
	if os.Geteuid() != 0 {
		l.table.note("the page cache was not dropped, for that takes root: leaders may have read from memory")
		return nil
	}
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200)
}

// writers are a load and, beside it, records whose acknowledgements are timed one
// by one; the zero value writes nothing.
type writers struct {
	probe         *probe.Prober
	probed, topic string
	cancel        context.CancelFunc
	done          chan error
}

// writers makes their topics, which takes all nodes.
func (l *lab) writers(ctx context.Context, cl *client.Client) (*writers, error) {
	w := &writers{probed: l.topic("probe"), topic: l.topic("load"), done: make(chan error, 1)}
	for _, name := range []string{w.probed, w.topic} {
		_, err := cl.Admin().CreateTopic(ctx, client.TopicSpec{
			Name: name, Partitions: partitions, ReplicationFactor: nodes,
			Configs: map[string]string{"retention.bytes": strconv.Itoa(loadKept), "segment.bytes": strconv.Itoa(loadKept / 4)},
		})
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// start begins the load, if there is to be one, and returns when it has run for a while.
func (w *writers) start(ctx context.Context, l *lab, c *chaos.Cluster, cl *client.Client, rate int) (err error) {
	if w.topic == "" {
		return nil
	}
	if w.probe, err = probe.Start(ctx, cl, w.probed, partitions); err != nil {
		return err
	}
	loading, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	go func() { // ends with the load, which stop waits for
		_, err := l.load(loading, c, "produce", "--topic", w.topic, "--rate", strconv.Itoa(rate), "--linger", "5ms", "--duration", "24h")
		if loading.Err() != nil {
			err = nil // it was ended
		}
		w.done <- err
	}()
	if err := pause(ctx, calm+2*time.Second); err != nil {
		return errors.Join(err, w.stop(ctx))
	}
	return nil
}

func (w *writers) stop(ctx context.Context) error {
	if w.probe == nil {
		return nil
	}
	w.cancel()
	return errors.Join(<-w.done, w.probe.Stop(ctx))
}

func (w *writers) drop(ctx context.Context, l *lab, c *chaos.Cluster) error {
	if w.topic == "" {
		return nil
	}
	return errors.Join(l.drop(ctx, c, w.probed), l.drop(ctx, c, w.topic))
}

// p99 is in ms, of the probe records that were sent in a time.
func (w *writers) p99(from, to time.Time) float64 {
	if w.probe == nil {
		return 0
	}
	h := newHistogram()
	for _, d := range w.probe.Latencies(from, to) {
		_ = h.RecordValue(max(1, d.Microseconds())) // below a minute
	}
	return float64(h.ValueAtQuantile(99)) / 1000
}
