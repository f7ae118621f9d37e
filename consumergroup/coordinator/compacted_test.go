package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// compactedLog is a real log, which is only read.
type compactedLog struct {
	Log
	log *commitlog.Log
}

func (l compactedLog) Bounds(context.Context) (start, end record.Offset, err error) {
	return l.log.Start(), l.log.HighWatermark(), nil
}

func (l compactedLog) Read(_ context.Context, from, end record.Offset, maxBytes int) ([]record.Slice, error) {
	return l.log.Read(from, end, maxBytes)
}

// Groups load from a compacted log, gaps and empty batches and all, as from the
// log that held every record.
func TestLoadFromACompactedLog(t *testing.T) {
	source := &fakeLog{}
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		source = b.log
		synctest.Wait()
		for i := range 300 {
			mustCommit(t, b.c, adminCommit(fmt.Sprintf("group %d", i%5), int32(i%4), record.Offset(i)))
			if i%50 == 0 {
				m := b.member(api.JoinGroup{Group: "with members"}).start()
				synctest.Wait()
				time.Sleep(time.Second)
				m.cut()
			}
		}
		if err := b.c.DeleteGroup(t.Context(), "group 3"); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, b.c, adminCommit("group 0", 0, 1000))
		b.close()
	})

	dir, err := commitlog.OpenDir(commitlog.DirOptions{FS: vfs.NewMem(), Path: "/data", TailBytes: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := dir.Close(-1); err != nil {
			t.Error(err)
		}
	}()
	log, err := dir.Open(commitlog.Spec{Topic: "__consumer_offsets", TopicID: [16]byte{1}, Config: commitlog.Config{Synced: true, Compact: true, SegmentBytes: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range source.batches {
		info, _ := record.Peek(b)
		buf := record.NewBuf(b)
		if err := log.AppendFollower(info.BaseOffset, info.NextOffset(), 0, []*record.Buf{buf}); err != nil {
			t.Fatal(err)
		}
		buf.Release()
		for deadline := time.Now().Add(10 * time.Second); log.Flushed() < info.NextOffset(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the log does not flush")
			}
		}
	}
	log.SetHighWatermark(log.End())
	did, err := commitlog.NewCleaner(commitlog.CleanerOptions{BytesPerSecond: -1}).Compact(t.Context(), log)
	if err != nil || did.Dropped < 200 || log.Cleaned() == 0 {
		t.Fatalf("%+v, cleaned below %d, %v", did, log.Cleaned(), err)
	}
	want, err := load(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	got, err := load(t.Context(), compactedLog{log: log})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.groups, want.groups) {
		t.Errorf("loaded %+v, want %+v", got.groups, want.groups)
	}
	if got.records >= want.records/2 || len(want.groups) < 4 {
		t.Errorf("%d records of %d, %d groups", got.records, want.records, len(want.groups))
	}
}
