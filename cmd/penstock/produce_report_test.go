package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
)

var errFull = &client.Error{Code: client.CodeDiskFull, Message: "no room", Topic: "orders", Partition: 2}

func TestProduceSaysWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newProduceReport(io.Discard, time.Now())
		time.Sleep(time.Minute)
		require.Empty(t, r.complain(time.Now()), "nothing was sent yet: standard input is slow")
		r.took()
		require.Empty(t, r.complain(time.Now()))
		time.Sleep(quietFor)
		require.Equal(t, "nothing was acknowledged for 5s, 1 record waits: see penstock cluster health", r.complain(time.Now()))
		r.OnRetry(client.TopicPartition{}, 1, errFull)
		r.OnRetry(client.TopicPartition{}, 1, &client.Error{Code: client.CodeUnknownProducerID, Partition: -1}) // of the batch behind it
		require.Empty(t, r.complain(time.Now()), "it was just said")
		time.Sleep(sayAgain)
		require.Equal(t, "nothing was acknowledged for 35s, 1 record waits: orders-2: disk full: no room", r.complain(time.Now()))
		r.settle(nil, nil)
		time.Sleep(time.Minute)
		require.Empty(t, r.complain(time.Now()), "nothing waits")
		r.took()
		time.Sleep(quietFor)
		require.NotEmpty(t, r.complain(time.Now()), "another wait is told at once")
	})
}

func TestProduceSaysHowMuchIsInTheLog(t *testing.T) {
	after := func(acked, failed int) *produceReport {
		r := newProduceReport(io.Discard, time.Now())
		for range acked + failed + 1 {
			r.took()
		}
		for range acked {
			r.settle(nil, nil)
		}
		for range failed {
			r.settle(nil, errFull)
		}
		return r
	}
	line := errors.New("line 3 has no separator")
	require.NoError(t, after(2, 0).end(nil, nil))
	require.EqualError(t, after(1, 0).end(line, nil), "line 3 has no separator; 1 record acknowledged before that")
	require.ErrorIs(t, after(1, 0).end(line, nil), line)
	require.EqualError(t, after(2, 1).end(nil, nil), "2 records acknowledged, 1 failed, the first: orders-2: disk full: no room")
	require.EqualError(t, after(2, 0).end(context.Canceled, nil), "interrupted: 2 records acknowledged, 1 not")
	r := after(2, 0)
	r.OnConnection("127.0.0.1:7070", errors.New("connection refused"))
	r.OnConnection("127.0.0.1:7070", nil)
	r.OnConnection("127.0.0.1:7070", client.ErrClosed)
	require.EqualError(t, r.end(nil, context.Canceled), "interrupted: 2 records acknowledged, 1 not; the last try of one: connection refused")
}
