package broker

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/broker/replica"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// shown is the value of a metric.
func shown(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func compactedSettings(t *testing.T, configs ...string) metadata.TopicSettings {
	t.Helper()
	set := map[string]string{"cleanup.policy": "compact", "segment.bytes": "4096"}
	for i := 0; i < len(configs); i += 2 {
		set[configs[i]] = configs[i+1]
	}
	s, err := metadata.ParseSettings(set)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyed(t *testing.T, records ...record.Record) *record.Buf {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for i := range records {
		if err := b.Append(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return record.NewBuf(raw)
}

// A compacted topic takes no record without a key, and says which one has none.
func TestCompactedTopicAsksForKeys(t *testing.T) {
	l := newLocal(t, compactedSettings(t))
	good := keyed(t, record.Record{Key: []byte("a"), Value: []byte("1")}, record.Record{Key: []byte("b")})
	bad := keyed(t, record.Record{Key: []byte("a")}, record.Record{Value: []byte("1")}, record.Record{Key: []byte("c")})
	defer releaseAll([]*record.Buf{good, bad})
	if err := l.b.checkBatches(l, []*record.Buf{good}); err != nil {
		t.Fatal(err)
	}
	err := l.b.checkBatches(l, []*record.Buf{good, bad})
	if api.CodeOf(asError(err)) != api.CodeInvalidRecord || !strings.Contains(err.Message, "batch 1 of 2") || !strings.Contains(err.Message, "record 1 of 3") {
		t.Fatalf("%v", err)
	}
	if err.Code.Retriable() || err.Code.Indefinite() {
		t.Error("it is refused for good, and surely")
	}
	l.configure(testSettings(t))
	if err := l.b.checkBatches(l, []*record.Buf{bad}); err != nil {
		t.Errorf("once the topic is not compacted any more: %v", err)
	}
}

// Only a policy with delete in it lets age and size remove segments.
func TestCleanupPolicyAndRetention(t *testing.T) {
	for policy, want := range map[string][2]bool{"delete": {false, true}, "compact": {true, false}, "compact,delete": {true, true}, "delete,compact": {true, true}} {
		c := logConfig(compactedSettings(t, "cleanup.policy", policy, "retention.ms", "1000", "retention.bytes", "5000"))
		if c.Compact != want[0] || (c.RetentionAge > 0) != want[1] || (c.RetentionBytes > 0) != want[1] {
			t.Errorf("%s: %+v", policy, c)
		}
	}
	s, err := metadata.ParseSettings(offsetsConfigs())
	if err != nil || !s.Compact || s.Delete || s.Durability != metadata.Synced {
		t.Errorf("%s: %+v %v", offsetsTopic, s, err)
	}
}

// dirtied returns a replica that leads alone, with a log that has ten records of
// each key.
func dirtied(t *testing.T, fsys vfs.FS, now func() time.Time) *localReplica {
	t.Helper()
	l, closeAll := newLocalOn(t, fsys, "/data", -1, compactedSettings(t))
	t.Cleanup(closeAll)
	l.b.cfg.Cleaner.BytesPerSecond = -1
	l.b.cfg.Now = now
	a := &partition.Assignment{
		Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, MinISR: 1, Synced: true,
		Replicas: []partition.Assigned{{Node: 1, BrokerEpoch: 1, ISR: true}},
	}
	l.finish(l.assign(a, nil))
	for i := range 200 {
		buf := keyed(t, record.Record{Key: fmt.Append(nil, i%20), Value: []byte(strings.Repeat("v", 100))})
		if _, _, err := l.log.Append(1, []*record.Buf{buf}, 0); err != nil {
			t.Fatal(err)
		}
		buf.Release()
	}
	until(t, "all is flushed", func() bool { return l.log.Flushed() == 200 })
	l.log.SetHighWatermark(200)
	return l
}

// The cleaner compacts what is dirty enough once, and shows what it did.
func TestCleaner(t *testing.T) {
	l := dirtied(t, vfs.NewMem(), time.Now)
	c := newCleaner(l.b)
	before := l.log.Size()
	c.round(t.Context())
	if after := l.log.Size(); after > before/2 {
		t.Errorf("%d bytes of %d are left", after, before)
	}
	if got := shown(t, c.reclaimed); got != float64(before-l.log.Size()) {
		t.Errorf("reclaimed %v, the log is %d bytes smaller", got, before-l.log.Size())
	}
	if shown(t, c.dropped) < 100 || shown(t, c.read) < float64(before) || shown(t, c.written) == 0 {
		t.Error("what was read, written and dropped is not shown")
	}
	read := shown(t, c.read)
	c.round(t.Context())
	if shown(t, c.read) != read || shown(t, c.dirtiest) != 0 {
		t.Error("a clean log was read again")
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
}

// A disk that is full for a while: the log stays in service, is left alone for a
// while, and is compacted then.
func TestCleanerRestsAfterAFailure(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	var passed atomic.Int64
	l := dirtied(t, faults, func() time.Time { return time.Now().Add(time.Duration(passed.Load())) })
	c := newCleaner(l.b)
	faults.Inject(vfs.Fault{Op: vfs.OpWrite, Pattern: "*.cleaned", Err: syscall.ENOSPC})
	for range 3 {
		c.round(t.Context())
	}
	if got := shown(t, c.failures); got != 1 {
		t.Errorf("%v failures, want one and rest", got)
	}
	if l.log.Err() != nil || l.role() != partition.RoleLeader {
		t.Error("the replica is out of service")
	}
	passed.Add(int64(cleanerRest))
	c.round(t.Context())
	if got := shown(t, c.failures); got != 2 {
		t.Errorf("%v failures, want another try", got)
	}
	faults.Heal()
	passed.Add(int64(cleanerRest))
	before := l.log.Size()
	c.round(t.Context())
	if l.log.Size() > before/2 || len(c.resting) != 0 {
		t.Errorf("not compacted: %d bytes of %d", l.log.Size(), before)
	}
}

// The cleaner ends with its context, also in the middle of a log.
func TestCleanerEnds(t *testing.T) {
	l := dirtied(t, vfs.NewMem(), time.Now)
	l.b.cfg.Cleaner.BytesPerSecond = 1
	l.b.cfg.CleanerBackoff = time.Millisecond
	c := newCleaner(l.b)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		c.run(ctx)
		close(done)
	}()
	until(t, "it reads", func() bool { d, _ := l.log.Dirtiness(time.Now()); return d.Dirty > 0 })
	cancel()
	<-done
	if shown(t, c.failures) != 0 {
		t.Error("an end is no failure")
	}
}

// A push whose batches have gaps is taken if the leader's log has gaps there.
func TestFollowerTakesGaps(t *testing.T) {
	l := newLocal(t, compactedSettings(t))
	f := follow(t, l)
	push := func(from, to, cleaned record.Offset, bufs ...*record.Buf) replica.Verdict {
		defer releaseAll(bufs)
		return f.Push(replica.Push{Epoch: 1, Session: 1, From: from, To: to, HighWatermark: to, Cleaned: cleaned}, bufs)
	}
	if v := push(0, 12, 10, batchAt(t, 3, 1, 2), batchAt(t, 10, 1, 2)); v != replica.VerdictOK {
		t.Fatalf("verdict %d", v)
	}
	until(t, "flushed", func() bool { return l.log.Flushed() == 12 })
	if l.log.End() != 12 || l.log.Cleaned() != 10 {
		t.Errorf("end %d, cleaned %d", l.log.End(), l.log.Cleaned())
	}
	if v := push(12, 16, 14, batchAt(t, 15, 1, 1)); v != replica.VerdictAgain || l.log.End() != 12 {
		t.Errorf("a gap above the leader's cleaned offset: verdict %d, end %d", v, l.log.End())
	}
}
