package broker

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

func gaugeOf(t *testing.T, c prometheus.Collector, name string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	require.NoError(t, r.Register(c))
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// lastHolder leads alone, with 30 records, and has just found that [10, 20) cannot be read.
func lastHolder(t *testing.T) (*localReplica, *metadata.Image) {
	t.Helper()
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	t.Cleanup(closeAll)
	l.b.shareMemory()
	scrubbedAs(t, l, fsys, func() { l.finish(l.assign(behindOne(2, 3), nil)) })
	require.Equal(t, partition.RoleLeader, l.role())
	require.Equal(t, record.Offset(30), l.watermark())
	return l, ledByOne(t, 1)
}

// changingImage is metadata that changes when a test says so.
type changingImage struct {
	fixedImage

	mu      sync.Mutex // guards im of fixedImage
	changed chan struct{}
}

func (c *changingImage) Image() *metadata.Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.im
}

func (c *changingImage) Changed(uint64) <-chan struct{} { return c.changed }

func (c *changingImage) set(im *metadata.Image) {
	c.mu.Lock()
	c.im = im
	c.mu.Unlock()
	close(c.changed)
}

// ledByOne is ledByTwo where 1 leads.
func ledByOne(t *testing.T, isr ...int32) *metadata.Image {
	t.Helper()
	im := ledByTwo(t, 2, 1)
	p := im.Topic("t").Partitions[0]
	p.Leader, p.ISR = 1, isr
	return im
}

// The last holder of a partition that comes upon damage goes on to serve what it can read,
// on both sides, tells the metadata nothing by itself, and shows.
func TestADamagedLastHolderStays(t *testing.T) {
	l, im := lastHolder(t)
	l.b.cfg.Images = fixedImage{im}
	r := newReconciler(t.Context(), l.b)
	require.False(t, r.retire(im), "it gives up its place, and what is behind the damage")
	require.Equal(t, partition.RoleLeader, l.role())
	ref := api.PartitionRef{Topic: "t"}
	for _, tt := range []struct {
		from record.Offset
		code api.Code
	}{{0, api.CodeNone}, {20, api.CodeNone}} {
		var got api.FetchResult
		l.b.readFrom(l, &got, &api.FetchPartition{PartitionRef: ref, Offset: tt.from, MaxBytes: 1, LeaderEpoch: -1}, reading{room: 1 << 20, must: true})
		require.Equal(t, tt.code, api.CodeOf(asError(got.Err)), "fetch from %d: %v", tt.from, got.Err)
		require.Len(t, got.Batches, 1)
		got.Release()
	}
	require.Equal(t, 1, int(gaugeOf(t, newMetrics(l.b), "penstock_damaged_leaders")))
	require.Equal(t, []api.DamagedReplica{{
		TopicPartition: api.TopicPartition{Topic: "t"}, Leads: true, Damage: "durable data is corrupt", WholeTo: 10, End: 30, GivesUp: true,
	}}, l.b.DamagedReplicas(t.Context()))
}

// Nor does it give anything up because its session ended for a moment: it has no leader, and
// is elected again.
func TestADamagedLastHolderLeadsAgain(t *testing.T) {
	l, _ := lastHolder(t)
	r := newReconciler(t.Context(), l.b)
	require.True(t, l.hurt.Load())
	for epoch := int32(5); epoch < 9; epoch++ {
		im := ledByOne(t, 1)
		p := im.Topic("t").Partitions[0]
		p.LeaderEpoch, p.PartitionEpoch = epoch, epoch
		leads := epoch%2 == 0
		if !leads {
			p.Leader = metadata.NoNode
		}
		l.b.cfg.Images = fixedImage{im}
		require.False(t, r.retire(im), "epoch %d: it gives up its place", epoch)
		r.assign(im.Topic("t"), im)
		require.Equal(t, leads, l.role() == partition.RoleLeader, "epoch %d: it is %s", epoch, l.role())
		require.Equal(t, partition.DamageCorrupt, l.state.Damage(), "epoch %d: it would not hand over to whoever comes in sync", epoch)
	}
	require.Equal(t, record.Offset(30), l.watermark())
}

// Nothing is given up where it gains nothing, or where somebody may come who holds more.
func TestWhatMayNotBeGivenUp(t *testing.T) {
	l, im := lastHolder(t)
	require.Nil(t, l.mayGiveUp(im))
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is not refused waits
	refused := func(name, message string, im *metadata.Image) {
		t.Helper()
		l.b.cfg.Images = fixedImage{im}
		err := l.b.GiveUpDamaged(ctx, api.PartitionRef{Topic: "t"}, -1)
		require.ErrorContains(t, err, message, name)
		require.False(t, l.givesUp.Load(), name)
	}
	refused("in sync", "others hold every acknowledged record", ledByOne(t, 1, 2))
	im = ledByOne(t, 1)
	im.Topic("t").Partitions[0].ELR = []int32{2}
	refused("eligible", "others hold every acknowledged record", im)
	refused("deposed", "does not lead the partition any more", ledByTwo(t, 2))
	refused("deleted", "deleted", image(t))
	im = ledByOne(t, 1)
	im.Topic("t").Partitions[0].Replicas = im.Topic("t").Partitions[0].Replicas[1:]
	refused("only replica", "there is no other replica", im)
	im = ledByOne(t, 1)
	im.Broker(2).Fenced = true
	refused("away", "broker 2 is away, and may hold more", im)

	l.b.cfg.Images = fixedImage{ledByOne(t, 1)}
	err := l.b.GiveUpDamaged(ctx, api.PartitionRef{Topic: "t"}, 77)
	require.Equal(t, api.CodeInvalidUpdateVersion, api.CodeOf(err))
	l.limit.Store(10)
	refused("nothing behind", "has nothing behind the damage", ledByOne(t, 1))
	whole := newLocal(t, testSettings(t))
	whole.b.cfg.Images = fixedImage{ledByOne(t, 1)}
	require.ErrorContains(t, asError(whole.mayGiveUp(ledByOne(t, 1))), "knows of no damage")
	l.b.cfg.Images = fixedImage{ledByTwo(t, 2)}
	l.roleNow.Store(int32(partition.RoleFollower))
	require.Equal(t, api.CodeNotLeader, api.CodeOf(l.b.GiveUpDamaged(ctx, api.PartitionRef{Topic: "t"}, -1)))
}

// An order to give up lets the replica tell of its damage, and returns when the metadata
// shows that it does not lead as it did.
func TestGiveUpDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, im := lastHolder(t)
		next := ledByOne(t)
		p := next.Topic("t").Partitions[0]
		p.Leader, p.LeaderEpoch, p.LastISR = metadata.NoNode, 1, []int32{1}
		images := &changingImage{fixedImage: fixedImage{im}, changed: make(chan struct{})}
		l.b.cfg.Images = images
		done := make(chan error, 1)
		go func() {
			done <- l.b.GiveUpDamaged(t.Context(), api.PartitionRef{Topic: "t"}, im.Topic("t").Partitions[0].PartitionEpoch)
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("it returned before the metadata has heard: %v", err)
		default:
		}
		select {
		case <-l.b.kick:
		default:
			t.Error("the reconciler sleeps on")
		}
		controller := &recorder{index: im.Index()}
		l.b.cfg.Controller, l.b.cfg.SessionTimeout = controller, time.Second
		r := newReconciler(t.Context(), l.b)
		require.True(t, r.retire(im))
		r.adopt([]*metadata.Topic{im.Topic("t")}, im)
		r.recover(im)
		r.proposals.Wait()
		rep := controller.requests[0].GetRecover().GetReplica()
		require.Equal(t, int64(10), rep.GetLogEndOffset())
		l.b.table.byKey(l.key).stop()
		images.set(next)
		require.NoError(t, <-done)
	})
}

// A damaged replica that is moved away before it is begun anew is set aside, where an election
// since may have lost what it holds; what is kept of one that was begun anew stays.
func TestMovedAwayAfterALoss(t *testing.T) {
	movedAway(t, false, 0, "")
	movedAway(t, false, 2, ".stray")
	movedAway(t, true, 0, "")
	movedAway(t, true, 2, ".damaged")
}

func movedAway(t *testing.T, rebuilt bool, lossy int32, left string) {
	t.Helper()
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	scrubbed(t, l, fsys)
	if rebuilt {
		kept, err := l.log.Rebuild(true)
		require.NoError(t, err)
		require.True(t, kept)
	}
	l.b.table.change(nil, []*localReplica{l})
	l.stop()
	im := ledByTwo(t, 2)
	im.Topic("t").Partitions[0].LossyEpoch = lossy
	newReconciler(t.Context(), l.b).removeData(l, im)
	entries, err := fsys.List("/d")
	require.NoError(t, err)
	found := ""
	for _, e := range entries {
		require.NotEqual(t, "t-0", e.Name)
		if strings.HasPrefix(e.Name, "t-0.") {
			found = filepath.Ext(e.Name)
		}
	}
	require.Equal(t, left, found)
	closeAll()
}

// comesBack opens the log of the last holder, [10, 20) of which cannot be read, as a start
// does under an image. spoil is what happened to its files meanwhile.
func comesBack(t *testing.T, im *metadata.Image, spoil func(fsys vfs.FS)) *localReplica {
	t.Helper()
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	scrubbedAs(t, l, fsys, func() { l.finish(l.assign(behindOne(2, 3), nil)) })
	closeAll()
	spoil(fsys)
	l, closeAll = newLocalOn(t, fsys, "/d", -1, testSettings(t))
	t.Cleanup(closeAll)
	l.b.shareMemory()
	l.b.cfg.Images = fixedImage{im}
	require.NoError(t, l.b.keepPlaces(t.Context(), []*localReplica{l}))
	return l
}

// A damaged last holder that comes back from a stop is what it was: it leads, serves both
// sides, takes no records, and gives up nothing but by order. Whoever leads beside it, or may
// hold what it has, makes it tell.
func TestADamagedLastHolderComesBack(t *testing.T) {
	l := comesBack(t, ledByOne(t, 1), func(vfs.FS) {})
	told := l.recovered()
	require.Zero(t, told.GetDamage(), "it tells, and loses its place")
	require.Equal(t, int64(30), told.GetLogEndOffset())
	require.Equal(t, int32(1), told.GetLastEpoch())

	for name, tt := range map[string]struct {
		im    *metadata.Image
		tells bool
	}{
		"as it was": {ledByOne(t, 1), false}, "another leads": {ledByTwo(t, 2), true}, "another is in sync": {ledByTwo(t, 2, 1), true},
	} {
		require.Equal(t, tt.tells, l.tellsDamage(tt.im), name)
	}

	im := ledByOne(t, 1)
	im.Topic("t").Partitions[0].LeaderEpoch = 4
	l.b.cfg.Images = fixedImage{im}
	r := newReconciler(t.Context(), l.b)
	require.False(t, r.retire(im))
	r.assign(im.Topic("t"), im)
	require.Equal(t, partition.RoleLeader, l.role())
	require.Equal(t, record.Epoch(4), l.epoch())
	require.Equal(t, record.Offset(30), l.watermark())
	require.Equal(t, partition.DamageCorrupt, l.state.Damage(), "it would not hand over to whoever comes in sync")
	for _, from := range []record.Offset{0, 20} {
		var got api.FetchResult
		l.b.readFrom(l, &got, &api.FetchPartition{PartitionRef: api.PartitionRef{Topic: "t"}, Offset: from, MaxBytes: 1, LeaderEpoch: -1}, reading{room: 1 << 20, must: true})
		require.Nil(t, got.Err, "fetch from %d", from)
		require.Len(t, got.Batches, 1)
		got.Release()
	}
	results, err := produce(t, l).Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.CodeStorageFailed, api.CodeOf(asError(results[0].Err)))
	require.Equal(t, []api.DamagedReplica{{
		TopicPartition: api.TopicPartition{Topic: "t"}, Leads: true, Damage: "durable data is corrupt", WholeTo: 10, End: 30, GivesUp: true,
	}}, l.b.DamagedReplicas(t.Context()))

	// Its session ends, and it is elected again.
	ends := ledByOne(t, 1)
	p := ends.Topic("t").Partitions[0]
	p.Leader, p.LeaderEpoch, p.PartitionEpoch = metadata.NoNode, 5, 8
	r.assign(ends.Topic("t"), ends)
	require.NotEqual(t, partition.RoleLeader, l.role())
	require.False(t, r.retire(ends))
	again := ledByOne(t, 1)
	p = again.Topic("t").Partitions[0]
	p.LeaderEpoch, p.PartitionEpoch = 6, 9
	r.assign(again.Topic("t"), again)
	require.Equal(t, partition.RoleLeader, l.role())
	require.Equal(t, partition.DamageCorrupt, l.state.Damage())
}

// What a log lacks at its end it may not lead for, and where others may hold everything there
// is nothing to keep: the metadata is told.
func TestADamagedReplicaThatTellsAsItStarts(t *testing.T) {
	replicated := func(im *metadata.Image) *metadata.Image {
		t.Helper()
		im, _, err := metadata.Apply(im, im.Index()+1, &metav1.Command{Version: 1, Id: append(make([]byte, 15), 200), Kind: &metav1.Command_AlterTopicConfig{AlterTopicConfig: &metav1.AlterTopicConfig{
			Name: "t", Set: map[string]string{"durability": "replicated"},
		}}})
		require.NoError(t, err)
		return im
	}
	for name, tt := range map[string]struct {
		im  *metadata.Image
		cut int64 // bytes off the end of the segment
	}{
		"another leads":   {ledByTwo(t, 2), 0},
		"not alone":       {ledByOne(t, 1, 2), 0},
		"not synced":      {replicated(ledByOne(t, 1)), 0},
		"a deleted topic": {image(t), 0},
		"cut short":       {ledByOne(t, 1), 20},
	} {
		t.Run(name, func(t *testing.T) {
			l := comesBack(t, tt.im, func(fsys vfs.FS) {
				file, err := fsys.Open("/d/t-0/00000000000000000000.log")
				require.NoError(t, err)
				size, err := file.Size()
				require.NoError(t, err)
				require.NoError(t, file.Truncate(size-tt.cut))
				require.NoError(t, file.Close())
			})
			told := l.recovered()
			require.Equal(t, metav1.Damage_DAMAGE_CORRUPT, told.GetDamage())
			require.Equal(t, int64(10), told.GetLogEndOffset())
			require.Equal(t, record.Offset(10), l.logEnd())
		})
	}
}

// Alone is who has nobody beside it that the metadata counts on.
func TestWhoHoldsAlone(t *testing.T) {
	leaderless, eligible := ledByOne(t, 1), ledByOne(t, 1)
	leaderless.Topic("t").Partitions[0].Leader = metadata.NoNode
	eligible.Topic("t").Partitions[0].ELR = []int32{2}
	for name, tt := range map[string]struct {
		im    *metadata.Image
		alone bool
	}{
		"leads": {ledByOne(t, 1), true}, "nobody leads": {leaderless, true}, "another leads": {ledByTwo(t, 2), false},
		"in sync with another": {ledByOne(t, 1, 2), false}, "another is eligible": {eligible, false},
	} {
		require.Equal(t, tt.alone, holdsAlone(tt.im.Topic("t").Partitions[0], 1), name)
	}
}

// unconfirmed is metadata that nobody confirms.
type unconfirmed struct{ fixedImage }

func (unconfirmed) ReadBarrier(context.Context) error { return context.DeadlineExceeded }

// A partition of groups gives up what cannot be read and nothing else, whoever is away; but not
// before the metadata has confirmed that nobody took over who has it whole.
func TestGroupsGiveUpBadBatches(t *testing.T) {
	l, im := lastHolder(t)
	l.internal, l.topic = true, offsetsTopic
	im.Broker(2).Fenced = true
	require.Nil(t, l.mayGiveUp(im))
	im.Topic("t").Partitions[0].Replicas = im.Topic("t").Partitions[0].Replicas[1:]
	require.Nil(t, l.mayGiveUp(im))
	ref := api.PartitionRef{TopicID: l.key.Topic}
	l.b.cfg.Images = unconfirmed{fixedImage{im}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what is not refused waits
	require.ErrorContains(t, l.b.GiveUpDamaged(ctx, ref, -1), "has not confirmed")
	require.Equal(t, commitlog.DamageCorrupt, l.log.Damage())

	l.b.cfg.Images = fixedImage{im}
	require.ErrorIs(t, l.b.GiveUpDamaged(ctx, ref, -1), context.Canceled)
	require.Equal(t, commitlog.DamageNone, l.log.Damage())
	require.Equal(t, record.Offset(30), l.log.End())
	require.True(t, l.tellsDamage(im), "it takes no records until it is opened anew")
	slices, err := l.log.Read(10, 20, 1<<20)
	require.NoError(t, err)
	require.Len(t, slices, 1)
	require.True(t, record.IsPlaceholder(slices[0].Bytes))
	slices[0].Release()

	l.topic = "t"
	require.False(t, l.givesUpBatches(), "a topic of users")
}
