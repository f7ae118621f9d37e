package storm

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/vfs"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// Whatever is done to a file, it is damage.
func TestSpoiledFilesAreNotWhatTheyWere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	kinds := map[string]bool{}
	for i := range 300 {
		path := filepath.Join(t.TempDir(), "file")
		was := make([]byte, 1+i%40) // zeros: to write zeros over them would be no damage
		require.NoError(t, os.WriteFile(path, was, 0o600))
		what, now, err := spoil(path, rng)
		require.NoError(t, err)
		b, err := os.ReadFile(path)
		if now == nil {
			require.ErrorIs(t, err, os.ErrNotExist)
		} else {
			require.NoError(t, err)
			require.Equal(t, now, b, "%s", what)
			require.NotEqual(t, was, b, "%s", what)
		}
		kinds[what[:3]] = true
	}
	require.Len(t, kinds, 4, "removed, cut, noise, a flipped bit: %v", kinds)
}

// onDisk is a run with one node, of which there is only what is on its disk.
func onDisk(t *testing.T) (s *storm, folder string) {
	t.Helper()
	dir := t.TempDir()
	c, err := chaos.New(chaos.Options{Dir: dir, Nodes: 1, Hosts: []chaos.Host{{IP: "127.0.0.1", DataDir: filepath.Join(dir, "data")}}})
	require.NoError(t, err)
	folder = filepath.Join(dir, "data", "strict-0")
	require.NoError(t, os.WriteFile(c.LogFile(1), nil, 0o600))
	return &storm{lab: &chaos.Lab{Cluster: c, Dir: dir}, o: Options{Out: io.Discard}}, folder
}

// aLog leaves a data directory with a record in one partition of the strict topic.
func aLog(t *testing.T, path string) {
	t.Helper()
	arena := record.NewArena(1 << 20)
	d, err := commitlog.OpenDir(commitlog.DirOptions{FS: vfs.OS{}, Path: path, Arena: arena, Logger: slog.New(slog.DiscardHandler), DiskReserve: -1})
	require.NoError(t, err)
	l, err := d.Open(commitlog.Spec{Topic: "strict", TopicID: [16]byte{1}, Config: commitlog.Config{Synced: true}})
	require.NoError(t, err)
	b := record.NewBuilder(record.BuilderOptions{})
	require.NoError(t, b.Append(&record.Record{Timestamp: 1, Value: []byte("v")}))
	raw, err := b.Build(nil)
	require.NoError(t, err)
	buf := arena.Get(len(raw))
	copy(buf.Bytes(), raw)
	_, _, err = l.Append(1, []*record.Buf{buf}, 1)
	buf.Release()
	require.NoError(t, err)
	require.NoError(t, d.Close(1))
}

// Damage that a node neither reported nor made good fails the run.
func TestDamageThatNobodyNoticedIsFound(t *testing.T) {
	s, folder := onDisk(t)
	bad := []byte("0\n1\n7 0\n")
	epochs, snapshot := filepath.Join(folder, "leader-epoch-checkpoint"), filepath.Join(folder, "00000000000000000001.snapshot")
	aLog(t, filepath.Dir(folder))
	for _, c := range []struct {
		name      string
		f         spoiled
		now       []byte // in the file since; nil: it is not there
		said      string
		noticed   bool
		forbidden bool
	}{
		{"made anew", spoiled{kind: BadEpochs, path: epochs, now: bad}, []byte("0\n1\n1 0\n"), "", true, false},
		{"removed and made anew", spoiled{kind: BadEpochs, path: epochs}, []byte("0\n1\n1 0\n"), "", true, false},
		{"believed, and added to", spoiled{kind: BadEpochs, path: epochs, now: bad}, []byte("0\n2\n7 0\n9 1\n"), "", false, true},
		{"removed, and that was all", spoiled{kind: BadEpochs, path: epochs}, nil, "", false, true},
		{"the folder went", spoiled{kind: BadEpochs, path: epochs, now: bad}, nil, "", true, false},
		{"as wrong as before", spoiled{kind: BadEpochs, path: epochs, now: bad}, bad, "", false, true},
		{"as damaged as before", spoiled{kind: BadSnapshot, path: snapshot, now: bad}, bad, "", false, true},
		{"reported", spoiled{kind: BadSnapshot, path: snapshot, now: bad}, bad, fmt.Sprintf("msg=\"producer snapshot is unreadable\" path=%s offset=1\n", folder), true, false},
		{"another one was reported", spoiled{kind: BadSnapshot, path: snapshot, now: bad}, bad, fmt.Sprintf("msg=\"producer snapshot is unreadable\" path=%s offset=10\n", folder), false, true},
		{"an older snapshot was read instead", spoiled{kind: BadSnapshot, path: snapshot}, nil, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.node, c.f.what = 1, "a bit"
			_ = os.Remove(c.f.path) // of the case before
			if c.now != nil {
				require.NoError(t, os.WriteFile(c.f.path, c.now, 0o600))
			}
			require.NoError(t, os.WriteFile(s.lab.LogFile(1), []byte(c.said), 0o600))
			how, err := s.cameOf(t.Context(), &c.f)
			require.Equal(t, c.forbidden, err != nil, "%s, %v", how, err)
			require.Equal(t, c.noticed, how != "" && err == nil, "%s", how)
			s.spoiled, s.moot = []spoiled{c.f}, nil
			require.Equal(t, c.forbidden, s.noticed(t.Context()) != nil)
			require.Equal(t, how == "", slices.Contains(s.moot, c.f.kind), "what nobody had to read is not counted")
		})
	}
}
