package log

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// producersOf is a log's state as of its end.
func producersOf(l *Log) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.producers.byID {
		p.lastUsed = 0 // each by its own clock
	}
	return l.producers.encode(l.end)
}

// fillProducers has ten batches of producer 7 and then some of others, in many
// segments.
func fillProducers(t *testing.T, l *Log, n *listener) {
	t.Helper()
	for i := range int32(10) {
		add(t, l, 1, idempotent(t, 7, 0, i, "v"))
		n.waitFlushed(l.End())
	}
	for i := range int32(10) {
		add(t, l, 1, idempotent(t, 8, 2, 2*i, "v", "w"))
		n.waitFlushed(l.End())
	}
}

// A replica that begins where its leader does knows the producers whose batches
// are gone, and in the end all that the leader knows: wherever the start came to lie.
func TestProducerStateOfABeginning(t *testing.T) {
	cfg := Config{Synced: true, SegmentBytes: 200}
	for _, start := range []record.Offset{1, 7, 10, 13, 20, 28, 30} {
		t.Run(fmt.Sprint(start), func(t *testing.T) {
			mem := vfs.NewMem()
			d := openTestDir(t, testOptions(mem))
			t.Cleanup(func() { checkTestDir(t, d, mem) })
			n := newListener()
			leader, err := d.Open(testSpec(cfg, n))
			require.NoError(t, err)
			n.listen(leader)
			fillProducers(t, leader, n)
			require.NoError(t, leader.AdvanceStart(start))
			first := leader.FirstBatch()
			state, err := leader.ProducerState(first)
			require.NoError(t, err)
			require.NoError(t, CheckProducerState(state, first))
			require.ErrorContains(t, CheckProducerState(state, first+1), "want")

			m := newListener()
			spec := testSpec(cfg, m)
			spec.Partition++
			follower, err := d.Open(spec)
			require.NoError(t, err)
			m.listen(follower)
			require.NoError(t, follower.ResetTo(first, state))
			require.Equal(t, first, follower.End())
			if first == 10 {
				_, _, err := tryAdd(follower, 1, idempotent(t, 7, 0, 9, "v"))
				require.Equal(t, &DuplicateError{9, 10}, err)
				_, _, err = tryAdd(follower, 1, idempotent(t, 7, 0, 5, "v"))
				require.Equal(t, &DuplicateError{5, 6}, err, "five batches are remembered")
			}
			slices, err := leader.Read(max(first, leader.Start()), leader.End(), 1<<20)
			require.NoError(t, err)
			for i := range slices {
				for rest := slices[i].Bytes; len(rest) > 0; {
					info, ok := record.Peek(rest)
					require.True(t, ok)
					buf := inArena(follower, rest[:info.Size])
					require.NoError(t, follower.AppendFollower(info.BaseOffset, info.NextOffset(), 0, []*record.Buf{buf}))
					buf.Release()
					rest = rest[info.Size:]
				}
				slices[i].Release()
			}
			require.Equal(t, producersOf(leader), producersOf(follower))
		})
	}
}

func TestProducerStateRefused(t *testing.T) {
	_, l, n := openTestLog(t, vfs.NewMem(), Config{Synced: true, SegmentBytes: 200})
	fillProducers(t, l, n)
	require.NoError(t, l.AdvanceStart(20))
	_, err := l.ProducerState(3)
	require.ErrorIs(t, err, ErrOffsetOutOfRange)
	_, err = l.ProducerState(l.End() + 1)
	require.ErrorIs(t, err, ErrOffsetOutOfRange)

	state, err := l.ProducerState(20)
	require.NoError(t, err)
	end := l.End()
	for name, bad := range map[string][]byte{
		"none": nil, "torn": state[:len(state)-1], "flipped": append(bytes.Clone(state[:30]), append([]byte{state[30] ^ 1}, state[31:]...)...),
		"of another offset": newProducers(1).encode(21),
	} {
		require.ErrorContains(t, l.ResetTo(20, bad), "begin", name)
		require.Equal(t, end, l.End(), "%s: nothing has changed", name)
	}
}

// The power may fail at every change that a reset makes: what opens afterwards is
// the old log, or the new one with its producers. One that begins there without
// them would take what they send again.
func TestResetToPowerCuts(t *testing.T) {
	mem := vfs.NewMem()
	cfg := Config{Synced: true, SegmentBytes: 200}
	d, l, n := openTestLog(t, mem, cfg)
	fillProducers(t, l, n)
	ps := newProducers(10)
	ps.update(&record.BatchInfo{ProducerID: 99, BaseOffset: 999, Count: 1}, time.Now().UnixMilli())
	state := ps.encode(1000)
	end := l.End()
	var (
		mu      sync.Mutex // guards crashed; the checkpoint is written meanwhile
		crashed []*vfs.Mem
	)
	mem.Watch(func(e vfs.Event) {
		mu.Lock()
		defer mu.Unlock()
		crashed = append(crashed, mem.CrashClone(nil))
		for seed := range uint64(3) {
			crashed = append(crashed, mem.CrashClone(rand.New(rand.NewPCG(uint64(len(crashed)), seed))))
		}
	})
	require.NoError(t, l.ResetTo(1000, state))
	mem.Watch(nil)
	last := mem.CrashClone(nil)
	require.NoError(t, d.Close(-1)) // waits for who may be in the middle of a change, and of what watches it
	mu.Lock()
	defer mu.Unlock()
	crashed = append(crashed, last, mem)
	began := 0
	for i, c := range crashed {
		for range 2 { // and once more, by what the first open left
			d, l, _ := openTestLog(t, c, cfg)
			switch l.End() {
			case 1000:
				began++
				_, _, err := tryAdd(l, 1, idempotent(t, 99, 0, 0, "v"))
				require.Equal(t, &DuplicateError{999, 1000}, err, "cut %d", i)
			default:
				require.Equal(t, end, l.End(), "cut %d", i)
				require.Zero(t, l.Start())
			}
			require.Equal(t, DamageNone, l.Damage(), "cut %d", i)
			require.NoError(t, d.Close(-1))
		}
	}
	require.Greater(t, began, 40)
	require.Less(t, began, 2*len(crashed))
}

// docs/FORMAT.md has the reset file.
func TestResetFile(t *testing.T) {
	require.Equal(t, "17\n", string(encodeReset(17, nil)))
	state := newProducers(1).encode(17)
	off, got, err := decodeReset(encodeReset(17, state))
	require.NoError(t, err)
	require.Equal(t, record.Offset(17), off)
	require.Equal(t, state, got)
	off, got, err = decodeReset([]byte("17"))
	require.NoError(t, err)
	require.Equal(t, record.Offset(17), off)
	require.Empty(t, got)
	for name, bad := range map[string][]byte{
		"no offset": []byte("x\n"), "negative": []byte("-1\n"), "torn": encodeReset(17, state[:19]), "another's": encodeReset(18, state),
	} {
		_, _, err = decodeReset(bad)
		require.Error(t, err, name)
	}
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true})
	fillProducers(t, l, n)
	require.NoError(t, d.Close(1))
	require.NoError(t, replace(mem, path.Join(testPath, "orders-0", resetName), encodeReset(17, state)))
	bad, notes, _ := findings(t, mem, testPath)
	require.Empty(t, bad)
	require.Len(t, notes, 1)
	require.Contains(t, notes[0].Problem, "being reset")
}
