package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// scrubbed is a follower with three batches of ten records, of which the second is
// damaged, and a scrub has found it.
func scrubbed(t *testing.T, l *localReplica, fsys vfs.FS) *scrubber {
	t.Helper()
	return scrubbedAs(t, l, fsys, func() {})
}

// scrubbedAs is scrubbed for a replica that has become something else by then.
func scrubbedAs(t *testing.T, l *localReplica, fsys vfs.FS, become func()) *scrubber {
	t.Helper()
	f := follow(t, l)
	for at := record.Offset(0); at < 30; at += 10 {
		b := batchAt(t, at, 1, 10)
		f.Push(replica.Push{Epoch: 1, Session: 1, From: at, To: at + 10, HighWatermark: at}, []*record.Buf{b})
		b.Release()
	}
	until(t, "a flush", func() bool { return l.log.Flushed() == 30 })
	file, err := fsys.Open("/d/t-0/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	size, err := file.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, size/2); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := file.WriteAt(b, size/2); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	become()
	s := newScrubber(l.b)
	s.round(t.Context())
	if l.log.Damage() != commitlog.DamageCorrupt {
		t.Fatal("the scrub found nothing")
	}
	return s
}

func counterOf(t *testing.T, c prometheus.Collector, name string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// Damage that a scrub finds in a follower takes it out of service at once. Where the
// metadata counts on the replica it is told, by the replica itself, with how far it is
// whole; until that is shown it has no role.
func TestScrubbedDamageIsTold(t *testing.T) {
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	defer closeAll()
	s := scrubbed(t, l, fsys)
	if got := counterOf(t, s, "penstock_scrub_damaged_total"); got != 1 {
		t.Errorf("damaged: %v", got)
	}
	if got := counterOf(t, s, "penstock_scrub_bytes_total"); got == 0 || got >= float64(l.log.Size()) {
		t.Errorf("%v bytes, of %d", got, l.log.Size())
	}
	if l.state.Damage() != partition.DamageCorrupt {
		t.Errorf("the state machine knows of %d", l.state.Damage())
	}
	im := ledByTwo(t, 2, 1)
	controller := &recorder{index: im.Index()}
	l.b.cfg.Controller, l.b.cfg.SessionTimeout = controller, time.Second
	r := newReconciler(t.Context(), l.b)
	if !r.retire(im) {
		t.Fatal("it has nothing to tell")
	}
	topics := []*metadata.Topic{im.Topic("t")}
	r.adopt(topics, im)
	again := l.b.table.byKey(l.key)
	if again == nil || again == l {
		t.Fatal("not opened anew")
	}
	defer again.stop()
	for len(controller.requests) < 2 { // the first is refused
		r.recover(im)
		r.proposals.Wait()
		r.assign(topics[0], im)
		if again.role() != partition.RoleNone {
			t.Fatalf("it is %s before the image shows it", again.role())
		}
	}
	told := controller.requests[1].GetRecover()
	if rep := told.GetReplica(); rep.GetDamage() != metav1.Damage_DAMAGE_CORRUPT || rep.GetLogEndOffset() != 10 || rep.GetLastEpoch() != 1 || told.GetUnflushed() {
		t.Errorf("told %v", told)
	}
	if again.state.End() != 10 || again.logEnd() != 10 {
		t.Errorf("it counts up to %d, %d", again.state.End(), again.logEnd())
	}
}

// Whoever has damage tells of it, in whatever sets the image has the replica: its leader
// may be about to count on it. Only a replica that leads goes on with what it has.
func TestTellsDamage(t *testing.T) {
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	defer closeAll()
	scrubbed(t, l, fsys)
	elsewhere := ledByTwo(t, 2)
	elsewhere.Topic("t").Partitions[0].Replicas = elsewhere.Topic("t").Partitions[0].Replicas[:1]
	for name, tt := range map[string]struct {
		im    *metadata.Image
		tells bool
	}{
		"counted out": {ledByTwo(t, 2), true}, "in sync": {ledByTwo(t, 2, 1), true},
		"no replica of its": {elsewhere, false}, "no topic": {image(t), false},
	} {
		if got := l.tellsDamage(tt.im); got != tt.tells {
			t.Errorf("%s: %v", name, got)
		}
	}
	l.roleNow.Store(int32(partition.RoleLeader))
	if l.tellsDamage(ledByTwo(t, 2, 1)) {
		t.Error("a leader tells, and would lose its place")
	}
	l.givesUp.Store(true)
	if !l.tellsDamage(ledByTwo(t, 2, 1)) {
		t.Error("a leader that is ordered to give up what is behind its damage does not")
	}
	l.givesUp.Store(false)
	l.roleNow.Store(int32(partition.RoleFollower))
	leaderless := ledByOne(t, 1)
	leaderless.Topic("t").Partitions[0].Leader = metadata.NoNode
	others := ledByOne(t, 1)
	others.Topic("t").Partitions[0].ELR = []int32{2}
	for name, tt := range map[string]struct {
		im    *metadata.Image
		tells bool
	}{
		"to lead again": {ledByOne(t, 1), false}, "alone, without its session": {leaderless, false},
		"not alone": {ledByOne(t, 1, 2), true}, "others eligible": {others, true},
	} {
		if got := l.tellsDamage(tt.im); got != tt.tells {
			t.Errorf("%s: %v", name, got)
		}
	}
	l.givesUp.Store(true)
	if !l.tellsDamage(leaderless) {
		t.Error("an order to give up ends with the leadership")
	}
	l.givesUp.Store(false)
	l.hurt.Store(false)
	if l.tellsDamage(ledByTwo(t, 2, 1)) {
		t.Error("a sound replica tells of damage")
	}
}

// An election that waits for the position of a replica is told it, without opening
// anything anew.
func TestPositionsAreTold(t *testing.T) {
	l, closeAll := newLocalOn(t, vfs.NewMem(), "/d", -1, testSettings(t))
	defer closeAll()
	im := ledByTwo(t, 2)
	p := im.Topic("t").Partitions[0]
	p.Leader, p.ISR, p.LastISR = metadata.NoNode, nil, []int32{2}
	p.Replica(2).Damage, p.Replica(1).LogEndOffset = metadata.DamageLostBytes, -1
	controller := &recorder{index: im.Index(), requests: nil}
	l.b.cfg.Controller, l.b.cfg.SessionTimeout = controller, time.Second
	r := newReconciler(t.Context(), l.b)
	topics := []*metadata.Topic{im.Topic("t")}
	if !im.WantsPosition(p, 1) || !r.positions(topics, im) || r.positions(topics, im) {
		t.Fatal("not told, or told twice")
	}
	for len(controller.requests) < 2 {
		r.recover(im)
		r.proposals.Wait()
	}
	if got := controller.requests[1].GetRecover().GetReplica(); got.GetDamage() != 0 || got.GetLogEndOffset() != 0 || got.GetLastEpoch() != -1 {
		t.Errorf("told %v", got)
	}
	if l.b.table.byKey(l.key) != l {
		t.Error("the replica was opened anew")
	}
}

// What a rebuild has kept goes when the image shows the replica in sync, not before.
func TestKeptCopyGoesWhenInSync(t *testing.T) {
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	defer closeAll()
	scrubbed(t, l, fsys)
	out := led(2, 1)
	out.PartitionEpoch = 2
	for i := range out.Replicas {
		out.Replicas[i].ISR = out.Replicas[i].Node != 1
	}
	if l.finish(l.assign(out, nil)); l.log.End() == 0 {
		t.Fatal("rebuilt before the metadata has heard of the damage")
	}
	r := newReconciler(t.Context(), l.b)
	im := ledByTwo(t, 2)
	r.retire(im)
	r.adopt([]*metadata.Topic{im.Topic("t")}, im)
	l = l.b.table.byKey(l.key)
	defer l.stop()
	l.finish(l.assign(out, nil))
	if l.log.Damage() != commitlog.DamageNone || l.log.End() != 0 || !l.log.KeepsDamaged() {
		t.Fatalf("rebuilt: damage %v, end %d, kept %v", l.log.Damage(), l.log.End(), l.log.KeepsDamaged())
	}
	l.dropDamaged()
	if !l.log.KeepsDamaged() {
		t.Error("the old copy went before the new one was in sync")
	}
	in := led(2, 1)
	in.PartitionEpoch = 3
	l.finish(l.assign(in, nil))
	l.dropDamaged()
	if l.log.KeepsDamaged() {
		t.Error("the old copy stays though the new one is in sync")
	}
}

// Where an election in between may have lost records, what a rebuild has kept may be all
// that there is of them: it stays when the new copy is in sync, and where the disk has no
// room for it nothing is begun anew.
func TestKeptCopyStaysAfterALoss(t *testing.T) {
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	defer closeAll()
	scrubbed(t, l, fsys)
	r := newReconciler(t.Context(), l.b)
	im := ledByTwo(t, 2)
	r.retire(im)
	r.adopt([]*metadata.Topic{im.Topic("t")}, im)
	l = l.b.table.byKey(l.key)
	defer l.stop()
	out := led(2, 2) // the damaged log ends in epoch 1
	out.LossyEpoch = 2
	for i := range out.Replicas {
		out.Replicas[i].ISR = out.Replicas[i].Node != 1
	}
	l.finish(l.assign(out, nil))
	if l.log.End() != 0 || !l.log.KeepsDamaged() {
		t.Fatalf("rebuilt: end %d, kept %v", l.log.End(), l.log.KeepsDamaged())
	}
	in := led(2, 2)
	in.LossyEpoch, in.PartitionEpoch = 2, 3
	l.finish(l.assign(in, nil))
	l.dropDamaged()
	l.dropDamaged()
	if !l.log.KeepsDamaged() || !l.keptTold.Load() {
		t.Error("what may be the only copy of lost records is deleted")
	}
	l.b.shareMemory()
	if kept := gaugeOf(t, newMetrics(l.b), "penstock_kept_damaged_copies"); kept != 1 {
		t.Errorf("%v kept copies are shown", kept)
	}
}

// A round that meets logs which are busy comes back to them before it is done, and one
// that could not read a log does not count.
func TestAScrubReadsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closeAll := newLocalOn(t, vfs.NewMem(), "/d", -1, testSettings(t))
		defer closeAll()
		s := newScrubber(l.b)
		rounds := func() float64 { return counterOf(t, s, "penstock_scrub_rounds_total") }
		var answers []error
		reads := 0
		s.read = func(context.Context, *commitlog.Log) (int64, error) {
			err := answers[0]
			answers = answers[1:]
			reads++
			return 0, err
		}
		answers = []error{commitlog.ErrBusy, &commitlog.OpenFilesError{Err: syscall.EMFILE}, nil}
		begin := time.Now()
		if s.round(t.Context()); reads != 3 || rounds() != 1 || time.Since(begin) != 2*scrubPause {
			t.Errorf("read %d times in %v, %v rounds", reads, time.Since(begin), rounds())
		}
		answers = []error{errors.New("bad cable")}
		if s.round(t.Context()); rounds() != 1 {
			t.Error("a round counts that read nothing")
		}
		answers = []error{commitlog.ErrClosed} // it went away
		if s.round(t.Context()); rounds() != 2 {
			t.Error("a round waits for a log that is gone")
		}
	})
}

// However short the interval is, there is a pause between two rounds.
func TestScrubRoundsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Broker{cfg: Config{ScrubInterval: time.Nanosecond, Now: time.Now}, table: newTable(), logger: slog.New(slog.DiscardHandler)}
		s := newScrubber(b)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
		defer cancel()
		s.run(ctx)
		if got := counterOf(t, s, "penstock_scrub_rounds_total"); got != 11 {
			t.Errorf("%v rounds in ten minutes", got)
		}
	})
}
