package broker

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
	"github.com/penstock/penstock/internal/vfs"
)

// laterImage is metadata of which this broker has applied less than is committed, until
// somebody asks.
type laterImage struct {
	fixedImage
	now atomic.Pointer[metadata.Image]
	ask chan *metadata.Image
}

func (l *laterImage) Image() *metadata.Image { return l.now.Load() }

func (l *laterImage) ReadBarrier(ctx context.Context) error {
	select {
	case im := <-l.ask:
		l.now.Store(im)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The data of a replica that was moved away goes when the metadata, asked after the replica
// has ended, still says so: a leader that knew more may have counted on it until then.
func TestDataGoesByTheLastWord(t *testing.T) {
	for _, back := range []bool{false, true} {
		fsys := vfs.NewMem()
		l, closeAll := newLocalOn(t, fsys, "/d", -1, testSettings(t))
		b := l.b
		there := func() bool {
			_, err := fsys.List(filepath.Join("/d", "t-0"))
			return err == nil
		}
		images := &laterImage{ask: make(chan *metadata.Image)}
		moved, last := elsewhere(t, "1", 2), elsewhere(t, "1", 2)
		if back {
			last = ledByTwo(t, 2, 1)
		}
		images.now.Store(moved)
		b.cfg.Images = images
		ctx, cancel := context.WithCancel(t.Context())
		r := newReconciler(ctx, b)
		r.last = ledByTwo(t, 2, 1)
		r.depart(r.drop(moved))
		require.Nil(t, b.table.byKey(l.key), "it ends first")
		require.Empty(t, r.leave(moved))
		require.True(t, there(), "nobody was asked yet")
		images.ask <- last
		r.proposals.Wait()
		gone := r.leave(last)
		require.Empty(t, r.departed)
		if back {
			require.Empty(t, gone)
			require.True(t, there(), "the partition came back")
		} else {
			require.Equal(t, []*localReplica{l}, gone)
			r.removeData(l, last)
			require.False(t, there())
		}
		cancel()
		closeAll()
	}
}
