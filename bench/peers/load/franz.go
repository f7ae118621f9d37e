package load

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz is franz-go, at Kafka and at Penstock's Kafka door alike: acks=all,
// idempotent, no compression, linger 5 ms, and as many records buffered as keep six
// partitions busy; the rest are its defaults. With quick it does not linger.
type franz struct {
	addresses []string
	admin     *kadm.Client
}

const (
	franzLinger   = 5 * time.Millisecond
	franzBuffered = 1_000_000 // records
)

func dialFranz(addresses []string) (System, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addresses...))
	if err != nil {
		return nil, err
	}
	return &franz{addresses: addresses, admin: kadm.NewClient(cl)}, nil
}

func (f *franz) Close() error {
	f.admin.Close()
	return nil
}

// Create makes a topic of Apache Kafka; Penstock's are made by its own client. Where
// an acknowledgement shall mean disks it sets flush.messages=1.
func (f *franz) Create(ctx context.Context, t *Topic) error {
	configs := map[string]*string{"retention.bytes": new(strconv.FormatInt(t.Retention, 10)), "segment.bytes": new(strconv.FormatInt(t.segment(), 10))}
	if t.Synced {
		configs["flush.messages"] = new("1")
	}
	made, err := f.admin.CreateTopic(ctx, int32(t.Partitions), int16(t.Replicas), configs, t.Name)
	if err != nil {
		return err
	}
	return made.Err
}

func (f *franz) Drop(ctx context.Context, t *Topic) error {
	gone, err := f.admin.DeleteTopics(ctx, t.Name)
	if err != nil {
		return err
	}
	return gone.Error()
}

func (f *franz) Count(ctx context.Context, t *Topic) (int64, error) {
	return sumOffsets(f.admin.ListEndOffsets(ctx, t.Name))
}

func sumOffsets(listed kadm.ListedOffsets, err error) (n int64, _ error) {
	if err != nil {
		return 0, err
	}
	listed.Each(func(o kadm.ListedOffset) {
		err = errors.Join(err, o.Err)
		n += o.Offset
	})
	return n, err
}

func (f *franz) Producer(_ context.Context, t *Topic, tally *Tally, quick bool) (Producer, error) {
	linger := franzLinger
	if quick {
		linger = 0
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addresses...), kgo.DefaultProduceTopic(t.Name),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(linger), kgo.MaxBufferedRecords(franzBuffered))
	if err != nil {
		return nil, err
	}
	return &franzProducer{cl: cl, tally: tally, done: func(_ *kgo.Record, err error) { tally.Done(1, err) }}, nil
}

type franzProducer struct {
	cl    *kgo.Client
	tally *Tally
	done  func(*kgo.Record, error)
}

func (p *franzProducer) Send(ctx context.Context, values [][]byte) error {
	records := make([]kgo.Record, len(values)) // the client keeps them until they are settled
	now := time.Now()                          // once, as with Penstock's client
	for i, v := range values {
		records[i].Value, records[i].Timestamp = v, now
		p.cl.Produce(ctx, &records[i], p.done)
	}
	return nil
}

func (p *franzProducer) SendTimed(ctx context.Context, value []byte, done func(error)) error {
	p.cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
		p.tally.Done(1, err)
		done(err)
	})
	return nil
}

func (p *franzProducer) Flush(ctx context.Context) error { return p.cl.Flush(ctx) }

func (p *franzProducer) Close() error {
	p.cl.Close()
	return nil
}

func (f *franz) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	starts, err := f.admin.ListStartOffsets(ctx, t.Name)
	start, err := sumOffsets(starts, err)
	if err != nil {
		return nil, 0, err
	}
	end, err := f.Count(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	from := map[int32]kgo.Offset{}
	for _, o := range starts[t.Name] {
		from[o.Partition] = kgo.NewOffset().At(o.Offset)
	}
	r := &franzReader{opts: []kgo.Opt{kgo.SeedBrokers(f.addresses...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Name: from})}}
	r.cl, err = kgo.NewClient(r.opts...)
	return r, end - start, err
}

type franzReader struct {
	opts    []kgo.Opt
	cl      *kgo.Client
	closing sync.WaitGroup
}

func (r *franzReader) Read(ctx context.Context) (records, bytes int64, err error) {
	fetches := r.cl.PollFetches(ctx)
	fetches.EachRecord(func(rec *kgo.Record) {
		records++
		bytes += int64(len(rec.Value))
	})
	return records, bytes, fetches.Err()
}

// Rewind goes on with another client. On the connections of this one requests wait at
// the end of the topic, which Kafka answers before any other; to close it takes up to a
// second for the same reason, and nobody waits for that.
func (r *franzReader) Rewind(context.Context) (again bool, err error) {
	r.closing.Go(r.cl.Close)
	r.cl, err = kgo.NewClient(r.opts...)
	return true, err
}

func (r *franzReader) Close() error {
	if r.cl != nil {
		r.cl.Close()
	}
	r.closing.Wait()
	return nil
}
