package log

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

const (
	logFile = testPath + "/orders-0/00000000000000000000.log"
)

// rawFile changes a file of a stopped log, durably.
func rawFile(t *testing.T, fsys vfs.FS, name string, change func(b []byte) []byte) {
	t.Helper()
	b, err := readFile(fsys, name)
	require.NoError(t, err)
	f, err := fsys.Open(name)
	require.NoError(t, err)
	b = change(b)
	require.NoError(t, f.Truncate(0))
	_, err = f.WriteAt(b, 0)
	require.NoError(t, err)
	require.NoError(t, f.Datasync())
	require.NoError(t, f.Close())
}

// setPromise puts a flushed offset into the checkpoint of a stopped directory.
func setPromise(t *testing.T, fsys vfs.FS, s logState) {
	t.Helper()
	opts := testOptions(fsys)
	c := newCheckpointer(opts, opts.FS, func() map[logKey]logState { return map[logKey]logState{{testID, 0}: s} })
	_, _, err := c.load()
	require.NoError(t, err)
	require.NoError(t, c.write())
}

func tornFiles(t *testing.T, fsys vfs.FS) []string {
	t.Helper()
	entries, err := fsys.List(testPath + "/orders-0")
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name, tornExt) {
			out = append(out, e.Name)
		}
	}
	return out
}

// stopped returns a file system with a cleanly stopped log of n batches of one
// record, all in one segment, and the batches as they are on disk.
func stopped(t *testing.T, n int) (*vfs.Mem, [][]byte) {
	t.Helper()
	mem := vfs.NewMem()
	d := openTestDir(t, testOptions(mem))
	ear := newListener()
	l, err := d.Open(testSpec(Config{Synced: true}, ear))
	require.NoError(t, err)
	ear.listen(l)
	fill(t, l, ear, n)
	var batches [][]byte
	for off := range record.Offset(n) {
		batches = append(batches, readAt(t, l, off, off+1, 1))
	}
	require.NoError(t, d.Close(3))
	return mem, batches
}

func TestCleanStopAndStart(t *testing.T) {
	mem, batches := stopped(t, 10)
	d := openTestDir(t, testOptions(mem))
	epoch, clean, err := d.CleanMarker()
	require.NoError(t, err)
	require.True(t, clean)
	require.Equal(t, int64(3), epoch)
	_, clean, err = d.CleanMarker()
	require.NoError(t, err)
	require.True(t, clean, "again, from memory")
	crashed := mem.CrashClone(nil)
	l, err := d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, Recovery{LastEpoch: 1, End: 10, Flushed: 10}, l.Recovery())
	require.Equal(t, bytes.Join(batches, nil), readEverything(t, l))
	require.NoError(t, d.Close(-1))

	d = openTestDir(t, testOptions(crashed))
	_, clean, err = d.CleanMarker()
	require.NoError(t, err)
	require.False(t, clean, "the marker was removed durably")
	require.NoError(t, d.Close(-1))
}

// A crash may leave later segments of a log of which nothing was flushed, and not the
// first: they are not the log's, but they are kept.
func TestSegmentsAboveTheStartAreSetAside(t *testing.T) {
	mem := vfs.NewMem()
	d := openTestDir(t, testOptions(mem))
	ear := newListener()
	l, err := d.Open(testSpec(Config{Synced: true, SegmentBytes: 1}, ear))
	require.NoError(t, err)
	ear.listen(l)
	fill(t, l, ear, 3)
	second := readAt(t, l, 1, 2, 1)
	require.NoError(t, d.Close(3))
	setPromise(t, mem, logState{})
	require.NoError(t, mem.Remove(logFile))

	d = openTestDir(t, testOptions(mem))
	l, err = d.Open(testSpec(Config{Synced: true}, nil))
	require.NoError(t, err)
	require.Equal(t, DamageNone, l.Damage())
	require.Equal(t, record.Offset(0), l.End())
	require.Equal(t, []string{"00000000000000000001.log.0.torn", "00000000000000000002.log.0.torn"}, tornFiles(t, mem))
	kept, err := readFile(mem, testPath+"/orders-0/00000000000000000001.log.0.torn")
	require.NoError(t, err)
	require.True(t, bytes.Equal(second, kept))
	require.NoError(t, d.Close(-1))
}

// A tail cut at every byte of the last two batches, with the checkpoint before
// them: what is whole stays, the rest goes to *.torn.
func TestTornTailAtEveryByte(t *testing.T) {
	mem, batches := stopped(t, 6)
	keep := bytes.Join(batches[:4], nil)
	all := bytes.Join(batches, nil)
	for size := len(keep); size <= len(all); size++ {
		for _, mangle := range []string{"short", "zero", "noise"} {
			crashed := mem.CrashClone(nil)
			setPromise(t, crashed, logState{flushed: 4, highWatermark: 4})
			var mangled []byte
			rawFile(t, crashed, logFile, func(b []byte) []byte {
				b = b[:size]
				defer func() { mangled = b }()
				switch mangle {
				case "zero": // the length reached the disk, the pages did not
					b = append(bytes.Clone(b), make([]byte, len(all)-size)...)
				case "noise":
					b = append(bytes.Clone(b), bytes.Repeat([]byte{0xEE}, len(all)-size)...)
				}
				return b
			})
			what := fmt.Sprintf("%s at %d", mangle, size)
			whole := 4
			for n := len(keep); whole < 6 && n+len(batches[whole]) <= size; whole++ {
				n += len(batches[whole])
			}
			if mangle == "zero" && whole < 6 && bytes.HasPrefix(append(bytes.Clone(all[:size]), make([]byte, len(all)-size)...), bytes.Join(batches[:whole+1], nil)) {
				whole++ // the missing bytes were zero
			}
			d := openTestDir(t, testOptions(crashed))
			l, err := d.Open(testSpec(Config{Synced: true}, nil))
			require.NoError(t, err, what)
			require.Equal(t, DamageNone, l.Damage(), what)
			require.Equal(t, record.Offset(whole), l.End(), what)
			require.Equal(t, record.Offset(whole), l.Flushed(), what)
			want := bytes.Join(batches[:whole], nil)
			require.Equal(t, want, readEverything(t, l), what)

			b, err := readFile(crashed, logFile)
			require.NoError(t, err)
			require.Equal(t, want, b, "the file is cut: %s", what)
			rest := mangled[len(want):]
			require.Equal(t, int64(len(rest)), l.Recovery().TornBytes, what)
			if len(bytes.Trim(rest, "\x00")) > 0 {
				require.NotEmpty(t, tornFiles(t, crashed), what)
			} else {
				require.Empty(t, tornFiles(t, crashed), what)
			}
			first, _ := add(t, l, 1, batch(t, 0, "next"))
			require.Equal(t, record.Offset(whole), first, what)
			require.NoError(t, d.Close(-1), what)
		}
	}
}

func TestATornFileIsNeverOverwritten(t *testing.T) {
	mem, batches := stopped(t, 3)
	size := len(bytes.Join(batches, nil))
	for i := range 3 {
		setPromise(t, mem, logState{flushed: 3})
		rawFile(t, mem, logFile, func(b []byte) []byte { return append(b[:size:size], byte(i+1)) })
		d := openTestDir(t, testOptions(mem))
		_, err := d.Open(testSpec(Config{Synced: true}, nil))
		require.NoError(t, err)
		require.NoError(t, d.Close(-1))
	}
	names := tornFiles(t, mem)
	require.Len(t, names, 3)
	var contents []byte
	for _, name := range names {
		b, err := readFile(mem, path.Join(testPath, "orders-0", name))
		require.NoError(t, err)
		contents = append(contents, b...)
	}
	slices.Sort(contents)
	require.Equal(t, []byte{1, 2, 3}, contents)
}

func TestValidBytesBehindATearAreCutToo(t *testing.T) {
	mem, batches := stopped(t, 6)
	setPromise(t, mem, logState{flushed: 2})
	rawFile(t, mem, logFile, func(b []byte) []byte {
		at := len(batches[0]) + len(batches[1]) + len(batches[2])
		clear(b[at : at+len(batches[3])]) // pages reach the disk in any order
		return b
	})
	d, l, _ := openTestLog(t, mem, Config{Synced: true})
	require.Equal(t, record.Offset(3), l.End())
	require.Equal(t, DamageNone, l.Damage())
	require.Len(t, tornFiles(t, mem), 1)
	_ = d
}

func TestDamageBelowTheCheckpointIsReportedNotRepaired(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b []byte, size int) []byte
		damage Damage
		end    record.Offset
	}{
		"header":  {func(b []byte, size int) []byte { b[2*size+8] ^= 0xFF; return b }, DamageCorrupt, 2},
		"offset":  {func(b []byte, size int) []byte { b[2*size+7]++; return b }, DamageCorrupt, 2},
		"zero":    {func(b []byte, size int) []byte { clear(b[2*size : 3*size]); return b }, DamageCorrupt, 2},
		"short":   {func(b []byte, size int) []byte { return b[:3*size] }, DamageLostBytes, 3},
		"torn":    {func(b []byte, size int) []byte { return b[:3*size+5] }, DamageCorrupt, 3},
		"emptied": {func([]byte, int) []byte { return nil }, DamageLostBytes, 0},
	} {
		t.Run(name, func(t *testing.T) {
			mem, batches := stopped(t, 6)
			size := len(batches[0])
			var damaged []byte
			rawFile(t, mem, logFile, func(b []byte) []byte {
				damaged = c.change(b, size)
				return damaged
			})
			for range 2 { // it is still so after a restart
				d := openTestDir(t, testOptions(mem))
				n := newListener()
				l, err := d.Open(testSpec(Config{Synced: true}, n))
				require.NoError(t, err)
				n.listen(l)
				require.Equal(t, c.damage, l.Damage())
				require.Equal(t, c.damage, l.Recovery().Damage)
				require.Error(t, l.Recovery().Cause)
				require.Equal(t, c.end, l.End())
				require.Equal(t, record.Offset(6), l.Recovery().Flushed)
				require.True(t, bytes.Equal(bytes.Join(batches[:c.end], nil), readEverything(t, l)), "the valid prefix is served")
				_, _, err = tryAdd(l, 1, batch(t, 0, "x"))
				require.ErrorIs(t, err, ErrDamaged)
				require.ErrorIs(t, l.TruncateTo(0), ErrDamaged)
				require.NoError(t, d.Close(-1))
				b, err := readFile(mem, logFile)
				require.NoError(t, err)
				require.True(t, bytes.Equal(damaged, b), "not repaired")
				require.Empty(t, tornFiles(t, mem))
			}
			d := openTestDir(t, testOptions(mem))
			n := newListener()
			l, err := d.Open(testSpec(Config{Synced: true}, n))
			require.NoError(t, err)
			n.listen(l)
			require.NoError(t, l.Reset(100))
			require.Equal(t, DamageNone, l.Damage())
			add(t, l, 1, batch(t, 0, "x"))
			n.waitFlushed(101)
			require.NoError(t, d.Close(-1))
			_, l, _ = openTestLog(t, mem, Config{Synced: true})
			require.Equal(t, DamageNone, l.Damage())
			require.Equal(t, record.Offset(101), l.End())
		})
	}
}

func TestCorruptPayloadIsFoundByTheRead(t *testing.T) {
	mem, batches := stopped(t, 6)
	rawFile(t, mem, logFile, func(b []byte) []byte { b[3*len(batches[0])-1] ^= 1; return b })
	d, l, _ := openTestLog(t, mem, Config{Synced: true})
	require.Len(t, readAt(t, l, 0, 2, 1000), 2*len(batches[0]))
	_, err := l.Read(2, 3, 1)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, DamageCorrupt, l.Damage())
	_, _, err = tryAdd(l, 1, batch(t, 0, "x"))
	require.ErrorIs(t, err, ErrDamaged)
	require.NoError(t, d.Close(-1))
	_, l, _ = openTestLog(t, mem, Config{Synced: true})
	require.Equal(t, DamageCorrupt, l.Damage(), "remembered")
}

func TestMissingFilesAreDamage(t *testing.T) {
	segmented := func(t *testing.T) *vfs.Mem {
		t.Helper()
		mem := vfs.NewMem()
		d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 200})
		fill(t, l, n, 9)
		require.NoError(t, d.Close(-1))
		return mem
	}
	for name, c := range map[string]struct {
		remove []string
		damage Damage
		end    record.Offset
	}{
		"folder": {[]string{""}, DamageMissing, 0},
		"first":  {[]string{"/" + offsetName(0) + logExt}, DamageMissing, 9},
		"middle": {[]string{"/" + offsetName(4) + logExt}, DamageLostBytes, 4},
		"last":   {[]string{"/" + offsetName(8) + logExt}, DamageLostBytes, 8},
	} {
		t.Run(name, func(t *testing.T) {
			mem := segmented(t)
			for _, f := range c.remove {
				require.NoError(t, mem.RemoveAll(testPath+"/orders-0"+f))
			}
			for range 2 {
				d, l, _ := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 200})
				require.Equal(t, c.damage, l.Damage())
				require.Equal(t, c.end, l.End())
				readEverything(t, l)
				require.NoError(t, d.Close(-1))
			}
		})
	}
}

func TestIndexesAndEpochsAreRebuilt(t *testing.T) {
	for _, damage := range []string{"missing", "noise", "torn"} {
		mem := vfs.NewMem()
		cfg := Config{Synced: true, SegmentBytes: 300, IndexInterval: 1}
		d, l, n := openTestLog(t, mem, cfg)
		fill(t, l, n, 10)
		add(t, l, 4, batch(t, 5000, "e"))
		n.waitFlushed(11)
		require.NoError(t, d.Close(-1))
		entries, err := mem.List(testPath + "/orders-0")
		require.NoError(t, err)
		for _, e := range entries {
			name := path.Join(testPath, "orders-0", e.Name)
			if ext := path.Ext(name); ext != indexExt && ext != timeExt && ext != snapshotExt && e.Name != epochsName {
				continue
			}
			switch damage {
			case "missing":
				require.NoError(t, mem.Remove(name))
			case "noise":
				rawFile(t, mem, name, func(b []byte) []byte { return bytes.Repeat([]byte{0xA7}, len(b)) })
			case "torn":
				rawFile(t, mem, name, func(b []byte) []byte { return b[:len(b)/2] })
			}
		}
		d, l, _ = openTestLog(t, mem, cfg)
		require.Equal(t, DamageNone, l.Damage(), damage)
		require.Equal(t, record.Offset(11), l.End(), damage)
		require.Equal(t, record.Epoch(4), l.LastEpoch(), damage)
		epoch, end := l.EpochEnd(3)
		require.Equal(t, epochStart{1, 10}, epochStart{epoch, end}, damage)
		readEverything(t, l)
		off, _, ok, err := l.OffsetForTime(1005, 11)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, record.Offset(5), off, damage)
		require.NoError(t, d.Close(-1))
	}
}

func TestLostCheckpointMeansDamage(t *testing.T) {
	mem, batches := stopped(t, 6)
	for _, slot := range checkpointSlots() {
		rawFile(t, mem, path.Join(testPath, slot), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	}
	for range 2 {
		d, l, _ := openTestLog(t, mem, Config{Synced: true})
		require.Equal(t, DamageLostBytes, l.Damage())
		require.Equal(t, bytes.Join(batches, nil), readEverything(t, l))
		require.NoError(t, d.Close(-1))
	}
}

func TestOneTornCheckpointSlotIsHarmless(t *testing.T) {
	for _, slot := range checkpointSlots() {
		mem, _ := stopped(t, 6)
		rawFile(t, mem, path.Join(testPath, slot), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		_, l, _ := openTestLog(t, mem, Config{Synced: true})
		require.Equal(t, DamageNone, l.Damage())
		require.Equal(t, record.Offset(6), l.End())
	}
}

func TestDirIsLocked(t *testing.T) {
	for name, opts := range map[string]DirOptions{
		"mem": testOptions(vfs.NewMem()),
		"os":  func() DirOptions { o := testOptions(vfs.OS{}); o.Path = t.TempDir(); return o }(),
	} {
		d := openTestDir(t, opts)
		_, err := OpenDir(opts)
		require.ErrorIs(t, err, ErrLocked, name)
		require.Contains(t, err.Error(), "process ", name)
		require.NoError(t, d.Close(-1))
		d = openTestDir(t, opts)
		require.NoError(t, d.Close(-1))
	}
}

func TestFoldersOfOtherTopics(t *testing.T) {
	mem, _ := stopped(t, 3)
	d := openTestDir(t, testOptions(mem))
	defer func() { require.NoError(t, d.Close(-1)) }()
	spec := testSpec(Config{Synced: true}, nil)
	spec.TopicID = [16]byte{9}
	_, err := d.Open(spec)
	require.ErrorIs(t, err, ErrTopicID)
	found, err := d.Scan()
	require.NoError(t, err)
	require.Equal(t, []Found{{Topic: "orders", TopicID: testID, HasID: true, Path: testPath + "/orders-0"}}, found)
	require.NoError(t, d.SetAside(found[0]))
	l, err := d.Open(spec)
	require.NoError(t, err)
	require.Zero(t, l.End())
	_, err = d.Open(spec)
	require.ErrorIs(t, err, ErrOpen)
	require.NoError(t, d.Remove(l))
	found, err = d.Scan()
	require.NoError(t, err)
	require.Empty(t, found)
	entries, err := mem.List(testPath)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(entries, func(e vfs.Entry) bool { return strings.HasSuffix(e.Name, strayExt) }), "set aside, not deleted")
	_, err = mem.List(testPath + "/orders-0")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFolderNames(t *testing.T) {
	for name, want := range map[string]string{
		"orders-0": "orders 0", "a-b-12": "a-b 12", "a--1": "a- 1", "orders": "", "-1": "", "a-01": "", "a-x": "", "a-": "",
		"orders-0.00.stray": "", "raft": "", "a-99999999999": "",
	} {
		topic, partition, ok := parseFolderName(name)
		got := ""
		if ok {
			got = fmt.Sprint(topic, " ", partition)
		}
		require.Equal(t, want, got, name)
	}
}

func TestAnInterruptedCreationIsFinished(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.Mkdir(testPath+"/orders-0"))
	f, err := mem.Create(testPath + "/orders-0/" + metadataName)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, l, n := openTestLog(t, mem, Config{Synced: true})
	fill(t, l, n, 2)
}
