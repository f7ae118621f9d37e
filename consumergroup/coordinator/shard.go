package coordinator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// How long a shard waits before it loads again, doubling with each failure.
const (
	reloadSoonest = 100 * time.Millisecond
	reloadLatest  = 5 * time.Second
)

// request is one thing for a shard's actor to do. Exactly one of the two runs,
// on the actor's goroutine; or neither, when the shard ends: callers watch
// shard.done as well.
type request struct {
	run  func()
	fail func(err *api.Error)
}

// shard serves one partition of __consumer_offsets in one leader epoch. The
// fields of the second block belong to the actor.
type shard struct {
	cfg       *Config
	progress  *progress
	partition int32
	epoch     record.Epoch
	log       Log
	logger    *slog.Logger
	requests  chan request
	topics    chan struct{} // 1: topics changed
	stop      context.CancelFunc
	done      chan struct{} // closed when run returns

	workers  sync.WaitGroup // load and append
	loadedc  chan loadResult
	appended chan error
	ctx      context.Context //nolint:containedctx // of run; ends what it started

	groups    map[string]*group // nil: loading
	sessions  map[uint64]*session
	polled    map[uint64]*polled     // by stream
	calls     map[uint64]classicCall // requests of the classic protocol that wait
	lastCall  uint64
	deadlines deadlines
	topicUse  map[string]*topicUse // by name: which groups have offsets of it
	sweeping  []string             // groups whose offsets are still to be looked at
	matches   map[string]*matched  // by pattern; of the topics of now
	assigning []*group             // EventAssign is due
	inflight  *batch               // being appended; nil: none
	pending   []*batch             // to be appended, in order; the last may be empty of records
	backoff   time.Duration
}

type loadResult struct {
	loaded *loaded
	began  time.Time
	err    error
}

func newShard(cfg *Config, progress *progress, partition int32, epoch record.Epoch, log Log) *shard {
	return &shard{
		cfg: cfg, progress: progress, partition: partition, epoch: epoch, log: log,
		logger:   cfg.Logger.With("offsets_partition", partition, "leader_epoch", epoch),
		requests: make(chan request, cfg.QueueLength),
		topics:   make(chan struct{}, 1),
		done:     make(chan struct{}),
		loadedc:  make(chan loadResult, 1),
		appended: make(chan error, 1),
		sessions: map[uint64]*session{},
		polled:   map[uint64]*polled{},
		matches:  map[string]*matched{},
		topicUse: map[string]*topicUse{},
		calls:    map[uint64]classicCall{},
	}
}

// run is the actor. previous is the shard of an older epoch, or nil.
func (s *shard) run(ctx context.Context, previous *shard) {
	defer close(s.done)
	if previous != nil {
		<-previous.done
	}
	s.ctx = ctx
	s.startLoad(0)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	sweep := time.NewTimer(s.cfg.OffsetsRetentionCheck)
	defer sweep.Stop()
	for ctx.Err() == nil {
		s.arm(timer)
		select {
		case <-ctx.Done():
		case r := <-s.requests:
			s.serve(r)
			s.drain()
		case <-s.topics:
			s.topicsChanged()
		case r := <-s.loadedc:
			s.finishLoad(r)
		case err := <-s.appended:
			s.finishAppend(err)
		case <-timer.C:
			s.fire(time.Now())
		case <-sweep.C:
			sweep.Reset(s.sweep(time.Now()))
		}
		if s.inflight == nil {
			// Joins that arrive while an append is under way share one assignment.
			s.assign()
		}
		s.startAppend()
	}
	s.workers.Wait()
	s.abandon(api.Errorf(api.CodeNotCoordinator, "this broker no longer coordinates the group"))
}

// drain serves what waits already, so that it shares a batch and an assignment.
func (s *shard) drain() {
	for range cap(s.requests) {
		select {
		case r := <-s.requests:
			s.serve(r)
		default:
			return
		}
	}
}

func (s *shard) serve(r request) {
	if s.groups == nil {
		r.fail(errLoading())
		return
	}
	r.run()
}

// arm sets the timer to the next deadline of a group.
func (s *shard) arm(timer *time.Timer) {
	wait := time.Hour
	if next, ok := s.deadlines.next(); ok {
		wait = max(time.Until(next), 0)
	}
	timer.Reset(wait)
}

// startLoad replays the log on a goroutine of its own, so that requests are
// answered meanwhile.
func (s *shard) startLoad(after time.Duration) {
	s.workers.Go(func() {
		wait := time.NewTimer(after)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-s.ctx.Done():
			return
		}
		began := time.Now()
		l, err := load(s.ctx, s.log)
		s.loadedc <- loadResult{l, began, err}
	})
}

func (s *shard) finishLoad(r loadResult) {
	if r.err != nil {
		s.backoff = min(max(2*s.backoff, reloadSoonest), reloadLatest)
		s.logger.Warn("loading groups failed, trying again", "error", r.err, "after", s.backoff)
		s.startLoad(s.backoff)
		return
	}
	s.groups = make(map[string]*group, len(r.loaded.groups))
	now := time.Now()
	for id, lg := range r.loaded.groups {
		s.restore(now, id, lg)
	}
	s.dropOffsetsOfOtherTopics(now)
	s.logger.Info("groups loaded", "groups", len(s.groups), "records", r.loaded.records, "skipped", r.loaded.skipped, "took", time.Since(r.began))
}

// persist adds a record about a group or a member to the batch being gathered.
func (s *shard) persist(key, value []byte) { s.persistAt(time.Now(), key, value, true) }

// persistAt adds any record: ofGroup is false for offsets.
func (s *shard) persistAt(now time.Time, key, value []byte, ofGroup bool) {
	b := s.gather()
	if b.full() {
		b = newBatch()
		s.pending = append(s.pending, b)
	}
	b.groups = b.groups || ofGroup
	b.add(now, key, value)
}

// gather returns the batch that the next record or output joins.
func (s *shard) gather() *batch {
	if len(s.pending) == 0 {
		s.pending = append(s.pending, newBatch())
	}
	return s.pending[len(s.pending)-1]
}

// emit runs out once everything that was persisted before is committed.
func (s *shard) emit(out output) {
	if s.inflight == nil && len(s.pending) == 0 {
		out(nil)
		return
	}
	b := s.gather()
	b.outputs = append(b.outputs, out)
}

// startAppend sends the next batch, unless one is under way. Batches without
// records are outputs that waited for the one before.
func (s *shard) startAppend() {
	for s.inflight == nil && len(s.pending) > 0 {
		b := s.pending[0]
		s.pending = s.pending[1:]
		if b.empty() {
			b.finish(nil)
			continue
		}
		bytes, err := b.build()
		if err != nil {
			s.pending = append([]*batch{b}, s.pending...)
			s.reload(err)
			return
		}
		s.inflight = b
		s.workers.Go(func() {
			_, err := s.log.Append(s.ctx, record.NewBuf(bytes))
			s.appended <- err
		})
	}
}

func (s *shard) finishAppend(err error) {
	b := s.inflight
	s.inflight = nil
	switch {
	case err == nil:
		s.backoff = 0
		b.finish(nil)
	case definite(err) && !b.groups:
		b.finish(err)
	default:
		s.pending = append([]*batch{b}, s.pending...)
		s.reload(err)
	}
}

// reload forgets everything and loads again: the log may or may not hold what
// was sent to it.
func (s *shard) reload(cause error) {
	if s.groups == nil {
		return
	}
	s.backoff = min(max(2*s.backoff, reloadSoonest), reloadLatest)
	s.logger.Warn("append to the groups' log failed, loading again", "error", cause, "after", s.backoff)
	s.fail(cause, errLoading())
	s.startLoad(s.backoff)
}

// abandon ends the shard.
func (s *shard) abandon(err *api.Error) {
	if s.inflight != nil {
		s.pending = append([]*batch{s.inflight}, s.pending...)
		s.inflight = nil
	}
	s.fail(errUnloaded, err)
	for {
		select {
		case r := <-s.requests:
			r.fail(err)
		default:
			return
		}
	}
}

// fail hands cause to all outputs that wait, ends the sessions, and drops the state.
//
// Outputs find s.groups nil and s.sessions as they were.
func (s *shard) fail(cause error, sessions *api.Error) {
	pending := s.pending
	s.pending, s.groups, s.assigning, s.deadlines = nil, nil, nil, deadlines{}
	for _, b := range pending {
		b.finish(cause)
	}
	for _, ses := range s.sessions {
		ses.finish(sessions)
	}
	for _, answer := range s.calls {
		answer(nil, sessions)
	}
	clear(s.sessions)
	clear(s.polled)
	clear(s.topicUse)
	s.sweeping = nil
	clear(s.calls)
}
