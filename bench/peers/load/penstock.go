package load

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/penstock/penstock/client"
)

// penstock is Penstock's own client, with its defaults.
type penstock struct {
	c     *client.Client
	hooks *penstockHook
}

// penstockHook counts batches; there is one producer a process.
type penstockHook struct{ tally *Tally }

// OnBatch implements client.HookBatch.
func (h *penstockHook) OnBatch(b client.BatchInfo) { h.tally.Done(b.Records, b.Err) }

func dialPenstock(addresses []string) (System, error) {
	h := &penstockHook{}
	c, err := client.New(addresses, client.WithClientID("peers"), client.WithHooks(h))
	if err != nil {
		return nil, err
	}
	return &penstock{c: c, hooks: h}, nil
}

func (p *penstock) Close() error { return p.c.Close() }

func (p *penstock) Create(ctx context.Context, t *Topic) error {
	durability := "replicated"
	if t.Synced {
		durability = "synced"
	}
	_, err := p.c.Admin().CreateTopic(ctx, client.TopicSpec{
		Name: t.Name, Partitions: int32(t.Partitions), ReplicationFactor: int32(t.Replicas),
		Configs: map[string]string{
			"durability": durability, "retention.bytes": strconv.FormatInt(t.Retention, 10), "segment.bytes": strconv.FormatInt(t.segment(), 10),
		},
	})
	return err
}

func (p *penstock) Drop(ctx context.Context, t *Topic) error {
	return p.c.Admin().DeleteTopic(ctx, t.Name)
}

func (p *penstock) Count(ctx context.Context, t *Topic) (n int64, err error) {
	return p.offsets(ctx, t, client.Latest())
}

func (p *penstock) offsets(ctx context.Context, t *Topic, where client.Offset) (n int64, err error) {
	found, err := p.c.Admin().ListOffsets(ctx, where, t.penstock()...)
	for _, f := range found {
		err = errors.Join(err, f.Err)
		n += f.Offset
	}
	return n, err
}

func (t *Topic) penstock() (parts []client.TopicPartition) {
	for i := range t.Partitions {
		parts = append(parts, client.TopicPartition{Topic: t.Name, Partition: int32(i)})
	}
	return parts
}

func (p *penstock) Producer(_ context.Context, t *Topic, tally *Tally, quick bool) (Producer, error) {
	p.hooks.tally = tally
	opts := []client.ProducerOpt{client.WithAcks(client.AcksAll)}
	if quick {
		opts = append(opts, client.WithLinger(0))
	}
	made, err := p.c.NewProducer(opts...)
	if err != nil {
		return nil, err
	}
	return &penstockProducer{p: made, rec: client.Record{Topic: t.Name}}, nil
}

type penstockProducer struct {
	p   *client.Producer
	rec client.Record // Produce without a promise leaves it free for use again
}

func (p *penstockProducer) Send(ctx context.Context, values [][]byte) error {
	p.rec.Timestamp = time.Now()
	for _, v := range values {
		p.rec.Value = v
		p.p.Produce(ctx, &p.rec, nil)
	}
	return nil
}

func (p *penstockProducer) SendTimed(ctx context.Context, value []byte, done func(error)) error {
	p.p.Produce(ctx, &client.Record{Topic: p.rec.Topic, Value: value}, func(_ *client.Record, err error) { done(err) })
	return nil
}

func (p *penstockProducer) Flush(ctx context.Context) error { return p.p.Flush(ctx) }

func (p *penstockProducer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	return p.p.Close(ctx)
}

func (p *penstock) Reader(ctx context.Context, t *Topic) (Reader, int64, error) {
	start, err := p.offsets(ctx, t, client.Earliest())
	if err != nil {
		return nil, 0, err
	}
	end, err := p.Count(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	k, err := p.c.NewConsumer(client.WithPartitions(t.penstock()...), client.WithStart(client.Earliest()))
	if err != nil {
		return nil, 0, err
	}
	return &penstockReader{k: k, parts: t.penstock()}, end - start, nil
}

type penstockReader struct {
	k     *client.Consumer
	parts []client.TopicPartition
}

func (r *penstockReader) Read(ctx context.Context) (records, bytes int64, err error) {
	p, err := r.k.Poll(ctx)
	if err != nil {
		return 0, 0, err
	}
	for rec := range p.All() {
		records++
		bytes += int64(len(rec.Value))
	}
	return records, bytes, p.Err()
}

func (r *penstockReader) Rewind(context.Context) (bool, error) {
	for _, tp := range r.parts {
		if err := r.k.Seek(tp, client.Earliest()); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *penstockReader) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	return r.k.Close(ctx)
}
