package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/boltfile"
)

// logged is what a Raft log holds.
type logged struct {
	entries map[uint64]raft.Log
	term    uint64
	vote    string
}

// fillStore writes a Raft log as a node does, and returns its directory and what is in it.
func fillStore(t *testing.T) (dir string, want logged) {
	t.Helper()
	dir = t.TempDir()
	s, err := openStore(dir, 1)
	require.NoError(t, err)
	require.NoError(t, s.SetUint64([]byte("CurrentTerm"), 300))
	require.NoError(t, s.Set([]byte("LastVoteCand"), []byte("someone")))
	for i := uint64(1); i <= 40; i++ {
		l := &raft.Log{Index: i, Term: 1 + i/10, Type: raft.LogCommand, Data: []byte(fmt.Sprintf("command %d", i)), AppendedAt: time.Unix(int64(i), 5)}
		if i == 20 {
			l.Data = make([]byte, 9000) // more than a page
		}
		require.NoError(t, s.StoreLog(l))
		require.Empty(t, l.Extensions, "Raft sends its own entries on")
	}
	require.NoError(t, s.DeleteRange(1, 5))
	want, err = readStore(s)
	require.NoError(t, err)
	require.Len(t, want.entries, 35)
	require.NoError(t, s.close())
	return dir, want
}

func readStore(s *latchedStore) (got logged, err error) {
	got.entries = map[uint64]raft.Log{}
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return got, err
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return got, err
		}
		l.AppendedAt = l.AppendedAt.UTC()
		got.entries[i] = l
	}
	if got.term, err = s.GetUint64([]byte("CurrentTerm")); err != nil {
		return got, err
	}
	vote, err := s.Get([]byte("LastVoteCand"))
	got.vote = string(vote)
	return got, err
}

func layoutOf(t *testing.T, file string) *boltfile.Layout {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	l, err := boltfile.Walk(f, info.Size(), func(boltfile.Entry) error { return nil })
	require.NoError(t, err)
	return l
}

// A bit that is flipped anywhere in the Raft log is refused, by a message that says which
// file it is and what to do, or is in a place where nothing is.
func TestFlippedBitInTheRaftLogIsRefused(t *testing.T) {
	dir, want := fillStore(t)
	path := filepath.Join(dir, raftLogFile)
	layout := layoutOf(t, path)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	step := int64(29)
	if testing.Short() {
		step = 61
	}
	refused := 0
	for _, s := range layout.Used {
		for at := s.From + rng.Int64N(step); at < s.To; at += 1 + rng.Int64N(2*step) {
			bit := rng.IntN(8)
			whole[at] ^= 1 << bit
			require.NoError(t, os.WriteFile(path, whole, 0o600))
			whole[at] ^= 1 << bit
			store, err := openStore(dir, 4)
			if err == nil {
				got, readErr := readStore(store)
				require.NoError(t, store.close())
				require.NoError(t, readErr, "byte %d, bit %d was not noticed", at, bit)
				require.Equal(t, want, got, "byte %d, bit %d was not noticed", at, bit)
				continue
			}
			refused++
			damaged, ok := errors.AsType[*DamagedLogError](err)
			require.True(t, ok, "byte %d, bit %d: %v", at, bit, err)
			require.Equal(t, path, damaged.Path)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, "penstock cluster replace 4")
		}
	}
	require.Greater(t, refused, 50)
}

// What a power cut leaves of a write that was not confirmed does no harm, whatever it is.
func TestTornRaftLogComesUp(t *testing.T) {
	dir, want := fillStore(t)
	path := filepath.Join(dir, raftLogFile)
	layout := layoutOf(t, path)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	used := map[int64]bool{layout.Older.From: true}
	for _, s := range layout.Used {
		for at := s.From; at < s.To; at += layout.PageSize {
			used[at] = true
		}
	}
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		torn := append([]byte(nil), whole...)
		for at := int64(0); at < int64(len(torn)); at += layout.PageSize {
			for i := at; !used[at] && i < min(at+1+rng.Int64N(layout.PageSize), int64(len(torn))); i++ {
				torn[i] = byte(rng.Uint32())
			}
		}
		torn = torn[:layout.End+rng.Int64N(int64(len(torn))-layout.End+1)]
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		store, err := openStore(dir, 1)
		require.NoError(t, err)
		got, err := readStore(store)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, store.StoreLog(&raft.Log{Index: 41, Term: 9}))
		require.NoError(t, store.close())
	}
}

func TestCutRaftLogIsRefused(t *testing.T) {
	dir, _ := fillStore(t)
	path := filepath.Join(dir, raftLogFile)
	require.NoError(t, os.Truncate(path, layoutOf(t, path).End-1))
	_, err := openStore(dir, 1)
	require.ErrorContains(t, err, "its end is missing")
	require.ErrorContains(t, err, path)
}

// What an earlier release wrote has no checksums.
func TestRaftLogOfAnEarlierRelease(t *testing.T) {
	dir := t.TempDir()
	old, err := raftboltdb.NewBoltStore(filepath.Join(dir, raftLogFile))
	require.NoError(t, err)
	require.NoError(t, old.SetUint64([]byte("CurrentTerm"), 5))
	require.NoError(t, old.Set([]byte("LastVoteCand"), []byte("someone")))
	require.NoError(t, old.StoreLog(&raft.Log{Index: 1, Term: 5, Data: []byte("old")}))
	require.NoError(t, old.Close())
	s, err := openStore(dir, 1)
	require.NoError(t, err)
	require.NoError(t, s.StoreLog(&raft.Log{Index: 2, Term: 5, Data: []byte("new")}))
	got, err := readStore(s)
	require.NoError(t, err)
	require.Equal(t, "old", string(got.entries[1].Data))
	require.Equal(t, "new", string(got.entries[2].Data))
	require.EqualValues(t, 5, got.term)
	require.Equal(t, "someone", got.vote)
	require.NoError(t, s.SetUint64([]byte("CurrentTerm"), 6))
	require.NoError(t, s.close())

	// And it reads what this one writes.
	old, err = raftboltdb.NewBoltStore(filepath.Join(dir, raftLogFile))
	require.NoError(t, err)
	term, err := old.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.EqualValues(t, 6, term)
	var l raft.Log
	require.NoError(t, old.GetLog(2, &l))
	require.Equal(t, "new", string(l.Data))
	require.NoError(t, old.Close())
}

// A second process with the same directory is told so, and not that the file is damaged.
func TestRaftLogInUse(t *testing.T) {
	dir, _ := fillStore(t)
	s, err := openStore(dir, 1)
	require.NoError(t, err)
	_, err = openStore(dir, 1)
	require.ErrorContains(t, err, "another process has it open")
	require.NoError(t, s.close())
}

func TestDamagedRaftLogEndsTheStart(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	nodes[0].mustCreate("t", 1)
	nodes[0].kill()
	path := filepath.Join(nodes[0].dir, raftLogFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	layout := layoutOf(t, path)
	_, err = f.WriteAt([]byte{0xff, 0xff}, layout.Used[1].From+8)
	require.NoError(t, errors.Join(err, f.Close()))
	_, err = Start(t.Context(), nodes[0].config())
	damaged, ok := errors.AsType[*DamagedLogError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, nodes[0].id, damaged.NodeID)
}

// rotten is a store whose entries went bad after it was opened.
type rotten struct{ raftStore }

func (rotten) GetLog(uint64, *raft.Log) error { return &damageError{"rot"} }

// An entry that goes bad while the node runs ends its role: the library would panic.
func TestRotEndsTheRole(t *testing.T) {
	s := newLatchedStore(rotten{raft.NewInmemStore()}, "path", nil)
	require.ErrorContains(t, s.GetLog(1, &raft.Log{}), "rot")
	s = newLatchedStore(rotten{raft.NewInmemStore()}, "path", nil)
	s.running.Store(true)
	returned := false
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.GetLog(1, &raft.Log{})
		returned = true
	})
	wg.Wait()
	require.False(t, returned)
	require.ErrorContains(t, s.err(), "the metadata log path is damaged: rot")
}
