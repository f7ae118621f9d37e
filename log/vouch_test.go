package log

import (
	"path"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// severalEpochs returns a stopped log with the epochs 1 to 4, of seven records each, in
// many small segments or in one.
func severalEpochs(t *testing.T, cfg Config, brokerEpoch int64) (*vfs.Mem, epochs) {
	t.Helper()
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, cfg)
	for epoch := range record.Epoch(4) {
		for i := range 7 {
			add(t, l, epoch+1, batch(t, int64(1000+i), "v"))
		}
	}
	n.waitFlushed(l.End())
	right := slices.Clone(l.epochs)
	require.Len(t, right, 4)
	require.NoError(t, d.Close(brokerEpoch))
	return mem, right
}

// Any flipped bit of the epoch file is found, though the file has no checksum: whatever
// it says must be what the batches say.
func TestAnyFlippedBitOfTheEpochsIsFound(t *testing.T) {
	name := path.Join(testPath, "orders-0", epochsName)
	for _, cfg := range []Config{{Synced: true}, {Synced: true, SegmentBytes: 300, IndexInterval: 1}, {Synced: true, SegmentBytes: 700}} {
		for _, stop := range []int64{-1, 1} { // not in order, in order
			mem, right := severalEpochs(t, cfg, stop)
			whole, err := readFile(mem, name)
			require.NoError(t, err)
			for at := range whole {
				for bit := range 8 {
					flipped := mem.CrashClone(nil)
					rawFile(t, flipped, name, func(b []byte) []byte { b[at] ^= 1 << bit; return b })
					d, l, _ := openTestLog(t, flipped, cfg)
					require.Equal(t, DamageNone, l.Damage())
					require.Equal(t, right, l.epochs, "bit %d of byte %d of %q", bit, at, whole)
					require.NoError(t, d.Close(-1))
					again, err := readFile(flipped, name)
					require.NoError(t, err)
					require.Equal(t, whole, again, "the file is made anew")
				}
			}
		}
	}
}

// An epoch whose batches are partly below the log start begins at the start.
func TestEpochsAreRightAfterTheStartMoved(t *testing.T) {
	cfg := Config{Synced: true, SegmentBytes: 300, IndexInterval: 1}
	mem, right := severalEpochs(t, cfg, 1)
	d, l, _ := openTestLog(t, mem, cfg)
	require.NoError(t, l.AdvanceStart(10))
	require.NoError(t, d.Close(-1))
	d, l, _ = openTestLog(t, mem, cfg)
	require.Equal(t, append(epochs{{2, 10}}, right[2:]...), l.epochs)
	require.NoError(t, d.Close(-1))
}

// A look-up by time finds the right record whatever a damaged time index says.
func TestADamagedTimeIndexMisleadsNobody(t *testing.T) {
	cfg := Config{Synced: true, SegmentBytes: 500, IndexInterval: 1}
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, cfg)
	const records, first = 20, 1000
	for i := range int64(records) {
		add(t, l, 1, batch(t, first+10*i, "v"))
	}
	n.waitFlushed(l.End())
	l.SetHighWatermark(l.End())
	require.NoError(t, d.Close(1))
	entries, err := mem.List(testPath + "/orders-0")
	require.NoError(t, err)
	checked := 0
	for _, e := range entries {
		if path.Ext(e.Name) != timeExt {
			continue
		}
		name := path.Join(testPath, "orders-0", e.Name)
		whole, err := readFile(mem, name)
		require.NoError(t, err)
		for at := range whole {
			for _, bit := range []int{0, 1, 2, 3, 7} {
				flipped := mem.CrashClone(nil)
				rawFile(t, flipped, name, func(b []byte) []byte { b[at] ^= 1 << bit; return b })
				d := openTestDir(t, testOptions(flipped)) // what is not at its ends stays in the index
				l, err := d.Open(testSpec(cfg, nil))
				require.NoError(t, err)
				for i := range record.Offset(records) {
					ms := first + 10*int64(i)
					for _, ask := range []int64{ms, ms - 9} {
						off, found, ok, err := l.OffsetForTime(ask, l.End())
						require.NoError(t, err)
						require.True(t, ok, "%s, bit %d of byte %d: %d ms", e.Name, bit, at, ask)
						require.Equal(t, i, off, "%s, bit %d of byte %d: %d ms", e.Name, bit, at, ask)
						require.Equal(t, ms, found)
					}
				}
				for _, s := range l.segments {
					if s.size > 0 {
						require.Equal(t, first+10*int64(s.next-1), s.newest.ms, "%s, bit %d of byte %d: retention goes by it", e.Name, bit, at)
					}
				}
				require.NoError(t, d.Close(-1))
				checked++
			}
		}
	}
	require.Positive(t, checked)
}
