package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// initProducerID gives an idempotent producer its id. One that had an id already
// and lost the thread (KIP-360) gets a new one as well: what it may have in flight
// cannot come back under the new id.
func initProducerID(ctx context.Context, d *Door, c *call, req *kmsg.InitProducerIDRequest) (*kmsg.InitProducerIDResponse, error) {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		// What Kafka answers to who may not use transactions, and no client asks again.
		resp.ErrorCode = c.fail(kerr.TransactionalIDAuthorizationFailed)
		return resp, nil
	}
	if id, epoch, err := d.services.Producer.InitProducer(ctx); err == nil {
		resp.ProducerID, resp.ProducerEpoch = id, epoch
	} else {
		// Whatever keeps the controller from answering passes. Of the codes for that, this
		// is the one that clients of all ages wait for and ask again.
		resp.ErrorCode = c.fail(kerr.CoordinatorLoadInProgress)
	}
	return resp, nil
}
