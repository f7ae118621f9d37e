package load

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
)

// redisStreams is go-redis against Redis Streams: a stream a partition, on one server,
// for Redis does not wait for replicas. Records are added by redisWorkers goroutines in
// pipelines of redisPipeline commands, and read by XREAD, a thousand entries a stream.
type redisStreams struct{ c *redis.Client }

const (
	redisWorkers  = 16
	redisPipeline = 64
	redisRead     = 1000
	redisField    = "v"
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

func (r *redisStreams) Drop(ctx context.Context, t *Topic) error {
	return r.c.Del(ctx, t.parts()...).Err()
}

func (r *redisStreams) Count(ctx context.Context, t *Topic) (n int64, err error) {
	for _, name := range t.parts() {
		length, err := r.c.XLen(ctx, name).Result()
		if err != nil {
			return 0, err
		}
		n += length
	}
	return n, nil
}

func (r *redisStreams) Producer(ctx context.Context, t *Topic, tally *Tally, _ bool) (Producer, error) {
	p := &redisProducer{c: r.c, streams: t.parts(), tally: tally, work: make(chan redisWork, redisWorkers)}
	for range redisWorkers {
		p.workers.Go(func() { p.add(ctx) }) // until Close
	}
	return p, nil
}

type redisProducer struct {
	c       *redis.Client
	streams []string
	tally   *Tally
	next    int
	work    chan redisWork
	open    sync.WaitGroup // work not done
	workers sync.WaitGroup
}

type redisWork struct {
	stream string
	values [][]byte
	done   func(error)
}

// add does work, a pipeline at a time; that of a value to be timed is its own.
func (p *redisProducer) add(ctx context.Context) {
	for w := range p.work {
		pipe := p.c.Pipeline()
		for _, v := range w.values {
			pipe.Do(ctx, "XADD", w.stream, "*", redisField, v)
		}
		_, err := pipe.Exec(ctx)
		p.tally.Done(len(w.values), err)
		if w.done != nil {
			w.done(err)
		}
		p.open.Done()
	}
}

func (p *redisProducer) hand(w redisWork) {
	p.next = (p.next + 1) % len(p.streams)
	w.stream = p.streams[p.next]
	p.open.Add(1)
	p.work <- w
}

func (p *redisProducer) Send(_ context.Context, values [][]byte) error {
	for len(values) > 0 {
		n := min(redisPipeline, len(values))
		p.hand(redisWork{values: values[:n]})
		values = values[n:]
	}
	return nil
}

func (p *redisProducer) SendTimed(_ context.Context, value []byte, done func(error)) error {
	p.hand(redisWork{values: [][]byte{value}, done: done})
	return nil
}

func (p *redisProducer) Flush(context.Context) error {
	p.open.Wait()
	return nil
}

func (p *redisProducer) Close() error {
	close(p.work)
	p.workers.Wait()
	return nil
}

func (r *redisStreams) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	size, err := r.Count(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	reader := &redisReader{c: r.c, streams: t.parts()}
	_, err = reader.Rewind(ctx)
	return reader, size, err
}

type redisReader struct {
	c       *redis.Client
	streams []string
	last    map[string]string // the last entry read of each stream
}

func (r *redisReader) Read(ctx context.Context) (records, bytes int64, err error) {
	args := append([]string(nil), r.streams...)
	for _, s := range r.streams {
		args = append(args, r.last[s])
	}
	found, err := r.c.XRead(ctx, &redis.XReadArgs{Streams: args, Count: redisRead, Block: -1}).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, 0, err
	}
	for _, s := range found {
		for _, m := range s.Messages {
			records++
			v, _ := m.Values[redisField].(string)
			bytes += int64(len(v))
		}
		r.last[s.Stream] = s.Messages[len(s.Messages)-1].ID
	}
	return records, bytes, nil
}

func (r *redisReader) Rewind(context.Context) (bool, error) {
	r.last = map[string]string{}
	for _, s := range r.streams {
		r.last[s] = "0"
	}
	return true, nil
}

func (r *redisReader) Close() error { return nil }
