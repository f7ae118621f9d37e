// Package punctual waits until a time and not much longer.
//
// Go's timers are up to two milliseconds late in a program that is otherwise idle: it waits
// for them in epoll_wait, which counts in milliseconds. A benchmark that sends late counts its own
// lateness as latency of what it measures, and a reference that is measured late makes what is
// compared with it look good. So both of them wait here: by a timer for the most of it, and by
// nanosleep(2), which keeps a thread of the operating system busy waiting, for the rest.
package punctual

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// coarse is how late a timer may be.
const coarse = 2 * time.Millisecond

// slack is how late the kernel may wake a thread so that it can wake another with it, in
// nanoseconds. Unasked it is 50 microseconds, a tenth of a local sync.
const slack = 1

// Wait returns at due, later by the microseconds that the kernel needs to wake a thread, or,
// within two milliseconds, when ctx ends.
func Wait(ctx context.Context, due time.Time) {
	if d := time.Until(due); d > coarse {
		t := time.NewTimer(d - coarse)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
	for ctx.Err() == nil {
		d := time.Until(due)
		if d <= 0 {
			return
		}
		// Of the thread that sleeps, which may be another one each time.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0)
		left := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&left, nil) // interrupted by a signal, it begins again
	}
}
