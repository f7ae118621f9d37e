package log

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// findings verifies a directory and returns what is not a note.
func findings(t tester, fsys vfs.FS, at string) (bad, notes []Finding, sum Verification) {
	t.Helper()
	in, err := Inspect(InspectOptions{FS: fsys, Path: at, Partition: -1})
	require.NoError(t, err)
	sum, err = in.Verify(context.Background(), func(f Finding) {
		if f.Severity == SeverityNote {
			notes = append(notes, f)
		} else {
			bad = append(bad, f)
		}
	})
	require.NoError(t, err)
	return bad, notes, sum
}

// busyLog fills a log with all that a log can hold: several segments, epochs,
// producers, batches of several records.
func busyLog(t *testing.T, l *Log, n *listener) {
	t.Helper()
	seq := map[int64]int32{}
	for i := range 60 {
		epoch := record.Epoch(i / 20)
		if i%3 == 0 {
			id := int64(i % 2)
			add(t, l, epoch, idempotent(t, id, 0, seq[id], "one", "two"))
			seq[id] += 2
		} else {
			add(t, l, epoch, batch(t, int64(1000*(i%7)), fmt.Sprintf("value %d", i), "more"))
		}
		if i%10 == 0 {
			n.waitFlushed(l.End())
		}
	}
	n.waitFlushed(l.End())
}

func TestVerifyOfAWellLog(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700, IndexInterval: 200})
	busyLog(t, l, n)
	require.Greater(t, len(l.segments), 5)

	bad, _, sum := findings(t, mem, testPath)
	require.Empty(t, bad, "while it is open")
	require.EqualValues(t, 60, sum.Batches)
	require.EqualValues(t, 120, sum.Records)

	bad, _, _ = findings(t, mem.CrashClone(nil), testPath)
	require.Empty(t, bad, "after a crash")

	require.NoError(t, d.Close(5))
	bad, notes, sum := findings(t, mem, testPath)
	require.Empty(t, bad)
	require.Empty(t, notes)
	require.EqualValues(t, 1, sum.Partitions)

	for _, at := range []string{"orders-0", "orders-0/00000000000000000000.log", "orders-0/00000000000000000000.index", "flushed-checkpoint.0", "clean-stop", "orders-0/leader-epoch-checkpoint"} {
		bad, notes, _ := findings(t, mem, path.Join(testPath, at))
		require.Empty(t, bad, at)
		require.Empty(t, notes, at)
	}
}

// stoppedBusyLog is a directory whose log holds all that a log can, stopped in order.
func stoppedBusyLog(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true, SegmentBytes: 700, IndexInterval: 200})
	busyLog(t, l, n)
	require.NoError(t, d.Close(5))
	return mem
}

// Every byte of a log that was stopped in order matters: whichever is changed, and
// wherever a file is cut or ends in zeroes, it is found, and told with its file.
func TestVerifyFindsEveryByte(t *testing.T) {
	mem := stoppedBusyLog(t)
	entries, err := mem.List(testPath + "/orders-0")
	require.NoError(t, err)
	for i, e := range entries {
		name := testPath + "/orders-0/" + e.Name
		whole, err := readFile(mem, name)
		require.NoError(t, err)
		step := 1 + i%2*2 // every other file in strides, to save time
		if testing.Short() {
			step = 11
		}
		for at := 0; at < len(whole); at += step {
			flipped, zeroed := bytes.Clone(whole), bytes.Clone(whole)
			flipped[at] ^= 0x15
			clear(zeroed[at:])
			for how, b := range map[string][]byte{"flipped": flipped, "cut": whole[:at], "zeroed": zeroed} {
				if sparser := how == "cut" && strings.HasSuffix(name, indexExt) && at > 0 && at%indexEntrySize == 0; sparser || bytes.Equal(b, whole) {
					continue // an index with fewer entries is slower, not wrong
				}
				require.NoError(t, create(mem, name, b))
				bad, _, _ := findings(t, mem, testPath)
				require.NotEmpty(t, bad, "%s %s at byte %d of %d", e.Name, how, at, len(whole))
				require.Equal(t, SeverityDamage, bad[0].Severity)
				if e.Name != metadataName { // another topic's id: then this one has no folder
					require.True(t, strings.HasPrefix(bad[0].Path, testPath+"/orders-0/"), "%s", bad[0])
				}
			}
		}
		require.NoError(t, create(mem, name, whole))
	}
}

// What is found is told so that an operator can act: where, what, and what would be right.
func TestVerifySaysWhatIsWrong(t *testing.T) {
	const folder = testPath + "/orders-0/"
	first := folder + "00000000000000000000"
	edit := func(name string, change func(b []byte) []byte) func(t *testing.T, mem *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			b, err := readFile(mem, name)
			require.NoError(t, err)
			require.NoError(t, create(mem, name, change(b)))
		}
	}
	remove := func(name string) func(t *testing.T, mem *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) { t.Helper(); require.NoError(t, mem.Remove(name)) }
	}
	second := func(b []byte) int { info, _ := record.Peek(b); return info.Size }
	for name, c := range map[string]struct {
		damage   func(t *testing.T, mem *vfs.Mem)
		severity Severity
		want     []string
	}{
		"a record": {
			edit(first+logExt, func(b []byte) []byte { b[second(b)-1] ^= 1; return b }), SeverityDamage,
			[]string{"byte 0: offset 0: CRC-32C is", "the header says"},
		},
		"a base offset": {
			edit(first+logExt, func(b []byte) []byte { b[second(b)+7]++; return b }), SeverityDamage,
			[]string{"byte 81: offset 2: the batch has base offset 3 (base offset 2)"},
		},
		"an epoch that falls": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			entries, err := mem.List(testPath + "/orders-0")
			require.NoError(t, err)
			var last string
			for _, e := range entries {
				if _, ok := parseOffsetName(e.Name, logExt); ok {
					last = e.Name
				}
			}
			edit(folder+last, func(b []byte) []byte { b[15] = 0; return b })(t, mem)
		}, SeverityDamage, []string{"the batch is of leader epoch 0 (epoch 2 or later)"}},
		"a length": {
			edit(first+logExt, func(b []byte) []byte { b[8] = 0x7F; return b }), SeverityDamage,
			[]string{"byte 0: offset 0: batch of", "bytes are not read (the batch of offset 0)"},
		},
		"a negative length": {
			edit(first+logExt, func(b []byte) []byte { b[8] = 0xFF; return b }), SeverityDamage,
			[]string{"byte 0: offset 0: no batch header"},
		},
		"a segment that is gone": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			remove(first+logExt)(t, mem)
		}, SeverityDamage, []string{"the first segment begins at offset 16 (the log begins at 0)", "an index without a segment"}},
		"no segments": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			entries, err := mem.List(testPath + "/orders-0")
			require.NoError(t, err)
			for _, e := range entries {
				if _, ok := parseOffsetName(e.Name, logExt); ok {
					remove(folder+e.Name)(t, mem)
				}
			}
		}, SeverityDamage, []string{"no segment (offsets 0 to 120 were flushed)"}},
		"an index entry": {
			edit(first+indexExt, func(b []byte) []byte { b[11]++; return b }), SeverityDamage,
			[]string{".index: byte 8: offset 8: the entry says offset 8 (offset 7, for the batch at byte"},
		},
		"an index position": {
			edit(first+indexExt, func(b []byte) []byte { b[15]--; return b }), SeverityDamage,
			[]string{"where no batch begins"},
		},
		"half an index entry": {
			edit(first+indexExt, func(b []byte) []byte { return b[:len(b)-3] }), SeverityDamage,
			[]string{"5 bytes at the end are no whole entry of 8"},
		},
		"a hostile index": {
			edit(first+indexExt, func([]byte) []byte { return bytes.Repeat([]byte{0xFF}, 1<<20) }), SeverityDamage,
			[]string{".index: byte 0: "},
		},
		"an index of zeroes": {
			edit(first+indexExt, func(b []byte) []byte { return append(b, make([]byte, 64)...) }), SeverityDamage,
			[]string{".index: byte"},
		},
		"no index": {remove(first + indexExt), SeverityDamage, []string{"a rolled segment has no index of this kind (the next start builds it anew)"}},
		"a time":   {edit(first+timeExt, func(b []byte) []byte { b[7]++; return b }), SeverityDamage, []string{".timeindex: byte 0: ", "was the first to reach"}},
		"a time left out": {
			edit(first+timeExt, func(b []byte) []byte { return b[:len(b)-timeEntrySize] }), SeverityDamage,
			[]string{"the greatest timestamp of the segment has no entry"},
		},
		"epochs": {
			edit(folder+epochsName, func([]byte) []byte { return []byte("0\n2\n0 0\n2 40\n") }), SeverityDamage,
			[]string{"leader-epoch-checkpoint: offset 40: the file says epoch 2 at offset 40 (epoch 1, which the batch there has)"},
		},
		"no epochs":   {remove(folder + epochsName), SeverityDamage, []string{"leader-epoch-checkpoint: offset 0: the file is missing"}},
		"no topic id": {remove(folder + metadataName), SeverityDamage, []string{"partition.metadata: "}},
		"foreign epochs": {
			edit(folder+epochsName, func([]byte) []byte { return []byte("version: 7") }), SeverityDamage,
			[]string{"not a leader epoch checkpoint of version 0"},
		},
		"a snapshot of another log": {edit(folder+offsetName(16)+snapshotExt, func(b []byte) []byte {
			ps, at, err := decodeProducers(b, 10)
			require.NoError(t, err)
			ps.byID[0].batches[0].base++
			return ps.encode(at)
		}), SeverityDamage, []string{".snapshot: offset 16: producer 0: ", "the state that the batches below lead to"}},
		"a snapshot that lags": {edit(folder+offsetName(16)+snapshotExt, func(b []byte) []byte {
			ps, at, err := decodeProducers(b, 10)
			require.NoError(t, err)
			require.Greater(t, ps.byID[0].count, 1)
			ps.byID[0].count--
			return ps.encode(at)
		}), SeverityDamage, []string{".snapshot: offset 16: producer 0: epoch 0 and last a batch at offset 0 with sequences 0 to 1, the log has epoch 0, offset 12, sequences 2 to 3"}},
		"a stranger in a snapshot": {edit(folder+offsetName(16)+snapshotExt, func(b []byte) []byte {
			ps, at, err := decodeProducers(b, 10)
			require.NoError(t, err)
			ps.update(&record.BatchInfo{ProducerID: 99, BaseOffset: 4}, 1)
			return ps.encode(at)
		}), SeverityDamage, []string{"producer 99 has a batch at offset 4, where the log holds none of it"}},
		"both slots": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			for _, slot := range checkpointSlots() {
				edit(testPath+"/"+slot, func(b []byte) []byte { b[9] ^= 1; return b })(t, mem)
			}
		}, SeverityDamage, []string{"no flushed checkpoint is readable"}},
		"one slot": {
			edit(testPath+"/flushed-checkpoint.0", func(b []byte) []byte { b[9] ^= 1; return b }), SeverityNote,
			[]string{"flushed-checkpoint.0: CRC is", "the other slot holds"},
		},
		"the folder": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			require.NoError(t, mem.RemoveAll(testPath+"/orders-0"))
		}, SeverityDamage, []string{"no folder has topic id 0a010203000000000000000000000000 and partition 0 (offsets 0 to 120 were flushed"}},
		"a file of somebody": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			require.NoError(t, create(mem, folder+"notes.log", []byte("x")))
		}, SeverityStrange, []string{"notes.log: nothing of ours has that name (it is left alone)"}},
		"a folder named like a segment": {func(t *testing.T, mem *vfs.Mem) {
			t.Helper()
			require.NoError(t, mem.Mkdir(folder+"00000000000000000007.log"))
		}, SeverityStrange, []string{"00000000000000000007.log: nothing of ours"}},
	} {
		t.Run(name, func(t *testing.T) {
			mem := stoppedBusyLog(t)
			c.damage(t, mem)
			bad, notes, _ := findings(t, mem, testPath)
			all := fmt.Sprint(bad, notes)
			for _, want := range c.want {
				require.Contains(t, all, want)
			}
			require.Equal(t, c.severity, append(bad, notes...)[0].Severity, all)
		})
	}
}

// After a crash what lies above the checkpoint may be anything: it is a note. The
// same below it is damage.
func TestVerifyKnowsTheUnflushedTail(t *testing.T) {
	for flushed, want := range map[record.Offset]Severity{3: SeverityNote, 4: SeverityDamage} {
		for name, change := range map[string]func(b []byte, at int) []byte{
			"torn":  func(b []byte, at int) []byte { return b[:at+10] },
			"zero":  func(b []byte, at int) []byte { clear(b[at:]); return b },
			"wrong": func(b []byte, at int) []byte { b[at+70] ^= 1; return b },
			"noise": func(b []byte, at int) []byte { return append(b[:at], bytes.Repeat([]byte{0xA5}, 300)...) },
		} {
			mem, batches := stopped(t, 6)
			require.NoError(t, mem.Remove(testPath+"/"+markerName))
			setPromise(t, mem, logState{flushed: flushed, highWatermark: 1})
			at := len(bytes.Join(batches[:3], nil))
			rawFile(t, mem, logFile, func(b []byte) []byte { return change(bytes.Clone(b), at) })
			bad, notes, _ := findings(t, mem, testPath)
			if want == SeverityNote {
				require.Empty(t, bad, name)
				require.Contains(t, fmt.Sprint(notes), fmt.Sprintf("byte %d: offset 3: unflushed tail: ", at), name)
			} else {
				require.NotEmpty(t, bad, name)
				require.Contains(t, fmt.Sprint(bad), fmt.Sprintf("byte %d: offset 3: ", at), name)
			}
		}
	}
}

// What was acknowledged and is in the flush journal only is not missing.
func TestVerifyLooksIntoTheFlushJournal(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 3)
	for i := range 12 {
		c.append(i%3, fmt.Sprintf("value %d", i))
	}
	for i := range 3 {
		c.hear[i].waitFlushed(4)
	}
	require.NoError(t, c.d.checkpoint.write())
	crashed := mem.CrashClone(nil)
	shorter := 0
	for i := range 3 {
		name := fmt.Sprintf("%s/orders-%d/00000000000000000000.log", testPath, i)
		if len(contents(t, crashed, path.Dir(name))[name]) < len(contents(t, mem, path.Dir(name))[name]) {
			shorter++
		}
	}
	require.NotZero(t, shorter, "the crash took bytes from a segment")
	for _, at := range []string{testPath, testPath + "/orders-0"} {
		bad, _, sum := findings(t, crashed, at)
		require.Empty(t, bad)
		require.Equal(t, 4*sum.Partitions, sum.Batches)
	}
	require.NoError(t, create(crashed, testPath+"/flush-journal.0", []byte("nonsense")))
	bad, notes, _ := findings(t, crashed, testPath)
	require.Len(t, bad, shorter, "what was promised is gone")
	require.Contains(t, fmt.Sprint(notes), "not a flush journal")
}

// What the journal has from before a truncation is void.
func TestVerifyBelievesNoVoidEntries(t *testing.T) {
	mem := vfs.NewMem()
	c := openCrowd(t, journalOptions(mem), 3)
	for i := range 12 {
		c.append(i%3, fmt.Sprintf("value %d", i))
	}
	for i := range 3 {
		c.hear[i].waitFlushed(4)
		require.NoError(t, c.logs[i].TruncateTo(1))
	}
	_, _, sum := findings(t, mem.CrashClone(nil), testPath)
	require.EqualValues(t, 3, sum.Batches)
}

// A time entry names the batch that was the first to reach its time.
func TestVerifyOfTimesThatComeTwice(t *testing.T) {
	mem := vfs.NewMem()
	d, l, n := openTestLog(t, mem, Config{Synced: true})
	for range 3 {
		add(t, l, 1, batch(t, 7, "v"))
	}
	n.waitFlushed(3)
	require.NoError(t, d.Close(1))
	bad, _, _ := findings(t, mem, testPath)
	require.Empty(t, bad)
	name := testPath + "/orders-0/" + offsetName(0) + timeExt
	b, err := readFile(mem, name)
	require.NoError(t, err)
	require.Equal(t, byte(0), b[11])
	b[11] = 2
	require.NoError(t, create(mem, name, b))
	bad, _, _ = findings(t, mem, testPath)
	require.Contains(t, fmt.Sprint(bad), "the entry says that the batch was the first to reach 7 ms (7 ms, which offset 0 was the first to reach)")
}

// Without a checkpoint nobody knows how far a log was compacted: a gap is a note.
func TestVerifyDoesNotJudgeGapsWithoutACheckpoint(t *testing.T) {
	mem, batches := stopped(t, 6)
	rawFile(t, mem, logFile, func([]byte) []byte { return bytes.Join(append(batches[:2:2], batches[4:]...), nil) })
	bad, _, _ := findings(t, mem, testPath)
	require.Contains(t, fmt.Sprint(bad), "the batch has base offset 4 (base offset 2)")
	for _, name := range append(checkpointNames(), markerName, lockName) {
		require.NoError(t, mem.Remove(testPath+"/"+name))
	}
	require.NoError(t, mem.Remove(testPath+"/orders-0/00000000000000000000.index"))
	bad, notes, _ := findings(t, mem, testPath)
	require.Empty(t, bad)
	require.Contains(t, fmt.Sprint(notes), "offset 2: no record from here to offset 4 (right if the log was compacted")
}

func checkpointNames() []string { slots := checkpointSlots(); return slots[:] }

// readOnlyFS fails a test that changes something through it.
type readOnlyFS struct {
	vfs.FS
	t *testing.T
}

func (r readOnlyFS) Create(name string) (vfs.File, error) {
	r.t.Errorf("created %s", name)
	return r.FS.Create(name)
}

func (r readOnlyFS) Lock(name string) (vfs.File, error) {
	r.t.Errorf("locked %s", name)
	return r.FS.Lock(name)
}
func (r readOnlyFS) Rename(from, to string) error { r.t.Errorf("renamed %s", from); return nil }
func (r readOnlyFS) Remove(name string) error     { r.t.Errorf("removed %s", name); return nil }
func (r readOnlyFS) RemoveAll(name string) error  { r.t.Errorf("removed %s", name); return nil }
func (r readOnlyFS) Mkdir(name string) error      { r.t.Errorf("made %s", name); return nil }

// inspectAll calls everything that an Inspector offers.
func inspectAll(t *testing.T, fsys vfs.FS, at string) {
	t.Helper()
	in, err := Inspect(InspectOptions{FS: fsys, Path: at, Partition: -1})
	if err != nil {
		return
	}
	files, err := in.Files()
	require.NoError(t, err)
	for _, f := range files {
		switch f.Kind {
		case KindSegment:
			for b, err := range in.Batches(t.Context(), f.Path, 0) {
				if err != nil {
					break
				}
				for range b.Records() {
					continue
				}
			}
		case KindIndex, KindTimeIndex:
			for range in.Index(f) {
				continue
			}
		case KindEpochs:
			_, _ = in.Epochs(f.Path)
		case KindSnapshot:
			_, _, _ = in.Producers(f.Path)
		case KindCheckpoint:
			_, _, _ = in.Checkpoint(f.Path)
		case KindJournal:
			_ = in.Journal(f.Path, func(InspectedJournalEntry) error { return nil })
		case KindMetadata:
			_, _ = in.TopicID(f.Path)
		case KindMarker:
			_, _ = in.Marker(f.Path)
		default:
		}
	}
	_, _ = in.Verify(t.Context(), nil)
}

func TestInspectingChangesNothing(t *testing.T) {
	mem := stoppedBusyLog(t)
	before := contents(t, mem, testPath)
	inspectAll(t, readOnlyFS{mem, t}, testPath)
	require.Equal(t, before, contents(t, mem, testPath))
}

// contents reads everything under a folder.
func contents(t *testing.T, fsys vfs.FS, at string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := fsys.List(at)
	require.NoError(t, err)
	for _, e := range entries {
		name := path.Join(at, e.Name)
		if e.Folder {
			out[name] = "folder"
			maps.Copy(out, contents(t, fsys, name))
			continue
		}
		b, err := readFile(fsys, name)
		require.NoError(t, err)
		out[name] = string(b)
	}
	return out
}

// Whatever is in the files, the inspector looks at all of it, says what it is, and
// ends.
func FuzzInspect(f *testing.F) {
	f.Add(uint8(0), uint16(0), []byte{1, 2, 3}, true)
	f.Add(uint8(3), uint16(61), []byte{0x7F, 0xFF, 0xFF, 0xFF}, false)
	f.Add(uint8(9), uint16(8), []byte("0\n1\n0 0\n"), true)
	f.Fuzz(func(t *testing.T, which uint8, at uint16, noise []byte, cut bool) {
		mem, _ := stopped(t, 6)
		var names []string
		for name, b := range contents(t, mem, testPath) {
			if b != "folder" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		name := names[int(which)%len(names)]
		b, err := readFile(mem, name)
		require.NoError(t, err)
		from := int(at) % (len(b) + 1)
		mangled := append(bytes.Clone(b[:from]), noise...)
		if !cut && from+len(noise) < len(b) {
			mangled = append(mangled, b[from+len(noise):]...)
		}
		require.NoError(t, create(mem, name, mangled))
		inspectAll(t, mem, testPath)
		inspectAll(t, mem, name)
	})
}
