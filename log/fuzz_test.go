package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

func FuzzCheckpoint(f *testing.F) {
	f.Add(encodeStates(7, map[logKey]logState{{testID, 3}: {flushed: 9, highWatermark: 8, start: 1, damage: DamageCorrupt}}))
	f.Add(encodeStates(1, nil))
	f.Add([]byte(checkpointMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		sequence, states, err := decodeCheckpoint(b)
		if err != nil {
			return
		}
		sequence2, states2, err := decodeCheckpoint(encodeStates(sequence, states))
		require.NoError(t, err)
		require.Equal(t, sequence, sequence2)
		require.Equal(t, states, states2)
	})
}

func FuzzIndex(f *testing.F) {
	x := &index{offsets: []indexEntry{{0, 0}, {5, 500}}, times: []timeEntry{{7, 0}, {9, 5}}}
	offsets, times := x.encode()
	f.Add(offsets, times, int64(1000))
	f.Add(offsets[:9], times, int64(1000))
	f.Add([]byte{}, []byte{}, int64(0))
	f.Fuzz(func(t *testing.T, offsets, times []byte, size int64) {
		x, err := decodeIndex(offsets, times, size)
		if err != nil {
			return
		}
		offsets2, times2 := x.encode()
		require.True(t, bytes.Equal(offsets, offsets2))
		require.True(t, bytes.Equal(times, times2))
		for _, e := range x.offsets {
			require.Equal(t, int64(e.position), x.position(int64(e.relative)))
		}
	})
}

func FuzzEpochs(f *testing.F) {
	f.Add([]byte("0\n2\n1 0\n5 77\n"))
	f.Add([]byte("0\n0\n"))
	f.Add([]byte("0\n1\n1 -5\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEpochs(b)
		if err != nil {
			return
		}
		again, err := decodeEpochs(e.encode())
		require.NoError(t, err)
		require.Equal(t, e, again)
		e.end(3, 100)
		e.truncate(50)
		e.advance(50)
	})
}

func FuzzProducerSnapshot(f *testing.F) {
	ps := newProducers(10)
	ps.update(&record.BatchInfo{ProducerID: 4, BaseOffset: 7, Count: 1}, 5)
	f.Add(ps.encode(8))
	f.Add(ps.encode(0))
	f.Fuzz(func(t *testing.T, b []byte) {
		ps, at, err := decodeProducers(b, 10)
		if err != nil {
			return
		}
		ps.encode(at)
	})
}

func FuzzMarkerAndMetadata(f *testing.F) {
	f.Add(encodeMarker(9))
	f.Add(encodeMetadata(testID))
	f.Fuzz(func(t *testing.T, b []byte) {
		if epoch, err := decodeMarker(b); err == nil {
			require.Equal(t, b, encodeMarker(epoch))
		}
		if id, err := decodeMetadata(b); err == nil {
			again, err := decodeMetadata(encodeMetadata(id))
			require.NoError(t, err)
			require.Equal(t, id, again)
		}
	})
}

// Whatever stands behind the checkpoint, the log opens, keeps what was promised,
// and takes records.
func FuzzRecovery(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(4))
	f.Add([]byte{1, 2, 3}, uint16(200), uint16(2))
	f.Add(make([]byte, 100), uint16(400), uint16(6))
	f.Fuzz(func(t *testing.T, noise []byte, at, promised uint16) {
		mem, batches := stopped(t, 6)
		flushed := record.Offset(promised % 7)
		setPromise(t, mem, logState{flushed: flushed, highWatermark: flushed})
		keep := len(bytes.Join(batches[:flushed], nil))
		rawFile(t, mem, logFile, func(b []byte) []byte {
			from := keep + int(at)%(len(b)-keep+1)
			b = append(bytes.Clone(b[:from]), noise...)
			return b
		})
		_, l, n := openTestLog(t, mem, Config{Synced: true})
		require.Equal(t, DamageNone, l.Damage())
		require.GreaterOrEqual(t, l.End(), flushed)
		require.True(t, bytes.HasPrefix(readEverything(t, l), bytes.Join(batches[:flushed], nil)))
		_, next := add(t, l, 1<<30, batch(t, 0, "next"))
		require.NoError(t, n.waitFlushed(next).Err)
	})
}

// Bytes below the checkpoint may be anything: the log opens and never serves
// what is not a whole batch with its CRC.
func FuzzDamage(f *testing.F) {
	f.Add(uint16(9), byte(1), false)
	f.Add(uint16(300), byte(0xFF), true)
	f.Fuzz(func(t *testing.T, at uint16, flip byte, short bool) {
		mem, batches := stopped(t, 6)
		all := bytes.Join(batches, nil)
		rawFile(t, mem, logFile, func(b []byte) []byte {
			i := int(at) % len(b)
			if short {
				return b[:i]
			}
			b[i] ^= flip
			return b
		})
		d, l, _ := openTestLog(t, mem, Config{Synced: true})
		defer func() { require.NoError(t, d.Close(-1)) }() // unchecked: it is damaged
		for off := l.Start(); off < l.End(); {
			slices, err := l.Read(off, l.End(), 100)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				return
			}
			require.NotEmpty(t, slices)
			for i := range slices {
				info, ok := record.Peek(slices[i].Bytes)
				require.True(t, ok)
				require.True(t, bytes.Contains(all, slices[i].Bytes[16:]), "epochs and base offsets have no CRC")
				off = info.NextOffset()
				slices[i].Release()
			}
		}
	})
}

// Names are taken apart into what they were put together from, and nothing else is
// taken for one of ours: what is not is left alone.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		"orders-0", "a-b-12", "-1", "x-007", "orders-0.0a010203.stray", "orders-0.0a010203.2.deleted", "orders-0.deleted",
		"00000000000000000042.log", "00000000000000000042.log.17.torn", "00000000000000000042.log.17.3.torn", "99999999999999999999.index",
		"leader-epoch-checkpoint.tmp", "flushed-checkpoint.0", "lost+found", "..", "", ".log", "0.log", "00000000000000000000.log/",
	} {
		f.Add(name, true)
		f.Add(name, false)
	}
	f.Fuzz(func(t *testing.T, name string, folder bool) {
		e := vfs.Entry{Name: name, Folder: folder}
		kind, off := logKind(e)
		ext := map[FileKind]string{KindSegment: logExt, KindIndex: indexExt, KindTimeIndex: timeExt, KindSnapshot: snapshotExt}[kind]
		if ext != "" {
			require.False(t, folder)
			require.Equal(t, offsetName(off)+ext, name)
		}
		if kind == KindTorn {
			require.True(t, strings.HasPrefix(name, offsetName(off)+logExt+"."))
		}
		switch rootKind(e, nil) {
		case KindPartition:
			topic, partition, ok := parseFolderName(name)
			require.True(t, ok && folder)
			require.Equal(t, name, folderName(topic, partition))
		case KindSetAside, KindDeleted:
			require.True(t, folder)
			topic, partition, ok := parsePutAway(name, path.Ext(name))
			require.True(t, ok)
			require.True(t, strings.HasPrefix(name, folderName(topic, partition)+"."))
		default:
		}
	})
}

// Whatever a leader sends, a follower's log takes whole batches that continue it,
// or refuses with an error that says why and takes nothing.
func FuzzAppendFollower(f *testing.F) {
	one := batch(f, 5, "value")
	f.Add(one, int64(0), int64(1))
	f.Add(append(bytes.Clone(one), one...), int64(0), int64(2))
	f.Add(one[:70], int64(0), int64(1))
	f.Add([]byte{}, int64(0), int64(0))
	negative := bytes.Clone(one)
	binary.BigEndian.PutUint32(negative[23:], 1<<31) // last offset delta
	f.Add(negative, int64(0), int64(1))
	far := bytes.Clone(one)
	record.Patch(far, math.MaxInt64, 1)
	f.Add(far, int64(math.MaxInt64), int64(math.MinInt64))
	mem := vfs.NewMem()
	opts := testOptions(mem)
	d := openTestDir(f, opts)
	f.Cleanup(func() { _ = d.Close(-1) })
	l, err := d.Open(testSpec(Config{}, nil))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, b []byte, from, to int64) {
		if len(b) >= record.HeaderSize { // a wrong CRC would hide what is behind it
			binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
		}
		end := l.End()
		buf := inArena(l, b)
		defer buf.Release()
		err := l.AppendFollower(record.Offset(from), record.Offset(to), 0, []*record.Buf{buf})
		if err != nil {
			require.Equal(t, end, l.End())
			known := errors.Is(err, ErrInvalidBatch) || errors.Is(err, ErrNotContiguous) || errors.Is(err, ErrStaleEpoch)
			require.True(t, known, "%v", err)
			return
		}
		require.Equal(t, record.Offset(to), l.End())
		require.NoError(t, l.Reset(0))
	})
}
