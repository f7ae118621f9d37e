package boltfile_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/penstock/penstock/internal/boltfile"
)

// content is what a file holds.
type content map[string]string

func read(file []byte) (content, *boltfile.Layout, error) {
	found := content{}
	l, err := boltfile.Walk(bytes.NewReader(file), int64(len(file)), func(e boltfile.Entry) error {
		found[string(e.Bucket)+"/"+string(e.Key)] = string(e.Value)
		return nil
	})
	return found, l, err
}

// written makes a file with two buckets as a Raft log has them: entries that come, some of
// them larger than a page, and go from the front, and a few values.
func written(t *testing.T, entries int) (file []byte, want content) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, NoGrowSync: true, FreelistType: bbolt.FreelistMapType})
	require.NoError(t, err)
	db.NoSync = true
	want = content{}
	put := func(bucket, key, value string) {
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			require.NoError(t, err)
			return b.Put([]byte(key), []byte(value))
		}))
		want[bucket+"/"+key] = value
	}
	put("conf", "CurrentTerm", "7")
	for i := range entries {
		value := fmt.Sprintf("entry %d", i)
		if i%17 == 3 {
			value = string(bytes.Repeat([]byte(value), 900))
		}
		put("logs", string(binary.BigEndian.AppendUint64(nil, uint64(i))), value)
	}
	for i := range entries / 3 {
		key := string(binary.BigEndian.AppendUint64(nil, uint64(i)))
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("logs")).Delete([]byte(key)) }))
		delete(want, "logs/"+key)
	}
	require.NoError(t, db.Close())
	file, err = os.ReadFile(path)
	require.NoError(t, err)
	return file, want
}

func TestWalkFindsWhatBboltHolds(t *testing.T) {
	for _, n := range []int{0, 1, 20, 900} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			file, want := written(t, n)
			got, l, err := read(file)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.LessOrEqual(t, l.End, int64(len(file)))
			// An entry lies where it is said to.
			_, err = boltfile.Walk(bytes.NewReader(file), int64(len(file)), func(e boltfile.Entry) error {
				require.Equal(t, e.Key, file[e.At:e.At+int64(len(e.Key))])
				require.Equal(t, e.Value, file[e.At+int64(len(e.Key)):][:len(e.Value)])
				return nil
			})
			require.NoError(t, err)
		})
	}
}

// What no transaction has confirmed may be anything.
func TestUnusedPagesAreNotLookedAt(t *testing.T) {
	file, want := written(t, 600)
	_, l, err := read(file)
	require.NoError(t, err)
	used := map[int64]bool{l.Older.From: true}
	for _, s := range l.Used {
		for at := s.From; at < s.To; at += l.PageSize {
			used[at] = true
		}
	}
	torn := 0
	for at := int64(0); at < int64(len(file)); at += l.PageSize {
		if !used[at] {
			torn++
			for i := range min(l.PageSize, int64(len(file))-at) {
				file[at+i] = 0xa5
			}
		}
	}
	require.Positive(t, torn)
	got, _, err := read(file)
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, _, err = read(file[:l.End])
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A file whose end is missing, and one that never got further than its creation.
func TestCutFiles(t *testing.T) {
	file, _ := written(t, 600)
	_, l, err := read(file)
	require.NoError(t, err)
	for _, size := range []int64{1, 79, 80, 4095, 4096, 4100, 8191, 8192, 12288, l.End / 2, l.End - 1} {
		_, _, err := read(file[:size])
		var damaged *boltfile.DamagedError
		require.ErrorAs(t, err, &damaged, "%d bytes", size)
	}
}

// Each bit that is flipped is found, or it is one of a value, whose owner has a checksum,
// or nothing is different; or it is one of the number of a page, and makes it that of another whole one.
func TestFlippedBits(t *testing.T) {
	file, want := written(t, 60)
	values := map[int64]bool{}
	l, err := boltfile.Walk(bytes.NewReader(file), int64(len(file)), func(e boltfile.Entry) error {
		for i := range int64(len(e.Value)) {
			values[e.At+int64(len(e.Key))+i] = true
		}
		return nil
	})
	require.NoError(t, err)
	// number reports whether a byte may be one of the number of a page.
	number := func(at int64) bool {
		for from := at - 7; from <= at; from++ {
			if page := binary.NativeEndian.Uint64(file[from:]); page >= 2 && page < uint64(l.End/l.PageSize) {
				return true
			}
		}
		return false
	}
	found, missed := 0, 0
	for _, s := range l.Used {
		for at := s.From; at < s.To; at++ {
			if values[at] || at > s.From+300 && at%37 != 0 {
				continue
			}
			for bit := range 8 {
				file[at] ^= 1 << bit
				got, _, err := read(file)
				file[at] ^= 1 << bit
				if err != nil {
					found++
					continue
				}
				if len(got) != len(want) && (at < s.From+16 || !number(at)) {
					missed++
					t.Logf("byte %d, bit %d: %d entries, want %d", at, bit, len(got), len(want))
				}
			}
		}
	}
	require.Greater(t, found, 1000)
	require.Zero(t, missed)
}

func FuzzWalk(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0}, 8192))
	f.Fuzz(func(_ *testing.T, file []byte) {
		_, _, _ = read(file)
	})
}
