package client

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// identity is a producer id. Generations count from 1; a partition whose
// sequences can no longer be continued moves to a later one, alone.
type identity struct {
	generation int
	id         int64
	epoch      int16
}

// identities hands the newest identity out and remembers whether a newer one is needed.
type identities struct {
	wake chan struct{} // capacity 1
	on   atomic.Bool   // Produce asks for each record of a batch that is half full

	mu      sync.Mutex // guards what follows
	current identity
	needed  int
}

func (i *identities) init(on bool) {
	i.wake = make(chan struct{}, 1)
	i.on.Store(on)
}

func (i *identities) enabled() bool { return i.on.Load() }

// need asks for a generation.
func (i *identities) need(generation int) {
	i.mu.Lock()
	i.needed = max(i.needed, generation)
	short := i.on.Load() && i.current.generation < i.needed
	i.mu.Unlock()
	if short {
		select {
		case i.wake <- struct{}{}:
		default:
		}
	}
}

// get returns the newest identity; ok is false while it is older than the given
// generation. on is false when there are none to be had.
func (i *identities) get(generation int) (id identity, ok, on bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current, i.current.generation >= generation, i.on.Load()
}

// behind reports whether a newer identity is needed.
func (i *identities) behind() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.on.Load() && i.current.generation < i.needed
}

func (i *identities) set(id int64, epoch int16) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.current = identity{generation: max(i.current.generation+1, i.needed), id: id, epoch: epoch}
}

func (i *identities) disable() { i.on.Store(false) }

// obtainIdentities asks brokers for producer ids when partitions need them.
func (p *Producer) obtainIdentities(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-p.ids.wake:
		case <-ctx.Done():
			return
		}
		for p.ids.behind() {
			resp, err := p.c.initProducer(ctx)
			switch {
			case err == nil:
				failures = 0
				p.ids.set(resp.GetProducerId(), int16(resp.GetProducerEpoch()))
			case CodeOf(err) == CodeUnsupported:
				p.c.cfg.logger.Warn("the brokers hand out no producer ids; retries may duplicate records")
				p.ids.disable()
			default:
				failures++
				p.c.cfg.logger.Warn("no producer id yet", "error", err)
				if sleep(ctx, p.c.backoff(failures)) != nil {
					return
				}
			}
		}
		for _, part := range p.partitions() {
			part.ready()
		}
	}
}

// initProducer asks any broker for an id. A slow broker may be asked besides; its
// id is lost, which costs nothing.
func (c *Client) initProducer(ctx context.Context) (*pb.InitProducerResponse, error) {
	return ask(ctx, c, func(ctx context.Context, conn *grpc.ClientConn, _ string) (*pb.InitProducerResponse, error) {
		return pb.NewProduceServiceClient(conn).InitProducer(ctx, &pb.InitProducerRequest{})
	})
}
