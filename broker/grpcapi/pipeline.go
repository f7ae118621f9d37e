package grpcapi

import (
	"context"
	"errors"
	"io"
)

// pipelined serves a stream whose requests are answered in order, many under way: the caller's
// goroutine receives and has take begin each request, another one, which has ended when
// pipelined returns, answers what was begun. No more than window requests wait for their
// answer beside the one that answer is at; beyond that the stream is not read.
//
// It ends when the client closes its side, or sends something malformed (an error of take).
// What was queued by then is still answered.
func pipelined[In, Turn any](
	ctx context.Context, addresses Addresses, window int,
	receive func() (In, error), take func(context.Context, In) (Turn, error), answer func(context.Context, <-chan Turn) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue := make(chan Turn, window)
	answered := make(chan error, 1)
	go func() {
		err := answer(ctx, queue)
		cancel() // unblocks a receiver that waits for a place in the queue
		answered <- err
	}()
	received := receiveAll(ctx, queue, receive, take)
	close(queue)
	if err := <-answered; received == nil {
		return err
	}
	return statusError(ctx, received, addresses)
}

func receiveAll[In, Turn any](ctx context.Context, queue chan<- Turn, receive func() (In, error), take func(context.Context, In) (Turn, error)) error {
	for {
		in, err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		turn, err := take(ctx, in)
		if err != nil {
			return err
		}
		select {
		case queue <- turn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
