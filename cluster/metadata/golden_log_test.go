package metadata_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// A golden log is what TestModel applied at one revision of this repository, and
// what the images came to. In a cluster that is being upgraded, old and new
// builds apply the same log: where they come to different images, the cluster
// has two opinions. So the golden logs of a level stay as they are, and a
// command means what it meant as long as the image is at that level.
//
//	log:     command*, end
//	command: length uvarint | bytes | first 8 bytes of the SHA-256 of the snapshot after it
//	end:     0
//
// All of it is compressed (gzip). A file is written once, by the revision that
// releases a level: go test -run TestModel -record testdata/log_vN.gz.
var record = flag.String("record", "", "write the logs of TestModel to this file")

type goldenRecorder struct {
	bytes.Buffer
	logs int
}

// recordedLogs is how many logs a golden file holds.
const recordedLogs = 60

func (r *goldenRecorder) add(t *rapid.T, commands []*metav1.Command) {
	if *record == "" || r.logs == recordedLogs {
		return
	}
	r.logs++
	im := metadata.Empty()
	for _, cmd := range commands {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		im, _, _ = metadata.Apply(im, im.Index()+1, cmd)
		r.Write(binary.AppendUvarint(nil, uint64(len(b))))
		r.Write(b)
		r.Write(goldenSum(t, im))
	}
	r.WriteByte(0)
}

func (r *goldenRecorder) store(t *testing.T) {
	t.Helper()
	if *record == "" {
		return
	}
	var out bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if _, err := zw.Write(r.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*record, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func goldenSum(t interface{ Fatal(args ...any) }, im *metadata.Image) []byte {
	h := sha256.New()
	if err := metadata.WriteSnapshot(im, h); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)[:8]
}

// TestGoldenLogs applies the logs that earlier revisions applied and expects
// their images, byte by byte.
func TestGoldenLogs(t *testing.T) {
	files, err := filepath.Glob("testdata/log_v*.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden logs", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			zr, err := gzip.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(zr)
			if err != nil {
				t.Fatal(err)
			}
			replayGolden(t, data)
		})
	}
}

func replayGolden(t *testing.T, data []byte) {
	t.Helper()
	r := bytes.NewReader(data)
	logs, applied := 0, 0
	for im := metadata.Empty(); r.Len() > 0; {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
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
