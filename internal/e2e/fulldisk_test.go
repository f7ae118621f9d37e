package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

const (
	fullTopic = "full"
	// fullReserve is disk.reserve of nodes whose whole disk is smallDisk.
	fullReserve = 8 << 20
	smallDisk   = 36 << 20
)

// smallDisks gives each data directory a file system of its own, or says why it
// cannot be. They go after the nodes have ended.
func smallDisks(t *testing.T, kind string) func(nodes *chaos.Cluster) {
	t.Helper()
	return func(nodes *chaos.Cluster) {
		t.Helper()
		if os.Geteuid() != 0 {
			t.Skip("mounting a small file system needs root")
		}
		for id := range nodes.Addrs() {
			dir := nodes.DataDir(id + 1)
			require.NoError(t, os.Mkdir(dir, 0o700))
			if err := mountSmall(t.Context(), kind, dir); err != nil {
				t.Skipf("no small %s: %v", kind, err)
			}
			t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
		}
	}
}

func mountSmall(ctx context.Context, kind, dir string) error {
	if kind == "tmpfs" {
		return syscall.Mount("none", dir, kind, 0, fmt.Sprintf("size=%d", smallDisk))
	}
	image := dir + ".image"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, smallDisk); err != nil {
		return err
	}
	for _, command := range [][]string{{"mkfs." + kind, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
	}
	return nil
}

// Disks fill up under load: produce is refused and all else goes on; when there is
// space again, by whatever means, produce goes on too, without a restart, and also
// after all processes were killed on a full disk. Every acknowledged record that
// nobody deleted is there.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			w := startPrepared(t, chaos.Options{Nodes: 3, Config: []string{
				fmt.Sprintf("disk.reserve: %d", fullReserve),
			}}, smallDisks(t, kind))
			f := &filler{w: w, acked: map[place][32]byte{}}
			f.create(t)
			w.createTopic("spare", 1, 3)
			_, err := w.client.Admin().CommittedOffsets(w.ctx, "readers") // creates __consumer_offsets
			require.NoError(t, err)
			w.waitHealthy()

			f.fill(t)
			f.requireOthersGoOn(t)
			f.verify(t)
			deleted, err := w.client.Admin().DeleteRecords(w.ctx, client.Latest(), f.parts()...)
			require.NoError(t, err)
			for _, d := range deleted {
				require.NoError(t, d.Err, "deleting records needs no space")
			}
			clear(f.acked)
			f.requireProduce(t, "after records were deleted")

			f.fill(t)
			require.NoError(t, w.nodes.KillAll())
			require.NoError(t, w.nodes.StartAll())
			w.waitHealthy()
			f.requireOthersGoOn(t)
			f.verify(t)
			require.NoError(t, w.client.Admin().DeleteTopic(w.ctx, fullTopic))
			clear(f.acked)
			f.create(t)
			f.requireProduce(t, "after a topic was deleted")

			for id := 1; id <= 3; id++ {
				f.ballast(t, w.nodes.DataDir(id))
			}
			f.requireRefused(t)
			f.requireOthersGoOn(t)
			for id := 1; id <= 3; id++ {
				require.Equal(t, 1.0, f.metric(t, id, "penstock_disk_full"), "node %d", id) //nolint:testifylint // it is 0 or 1
			}
			f.verify(t)
			for id := 1; id <= 3; id++ {
				require.NoError(t, os.Remove(filepath.Join(w.nodes.DataDir(id), "ballast")))
			}
			f.requireProduce(t, "after others made room")
			f.verify(t)
			f.requireNoFailedLog(t)
		})
	}
}

// filler fills the topic full and remembers what was acknowledged.
type filler struct {
	w  *world
	mu sync.Mutex // guards acked
	// acked has the hash of each acknowledged value.
	acked map[place][32]byte
}

const fullPartitions = 3

func (f *filler) create(t *testing.T) {
	t.Helper()
	_, err := f.w.client.Admin().CreateTopic(f.w.ctx, client.TopicSpec{
		Name: fullTopic, Partitions: fullPartitions, ReplicationFactor: 3, Configs: map[string]string{"segment.bytes": "1048576"},
	})
	require.NoError(t, err)
	f.w.waitHealthy()
}

func (f *filler) parts() (parts []client.TopicPartition) {
	for p := range int32(fullPartitions) {
		parts = append(parts, client.TopicPartition{Topic: fullTopic, Partition: p})
	}
	return parts
}

// produce makes records of 64 KiB that no file system makes smaller, until one
// fails; n bounds them.
func (f *filler) produce(n int, delivery time.Duration) error {
	p, err := f.w.client.NewProducer(client.WithDeliveryTimeout(delivery), client.WithCompression("none"), client.WithBatchBytes(256<<10))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(f.w.ctx)
	random := rand.NewChaCha8([32]byte{1})
	for i := 0; i < n && ctx.Err() == nil; i++ {
		value := make([]byte, 64<<10)
		_, _ = random.Read(value) // it never fails
		r := &client.Record{Topic: fullTopic, Key: fmt.Append(nil, i), Value: value}
		p.Produce(ctx, r, func(r *client.Record, err error) {
			if err != nil {
				cancel(err)
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.acked[place{r.Partition, r.Offset}] = sha256.Sum256(r.Value)
		})
	}
	err = p.Flush(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	ending, stop := context.WithTimeout(f.w.ctx, testWait)
	defer stop()
	_ = p.Close(ending) // says again what failed
	return err
}

// fill produces until the brokers refuse.
func (f *filler) fill(t *testing.T) {
	t.Helper()
	const producers = 4
	failures := make(chan error, producers)
	for range producers {
		go func() { failures <- f.produce(10*smallDisk/(64<<10), 2*time.Second) }()
	}
	var err error
	for range producers {
		err = <-failures
		require.Error(t, err)
	}
	delivery, ok := errors.AsType[*client.DeliveryError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, client.CodeDiskFull, client.CodeOf(delivery.Err), "%v", err)
	require.True(t, client.IsRetriable(delivery.Err))
	t.Logf("refused after %d records: %v", len(f.acked), err)
	require.Greater(t, len(f.acked), smallDisk/(64<<10)/4, "most of the disk was filled")
	f.requireNoFailedLog(t)
}

func (f *filler) requireRefused(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		err := f.produce(1, 200*time.Millisecond)
		delivery, ok := errors.AsType[*client.DeliveryError](err)
		return ok && client.CodeOf(delivery.Err) == client.CodeDiskFull
	}, testWait, 10*time.Millisecond)
}

func (f *filler) requireProduce(t *testing.T, when string) {
	t.Helper()
	require.NoError(t, f.produce(10, testWait), when)
}

// requireOthersGoOn: consumers, their commits, changes of topics.
func (f *filler) requireOthersGoOn(t *testing.T) {
	t.Helper()
	f.w.waitHealthy()
	for i := range 20 {
		want := int64(i % 3)
		_, err := f.w.client.Admin().ApplyReset(f.w.ctx, "readers", []client.OffsetMove{{TopicPartition: client.TopicPartition{Topic: "spare"}, After: want}})
		require.NoError(t, err, "offsets are committed on a full disk")
		got, err := f.w.client.Admin().CommittedOffsets(f.w.ctx, "readers", client.TopicPartition{Topic: "spare"})
		require.NoError(t, err)
		require.Equal(t, want, got[0].Offset)
	}
	require.NoError(t, f.w.client.Admin().AlterTopic(f.w.ctx, "spare", map[string]string{"retention.ms": "60000"}), "metadata changes on a full disk")
	for id := 1; id <= 3; id++ {
		require.Less(t, f.metric(t, id, "penstock_disk_free_bytes"), float64(fullReserve+4<<20), "node %d", id)
	}
}

// verify reads everything and finds what was acknowledged.
func (f *filler) verify(t *testing.T) {
	t.Helper()
	found := 0
	parts := f.parts()
	starts, err := f.w.client.Admin().ListOffsets(f.w.ctx, client.Earliest(), parts...)
	require.NoError(t, err)
	ends, err := f.w.client.Admin().ListOffsets(f.w.ctx, client.Latest(), parts...)
	require.NoError(t, err)
	want := int64(0)
	for i := range ends {
		want += ends[i].Offset - starts[i].Offset
	}
	k, err := f.w.client.NewConsumer(client.WithPartitions(parts...), client.WithStart(client.Earliest()))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(f.w.ctx, testWait)
	defer cancel()
	for read := int64(0); read < want; {
		polled, err := k.Poll(ctx)
		require.NoError(t, err, "read %d of %d records", read, want)
		for r := range polled.All() {
			if hash, ok := f.acked[place{r.Partition, r.Offset}]; ok {
				require.Equal(t, hash, sha256.Sum256(r.Value), "partition %d, offset %d", r.Partition, r.Offset)
				found++
			}
			read++
		}
		require.NoError(t, polled.Err())
		polled.Release()
	}
	require.NoError(t, k.Close(ctx))
	require.Equal(t, len(f.acked), found, "records that were acknowledged")
}

// ballast takes what is above the reserve.
func (f *filler) ballast(t *testing.T, dir string) {
	t.Helper()
	var st syscall.Statfs_t
	require.NoError(t, syscall.Statfs(dir, &st))
	size := int64(st.Bavail)*st.Bsize - fullReserve*7/8
	require.Positive(t, size)
	file, err := os.Create(filepath.Join(dir, "ballast"))
	require.NoError(t, err)
	require.NoError(t, syscall.Fallocate(int(file.Fd()), 0, 0, size))
	require.NoError(t, file.Close())
}

func (f *filler) requireNoFailedLog(t *testing.T) {
	t.Helper()
	for id := 1; id <= 3; id++ {
		require.Zero(t, f.metric(t, id, "penstock_offline_replicas"), "node %d", id)
		printed, err := os.ReadFile(f.w.nodes.LogFile(id))
		require.NoError(t, err)
		require.NotContains(t, string(printed), "the log failed", "node %d", id)
	}
}

func (f *filler) metric(t *testing.T, id int, name string) float64 {
	t.Helper()
	return f.w.metric(t, id, name)
}

// metric reads one that has no labels.
func (w *world) metric(t *testing.T, id int, name string) float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "http://"+w.nodes.HTTPAddr(id)+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(body)
	require.NotNil(t, m, name)
	value, err := strconv.ParseFloat(string(m[1]), 64)
	require.NoError(t, err)
	return value
}
