package broker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// unreachable is a transport on which no leader answers.
type unreachable struct{}

func (unreachable) Open(context.Context, int32) (replica.FollowerStream, error) {
	return nil, errors.New("no route")
}

// newLocal returns a replica on a real log, in a broker (node 1) without a cluster.
func newLocal(t *testing.T, settings metadata.TopicSettings) *localReplica {
	t.Helper()
	l, closeAll := newLocalAt(t, t.TempDir(), settings)
	t.Cleanup(closeAll)
	return l
}

// newLocalAt does so in a data directory that may hold a log.
func newLocalAt(t *testing.T, path string, settings metadata.TopicSettings) (l *localReplica, closeAll func()) {
	t.Helper()
	return newLocalOn(t, vfs.OS{}, path, -1, settings)
}

// newLocalOn does so on a file system with a reserve.
func newLocalOn(t *testing.T, fsys vfs.FS, path string, reserve int64, settings metadata.TopicSettings) (l *localReplica, closeAll func()) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	arena := record.NewArena(1 << 20)
	dir, err := commitlog.OpenDir(commitlog.DirOptions{FS: fsys, Path: path, Arena: arena, DiskReserve: reserve, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{
		cfg: Config{NodeID: 1, Dir: dir, Arena: arena, Logger: logger, Now: time.Now, Membership: session{until: time.Now().Add(time.Hour)}}, logger: logger, table: newTable(),
		kick: make(chan struct{}, 1), startsDue: make(chan struct{}, 1),
	}
	b.proposer = newProposer(b)
	if b.follower, err = replica.NewFollower(replica.FollowerConfig{NodeID: 1, Transport: unreachable{}, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	if l, err = b.open(openRequest{topic: "t", key: replica.Key{Topic: [16]byte{1}}, settings: settings}); err != nil {
		t.Fatal(err)
	}
	b.table.change([]*localReplica{l}, nil)
	return l, func() {
		_ = b.follower.Close()
		l.stop()
		if err := dir.Close(-1); err != nil {
			t.Error(err)
		}
		arenatest.Empty(t, arena, "the broker's arena")
	}
}

func testSettings(t *testing.T) metadata.TopicSettings {
	t.Helper()
	s, err := metadata.ParseSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// led is an assignment of three in-sync replicas.
func led(leader int32, epoch record.Epoch) *partition.Assignment {
	a := &partition.Assignment{Leader: leader, LeaderEpoch: epoch, PartitionEpoch: int32(epoch), MinISR: 2, Synced: true}
	for node := int32(1); node <= 3; node++ {
		a.Replicas = append(a.Replicas, partition.Assigned{Node: node, BrokerEpoch: int64(node), ISR: true})
	}
	return a
}

// batchAt is a batch of n records as a leader's log holds it.
func batchAt(t *testing.T, base record.Offset, epoch record.Epoch, n int) *record.Buf {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for range n {
		if err := b.Append(&record.Record{Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	record.Patch(raw, base, epoch)
	return record.NewBuf(raw)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// follow brings l into an open session with leader 2 in epoch 1.
func follow(t *testing.T, l *localReplica) followerSide {
	t.Helper()
	f := followerSide{l}
	l.finish(l.assign(led(2, 1), nil))
	h, ok := f.Begin(1)
	if !ok {
		t.Fatal("no handshake")
	}
	v := f.Reply(replica.HandshakeReply{Epoch: 1, Session: h.Session, AnswerEpoch: -1, Matched: true})
	if v != replica.VerdictOK {
		t.Fatalf("reply: %d", v)
	}
	return f
}

// A log start that comes with records takes effect once they are committed here,
// which the flush worker finds out.
func TestFollowerTakesTheLogStart(t *testing.T) {
	l := newLocal(t, testSettings(t))
	f := follow(t, l)
	b := batchAt(t, 0, 1, 10)
	v := f.Push(replica.Push{Epoch: 1, Session: 1, From: 0, To: 10, HighWatermark: 10, LogStart: 5}, []*record.Buf{b})
	b.Release()
	if v != replica.VerdictOK {
		t.Fatalf("push: %d", v)
	}
	until(t, "the watermark", func() bool { return l.watermark() == 10 })
	<-l.b.startsDue
	l.advanceStart()
	if got := l.log.Start(); got != 5 {
		t.Errorf("log start %d, want 5", got)
	}
}

// A follower without disk space pauses; it takes no harm and begins again when
// there is space, not at the first byte of it.
func TestFollowerPausesBelowHalfTheReserve(t *testing.T) {
	mem := vfs.NewMem()
	l, closeAll := newLocalOn(t, mem, "/d", 1<<20, testSettings(t))
	defer closeAll()
	f := follow(t, l)
	push := func(session uint64, from record.Offset) replica.Verdict {
		b := batchAt(t, from, 1, 10)
		defer b.Release()
		return f.Push(replica.Push{Epoch: 1, Session: session, From: from, To: from + 10}, []*record.Buf{b})
	}
	begins := func(session uint64) func() bool {
		return func() bool {
			_, ok := f.Begin(session)
			return ok
		}
	}
	mem.SetSpace(1<<20-1<<17, 1<<30)
	until(t, "the disk to be found below the reserve", func() bool { return l.b.cfg.Dir.CheckReserve() != nil })
	if v := push(1, 0); v != replica.VerdictOK {
		t.Fatalf("push below the reserve: %d", v)
	}
	mem.SetSpace(1<<19, 1<<30)
	until(t, "the disk to be found at half the reserve", func() bool {
		free, _, err := l.b.cfg.Dir.Space()
		return err == nil && free <= 1<<19
	})
	if v := push(1, 10); v != replica.VerdictPause {
		t.Fatalf("push at half the reserve: %d", v)
	}
	if begins(2)() {
		t.Error("began again without space")
	}
	mem.SetSpace(1<<20, 1<<30)
	until(t, "a new session", begins(3))
	if v := f.Reply(replica.HandshakeReply{Epoch: 1, Session: 3, AnswerEpoch: 1, AnswerEnd: 10, Matched: true}); v != replica.VerdictOK {
		t.Fatalf("reply: %d", v)
	}
	if v := push(3, 10); v != replica.VerdictOK || l.log.End() != 20 || l.log.Err() != nil {
		t.Errorf("push with space: %d, end %d, %v", v, l.log.End(), l.log.Err())
	}
}

// A follower whose log failed gives its subscription back at once.
func TestFailedFollowerWithdraws(t *testing.T) {
	l := newLocal(t, testSettings(t))
	follow(t, l)
	l.progress(commitlog.Progress{Err: errors.New("disk")})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sub != nil {
		t.Error("still subscribed")
	}
}

// A subscription outlives changes of the in-sync set, but for a follower that
// fell out of it.
func TestSubscriptionOutlivesTheInSyncSet(t *testing.T) {
	l := newLocal(t, testSettings(t))
	sub := func() *replica.Subscription {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.sub
	}
	a := led(2, 1)
	a.Replicas[0].ISR = false
	l.finish(l.assign(a, nil))
	first := sub()
	in := led(2, 1)
	in.PartitionEpoch = 2
	l.finish(l.assign(in, nil))
	if sub() != first {
		t.Error("joining the in-sync set opened another subscription")
	}
	out := led(2, 1)
	out.PartitionEpoch, out.Replicas[0].ISR = 3, false
	l.finish(l.assign(out, nil))
	if sub() == first {
		t.Error("a follower that fell behind stays on the in-sync stream")
	}
}

// The proposal names who lost acknowledged records.
func TestProposalNamesTheDamaged(t *testing.T) {
	l := newLocal(t, testSettings(t))
	l.b.proposer.add(l, &partition.Effect{Epoch: 1, PartitionEpoch: 2},
		&partition.Effects{Members: []partition.Member{{Node: 1, BrokerEpoch: 1}}, Damaged: []int32{3}, Failed: []int32{4}})
	change := l.b.proposer.change(l.b.proposer.take())
	if got := change.GetChanges()[0].GetDamaged(); len(got) != 1 || got[0] != 3 {
		t.Errorf("damaged %v", got)
	}
	if got := change.GetChanges()[0].GetFailed(); len(got) != 1 || got[0] != 4 {
		t.Errorf("failed %v", got)
	}
}

// produce appends one record and returns its Pending.
func produce(t *testing.T, l *localReplica) *api.Pending {
	t.Helper()
	req := &api.ProduceRequest{Acks: api.AcksAll, Partitions: []api.ProducePartition{{
		PartitionRef: api.PartitionRef{Topic: "t"}, Batches: []*record.Buf{batchAt(t, 0, 0, 1)},
	}}}
	deadline := time.Now().Add(10 * time.Second)
	p := api.NewPending(req, deadline)
	l.append(p, 0, &req.Partitions[0], record.UnknownEpoch, api.AcksAll, deadline)
	releaseAll(req.Partitions[0].Batches)
	return p
}

// A leader whose log failed, whoever found out, refuses, resigns in favour of the
// in-sync followers, and shows it.
func TestLeaderWithAFailedLogResigns(t *testing.T) {
	for name, fail := range map[string]func(l *localReplica, faults *vfs.Faults){
		"at a flush": func(l *localReplica, faults *vfs.Faults) {
			faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO})
			results, err := produce(t, l).Wait(t.Context())
			if err != nil || api.CodeOf(asError(results[0].Err)) != api.CodeStorageFailed {
				t.Errorf("waiting for the flush: %v, %v", results, err)
			}
		},
		"when it removes old segments": func(l *localReplica, faults *vfs.Faults) {
			faults.Inject(vfs.Fault{Op: vfs.OpRemove, Err: syscall.EIO})
			if err := l.log.AdvanceStart(4); !errors.Is(err, commitlog.ErrFailed) {
				t.Errorf("%v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			faults := vfs.NewFaults(vfs.NewMem())
			settings := testSettings(t)
			settings.SegmentBytes = 1 // a segment a batch
			l, closeAll := newLocalOn(t, faults, "/d", -1, settings)
			defer func() {
				defer func() { faults.Heal() }()
				l.stop()
				_ = l.b.cfg.Dir.Close(-1) // the failure is in it
				closeAll()
			}()
			l.b.metrics = newMetrics(l.b)
			l.b.admission = newAdmission(l.b.cfg.Arena, 1<<20, l.b.cfg.Dir.Unwritten, l.b.cfg.Dir.Reclaim)
			l.finish(l.assign(led(1, 1), nil))
			for node := int32(2); node <= 3; node++ {
				l.mu.Lock()
				l.step(partition.Handshake(node, int64(node), 1, 1, -1, 0, 0, -1, 0, 0, 0))
				l.mu.Unlock()
			}
			for range 5 {
				end := l.log.End() + 1
				p := produce(t, l)
				for node := int32(2); node <= 3; node++ {
					l.mu.Lock()
					l.step(partition.Ack(node, 1, 1, end, end, 0))
					l.mu.Unlock()
				}
				if results, err := p.Wait(t.Context()); err != nil || results[0].Err != nil {
					t.Fatalf("%v %v", results, err)
				}
			}
			fail(l, faults)
			var change []*metav1.IsrChange
			until(t, "the resignation", func() bool {
				change = append(change, l.b.proposer.change(l.b.proposer.take()).GetChanges()...)
				return len(change) > 0
			})
			isr := change[0].GetIsr()
			if len(isr) != 2 || isr[0].GetNodeId() != 2 || isr[1].GetNodeId() != 3 || !slices.Equal(change[0].GetDamaged(), []int32{1}) {
				t.Errorf("proposed %v, damaged %v", isr, change[0].GetDamaged())
			}
			if results, err := produce(t, l).Wait(t.Context()); err != nil || api.CodeOf(asError(results[0].Err)) != api.CodeStorageFailed {
				t.Errorf("produce after the failure: %v, %v", results, err)
			}
			if got := gauge(t, l.b.metrics, "penstock_offline_replicas"); got != 1 {
				t.Errorf("offline replicas: %v", got)
			}
		})
	}
}

// gauge reads one value of the metrics.
func gauge(t *testing.T, m prometheus.Collector, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// The last holder of a partition whose log is damaged serves what is left when
// the metadata says that it is to lead, and takes nothing more.
func TestDamagedLastHolderServesItsPrefix(t *testing.T) {
	dir := t.TempDir()
	alone := &partition.Assignment{
		Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 1, Synced: true,
		Replicas: []partition.Assigned{{Node: 1, BrokerEpoch: 1, ISR: true}},
	}
	settings := testSettings(t)
	settings.SegmentBytes = 1 // a segment a batch
	l, closeAll := newLocalAt(t, dir, settings)
	l.finish(l.assign(alone, nil))
	for range 3 {
		if results, err := produce(t, l).Wait(t.Context()); err != nil || results[0].Err != nil {
			t.Fatalf("%v %v", results, err)
		}
	}
	closeAll()
	segments, err := filepath.Glob(filepath.Join(dir, "t-0", "*.log"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("%v %v", segments, err)
	}
	if err := os.Remove(segments[len(segments)-1]); err != nil {
		t.Fatal(err)
	}

	l, closeAll = newLocalAt(t, dir, settings)
	defer closeAll()
	if l.recovered(); !l.damaged.Load() {
		t.Fatalf("not damaged: %+v", l.log.Recovery())
	}
	next := *alone
	next.LeaderEpoch, next.PartitionEpoch = 2, 2
	mine := metadata.Replica{NodeID: 1, Damage: metadata.DamageLostBytes}
	image := &metadata.Partition{Leader: 1, Replicas: []metadata.Replica{mine}}
	if l.mayLeadDamaged(image) {
		t.Error("leads although the metadata counts it as damaged")
	}
	image.Replicas[0].Damage = metadata.DamageNone
	next.MayLeadDamaged = l.mayLeadDamaged(image)
	l.finish(l.assign(&next, nil))
	if l.role() != partition.RoleLeader {
		t.Fatal("does not lead")
	}
	results, err := produce(t, l).Wait(t.Context())
	if err != nil || api.CodeOf(results[0].Err) != api.CodeStorageFailed {
		t.Errorf("produce: %v %v", results, err)
	}
	slices, err := l.log.Read(0, l.log.End(), 1<<20)
	if err != nil || len(slices) == 0 {
		t.Errorf("read: %d slices, %v", len(slices), err)
	}
	for _, s := range slices {
		s.Release()
	}
}

// A request to delete records that the other replicas do not answer times out;
// its caller need not wait so long, and a stop answers it.
func TestDeleteRecordsWaitsForReplicas(t *testing.T) {
	l := newLocal(t, testSettings(t))
	l.b.cfg.Images = fixedImage{image(t)}
	l.finish(l.assign(led(1, 1), nil))
	ask := func(ctx context.Context, timeout time.Duration) (api.DeletedRecords, error) {
		results, err := l.b.DeleteRecords(ctx, &api.DeleteRecords{Timeout: timeout, Partitions: []api.DeletePartition{
			{PartitionRef: api.PartitionRef{Topic: "t"}, Before: record.UnknownOffset},
		}})
		if err != nil {
			return api.DeletedRecords{}, err
		}
		return results[0], nil
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(gone, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("after its caller left: %v", err)
	}
	for what, tt := range map[string]struct {
		timeout time.Duration
		end     func()
		code    api.Code
	}{
		"time passes":                     {time.Nanosecond, func() { l.tick(nil, false) }, api.CodeRequestTimedOut},
		"the broker loses its controller": {time.Minute, func() { l.tick(nil, true) }, api.CodeNotLeader},
	} {
		l.tick(nil, false)
		got := make(chan api.DeletedRecords, 1)
		go func() {
			r, err := ask(t.Context(), tt.timeout)
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		for ended := false; !ended; {
			select {
			case r := <-got:
				if ended = true; api.CodeOf(asError(r.Err)) != tt.code || r.LowWatermark != -1 {
					t.Errorf("%s: %+v", what, r)
				}
			default:
				tt.end()
			}
		}
	}
	l.tick(nil, false)
	results := make(chan error, 1)
	go func() {
		r, err := ask(t.Context(), time.Minute)
		results <- errors.Join(err, asError(r.Err))
	}()
	until(t, "the request to wait", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, w := range l.waiters {
			if w.trim != nil {
				return true
			}
		}
		return false
	})
	l.stop()
	if err := <-results; api.CodeOf(err) != api.CodeNotLeader {
		t.Errorf("after a stop: %v", err)
	}
}

// A request that is done says where every replica begins.
func TestDeleteRecordsAlone(t *testing.T) {
	l := newLocal(t, testSettings(t))
	l.b.cfg.Images = fixedImage{image(t)}
	alone := &partition.Assignment{
		Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 1, Synced: true,
		Replicas: []partition.Assigned{{Node: 1, BrokerEpoch: 1, ISR: true}},
	}
	l.finish(l.assign(alone, nil))
	for range 3 {
		if results, err := produce(t, l).Wait(t.Context()); err != nil || results[0].Err != nil {
			t.Fatalf("%v %v", results, err)
		}
	}
	for _, tt := range []struct {
		before, want record.Offset
		code         api.Code
	}{
		{2, 2, api.CodeNone},
		{1, 2, api.CodeNone},
		{4, -1, api.CodeOffsetOutOfRange},
		{-1, 3, api.CodeNone},
	} {
		results, err := l.b.DeleteRecords(t.Context(), &api.DeleteRecords{Partitions: []api.DeletePartition{
			{PartitionRef: api.PartitionRef{Topic: "t"}, Before: tt.before},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if r := results[0]; api.CodeOf(asError(r.Err)) != tt.code || r.LowWatermark != tt.want {
			t.Errorf("before %d: %+v, want %d %s", tt.before, r, tt.want, tt.code)
		}
	}
}

// asError keeps a nil *api.Error from becoming an error that is not nil.
func asError(e *api.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// Nobody waits for the flushes of a replica that is far behind and outside of the
// in-sync set; once it is near, in the set, or leads, everybody does.
func TestAReplicaFarBehindDoesNotHurry(t *testing.T) {
	l := newLocal(t, testSettings(t))
	behind := func(leader int32, epoch record.Epoch, inSync bool) *partition.Assignment {
		a := led(leader, epoch)
		for i := range a.Replicas {
			a.Replicas[i].ISR = inSync || a.Replicas[i].Node != 1
		}
		return a
	}
	l.finish(l.assign(behind(2, 1, false), nil))
	f := followerSide{l}
	if _, ok := f.Begin(1); !ok {
		t.Fatal("no handshake")
	}
	f.Reply(replica.HandshakeReply{Epoch: 1, Session: 1, AnswerEpoch: -1, Matched: true})
	push := func(from, hw record.Offset) {
		t.Helper()
		b := batchAt(t, from, 1, 10)
		defer b.Release()
		if v := f.Push(replica.Push{Epoch: 1, Session: 1, From: from, To: from + 10, HighWatermark: hw}, []*record.Buf{b}); v != replica.VerdictOK {
			t.Fatalf("push: %d", v)
		}
	}
	wants := func(what string, unhurried bool) {
		t.Helper()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.unhurried != unhurried {
			t.Errorf("%s: unhurried %v", what, l.unhurried)
		}
	}
	push(0, 100)
	wants("far behind", true)
	push(10, 20)
	wants("all that is committed is there", false)
	push(20, 100)
	wants("far behind again", true)
	in := behind(2, 1, true)
	in.PartitionEpoch++
	l.finish(l.assign(in, nil))
	wants("in sync", false)
	push(30, 100)
	wants("in sync, and behind", false)
	out := behind(2, 1, false)
	out.PartitionEpoch += 2
	l.finish(l.assign(out, nil))
	l.mu.Lock()
	l.hurry(false)
	l.mu.Unlock()
	lead := behind(1, 2, true)
	lead.PartitionEpoch += 3
	l.finish(l.assign(lead, nil))
	wants("leading", false)
}
