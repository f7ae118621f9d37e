package coordinator

import (
	"context"
	"log/slog"
	"slices"
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

// request is one thing for a shard's actor to do: a commit, or something for
// which exactly one of the two functions runs, on the actor's goroutine. When the
// shard ends it may be lost: callers watch shard.done as well.
type request struct {
	commit *commit
	run    func()
	fail   func(err *api.Error)
}

func (r *request) refuse(err *api.Error) {
	if r.commit != nil {
		r.commit.answer(nil, err)
		return
	}
	r.fail(err)
}

// shard serves one partition of __consumer_offsets in one leader epoch. The
// fields of the second block belong to the actor.
type shard struct {
	cfg       *Config
	progress  *progress
	room      *room
	patterns  *patterns
	partition int32
	epoch     record.Epoch
	log       Log
	logger    *slog.Logger
	requests  chan request
	topics    chan struct{} // 1: topics changed
	stop      context.CancelFunc
	done      chan struct{} // closed when run returns

	workers  sync.WaitGroup // load and appends
	loadedc  chan loadResult
	appended chan appendResult
	ctx      context.Context //nolint:containedctx // of run; ends what it started

	groups    map[string]*group // nil: loading
	sessions  map[uint64]*session
	polled    map[uint64]*polled     // by stream
	calls     map[uint64]pendingCall // requests of the classic protocol that wait
	lastCall  uint64
	deadlines deadlines
	topicUse  map[string]*topicUse // by name: which groups have offsets of it
	sweeping  []string             // groups whose offsets are still to be looked at
	assigning []*group             // EventAssign is due
	batches   batches
	scratch   []byte // of the record being encoded
	backoff   time.Duration
	health
	missing incomplete
}

// appendResult says how the append of a batch ended.
type appendResult struct {
	batch *batch
	err   error
}

// loadResult says how a load ended.
type loadResult struct {
	loaded *loaded
	began  time.Time
	err    error
}

func newShard(c *Coordinator, partition int32, epoch record.Epoch, log Log) *shard {
	cfg := &c.cfg
	return &shard{
		cfg: cfg, progress: c.progress, patterns: c.patterns, room: &c.room, partition: partition, epoch: epoch, log: log,
		logger:   cfg.Logger.With("offsets_partition", partition, "leader_epoch", epoch),
		requests: make(chan request, cfg.QueueLength),
		topics:   make(chan struct{}, 1),
		done:     make(chan struct{}),
		loadedc:  make(chan loadResult, 1),
		appended: make(chan appendResult, maxAppends),
		sessions: map[uint64]*session{},
		polled:   map[uint64]*polled{},
		topicUse: map[string]*topicUse{},
		calls:    map[uint64]pendingCall{},
		health:   health{began: time.Now()},
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
		case r := <-s.appended:
			s.finishAppend(r)
		case <-timer.C:
			// Who was heard meanwhile is not late: a coordinator that was held up finds
			// heartbeats waiting, and its timer.
			s.drain()
			now := time.Now()
			s.watchLoad(now)
			s.fire(now)
		case <-sweep.C:
			sweep.Reset(s.sweep(time.Now()))
		}
		if s.batches.flying == 0 || !s.batches.groups() {
			// Joins that arrive while those before them are being written share one assignment.
			s.assign()
		}
		s.startAppends()
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
	switch {
	case s.groups == nil:
		r.refuse(s.unavailable())
	case r.commit != nil:
		s.commit(r.commit)
	default:
		r.run()
	}
}

// arm sets the timer to the next deadline of a group.
func (s *shard) arm(timer *time.Timer) {
	wait := time.Hour
	if next, ok := s.deadlines.next(); ok {
		wait = max(time.Until(next), 0)
	} else if s.watches() {
		wait = max(time.Until(s.began.Add(slowLoad)), 0)
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
		if err == nil {
			s.patterns.prepareLoaded(l)
		}
		s.loadedc <- loadResult{l, began, err}
	})
}

func (s *shard) finishLoad(r loadResult) {
	if s.ctx.Err() != nil {
		return
	}
	if r.err != nil {
		s.backoff = min(max(2*s.backoff, reloadSoonest), reloadLatest)
		s.loadFailed(r.err)
		s.startLoad(s.backoff)
		return
	}
	s.becameActive()
	s.groups = make(map[string]*group, len(r.loaded.groups))
	now := time.Now()
	s.noteLosses(now, &r.loaded.lost)
	names := s.topicNames(r.loaded)
	for id, lg := range r.loaded.groups {
		s.restore(now, id, lg, names)
	}
	s.dropOffsetsOfOtherTopics(now)
	level := slog.LevelInfo
	if r.loaded.records == 0 { // fifty partitions of a young cluster at each start would say nothing
		level = slog.LevelDebug
	}
	s.logger.Log(context.Background(), level, "groups loaded", "groups", len(s.groups), "records", r.loaded.records, "skipped", r.loaded.skipped, "took", time.Since(r.began))
}

// persist adds a record of what g has decided to the batch being gathered, and returns
// that. It keeps key and value.
func (s *shard) persist(g *group, key, value []byte) *batch {
	b := s.persistAt(time.Now(), key, value, true)
	b.decided = append(b.decided, change{g, key, value})
	return b
}

// persistAt adds any record: ofGroup is false for offsets. It returns the batch.
func (s *shard) persistAt(now time.Time, key, value []byte, ofGroup bool) *batch {
	b := s.batches.gather()
	b.groups = b.groups || ofGroup
	b.add(now, key, value)
	return b
}

// emit runs out once everything that was persisted before is committed, or was refused
// and is undone; with the error where that is not known, and all is loaded again.
func (s *shard) emit(out func(err error)) { s.after(output{run: out}) }

// emitOf is emit for what tells of a decision of a group: out gets the error also when
// that decision is undone.
func (s *shard) emitOf(group string, out func(err error)) { s.after(output{run: out, group: group}) }

func (s *shard) after(out output) {
	b := s.batches.last()
	if b == nil {
		out.finish(s, nil)
		return
	}
	b.outputs = append(b.outputs, out)
}

// startAppends sends the batches whose turn it is.
func (s *shard) startAppends() {
	for len(s.batches.pending) > 0 && s.batches.mayAppend() {
		b := s.batches.take()
		if b.empty() {
			s.land()
			continue
		}
		bytes, err := b.build()
		if err != nil {
			s.reload(err)
			return
		}
		appending := s.log.Append(record.NewBuf(bytes))
		s.workers.Go(func() {
			r := appendResult{b, appending.Wait(s.ctx)}
			select {
			case s.appended <- r:
			case <-s.ctx.Done():
			}
		})
	}
}

func (s *shard) finishAppend(r appendResult) {
	if !slices.Contains(s.batches.inFlight, r.batch) {
		return // of before a reload
	}
	r.batch.settled, r.batch.outcome = true, r.err
	s.land()
}

// land finishes what has settled, oldest first: outputs keep their order.
func (s *shard) land() {
	for len(s.batches.inFlight) > 0 && s.batches.inFlight[0].settled {
		b := s.batches.inFlight[0]
		if err := b.outcome; err != nil && !definite(err) {
			s.reload(err)
			return
		}
		s.batches.landed()
		if !b.empty() {
			s.appendEnded(b.outcome)
		}
		if b.outcome != nil {
			s.refused(b, b.outcome)
		} else {
			b.keep()
			b.finish(s, nil)
		}
		s.batches.recycle(b)
	}
}

// reload forgets everything and loads again: the log may or may not hold what
// was sent to it.
func (s *shard) reload(cause error) {
	if s.groups == nil {
		return
	}
	s.backoff = min(max(2*s.backoff, reloadSoonest), reloadLatest)
	s.loadsAgain(cause)
	s.fail(cause, errLoading())
	s.startLoad(s.backoff)
}

// abandon ends the shard.
func (s *shard) abandon(err *api.Error) {
	s.fail(errUnloaded, err)
	for {
		select {
		case r := <-s.requests:
			r.refuse(err)
		default:
			return
		}
	}
}

// fail hands cause to all outputs that wait, ends the sessions, and drops the state.
//
// Outputs find s.groups nil and s.sessions as they were.
func (s *shard) fail(cause error, sessions *api.Error) {
	waiting := s.batches.giveUp()
	s.groups, s.assigning, s.deadlines = nil, nil, deadlines{}
	for _, b := range waiting {
		b.finish(s, cause)
	}
	for _, ses := range s.sessions {
		ses.finish(sessions)
	}
	for _, c := range s.calls {
		c.answer(nil, sessions)
	}
	clear(s.sessions)
	clear(s.polled)
	clear(s.topicUse)
	s.sweeping = nil
	clear(s.calls)
}
