package broker

import (
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// localReplica is the shell around one replica: its state machine, its log and
// those who wait for it. It implements replica.LeaderPartition and
// replica.FollowerPartition.
type localReplica struct {
	b         *Broker
	key       replica.Key
	topic     string
	partition int32
	internal  bool
	log       *commitlog.Log
	logger    *slog.Logger

	// Copies of what the state machine says, for readers without the lock.
	roleNow  atomic.Int32
	epochNow atomic.Int32
	hwNow    atomic.Int64
	// limit is where a log that was damaged when it was opened ceases to be whole; -1:
	// it does not. What is behind is as if it were not there.
	limit atomic.Int64
	// startDue is a log start that the leader told and the log does not have yet;
	// 0: none.
	startDue atomic.Int64
	// passing: the log failed for want of a resource that comes back.
	passing atomic.Bool
	// damaged: the log was damaged or missing when it was opened, which the metadata was
	// told.
	damaged atomic.Bool
	// gone: the stream of the leader ended, and none has answered since.
	gone atomic.Pointer[goneLeader]
	// hurt: damage was found since the log was opened.
	hurt atomic.Bool
	// untold: the log was damaged when it was opened, which the metadata was not told, for
	// the replica is the last holder (holdsOut). It may read and serve behind the damage.
	untold bool
	// givesUp: an operator gives up what this damaged leader has behind its damage.
	givesUp atomic.Bool
	// lossy is the last leader epoch whose election may have lost records; 0: none.
	lossy atomic.Int32
	// keptTold: it was logged that a kept copy stays for good.
	keptTold atomic.Bool
	// compacted: the topic asks for a key in every record.
	compacted atomic.Bool
	// maxMessageBytes is the topic's max.message.bytes.
	maxMessageBytes atomic.Int64
	// How far from now the records' own timestamps may lie, in ms.
	timestampBefore, timestampAfter atomic.Int64

	mu sync.Mutex // guards what follows; doc.go has the lock order
	// state is stepped under mu; effects that may block are carried out after it.
	state *partition.Replica
	out   partition.Effects
	// logConfig is that of the topic, as last applied.
	logConfig commitlog.Config
	suspended bool
	// onDrained is called once when a drain is done or has lost its meaning.
	onDrained func()
	// waiters are the requests that the state machine waits for: the
	// handle of an entry is its place. free lists places not in use.
	waiters []waiter
	free    []uint32
	// sessions are those of matched followers.
	sessions []*replica.Session
	// sub is the follower's subscription; nil when it follows nobody.
	sub *replica.Subscription
	// paused: a push was refused for lack of disk space.
	paused bool
	// unhurried: the log has been told that nobody waits for its flushes.
	unhurried bool
	// inSync: the image last applied has the replica in the in-sync set.
	inSync bool
	// unsafe: the topic was not synced at some time, so that this replica may have
	// acknowledged what its log had not flushed.
	unsafe bool
	// adding are the replicas that a reassignment added: a leader sends them what
	// they lack at the rate of reassignments.
	adding []int32
	// closed: the replica is gone from here or the broker stops; nothing is stepped any more.
	closed bool

	readers readers

	// loaded is the epoch in which the coordinator has this partition of
	// __consumer_offsets, -1: not. The reconciler alone uses it.
	loaded record.Epoch
}

// waiter is one partition of a produce request, or a request to delete records.
type waiter struct {
	pending *api.Pending
	index   int
	trim    chan<- partition.Outcome
}

// answer ends the wait: err is how a produce request ended.
func (w *waiter) answer(o partition.Outcome, err func() *api.Error) {
	switch {
	case w.pending != nil:
		w.pending.Settle(w.index, err())
	case w.trim != nil:
		w.trim <- o
	}
}

// verdicts of a step that its caller has to act on after releasing mu.
type after struct {
	truncate, reset, rebuild bool
	offset                   record.Offset // of truncate and reset
	producers                []byte        // of reset, above offset 0
	roleChanged              bool
	again                    bool // open a new session
}

func (l *localReplica) name() api.TopicPartition {
	return api.TopicPartition{Topic: l.topic, Partition: l.partition}
}

func (l *localReplica) role() partition.Role     { return partition.Role(l.roleNow.Load()) }
func (l *localReplica) epoch() record.Epoch      { return record.Epoch(l.epochNow.Load()) }
func (l *localReplica) watermark() record.Offset { return record.Offset(l.hwNow.Load()) }

// open makes the shell of one replica, with its log, and no role yet.
func (b *Broker) open(req openRequest) (*localReplica, error) {
	l := &localReplica{
		b: b, key: req.key, topic: req.topic, partition: req.key.Partition, internal: req.internal,
		logger: b.logger.With("topic", req.topic, "partition", req.key.Partition), logConfig: logConfig(req.settings),
		loaded: record.UnknownEpoch,
	}
	l.limit.Store(int64(record.UnknownOffset))
	l.admit(req.settings)
	var ready atomic.Bool // Notify may come before Open has returned.
	spec := commitlog.Spec{
		Topic: l.topic, TopicID: l.key.Topic, Partition: l.partition, Config: l.logConfig, Internal: l.internal,
		Notify: func(pr commitlog.Progress) {
			if ready.Load() {
				l.progress(pr)
			}
		},
	}
	log, err := b.cfg.Dir.Open(spec)
	if errors.Is(err, commitlog.ErrTopicID) {
		b.logger.Warn("the folder of a partition belongs to another topic of that name and is set aside", "topic", l.topic, "partition", l.partition)
		if err = b.cfg.Dir.SetAside(commitlog.Found{Topic: l.topic, Partition: l.partition}); err == nil {
			log, err = b.cfg.Dir.Open(spec)
		}
	}
	if err != nil {
		return nil, err
	}
	l.log = log
	state := l.logState()
	if state.Damage == partition.DamageNone {
		state.Damage = partition.Damage(req.damage) // The numbers are the same.
	}
	damaged := state.Damage != partition.DamageNone
	l.damaged.Store(damaged)
	if epoch, end := log.Readable(); damaged && end < state.End {
		l.limit.Store(int64(end))
		state.End, state.LastEpoch = end, epoch
	}
	l.begins(state)
	l.epochNow.Store(int32(record.UnknownEpoch))
	ready.Store(true)
	l.progress(commitlog.Progress{Err: log.Err()}) // What was missed until now.
	return l, nil
}

// begins makes the state machine. The caller holds mu, or nobody else has the replica yet.
func (l *localReplica) begins(log partition.LogState) {
	cfg := &l.b.cfg
	l.state = partition.New(partition.Config{Node: cfg.NodeID, LagTimeMax: cfg.LagTimeMax, SessionTimeout: cfg.SessionTimeout, Log: log})
	l.hwNow.Store(int64(l.state.HighWatermark()))
}

func (l *localReplica) logState() partition.LogState {
	s := partition.LogState{
		Start: l.log.Start(), End: l.log.End(), Flushed: l.log.Flushed(), LastEpoch: l.log.LastEpoch(),
		HW: l.log.HighWatermark(), MustHave: l.log.Recovery().Flushed,
	}
	switch l.log.Damage() {
	case commitlog.DamageNone:
	case commitlog.DamageMissing:
		s.Damage = partition.DamageMissing
	case commitlog.DamageCorrupt:
		s.Damage = partition.DamageCorrupt
	case commitlog.DamageLostBytes:
		s.Damage = partition.DamageLostBytes
	}
	return s
}

// step feeds one event and carries out the effects that cannot block. The
// caller holds mu and acts on what is returned after it has released it.
func (l *localReplica) step(ev partition.Event) after {
	if l.closed {
		return after{}
	}
	l.out.Reset()
	l.state.Step(l.b.cfg.Now(), ev, &l.out)
	var a after
	for i := range l.out.List {
		l.carryOut(&l.out.List[i], &a)
	}
	return a
}

func (l *localReplica) carryOut(e *partition.Effect, a *after) {
	switch e.Kind {
	case partition.EffectRole:
		a.roleChanged = true
		l.takeRole(e)
	case partition.EffectComplete:
		l.complete(e.Handle, e.Outcome)
	case partition.EffectWatermark:
		l.hwNow.Store(int64(e.HW))
		l.log.SetHighWatermark(e.HW)
		l.readers.wake()
		l.wakeSessions()
	case partition.EffectPushable:
		l.wakeSessions()
	case partition.EffectEndSession:
		l.endSession(e.Node, e.Session)
	case partition.EffectProposeISR:
		l.b.proposer.add(l, e, &l.out)
	case partition.EffectFollowerDamaged:
		l.logger.Error("a follower lost acknowledged records and leaves the in-sync set", "follower", e.Node, "end", e.Offset)
	case partition.EffectFollowerLeaves:
		l.logger.Error("a follower's log ends inside of a batch of this one: it leaves the in-sync set and begins anew", "follower", e.Node, "at", e.Offset)
	case partition.EffectLostCommitted:
		l.logger.Error("the log lost committed records that an in-sync or eligible follower holds: the replica hands over its leadership",
			"follower", e.Node, "same_up_to", e.Offset, "committed", e.HW)
	case partition.EffectDrained:
		l.drained()
	case partition.EffectRefusedLead:
		l.logger.Error("refused to lead: the log holds less than was acknowledged", "end", e.Offset, "acknowledged", e.End, "damage", e.Damage)
	case partition.EffectOffline:
		if e.Damage == partition.DamageFailed {
			if passing(l.log.Err()) {
				l.passing.Store(true)
				l.b.reconcileSoon() // no image may ever say so
			}
			l.logger.Error("the log failed: the replica is out of service", "error", l.log.Err(), "until", l.outUntil())
		} else {
			l.logger.Error("the log is damaged: the replica is out of service until it is copied anew", "damage", l.log.Damage())
		}
		l.readers.wake()
		if l.sub != nil {
			// The leader must not wait for this replica until it counts as lagging.
			l.sub.Withdraw()
			l.sub = nil
		}
	case partition.EffectTruncate, partition.EffectReset:
		a.truncate, a.reset = e.Kind == partition.EffectTruncate, e.Kind == partition.EffectReset
		a.offset = e.Offset
	case partition.EffectRefusedTruncation:
		l.logger.Error("refused to truncate committed records of a clean election; the replica waits for the next leader", "to", e.Offset)
	case partition.EffectAck:
		if l.sub != nil {
			l.sub.Ack(replica.Ack{
				Epoch: e.Epoch, Session: e.Session, Appended: e.Offset, Flushed: e.Flushed, LogStart: e.LogStart, Written: e.Written,
			})
		}
	case partition.EffectLogStart:
		l.startDue.Store(int64(e.Offset))
		l.b.kickRetention()
	case partition.EffectRebuild:
		a.rebuild = true
	case partition.EffectAgain:
		a.again = true
	case partition.EffectHandshakeReply, partition.EffectHandshake, partition.EffectFollowing, partition.EffectAppend,
		partition.EffectDrop, partition.EffectHold:
		// The method that fed the event reads these from l.out.
	}
}

// takeRole follows, serves or rests. The caller holds mu.
func (l *localReplica) takeRole(e *partition.Effect) {
	l.drained()
	l.hurry(true)
	l.roleNow.Store(int32(e.Role))
	l.epochNow.Store(int32(e.Epoch))
	l.hwNow.Store(int64(l.state.HighWatermark()))
	if l.sub != nil {
		l.sub.Stop()
		l.sub = nil
	}
	if e.Role == partition.RoleFollower && e.Node >= 0 && l.state.Damage() != partition.DamageFailed {
		l.sub = l.b.follower.Follow(l.key, e.Node, l.state.InSync(), followerSide{l})
	}
	if l.hurt.Load() && e.Role != partition.RoleLeader {
		l.b.reconcileSoon() // it has handed over, and can tell of its damage
	}
	l.readers.wake()
}

// drained ends the wait of a shutdown. The caller holds mu.
func (l *localReplica) drained() {
	if l.onDrained != nil {
		l.onDrained()
		l.onDrained = nil
	}
}

// admit takes over what the settings say about the door.
func (l *localReplica) admit(settings metadata.TopicSettings) {
	l.maxMessageBytes.Store(int64(settings.MaxMessageBytes))
	l.compacted.Store(settings.Compact)
	before, after := settings.TimestampBefore, settings.TimestampAfter
	if settings.LogAppendTime { // the producer's own are not kept
		before, after = math.MaxInt64, math.MaxInt64
	}
	l.timestampBefore.Store(before)
	l.timestampAfter.Store(after)
}

// configure applies the topic's settings where they differ.
func (l *localReplica) configure(settings metadata.TopicSettings) {
	c := logConfig(settings)
	l.admit(settings)
	l.mu.Lock()
	changed := c != l.logConfig
	l.logConfig = c
	l.mu.Unlock()
	if changed {
		l.log.Configure(c)
	}
}

// assign feeds what the image says. A follower that fell out of the in-sync set
// goes back to the stream for catching up, where it holds up nobody; the way to
// the in-sync stream package replica finds by itself.
func (l *localReplica) assign(a *partition.Assignment, adding []int32) after {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.adding = adding
	l.unsafe = l.unsafe || !a.Synced
	l.lossy.Store(int32(a.LossyEpoch))
	todo := l.step(partition.Assign(a))
	left := l.inSync && !l.state.InSync()
	l.inSync = l.state.InSync()
	if l.inSync {
		l.hurry(true)
	}
	switch {
	case l.closed || l.sub == nil || todo.roleChanged:
	case left:
		l.sub.Stop()
		l.sub = l.b.follower.Follow(l.key, l.state.Leader(), false, followerSide{l})
	default:
		l.sub.Restart()
	}
	return todo
}

// progress hears from the log's flush worker.
func (l *localReplica) progress(pr commitlog.Progress) {
	if d := l.b.admission; d != nil { // there is none yet while the logs are opened
		d.wrote()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if pr.Err != nil {
		l.step(partition.LogFailed())
		return
	}
	l.noteLapse()
	l.step(partition.Progress(l.log.Written(), l.log.Flushed()))
}

// refusal is what the state machine is told about a log that takes nothing any
// more.
func (l *localReplica) refusal() partition.Event {
	if d := l.logState().Damage; l.log.Err() == nil && d != partition.DamageNone {
		if !l.hurt.Swap(true) {
			if l.role() == partition.RoleLeader {
				l.tellHurt()
			}
			l.b.reconcileSoon() // the metadata may count on this replica
		}
		return partition.LogDamaged(d)
	}
	return partition.LogFailed()
}

// checkDamage tells the state machine when a read or a compaction found out that the
// log is no longer well. The caller does not hold mu.
func (l *localReplica) checkDamage() {
	if l.log.Err() == nil && l.log.Damage() == commitlog.DamageNone {
		return
	}
	l.mu.Lock()
	todo := l.step(l.refusal())
	l.mu.Unlock()
	l.finish(todo)
}

// addWaiter returns the handle of a request. The caller holds mu.
func (l *localReplica) addWaiter(w waiter) uint64 {
	if n := len(l.free); n > 0 {
		h := l.free[n-1]
		l.free = l.free[:n-1]
		l.waiters[h] = w
		return uint64(h)
	}
	l.waiters = append(l.waiters, w)
	return uint64(len(l.waiters) - 1)
}

// complete settles the request of a handle. The caller holds mu.
func (l *localReplica) complete(handle uint64, o partition.Outcome) {
	w := l.waiters[handle]
	l.waiters[handle] = waiter{}
	l.free = append(l.free, uint32(handle))
	w.answer(o, func() *api.Error { return l.outcome(o) })
}

// outcome is the error of an outcome, with what the client needs to go on.
func (l *localReplica) outcome(o partition.Outcome) *api.Error {
	e := outcomeError(o)
	if e == nil {
		return nil
	}
	e.Topic, e.Partition = l.topic, l.partition
	if err := l.log.Err(); o == partition.OutcomeStorageFailed && err != nil {
		e = api.Errorf(e.Code, "the replica is out of service until %s: %w", l.outUntil(), err).At(l.topic, l.partition)
	}
	if o == partition.OutcomeNotLeader {
		if why := l.b.whyNot(api.PartitionRef{TopicID: l.key.Topic, Topic: l.topic, Partition: l.partition}); why.Leader != nil && why.Leader.NodeID != l.b.cfg.NodeID {
			e.Leader = why.Leader
		}
	}
	return e
}

// finish carries out what may block. The caller does not hold mu. It reports
// whether the log was changed as asked.
func (l *localReplica) finish(a after) bool {
	switch {
	case a.truncate || a.reset:
		return l.cut(a)
	case a.rebuild:
		return l.rebuild()
	}
	return true
}

// advanceStart carries out the newest log start that the leader told. Only
// Broker.retain has it called: it waits for the disk.
func (l *localReplica) advanceStart() {
	to := l.startDue.Swap(0)
	if to == 0 {
		return
	}
	err := l.log.AdvanceStart(record.Offset(to))
	switch {
	case err == nil:
		l.mu.Lock()
		l.logStarted() // The leader may wait for it.
		l.mu.Unlock()
	case errors.Is(err, commitlog.ErrClosed):
	case errors.Is(err, commitlog.ErrOffsetOutOfRange):
		l.logger.Info("the log was truncated below the start that was due", "to", to, "error", err)
	default: // It is being truncated, or the disk refused: next time.
		l.startDue.CompareAndSwap(0, to)
		if !errors.Is(err, commitlog.ErrBusy) {
			l.logger.Warn("the log start could not be advanced", "to", to, "error", err)
		}
	}
}

func (l *localReplica) cut(a after) bool {
	var err error
	if a.reset {
		l.logger.Info("the log begins anew", "at", a.offset)
		err = l.begin(a)
	} else {
		l.logger.Info("truncating to what the leader has too", "to", a.offset, "from", l.log.End())
		err = l.log.TruncateTo(a.offset)
	}
	l.mu.Lock()
	if err != nil {
		l.logger.Error("the log could not be truncated", "to", a.offset, "error", err)
		next := l.step(l.refusal())
		l.mu.Unlock()
		l.finish(next)
		return false
	}
	if a.reset { // what was damaged is gone
		l.limit.Store(int64(record.UnknownOffset))
		l.damaged.Store(false)
	}
	next := l.step(partition.Truncated(l.logState()))
	l.hwNow.Store(int64(l.state.HighWatermark()))
	l.startAgain(next)
	l.mu.Unlock()
	// An assignment that came meanwhile may ask for more.
	return l.finish(next)
}

// begin empties the log. Above offset 0 the producers come with it, for this
// replica may lead next, and they may send again what it never saw.
func (l *localReplica) begin(a after) error {
	if a.offset > 0 {
		return l.log.ResetTo(a.offset, a.producers)
	}
	return l.log.Reset(0)
}

// logEnd is how far the log can be believed.
func (l *localReplica) logEnd() record.Offset {
	if limit := record.Offset(l.limit.Load()); limit >= 0 {
		return limit
	}
	return l.log.End()
}

// epochEnd is log.EpochEnd of what can be believed.
func (l *localReplica) epochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	epoch, end := l.log.EpochEnd(e)
	return epoch, min(end, l.logEnd())
}

// rebuild begins a damaged log anew once nobody counts on it. What is left of the old
// one goes when the new one is in sync (dropDamaged).
func (l *localReplica) rebuild() bool {
	damage := l.log.Damage()
	kept, err := l.log.Rebuild(l.mayHoldLost(record.Epoch(l.lossy.Load())))
	if err != nil {
		l.logger.Error("the damaged log could not be begun anew", "damage", damage, "error", err)
		return false
	}
	l.limit.Store(int64(record.UnknownOffset))
	l.hurt.Store(false)
	if damage == commitlog.DamageNone { // the log is well, and not what the metadata knows of: an empty disk in the place of a lost one
		l.logger.Info("copying the replica from its leader: the disk does not hold what it held when the metadata last heard of it")
	} else {
		l.logger.Warn("rebuilding the damaged replica from its leader", "damage", damage, "old_copy_kept", kept)
	}
	l.mu.Lock()
	l.damaged.Store(false)
	s := l.logState()
	s.MustHave, s.Damage = 0, partition.DamageNone
	next := l.step(partition.Opened(s))
	l.hwNow.Store(int64(l.state.HighWatermark()))
	l.startAgain(next)
	l.mu.Unlock()
	return l.finish(next)
}

// dropDamaged deletes what a rebuild has kept, once the new copy is in sync: then it holds
// all that the old one did, unless an election since may have lost records.
func (l *localReplica) dropDamaged() {
	if !l.log.KeepsDamaged() {
		return
	}
	l.mu.Lock()
	whole := !l.closed && l.inSync && l.state.Damage() == partition.DamageNone
	l.mu.Unlock()
	if !whole {
		return
	}
	since := record.Epoch(l.lossy.Load())
	dropped, err := l.log.DropDamaged(since)
	if err != nil {
		l.logger.Warn("what was left of the damaged log could not be deleted", "error", err)
		return
	}
	if dropped > 0 {
		l.logger.Info("the new copy is in sync: deleted what was left of the damaged log")
	}
	if l.log.KeepsDamaged() && !l.keptTold.Swap(true) {
		l.logger.Warn("what was left of the damaged log stays: an election since may have lost records that it holds; delete it when you have looked",
			"leader_epoch", since)
	}
}

// startAgain ends the pause of a follower whose log has become another one. The
// caller holds mu.
func (l *localReplica) startAgain(a after) {
	switch leader := l.state.Leader(); {
	case !a.again:
	case l.sub != nil:
		l.sub.Restart()
	case leader >= 0: // it had withdrawn
		l.sub = l.b.follower.Follow(l.key, leader, l.state.InSync(), followerSide{l})
	}
}

// stop ends the replica's part: nothing is stepped afterwards. It does not
// close the log.
func (l *localReplica) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.drained()
	l.roleNow.Store(int32(partition.RoleNone))
	if l.sub != nil {
		l.sub.Stop()
		l.sub = nil
	}
	for _, s := range l.sessions {
		s.End()
	}
	l.sessions = nil
	for h, w := range l.waiters {
		l.waiters[h] = waiter{}
		w.answer(partition.OutcomeNotLeader, func() *api.Error {
			return api.Errorf(api.CodeNotLeader, "this broker has stopped serving the partition").At(l.topic, l.partition)
		})
	}
	l.readers.wake()
}
