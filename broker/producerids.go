package broker

import (
	"context"

	"github.com/penstock/penstock/broker/api"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// idBlock is how many producer ids the metadata log hands out at once: one
// command serves that many producers.
const idBlock = 1000

// producerIDs hands out producer ids from blocks. Ids of a block that a broker
// did not use before it stopped are lost, which is harmless.
type producerIDs struct {
	controller Controller
	nodeID     int32
	// turn holds a token while somebody takes an id; it guards what follows and,
	// unlike a mutex, can be waited for with a context.
	turn chan struct{}
	next int64
	end  int64
}

func newProducerIDs(cfg Config) *producerIDs {
	return &producerIDs{controller: cfg.Controller, nodeID: cfg.NodeID, turn: make(chan struct{}, 1)}
}

// InitProducer returns a producer id that nobody has, at epoch 0 (KIP-98).
func (b *Broker) InitProducer(ctx context.Context) (id int64, epoch int16, err error) {
	p := b.producerIDs
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	defer func() { <-p.turn }()
	if p.next == p.end {
		resp, err := p.controller.Propose(ctx, &pb.ProposeRequest{Kind: &pb.ProposeRequest_AllocateProducerIds{
			AllocateProducerIds: &metav1.AllocateProducerIds{NodeId: p.nodeID, BrokerEpoch: b.brokerEpoch, Count: idBlock},
		}})
		if err != nil {
			return 0, 0, proposalError(err)
		}
		if resp.GetFirstProducerId() < 0 {
			return 0, 0, api.Errorf(api.CodeUnknown, "the controller handed out the producer id %d", resp.GetFirstProducerId())
		}
		p.next, p.end = resp.GetFirstProducerId(), resp.GetFirstProducerId()+idBlock
	}
	id = p.next
	p.next++
	return id, 0, nil
}
