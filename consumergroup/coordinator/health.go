package coordinator

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/broker/api"
)

// State is what a partition of __consumer_offsets that is coordinated here can do
// for its groups.
type State int32

// The states.
const (
	// StateLoading: the groups are being read from the log.
	StateLoading State = iota
	// StateActive: all is well.
	StateActive
	// StateRefusing: the groups are served from memory, but the log took nothing of
	// what was last to be appended, so commits and new members are refused.
	StateRefusing
	// StateFailed: the groups cannot be read from the log; everything is refused.
	StateFailed
)

// States are all states, in order.
func States() [4]State { return [...]State{StateLoading, StateActive, StateRefusing, StateFailed} }

func (s State) String() string {
	names := [...]string{"loading", "active", "refusing", "failed"}
	if s >= 0 && int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Partitions counts the partitions that are coordinated here by state.
func (c *Coordinator) Partitions() map[State]int {
	n := map[State]int{}
	for _, s := range c.loaded() {
		n[State(s.state.Load())]++
	}
	return n
}

// slowLoad is how long a load may take before the operator is told: the watermark
// may be waiting for a replica that is away.
const slowLoad = 10 * time.Second

// health is what a shard knows of its log. It logs what changes, not every request
// that meets it. All but state belongs to the actor.
type health struct {
	state atomic.Int32 // a State
	// cause is why the last load failed; nil: it did not, or none has ended since the
	// groups were given up.
	cause error
	began time.Time // of loading; zero: it is over, or was said to be slow
	// reloaded is why the groups were last given up; empty: an append succeeded since.
	reloaded string
}

// unavailable is what a request hears while there are no groups: that they are
// being loaded, or why that fails. Both are worth another try.
func (s *shard) unavailable() *api.Error {
	switch {
	case s.cause == nil:
		return errLoading()
	case api.CodeOf(s.cause) == api.CodeNotLeader:
		return api.Errorf(api.CodeNotCoordinator, "this broker no longer coordinates the group")
	}
	return api.Errorf(api.CodeCoordinatorNotAvailable, "the groups of partition %d of __consumer_offsets cannot be loaded: %w", s.partition, s.cause)
}

// loadFailed notes why there are no groups. It is tried again until it succeeds, or
// another leader is found.
func (s *shard) loadFailed(err error) {
	known := s.cause != nil && s.cause.Error() == err.Error()
	s.cause = err
	switch {
	case api.CodeOf(err) == api.CodeNotLeader: // the metadata will say so
		s.logger.Info("loading groups ended: the partition has another leader", "error", err)
		return
	case !known:
		s.logger.Error("the groups of a partition cannot be loaded, and are refused until they can", "error", err)
	}
	s.state.Store(int32(StateFailed))
	s.began = time.Time{}
}

func (s *shard) becameActive() {
	s.cause, s.began = nil, time.Time{}
	s.state.Store(int32(StateActive))
}

// loadsAgain notes that the groups are given up. A log whose appends go on to fail so, and
// that can be read, is not complained of each time.
func (s *shard) loadsAgain(cause error) {
	level := slog.LevelWarn
	if s.reloaded == cause.Error() {
		level = slog.LevelDebug
	}
	s.logger.Log(context.Background(), level, "append to the groups' log failed, loading again", "error", cause, "after", s.backoff)
	s.reloaded, s.began = cause.Error(), time.Now()
	s.state.Store(int32(StateLoading))
}

// appendEnded notes how an append ended that did not end the groups.
func (s *shard) appendEnded(err error) {
	refusing := State(s.state.Load()) == StateRefusing
	switch {
	case err != nil && !refusing:
		s.logger.Error("the groups' log takes no records: commits, and what groups decide, are refused", "error", err)
		s.state.Store(int32(StateRefusing))
	case err == nil:
		s.backoff, s.reloaded = 0, ""
		if refusing {
			s.logger.Info("the groups' log takes records again")
			s.state.Store(int32(StateActive))
		}
	}
}

// watches reports whether a load is under way that nobody was told to be slow.
func (s *shard) watches() bool { return s.groups == nil && !s.began.IsZero() }

// watchLoad tells of a load that is slow, once.
func (s *shard) watchLoad(now time.Time) {
	if s.watches() && !now.Before(s.began.Add(slowLoad)) {
		s.logger.Warn("groups are still being loaded: the log is long, or its watermark waits for in-sync replicas", "since", now.Sub(s.began))
		s.began = time.Time{}
	}
}
