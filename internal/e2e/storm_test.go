package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script is a storm over one partition as it might have gone: record n was
// acknowledged at n ticks, for 60 seconds.
type script struct {
	storm
	load  load
	began time.Time
}

func newScript(consumers int) *script {
	s := &script{began: time.Unix(1000, 0), load: load{acked: map[place]string{}, times: map[string][]time.Time{}}}
	for i := range int64(60 * time.Second / loadTick) {
		s.load.acked[place{0, i}] = fmt.Sprintf("key %d", i)
		s.load.times["key"] = append(s.load.times["key"], s.at(time.Duration(i)*loadTick))
	}
	for i := range consumers {
		s.processes = append(s.processes, &consumerProcess{number: i})
	}
	return s
}

func (s *script) at(d time.Duration) time.Time { return s.began.Add(d) }

// reads has a consumer print the records of [from, to), from start on, as they come.
func (s *script) reads(consumer int, start, from, to time.Duration) {
	for n := int64(from / loadTick); n < int64(to/loadTick); n++ {
		s.readings = append(s.readings, reading{s.processes[consumer], 0, n, s.at(max(start, time.Duration(n)*loadTick))})
	}
}

// killed and slept tell what befell a consumer.
func (s *script) killed(consumer int, at time.Duration) { s.processes[consumer].died = s.at(at) }

func (s *script) slept(consumer int, at, until time.Duration) {
	s.processes[consumer].slept, s.processes[consumer].woken = s.at(at), s.at(until)
}

// Who was killed or slept is forgiven what it had no time to commit, and no more: a
// consumer that never commits, or seldom, does not pass for one that was unlucky.
func TestStormVerdict(t *testing.T) {
	const second = time.Second
	const allowed = ""
	for name, tc := range map[string]struct {
		story func(s *script)
		want  string
	}{
		"killed, and the last poll is read again": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.killed(0, 30*second)
			s.reads(1, 40*second, 30*second-200*time.Millisecond, 60*second)
		}, allowed},
		"killed, and never committed": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.killed(0, 30*second)
			s.reads(1, 40*second, 0, 60*second)
		}, "offset 0 was printed by consumer 0, which had committed it since, and again by 1"},
		"killed, and had not committed for two seconds": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.killed(0, 30*second)
			s.reads(1, 40*second, 28*second, 60*second)
		}, "offset 5600 was printed by consumer 0"},
		"killed, and what its heir committed is read by a third": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.killed(0, 30*second)
			s.reads(1, 40*second, 30*second-100*time.Millisecond, 42*second)
			s.reads(2, 43*second, 30*second-100*time.Millisecond, 60*second)
		}, "offset 5980 was printed by consumer 1, which had committed it since, and again by 2"},
		"killed one after the other": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.killed(0, 30*second)
			s.reads(1, 40*second, 30*second-100*time.Millisecond, 31*second)
			s.killed(1, 40*second)
			s.reads(2, 50*second, 30*second-100*time.Millisecond, 60*second)
		}, allowed},
		"left, and had not committed": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.reads(1, 30*second, 30*second-loadTick, 60*second)
		}, "offset 5999 was printed by consumer 0"},
		"slept, and wakes": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.slept(0, 30*second, 45*second)
			s.reads(1, 40*second, 30*second-200*time.Millisecond, 45*second)
			s.reads(0, 45*second, 30*second, 31*second)
			s.reads(1, 45*second, 45*second, 60*second)
		}, allowed},
		"slept, and never committed": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.slept(0, 30*second, 45*second)
			s.reads(1, 40*second, 0, 60*second)
		}, "offset 0 was printed by consumer 0"},
		"slept, and never learns that it is no member": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.slept(0, 30*second, 45*second)
			s.reads(1, 40*second, 30*second, 50*second)
			s.reads(0, 50*second, 30*second, 31*second)
		}, "offset 6000 was printed by consumer 1, which had committed it since, and again by 0"},
		"slept, came back and never commits": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.slept(0, 30*second, 45*second)
			s.reads(0, 49*second, 30*second, 52*second)
			s.reads(1, 53*second, 30*second, 60*second)
		}, "offset 6000 was printed by consumer 0"},
		"slept before others read, and wakes first": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.slept(0, 30*second, 45*second)
			s.reads(0, 45*second, 30*second, 31*second)
			s.reads(1, 46*second, 30*second, 60*second)
		}, allowed},
		"skips": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.reads(0, 30*second, 30*second+loadTick, 60*second)
		}, "consumer 0 skipped in partition 0, from offset 5999 to 6001"},
		"pauses what it keeps": {func(s *script) {
			s.reads(0, 0, 0, 30*second)
			s.reads(0, 33*second, 30*second, 60*second)
		}, "stood still before offset 6000"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(3)
			tc.story(s)
			slices.SortStableFunc(s.readings, func(a, b reading) int { return a.at.Compare(b.at) })
			a, err := s.verify(&s.load)
			if tc.want != allowed {
				require.ErrorContains(t, err, tc.want)
				return
			}
			require.NoError(t, err)
			require.Positive(t, a.duplicates)
		})
	}
}
