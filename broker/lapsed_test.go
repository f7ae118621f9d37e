package broker

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// session is a Membership that only knows until when it is valid.
type session struct {
	Membership
	until time.Time
}

func (s session) SessionValid(now time.Time) bool { return now.Before(s.until) }

// A session that is over ends reading at once, not with the next tick.
func TestNoReadsBetweenTheEndOfTheSessionAndTheTick(t *testing.T) {
	l := newLocal(t, testSettings(t))
	now := time.Now()
	l.b.cfg.Membership = session{until: now.Add(time.Second)}
	l.b.cfg.Now = func() time.Time { return now }
	l.finish(l.assign(led(1, 1), nil))
	fp := &api.FetchPartition{LeaderEpoch: 1}
	if err := l.b.mayRead(l, fp); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if err := l.b.mayRead(l, fp); api.CodeOf(asError(err)) != api.CodeNotLeader {
		t.Errorf("after its session: %v", err)
	}
}

// stoodStill is a leader with one record on a disk that may hang, and what lets its
// session end.
func stoodStill(t *testing.T) (l *localReplica, faults *vfs.Faults, produce func() *api.Pending, lapse func()) {
	t.Helper()
	faults = vfs.NewFaults(vfs.NewMem())
	l, closeAll := newLocalOn(t, faults, "/d", -1, testSettings(t))
	t.Cleanup(closeAll)
	began := time.Now()
	var later atomic.Int64
	l.b.cfg.Membership = session{until: began.Add(time.Second)}
	l.b.cfg.Now = func() time.Time { return began.Add(time.Duration(later.Load())) }
	l.b.cfg.Images = fixedImage{image(t)}
	l.b.metrics = newMetrics(l.b)
	l.b.admission = newAdmission(l.b.cfg.Arena, 1<<20, l.b.cfg.Dir.Unwritten, l.b.cfg.Dir.Reclaim)
	l.finish(l.assign(led(1, 1), nil))
	produce = func() *api.Pending {
		return l.b.Produce(t.Context(), &api.ProduceRequest{Acks: api.AcksLeader, Partitions: []api.ProducePartition{
			{PartitionRef: api.PartitionRef{Topic: "t"}, Batches: []*record.Buf{batchAt(t, 0, 0, 1)}},
		}})
	}
	require.Equal(t, api.CodeNone, codeOf(t, produce()))
	return l, faults, produce, func() { later.Store(int64(time.Second)) }
}

func codeOf(t *testing.T, p *api.Pending) api.Code {
	t.Helper()
	results, err := p.Wait(t.Context())
	require.NoError(t, err)
	return api.CodeOf(asError(results[0].Err))
}

// A leader that stood still takes no records after its session, though its next tick is
// yet to come.
func TestNoAppendsBetweenTheEndOfTheSessionAndTheTick(t *testing.T) {
	l, _, produce, lapse := stoodStill(t)
	end := l.logEnd()
	lapse()
	require.Equal(t, api.CodeNotLeader, codeOf(t, produce()))
	require.Equal(t, end, l.logEnd())
}

// Nor does it acknowledge what it took before, and its disk has got since.
func TestNoAcknowledgementsBetweenTheEndOfTheSessionAndTheTick(t *testing.T) {
	_, faults, produce, lapse := stoodStill(t)
	hangs := make(chan struct{})
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Hold: hangs})
	late := produce()
	lapse()
	close(hangs)
	require.Equal(t, api.CodeNotLeader, codeOf(t, late))
}
