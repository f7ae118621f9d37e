package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/bench"
)

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-only", "kill", "-short"})
	require.NoError(t, err)
	require.Equal(t, "kill", o.only)
	_, err = parse([]string{"-only", "comits"})
	require.ErrorContains(t, err, `"comits"`)
	require.ErrorContains(t, err, "join, kill, commits, load, groups, offsets")
	_, err = parse([]string{"kill"})
	require.ErrorContains(t, err, `"kill"`)
}

// TestTmpfsIsRefused: a commit that is synced there says nothing.
func TestTmpfsIsRefused(t *testing.T) {
	const memory = "/dev/shm"
	if bench.FileSystem(memory) != "tmpfs" {
		t.Skip(memory + " is no tmpfs here")
	}
	require.ErrorIs(t, run(t.Context(), io.Discard, options{dir: memory, only: "kill"}), bench.ErrOptions)
}

// TestAFailureBesideEndsTheMeasurement: with a writer or a member gone, what is measured
// is something else.
func TestAFailureBesideEndsTheMeasurement(t *testing.T) {
	gone := errors.New("gone")
	err := together(t.Context(), func(ctx context.Context, beside func(func(context.Context) error)) error {
		beside(func(context.Context) error { return gone })
		beside(func(ctx context.Context) error { <-ctx.Done(); return nil })
		<-ctx.Done()
		return ctx.Err()
	})
	require.Equal(t, gone, err)

	// One that fails while it ends counts too.
	err = together(t.Context(), func(_ context.Context, beside func(func(context.Context) error)) error {
		beside(func(ctx context.Context) error { <-ctx.Done(); return gone })
		return nil
	})
	require.ErrorIs(t, err, gone)
}

func TestPausesOfPartitionsThatStay(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	s := newSightings()
	s.see(1, 0, at(0))
	s.see(1, 1, at(0))
	s.reset(at(100))
	_, ok := s.firstOf(1)
	require.False(t, ok)
	s.see(1, 0, at(150)) // 50 of 150 ms are after the reset
	s.see(1, 1, at(160))
	require.Equal(t, 60*time.Millisecond, s.pause)
	s.see(2, 1, at(400)) // it moved: no pause of one that stayed
	require.Equal(t, 60*time.Millisecond, s.pause)
	s.see(1, 0, at(400))
	require.Equal(t, 250*time.Millisecond, s.longestPause(at(400)))
	require.Equal(t, 3*time.Second, s.longestPause(at(3400)), "one that nobody reads any more is pausing")
	first, ok := s.firstOf(2)
	require.True(t, ok)
	require.Equal(t, at(400), first)
	require.True(t, s.reads(2))
	s.see(1, 1, at(3500))
	require.False(t, s.reads(2))
}

// TestWhatTakesLongIsNotLeftOut waits beyond the window, and gives up with an error.
func TestWhatTakesLongIsNotLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, waitUntil(t.Context(), func() bool { return time.Since(began) > 10*window }))
		require.ErrorIs(t, waitUntil(t.Context(), func() bool { return false }), errStuck)
	})
}
