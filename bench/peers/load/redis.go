package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisStreams is go-redis against Redis Streams: a stream a partition, on one server,
// for Redis does not wait for replicas. Records are added by redisWorkers goroutines in
// pipelines of redisPipeline XADD commands, to streams that are trimmed by MAXLEN ~,
// and read by a goroutine a stream, a thousand entries at a time.
type redisStreams struct{ c *redis.Client }

const (
	redisWorkers  = 50 // as redis-benchmark has
	redisPipeline = 64
	redisRead     = 1000
	redisField    = "v"
	// redisEntry is about what Redis keeps beside a value.
	redisEntry   = 20
	redisRewrite = 200 * time.Millisecond // between two looks whether a rewrite has ended
)

func dialRedis(ctx context.Context, address string) (System, error) {
	c := redis.NewClient(&redis.Options{Addr: address, PoolSize: 2 * redisWorkers})
	if err := c.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &redisStreams{c: c}, nil
}

func (r *redisStreams) Close() error { return r.c.Close() }

// Create does nothing: the first XADD makes a stream.
func (r *redisStreams) Create(context.Context, *Topic) error { return nil }

// Drop also rewrites the append-only file, in which what is deleted would stay, and
// waits for that: the next turn shares the disk with nothing.
func (r *redisStreams) Drop(ctx context.Context, t *Topic) error {
	if err := r.c.Del(ctx, t.parts()...).Err(); err != nil {
		return err
	}
	if err := r.rewritten(ctx); err != nil { // one of the server's own accord, begun before
		return err
	}
	if err := r.c.BgRewriteAOF(ctx).Err(); err != nil {
		return fmt.Errorf("rewrite the append-only file: %w", err)
	}
	return r.rewritten(ctx)
}

// rewritten waits until the append-only file is rewritten.
func (r *redisStreams) rewritten(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		found, err := r.c.InfoMap(ctx, "persistence").Result()
		if err != nil {
			return err
		}
		p := found["Persistence"]
		if p["aof_rewrite_in_progress"] == "0" && p["aof_rewrite_scheduled"] == "0" {
			return nil
		}
		select {
		case <-time.After(redisRewrite):
		case <-ctx.Done():
			return fmt.Errorf("the append-only file is still being rewritten: %w", ctx.Err())
		}
	}
}

// Count is how many entries were ever added, which Redis tells since 7.0.
func (r *redisStreams) Count(ctx context.Context, t *Topic) (n int64, err error) {
	for _, name := range t.parts() {
		length, err := r.c.XLen(ctx, name).Result()
		if err != nil {
			return 0, err
		}
		if length == 0 { // not there yet
			continue
		}
		info, err := r.c.XInfoStream(ctx, name).Result()
		if err != nil {
			return 0, err
		}
		n += info.EntriesAdded
	}
	return n, nil
}

func (r *redisStreams) Producer(ctx context.Context, t *Topic, tally *Tally, quick bool) (Producer, error) {
	p := &redisProducer{c: r.c, streams: t.parts(), retention: t.Retention, tally: tally, work: make(chan redisWork, redisWorkers), pipeline: redisPipeline}
	if quick {
		p.pipeline = 1
	}
	for range redisWorkers {
		p.workers.Go(func() { p.add(ctx) }) // until Close
	}
	return p, nil
}

type redisProducer struct {
	c         *redis.Client
	streams   []string
	retention int64
	tally     *Tally
	pipeline  int // commands
	next      int
	filling   redisWork
	work      chan redisWork
	open      sync.WaitGroup // work not done
	workers   sync.WaitGroup
}

// redisWork is a pipeline.
type redisWork struct {
	stream string
	values [][]byte
	done   []func(error)
}

// add does work.
func (p *redisProducer) add(ctx context.Context) {
	for w := range p.work {
		pipe := p.c.Pipeline()
		for _, v := range w.values {
			pipe.Do(ctx, "XADD", w.stream, "MAXLEN", "~", max(1, p.retention/int64(len(v)+redisEntry)), "*", redisField, v)
		}
		_, err := pipe.Exec(ctx)
		p.tally.Done(len(w.values), err)
		for _, done := range w.done {
			done(err)
		}
		p.open.Done()
	}
}

// put fills a pipeline, and hands it over when it is full.
func (p *redisProducer) put(value []byte, done func(error)) {
	p.filling.values = append(p.filling.values, value)
	if done != nil {
		p.filling.done = append(p.filling.done, done)
	}
	if len(p.filling.values) >= p.pipeline {
		p.hand()
	}
}

func (p *redisProducer) hand() {
	if len(p.filling.values) == 0 {
		return
	}
	p.next = (p.next + 1) % len(p.streams)
	p.filling.stream = p.streams[p.next]
	p.open.Add(1)
	p.work <- p.filling
	p.filling = redisWork{values: make([][]byte, 0, p.pipeline)}
}

func (p *redisProducer) Send(_ context.Context, values [][]byte) error {
	for _, v := range values {
		p.put(v, nil)
	}
	return nil
}

func (p *redisProducer) SendTimed(_ context.Context, value []byte, done func(error)) error {
	p.put(value, done)
	return nil
}

func (p *redisProducer) Flush(context.Context) error {
	p.hand()
	p.open.Wait()
	return nil
}

func (p *redisProducer) Close() error {
	close(p.work)
	p.workers.Wait()
	return nil
}

func (r *redisStreams) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	reader := &redisReader{arrivals: newArrivals(), c: r.c, streams: t.parts()}
	var size int64
	for _, name := range reader.streams {
		n, err := r.c.XLen(ctx, name).Result()
		if err != nil {
			return nil, 0, err
		}
		size += n
	}
	reader.start()
	return reader, size, nil
}

// redisReader has a goroutine a stream.
type redisReader struct {
	*arrivals

	c       *redis.Client
	streams []string
	stop    context.CancelFunc
	reading sync.WaitGroup
}

func (r *redisReader) start() {
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	for _, name := range r.streams {
		r.reading.Go(func() { // until it has read the stream to its end, or stop
			if err := r.readAll(ctx, name); err != nil && ctx.Err() == nil {
				r.fail(err)
			}
		})
	}
}

func (r *redisReader) readAll(ctx context.Context, name string) error {
	for last := "0"; ; {
		found, err := r.c.XRead(ctx, &redis.XReadArgs{Streams: []string{name, last}, Count: redisRead, Block: -1}).Result()
		switch {
		case errors.Is(err, redis.Nil):
			return nil
		case err != nil:
			return err
		}
		messages := found[0].Messages
		bytes := 0
		for _, m := range messages {
			v, _ := m.Values[redisField].(string)
			bytes += len(v)
		}
		last = messages[len(messages)-1].ID
		r.add(len(messages), bytes)
	}
}

func (r *redisReader) Rewind(context.Context) (bool, error) {
	r.end()
	r.forget()
	r.start()
	return true, nil
}

func (r *redisReader) end() {
	r.stop()
	r.reading.Wait()
}

func (r *redisReader) Close() error {
	r.end()
	return nil
}
