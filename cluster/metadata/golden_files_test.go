package metadata_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The golden files say what a feature level means: commands.txt what commands look
// like, image_vN.snapshot what images do, log_vN.gz what commands do to images. They are
// written once, with the release of the level, and read for ever after:
//
//	go test ./cluster/metadata -run TestGoldenSnapshots -update
//	go test ./cluster/metadata -run TestRecordGoldenLog -record N
//
// Neither overwrites a file. golden.sum has the SHA-256 of each, so that a file that is
// removed and written anew shows in a line that a reviewer can read.
const goldenSums = "testdata/golden.sum"

// addGolden writes the golden file of a new level; if there is one it stays as it is.
func addGolden(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if os.IsExist(err) {
		t.Logf("%s is released and stays as it is", path)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := releasedSum(t, path); ok {
		return // it was removed: the sum of the release judges the new one
	}
	sums, err := os.OpenFile(goldenSums, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(sums, "%x  %s\n", sha256.Sum256(b), filepath.Base(path)); err != nil {
		t.Fatal(err)
	}
	if err := sums.Close(); err != nil {
		t.Fatal(err)
	}
}

func releasedSum(t *testing.T, path string) (sum string, ok bool) {
	t.Helper()
	b, err := os.ReadFile(goldenSums)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if name == filepath.Base(path) {
			return sum, true
		}
	}
	return "", false
}

func checkGoldenSum(t *testing.T, path string, b []byte) {
	t.Helper()
	got := sha256.Sum256(b)
	if want, ok := releasedSum(t, path); want != hex.EncodeToString(got[:]) {
		t.Fatalf("%s is not the file that was released (in %s: %t): a level that has changed its meaning needs a new level", path, goldenSums, ok)
	}
}

// TestGoldenFilesStay: writing a golden file leaves one that is there as it is.
func TestGoldenFilesStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image_v1.snapshot")
	if err := os.WriteFile(path, []byte("released"), 0o644); err != nil {
		t.Fatal(err)
	}
	addGolden(t, path, []byte("another"))
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, []byte("released")) {
		t.Errorf("%s, %v", b, err)
	}
}

func consumeVarint(t *testing.T, b []byte) (value, length int) {
	t.Helper()
	v, n := binary.Uvarint(b)
	if n <= 0 || v > uint64(len(b)-n) {
		t.Fatalf("a length of %d in %d bytes", v, len(b))
	}
	return int(v), n
}
