package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// startCleaning starts nodes that compact all the time.
func (w *world) startCleaning(nodes int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	opts := devOptions(nodes, w.dir)
	opts.BasePort = w.port
	configure := opts.Configure
	opts.Configure = func(c *Config) {
		configure(c)
		c.CleanerBackoff = 20 * time.Millisecond
	}
	d, err := StartDev(ctx, opts)
	require.NoError(w.t, err)
	w.d = d
}

// put writes one record of a key; nil: its deletion.
func (w *world) put(topic string, key, value []byte) (int64, error) {
	conn, _, err := w.leader(topic, 0)
	if err != nil {
		return -1, err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	rec := &pb.Record{Key: key, Value: value}
	out, err := wire.CallProduce(ctx, conn, &wire.Produce{ProduceRequest: &pb.ProduceRequest{
		Acks: pb.Acks_ACKS_ALL, TimeoutMs: 5000,
		Partitions: []*pb.ProducePartition{{Topic: topic, Records: []*pb.Record{rec}}},
	}})
	if err != nil {
		return -1, err
	}
	if e := out.GetResults()[0].GetError(); e != nil {
		return -1, pbError{e}
	}
	return out.GetResults()[0].GetBaseOffset(), nil
}

// table reads a topic from its start to the end and returns the latest values and
// how many records there were.
func (w *world) table(topic string, end int64) (latest map[string]string, records int) {
	w.t.Helper()
	latest = map[string]string{}
	for from := int64(0); from < end; {
		var r *pb.FetchPartitionResult
		w.until("fetch", 15*time.Second, func() (err error) {
			if r, err = w.fetch(topic, 0, from, 50*time.Millisecond); err == nil && len(r.GetRecords()) == 0 {
				err = fmt.Errorf("nothing at offset %d of %d", from, end)
			}
			return err
		})
		for _, rec := range r.GetRecords() {
			require.GreaterOrEqual(w.t, rec.GetOffset(), from)
			from = rec.GetOffset() + 1
			records++
			if rec.Value == nil {
				delete(latest, string(rec.GetKey()))
			} else {
				latest[string(rec.GetKey())] = string(rec.GetValue())
			}
		}
	}
	return latest, records
}

// consume is table by the Go client, which reads batches.
func (w *world) consume(topic string, end int64) map[string]string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 15*time.Second)
	defer cancel()
	c, err := client.New(w.d.Brokers())
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, c.Close()) }()
	k, err := c.NewConsumer(client.WithTopics(topic), client.WithStart(client.Earliest()))
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, k.Close(ctx)) }()
	latest := map[string]string{}
	for at := int64(0); at < end; {
		polled, err := k.Poll(ctx)
		require.NoError(w.t, err)
		for r := range polled.All() {
			if r.Value == nil {
				delete(latest, string(r.Key))
			} else {
				latest[string(r.Key)] = string(r.Value)
			}
		}
		require.NoError(w.t, polled.Err())
		at, _ = k.Position(client.TopicPartition{Topic: topic})
	}
	return latest
}

// A compacted topic over three nodes: keys are asked for, every replica compacts,
// offsets stay, a replica that starts over copies a log with gaps and serves it,
// and nothing is lost in all this.
func TestCompactedTopic(t *testing.T) {
	w := newWorld(t, freePorts(t, 3))
	w.startCleaning(3)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", ReplicationFactor: 3, Configs: map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "4096", "min.cleanable.dirty.ratio": "0.2",
	}})
	want, next := map[string]string{}, int64(0)
	put := func(key, value string) {
		t.Helper()
		var b []byte
		if value != "" {
			b = []byte(value)
			want[key] = value
		} else {
			delete(want, key)
		}
		w.until("put", 15*time.Second, func() error {
			offset, err := w.put("t", []byte(key), b)
			if err == nil {
				require.Equal(t, next, offset, "offsets stay dense at the end")
				next++
			}
			return err
		})
	}
	fill := func(round int) {
		for i := range 120 {
			value := fmt.Sprintf("%d.%d %s", round, i, strings.Repeat("v", 200))
			if i%9 == 0 {
				value = ""
			}
			put(fmt.Sprint("key ", i%7), value)
		}
	}
	fill(0)
	_, err := w.put("t", nil, []byte("v"))
	require.Error(t, err)
	var typed pbError
	require.ErrorAs(t, err, &typed)
	require.Equal(t, pb.ErrorCode_ERROR_CODE_INVALID_RECORD, typed.e.GetCode())
	require.Contains(t, typed.e.GetMessage(), "record 0 of 1")

	w.until("every replica is compacted", 20*time.Second, func() error {
		for id := 1; id <= 3; id++ {
			files, err := filepath.Glob(filepath.Join(w.node(int32(id)).cfg.DataDir, "t-0", "*.log"))
			require.NoError(t, err)
			if len(files) > 6 {
				return fmt.Errorf("node %d has %d segments", id, len(files))
			}
		}
		return nil
	})

	// One replica loses its copy, starts over from a leader with gaps, and compacts on.
	_, leader, err := w.leader("t", 0)
	require.NoError(t, err)
	follower := leader%3 + 1
	dir := w.node(follower).cfg.DataDir
	w.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "t-0")))
	w.startCleaning(3)
	w.until("three in sync", 20*time.Second, func() error { return w.inSync("t", 3) })
	fill(1)
	for id := int32(1); id <= 3; id++ {
		if id != follower {
			w.stopNode(id, false)
			break
		}
	}
	latest, _ := w.table("t", next)
	require.Equal(t, want, latest)
	require.Equal(t, want, w.consume("t", next), "by the Go client")

	w.stop()
	for id := 1; id <= 3; id++ {
		latest, records, cleaned := tableOnDisk(t, filepath.Join(w.dir, fmt.Sprintf("node-%d", id)), "t")
		require.Less(t, records, 150, "node %d", id)
		require.Positive(t, cleaned, "node %d", id)
		if len(latest) == len(want) {
			require.Equal(t, want, latest, "node %d", id)
		}
	}
}

// tableOnDisk reads partition 0 of a topic out of a stopped node's data directory.
func tableOnDisk(t *testing.T, dir, topic string) (latest map[string]string, records int, cleaned record.Offset) {
	t.Helper()
	d, err := commitlog.OpenDir(commitlog.DirOptions{FS: vfs.OS{}, Path: dir, Logger: testLogger()})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close(-1)) }()
	found, err := d.Scan()
	require.NoError(t, err)
	latest = map[string]string{}
	for _, f := range found {
		if f.Topic != topic {
			continue
		}
		l, err := d.Open(commitlog.Spec{Topic: topic, TopicID: f.TopicID, Partition: f.Partition})
		require.NoError(t, err)
		require.Equal(t, commitlog.DamageNone, l.Damage(), "%v", l.Recovery().Cause)
		for from := l.Start(); from < l.End(); {
			slices, err := l.Read(from, l.End(), 1<<20)
			require.NoError(t, err)
			for i := range slices {
				for b := slices[i].Bytes; len(b) > 0; {
					info, _ := record.Peek(b)
					for rec, err := range record.Records(b[:info.Size], record.Limits{}) {
						require.NoError(t, err)
						records++
						latest[string(rec.Key)] = string(rec.Value)
					}
					from, b = info.NextOffset(), b[info.Size:]
				}
				slices[i].Release()
			}
		}
		maps.DeleteFunc(latest, func(_, value string) bool { return value == "" })
		return latest, records, l.Cleaned()
	}
	t.Fatalf("no topic %s in %s", topic, dir)
	return nil, 0, 0
}
