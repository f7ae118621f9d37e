package log

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// kafkaGolden holds what Apache Kafka wrote (kafka-0) and what it reads of ours
// (penstock-0); its README says how both were made.
const kafkaGolden = "testdata/golden-kafka"

var kafkaID = [16]byte{0xa, 1, 2, 3, 15: 1}

// loadFolder copies a folder of the operating system into a file system.
func loadFolder(t *testing.T, from string, fsys vfs.FS, to string) {
	t.Helper()
	require.NoError(t, fsys.Mkdir(to))
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		require.NoError(t, err)
		require.NoError(t, create(fsys, path.Join(to, e.Name()), b))
	}
}

// kafkaRecords are the records that the Java program appends.
func kafkaRecords() []record.Record {
	var out []record.Record
	for i := range 27 {
		r := record.Record{Offset: record.Offset(i), Timestamp: 1_700_000_000_000 + 10*int64(i)}
		if i%4 != 3 {
			r.Key = fmt.Appendf(nil, "key-%d", i)
		}
		if i%7 != 6 {
			r.Value = fmt.Appendf(nil, "value-%d-%s", i, strings.Repeat("x", i))
		}
		if i%3 == 0 {
			r.Headers = []record.Header{{Key: "trace", Value: fmt.Appendf(nil, "t-%d", i)}, {Key: "empty"}}
		}
		out = append(out, r)
	}
	return append(out, record.Record{Offset: 28, Timestamp: -1, Key: []byte("no time"), Value: []byte("none")})
}

// A folder that Apache Kafka's own log wrote is a partition: segments, epochs and
// topic id are read as they are, its indexes, where they differ, are built anew,
// and its producers are found by replay.
func TestKafkasFolderIsAPartition(t *testing.T) {
	mem := vfs.NewMem()
	loadFolder(t, kafkaGolden+"/kafka-0", mem, testPath+"/kafka-0")
	d := openTestDir(t, testOptions(mem))
	n := newListener()
	spec := Spec{Topic: "kafka", TopicID: kafkaID, Config: Config{Synced: true}, Notify: n.notify}
	l, err := d.Open(spec)
	require.NoError(t, err)
	n.listen(l)
	require.Equal(t, DamageNone, l.Damage())
	require.Equal(t, record.Offset(29), l.End())
	require.Equal(t, epochs{{0, 0}, {2, 15}, {5, 24}}, l.epochs)

	var got []record.Record
	codecs := map[record.Codec]bool{}
	controls := 0
	for b := readEverything(t, l); len(b) > 0; {
		info, ok := record.Peek(b)
		require.True(t, ok)
		_, err := record.Validate(b[:info.Size], record.Limits{Internal: true})
		require.NoError(t, err)
		codecs[info.Attributes.Codec()] = true
		if info.Attributes.Control() {
			controls++
			require.Equal(t, record.Offset(27), info.BaseOffset)
		} else {
			for r, err := range record.Records(b[:info.Size], record.Limits{Internal: true}) {
				require.NoError(t, err)
				got = append(got, r)
			}
		}
		b = b[info.Size:]
	}
	require.Equal(t, kafkaRecords(), got)
	require.Len(t, codecs, 5)
	require.Equal(t, 1, controls)

	off, at, found, err := l.OffsetForTime(1_700_000_000_101, l.End())
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, record.Offset(11), off)
	require.EqualValues(t, 1_700_000_000_110, at)

	_, _, err = tryAdd(l, 5, idempotent(t, 42, 1, 6, "a", "b", "c"))
	require.Equal(t, &DuplicateError{21, 24}, err)
	_, next := add(t, l, 5, idempotent(t, 42, 1, 9, "goes on"))
	n.waitFlushed(next)
	require.NoError(t, d.Close(1))

	bad, _, sum := findings(t, mem, testPath)
	require.EqualValues(t, 12, sum.Batches)
	for _, f := range bad {
		require.Equal(t, KindSnapshot, f.Kind, "Kafka's snapshots have the same name and another format: %s", f)
	}
	for _, off := range []record.Offset{21, 29} {
		require.NoError(t, mem.Remove(path.Join(testPath, "kafka-0", offsetName(off)+snapshotExt)))
	}
	bad, _, _ = findings(t, mem, testPath)
	require.Empty(t, bad)
}

// writeForKafka makes a partition with all codecs, headers, epochs, an idempotent
// producer and a roll.
func writeForKafka(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	opts := testOptions(mem)
	opts.Now = func() time.Time { return time.UnixMilli(1_800_000_000_000) }
	d := openTestDir(t, opts)
	n := newListener()
	l, err := d.Open(Spec{Topic: "penstock", TopicID: kafkaID, Config: Config{Synced: true, SegmentBytes: 800, IndexInterval: 200}, Notify: n.notify})
	require.NoError(t, err)
	n.listen(l)
	records := kafkaRecords()[:27]
	for i := range 9 {
		b := record.NewBuilder(record.BuilderOptions{Codec: record.Codec(i % 5)})
		if i >= 5 {
			b.SetProducer(42, 1, int32(3*(i-5)))
		}
		for j := range 3 {
			require.NoError(t, b.Append(&records[3*i+j]))
		}
		raw, err := b.Build(nil)
		require.NoError(t, err)
		_, next := add(t, l, record.Epoch(i/3), raw)
		n.waitFlushed(next)
	}
	require.NoError(t, d.Close(1))
	return mem
}

// What we write is what DumpLogSegments has read (its output lies beside the
// files), and franz-go, which is at hand in every build, reads each segment.
func TestKafkaReadsOurFolder(t *testing.T) {
	mem := writeForKafka(t)
	if *rewrite {
		entries, err := mem.List(testPath + "/penstock-0")
		require.NoError(t, err)
		for _, e := range entries {
			b, err := readFile(mem, path.Join(testPath, "penstock-0", e.Name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(kafkaGolden, "penstock-0", e.Name), b, 0o600))
		}
	}
	committed := vfs.NewMem()
	loadFolder(t, kafkaGolden+"/penstock-0", committed, testPath+"/penstock-0")
	for name, fsys := range map[string]*vfs.Mem{"written now": mem, "dumped by Kafka": committed} {
		bad, _, _ := findings(t, fsys, testPath+"/penstock-0")
		require.Empty(t, bad, name)
		entries, err := fsys.List(testPath + "/penstock-0")
		require.NoError(t, err)
		var got []*kgo.Record
		for _, e := range entries {
			base, ok := parseOffsetName(e.Name, logExt)
			if !ok {
				continue
			}
			b, err := readFile(fsys, path.Join(testPath, "penstock-0", e.Name))
			require.NoError(t, err)
			fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: "penstock", Offset: int64(base)},
				&kmsg.FetchResponseTopicPartition{HighWatermark: 27, RecordBatches: b}, kgo.DefaultDecompressor(), nil)
			require.NoError(t, fp.Err)
			got = append(got, fp.Records...)
		}
		require.Len(t, got, 27, name)
		for i, want := range kafkaRecords()[:27] {
			require.EqualValues(t, want.Offset, got[i].Offset)
			require.Equal(t, want.Timestamp, got[i].Timestamp.UnixMilli())
			require.True(t, bytes.Equal(want.Key, got[i].Key) && bytes.Equal(want.Value, got[i].Value))
			require.Len(t, got[i].Headers, len(want.Headers))
			require.EqualValues(t, i/9, got[i].LeaderEpoch)
		}
	}
}
