package client

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// coordinator returns the address of a group's coordinator, from memory or from
// any broker.
func (c *Client) coordinator(ctx context.Context, group string) (string, error) {
	c.mu.Lock()
	known := c.coordinators[group]
	c.mu.Unlock()
	if known != "" {
		return known, nil
	}
	address, err := ask(ctx, c, func(ctx context.Context, conn *grpc.ClientConn, _ string) (string, error) {
		resp, err := pb.NewGroupServiceClient(conn).FindCoordinator(ctx, &pb.FindCoordinatorRequest{Group: group})
		return resp.GetAddress(), err
	})
	if err != nil {
		return "", err
	}
	if address == "" {
		return "", &Error{Code: CodeCoordinatorNotAvailable, Message: "the coordinator's address is not known", Partition: -1, Retriable: true}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.coordinators[group] = address
	return address, nil
}

// forgetCoordinator drops the address when it is still the one that failed.
func (c *Client) forgetCoordinator(group, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.coordinators[group] == address {
		delete(c.coordinators, group)
	}
}

// coordinatorMoved reports whether err is cured by finding the coordinator again
// and trying later.
func coordinatorMoved(err error) bool {
	if _, ok := errors.AsType[*BootstrapError](err); ok {
		return true
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case CodeNotCoordinator, CodeCoordinatorLoading, CodeCoordinatorNotAvailable, CodeShuttingDown, CodeOverloaded,
		CodeLeaderNotAvailable, CodeDiskFull: // a node that starts; an internal topic without room
		return true
	case CodeUnknown, CodeRequestTimedOut:
		return e.Retriable
	default:
		return false
	}
}

// atCoordinator runs a call about a group on its coordinator, following it, until
// it succeeds or fails for good. The call must bear repetition.
func (c *Client) atCoordinator(ctx context.Context, group string, do func(context.Context, pb.GroupServiceClient) error) error {
	ctx, cancel := c.patient(ctx)
	defer cancel()
	return c.retry(ctx, coordinatorMoved, func(ctx context.Context) error {
		address, err := c.coordinator(ctx, group)
		if err != nil {
			return err
		}
		err = c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) error {
			return do(ctx, pb.NewGroupServiceClient(conn))
		})
		if err != nil && coordinatorMoved(err) {
			c.forgetCoordinator(group, address)
		}
		return err
	})
}
