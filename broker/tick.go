package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/partition"
	commitlog "github.com/penstock/penstock/log"
)

const (
	tickInterval = 200 * time.Millisecond
	// stallTick is the interval while a flush hangs: others are about to lead.
	stallTick = 20 * time.Millisecond
	// drainTimeout bounds how long a stop waits for what was appended to be committed.
	drainTimeout = 2 * time.Second
)

// tick lets time pass for every replica, and watches the session, the disk and
// the flusher.
func (b *Broker) tick(ctx context.Context) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	var (
		heard    []partition.Heard
		stalling bool
	)
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := b.cfg.Now()
		b.watchSession(now)
		was := stalling
		if stalling = b.watchFlusher(was); stalling && !was {
			ticker.Reset(stallTick)
		} else if was && !stalling {
			ticker.Reset(tickInterval)
		}
		b.watchDisk()
		heard = b.server.Heard(heard[:0])
		for _, l := range b.table.all() {
			l.tick(heard, b.suspended.Load())
		}
	}
}

func (l *localReplica) tick(heard []partition.Heard, suspended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.suspend(suspended)
	if l.role() == partition.RoleLeader || l.state.RefusesLead() {
		l.step(partition.Tick(heard))
	}
}

// suspend tells the state machine whether this broker has a controller. The caller holds mu.
func (l *localReplica) suspend(on bool) {
	if l.suspended != on {
		l.suspended = on
		l.step(partition.Suspend(on))
		l.readers.wake()
	}
}

// lapsed reports whether another broker may act in this one's place by now. The session
// is asked, not only what the last tick found: a process that stood still gets to what has
// arrived meanwhile before its next tick.
func (b *Broker) lapsed() bool {
	return b.suspended.Load() || !b.cfg.Membership.SessionValid(b.cfg.Now())
}

// noteLapse keeps a leader that stood still from taking records, and from acknowledging
// what its disk has, before its next tick. The caller holds mu.
func (l *localReplica) noteLapse() {
	if l.role() == partition.RoleLeader && !l.suspended && l.b.lapsed() {
		l.suspend(true)
	}
}

// watchSession fences this broker itself when no controller was heard for a
// session: by then another may lead its partitions.
func (b *Broker) watchSession(now time.Time) {
	lost := !b.cfg.Membership.SessionValid(now)
	if b.suspended.Swap(lost) == lost {
		return
	}
	if lost {
		b.logger.Warn("no controller was heard for a session: not acting as leader or coordinator until one is")
	} else {
		b.logger.Info("a controller is heard again")
	}
	b.reconcileSoon()
}

// reconcileSoon wakes the reconciler. It never blocks.
func (b *Broker) reconcileSoon() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// watchFlusher tells the controller when a flush hangs, so that others lead.
func (b *Broker) watchFlusher(was bool) bool {
	stalled := b.cfg.Dir.OldestFlush() > b.cfg.FlushStall
	if stalled != was {
		b.cfg.Membership.SetFlushStalled(stalled)
		b.logger.Warn("flush stall", "stalled", stalled, "limit", b.cfg.FlushStall)
	}
	return stalled
}

// watchDisk shows when free space falls below the reserve and when it is back
// above. It is the logs that refuse produce, append by append.
func (b *Broker) watchDisk() {
	err := b.cfg.Dir.CheckReserve()
	if err != nil && !errors.Is(err, commitlog.ErrDiskFull) {
		b.logger.Warn("free disk space is not known", "error", err)
		return
	}
	switch full := err != nil; {
	case b.diskFull.Swap(full) == full:
	case full:
		b.logger.Error("refusing produce", "error", err)
	default:
		b.logger.Info("there is disk space again: taking produce")
	}
}

// kickRetention asks for log starts to be carried out now. It never blocks.
func (b *Broker) kickRetention() {
	select {
	case b.startsDue <- struct{}{}:
	default:
	}
}

// retain removes old segments of the partitions led here, and on followers what
// their leaders no longer keep, which pushes tell.
func (b *Broker) retain(ctx context.Context) {
	ticker := time.NewTicker(b.cfg.RetentionInterval)
	defer ticker.Stop()
	for {
		due := false
		select {
		case <-ticker.C:
			due = true
		case <-b.startsDue:
		case <-ctx.Done():
			return
		}
		b.advanceStarts()
		for _, l := range b.table.all() {
			if !due {
				continue
			}
			if err := l.log.Rest(); err != nil {
				l.logger.Warn("the index of an idle log stays in memory", "error", err)
			}
			l.dropDamaged()
			if l.role() != partition.RoleLeader {
				continue
			}
			removed, err := l.log.Retain(b.cfg.Now())
			switch {
			case errors.Is(err, commitlog.ErrClosed):
			case err != nil:
				l.logger.Warn("old segments could not be removed", "error", err)
			case removed > 0:
				l.logger.Info("removed old segments", "segments", removed, "log_start", l.log.Start())
				l.mu.Lock()
				l.logStarted()
				l.mu.Unlock()
			}
		}
	}
}

// advanceStarts carries out the log starts that leaders told, several at once.
func (b *Broker) advanceStarts() {
	var wg sync.WaitGroup
	slots := make(chan struct{}, trimmers)
	for _, l := range b.table.all() {
		if l.startDue.Load() == 0 {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l.advanceStart()
		})
	}
	wg.Wait()
}
