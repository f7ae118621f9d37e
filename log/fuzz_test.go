package log

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

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
		_, l, _ := openTestLog(t, mem, Config{Synced: true})
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
