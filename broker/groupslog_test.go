package broker

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/broker/partition"
	"github.com/penstock/penstock/consumergroup/coordinator"
	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// appendTo appends a record as the coordinator does.
func appendTo(t *testing.T, o *offsetsLog) coordinator.Appending {
	t.Helper()
	return o.Append(batchAt(t, 0, 0, 1))
}

// A coordinator does not wait for the watermark of the last holder whose log failed: it
// stands still for good. Nor is it in doubt about what such a log never took.
func TestGroupsOfALogThatFailed(t *testing.T) {
	faults := vfs.NewFaults(vfs.NewMem())
	l, closeAll := newLocalOn(t, faults, "/d", -1, testSettings(t))
	defer func() {
		faults.Heal()
		l.stop()
		_ = l.b.cfg.Dir.Close(-1) // the failure is in it
		closeAll()
	}()
	l.finish(l.assign(alone(), nil))
	o := &offsetsLog{l, 1}
	require.NoError(t, appendTo(t, o).Wait(t.Context()))
	_, end, err := o.Bounds(t.Context())
	require.NoError(t, err)
	require.Equal(t, record.Offset(1), end)

	hangs := make(chan struct{})
	faults.Inject(vfs.Fault{Op: vfs.OpSync, Pattern: "*.log", Err: syscall.EIO, Hold: hangs})
	inDoubt := appendTo(t, o)
	until(t, "the flush", func() bool { return faults.Held() > 0 })
	waits := make(chan error, 1)
	limit, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, _, err := o.Bounds(limit)
		waits <- err
	}()
	until(t, "a load that waits", func() bool { return l.readers.waiting.Load() > 0 })
	close(hangs)
	failed := func(err error) {
		t.Helper()
		require.Equal(t, api.CodeStorageFailed, api.CodeOf(err), "%v", err)
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorContains(t, err, "until a restart")
	}
	failed(<-waits)
	_, _, err = o.Bounds(limit)
	failed(err)

	err = inDoubt.Wait(limit)
	failed(err)
	require.True(t, api.CodeOf(err).Indefinite(), "it may be on the disk: %v", err)
	refused(t, appendTo(t, o).Wait(limit), syscall.EIO)
}

// refused is an error that says that nothing was appended, and why.
func refused(t *testing.T, err, why error) {
	t.Helper()
	require.Equal(t, api.CodeCoordinatorNotAvailable, api.CodeOf(err), "%v", err)
	require.False(t, api.CodeOf(err).Indefinite(), "%v", err)
	if !errors.Is(err, why) {
		t.Errorf("%v does not name %v", err, why)
	}
}

// A coordinator that cannot read its log is one of those who find damage: the replica
// hands over to one that is intact.
func TestALoadFindsDamage(t *testing.T) {
	fsys := vfs.NewMem()
	l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
	l.finish(l.assign(alone(), nil))
	for range 3 {
		require.NoError(t, appendTo(t, &offsetsLog{l, 1}).Wait(t.Context()))
	}
	closeAll()
	file, err := fsys.Open("/d/t-0/00000000000000000000.log")
	require.NoError(t, err)
	size, err := file.Size()
	require.NoError(t, err)
	flipped := make([]byte, 1)
	if _, err = file.ReadAt(flipped, size/2); err != nil {
		require.ErrorIs(t, err, io.EOF)
	}
	flipped[0] ^= 1
	_, err = file.WriteAt(flipped, size/2)
	require.NoError(t, err)
	require.NoError(t, file.Close())

	l, closeAll = newLocalOn(t, fsys, "/d", -1, testSettings(t))
	defer closeAll()
	l.finish(l.assign(led(1, 2), nil))
	o := &offsetsLog{l, 2}
	for at := record.Offset(0); err == nil; at++ { // the first batch may come by itself
		require.Less(t, at, record.Offset(3), "what is damaged was read")
		var slices []record.Slice
		slices, err = o.Read(t.Context(), at, 3, 1<<20)
		for i := range slices {
			slices[i].Release()
		}
	}
	require.Equal(t, api.CodeStorageFailed, api.CodeOf(err), "%v", err)
	require.Equal(t, partition.DamageCorrupt, l.state.Damage())
	require.True(t, l.hurt.Load())
}

// What leaves this broker takes its groups along, also when the image in which another
// broker led was never seen.
func TestGroupsGoWithTheirReplica(t *testing.T) {
	l := newLocal(t, testSettings(t))
	b := l.b
	im := image(t)
	b.cfg.Images = fixedImage{im}
	var err error
	b.coordinator, err = coordinator.New(coordinator.Config{NodeID: 1, Topics: groupTopics{b.cfg.Images}, Logger: b.logger})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.coordinator.Close()) }()
	b.coordinator.SetPartitions(1)
	l.finish(l.assign(alone(), nil))
	b.loadGroups(l)
	until(t, "the groups", func() bool { return b.coordinator.Partitions()[coordinator.StateActive] == 1 })
	r := newReconciler(t.Context(), b)
	r.last = im
	r.drop(im)
	require.Nil(t, b.table.byKey(l.key))
	_, err = b.coordinator.FetchOffsets(t.Context(), &api.FetchOffsets{Group: "g"})
	require.Equal(t, api.CodeNotCoordinator, api.CodeOf(err), "%v", err)
}
