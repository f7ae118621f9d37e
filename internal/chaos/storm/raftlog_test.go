package storm

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/penstock/penstock/internal/boltfile"
)

func metadataLog(t *testing.T) (path string, entries int) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "raft.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	for entries = range 50 {
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("logs"))
			require.NoError(t, err)
			return b.Put(binary.BigEndian.AppendUint64(nil, uint64(entries)), bytes.Repeat([]byte{byte(entries)}, 100))
		}))
	}
	require.NoError(t, db.Close())
	return path, entries + 1
}

func count(path string) (n int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, err = boltfile.Walk(bytes.NewReader(b), int64(len(b)), func(boltfile.Entry) error { n++; return nil })
	return n, err
}

// What is torn is never what was synced, and something is.
func TestTearLeavesWhatWasSynced(t *testing.T) {
	for seed := range uint64(20) {
		path, want := metadataLog(t)
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		torn, err := tear(path, rand.New(rand.NewPCG(seed, 2)))
		require.NoError(t, err)
		require.Positive(t, torn)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NotEqual(t, before, after)
		got, err := count(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
		require.NoError(t, err)
		require.NoError(t, db.Close())
	}
}

// What is damaged is what was synced.
func TestDamageIsOfWhatWasSynced(t *testing.T) {
	kinds := map[string]bool{}
	for seed := range uint64(30) {
		path, want := metadataLog(t)
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		what, err := damage(path, rand.New(rand.NewPCG(seed, 3)))
		require.NoError(t, err)
		kinds[what[:8]] = true
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NotEqual(t, before, after)
		if got, err := count(path); err == nil {
			require.Equal(t, want, got, "only an entry's own bytes are left to its checksum: %s", what)
			require.Contains(t, what, "a bit of an entry")
		}
	}
	require.Len(t, kinds, 4)
}
