package metadata_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// A golden log is what the models of this package apply to images of one feature level,
// and what the images come to. In a cluster that is being upgraded, old and new
// builds apply the same log: where they come to different images, the cluster
// has two opinions. So the golden logs of a level stay as they are, and a
// command means what it meant as long as the image is at that level.
//
//	log:     command*, end
//	command: length uvarint | bytes | first 8 bytes of the SHA-256 of the snapshot after it
//	end:     0
//
// All of it is compressed (gzip). A third of the logs is of each model, the last one in
// three of brokers that begin at the level before and rise to it; log_v1.gz, which is
// older than levels, is of TestModel alone.
var record = flag.Uint("record", 0, "write the golden log of this feature level, if there is none")

// recordedLogs is how many logs a golden file holds.
const recordedLogs = 60

// TestRecordGoldenLog writes the golden log of a level that has none.
func TestRecordGoldenLog(t *testing.T) {
	if *record == 0 {
		t.Skip("-record writes the golden log of a level")
	}
	var out bytes.Buffer
	level, logs := uint32(*record), 0
	for _, run := range []func(*testing.T, *rapid.T, uint32, uint32) *model{runModel, runOperate, runReassign} {
		mine := 0
		rapid.Check(t, func(rt *rapid.T) {
			if mine == recordedLogs/3 {
				return
			}
			first := level
			if mine%3 == 2 {
				first--
			}
			m := run(t, rt, first, level)
			if m.im.FeatureLevel() != level {
				rt.Skip("it never came to the level")
			}
			recordLog(rt, &out, m.commands)
			mine++
			logs++
		})
	}
	if logs != recordedLogs {
		t.Fatalf("%d logs: more -rapid.checks are needed", logs)
	}
	var zipped bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if _, err := zw.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	addGolden(t, goldenLog(level), zipped.Bytes())
}

func goldenLog(level uint32) string {
	return filepath.Join("testdata", fmt.Sprintf("log_v%d.gz", level))
}

func recordLog(t *rapid.T, out *bytes.Buffer, commands []*metav1.Command) {
	im := metadata.Empty()
	for _, cmd := range commands {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		im, _, _ = metadata.Apply(im, im.Index()+1, cmd)
		out.Write(binary.AppendUvarint(nil, uint64(len(b))))
		out.Write(b)
		out.Write(goldenSum(t, im))
	}
	out.WriteByte(0)
}

func goldenSum(t interface{ Fatal(args ...any) }, im *metadata.Image) []byte {
	h := sha256.New()
	if err := metadata.WriteSnapshot(im, h); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)[:8]
}

// TestGoldenLogs applies the logs that earlier revisions applied and expects
// their images, byte by byte. A level without a log fails.
func TestGoldenLogs(t *testing.T) {
	kinds := map[string]bool{}
	for level := uint32(1); level <= metadata.Version; level++ {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			zr, err := gzip.NewReader(bytes.NewReader(readGolden(t, goldenLog(level))))
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(zr)
			if err != nil {
				t.Fatal(err)
			}
			replayGolden(t, data, level, kinds)
		})
	}
	if t.Failed() {
		return
	}
	// What an upgraded cluster has to agree on is in some log. The others change nothing
	// but a flag or a counter; the golden snapshots have them.
	fields := (&metav1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range fields.Len() {
		switch name := string(fields.Get(i).Name()); name {
		case "allocate_producer_ids", "settle_vote":
		default:
			if !kinds[name] {
				t.Errorf("%s is in no golden log", name)
			}
		}
	}
	if !kinds["failed"] {
		t.Error("IsrChange.failed is in no golden log")
	}
}

func replayGolden(t *testing.T, data []byte, level uint32, kinds map[string]bool) {
	t.Helper()
	r := bytes.NewReader(data)
	logs, applied := 0, 0
	for im := metadata.Empty(); r.Len() > 0; {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			checkGoldenEnd(t, im, level)
			im = metadata.Empty()
			logs++
			continue
		}
		b, want := make([]byte, n), make([]byte, 8)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, want); err != nil {
			t.Fatal(err)
		}
		cmd := new(metav1.Command)
		if err := proto.Unmarshal(b, cmd); err != nil {
			t.Fatal(err)
		}
		seeKinds(cmd, kinds)
		im, _, err = metadata.Apply(im, im.Index()+1, cmd)
		applied++
		if got := goldenSum(t, im); !bytes.Equal(got, want) {
			t.Fatalf("log %d, index %d: %v (%v) came to another image than at the revision that wrote the log",
				logs, im.Index(), cmd, err)
		}
	}
	if logs != recordedLogs {
		t.Errorf("%d logs, %d commands", logs, applied)
	}
}

// checkGoldenEnd: a log comes to its level, and a snapshot of the end is the same image.
func checkGoldenEnd(t *testing.T, im *metadata.Image, level uint32) {
	t.Helper()
	if im.FeatureLevel() != level {
		t.Fatalf("a log of level %d ends at level %d", level, im.FeatureLevel())
	}
	var b bytes.Buffer
	if err := metadata.WriteSnapshot(im, &b); err != nil {
		t.Fatal(err)
	}
	read, err := metadata.ReadSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(goldenSum(t, read), goldenSum(t, im)) {
		t.Fatalf("index %d: the snapshot does not read back", im.Index())
	}
}

func seeKinds(cmd *metav1.Command, kinds map[string]bool) {
	m := cmd.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); fd != nil {
		kinds[string(fd.Name())] = true
	}
	for _, c := range cmd.GetChangeIsr().GetChanges() {
		kinds["failed"] = kinds["failed"] || len(c.GetFailed()) > 0
	}
}
