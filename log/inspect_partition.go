package log

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"

	"github.com/penstock/penstock/log/record"
)

// maxVerifiedProducers bounds the replayed producer state; of producers beyond it
// snapshots are believed.
const maxVerifiedProducers = 200_000

// partitionCheck goes through one partition's folder.
type partitionCheck struct {
	v      *verifier
	folder string
	// alone: a single segment file, about which nobody else says anything.
	alone bool

	state logState
	// known: the checkpoint says what was flushed. Below that everything must be
	// there. believed: the log has no entry yet, so nothing was promised.
	known, believed bool

	first, next record.Offset // of the segments; next is due
	last        string        // the last segment file
	instead     record.Offset // due as well, behind a batch whose base offset is wrong; -1: nothing
	epoch       record.Epoch  // of the last batch
	tail        bool          // the log has ended; what follows is no longer part of it
	gapped      bool          // a gap was told of that nobody can judge
	lost        bool          // the segment before could not be read to its end

	epochs     epochs
	epochsRead bool
	ahead      record.Offset // epochs below are not looked at again; see epochOf

	// swaps are the files of compacted segments that stand for others, by base offset.
	swaps     map[record.Offset]string
	snapshots []record.Offset
	replayed  *producers
	partial   bool // replayed had to forget some
}

func (v *verifier) newPartition(folder string) *partitionCheck {
	return &partitionCheck{v: v, folder: folder, epoch: record.UnknownEpoch, instead: record.UnknownOffset, replayed: newProducers(maxVerifiedProducers)}
}

func (p *partitionCheck) path(name string) string { return filepath.Join(p.folder, name) }

// folder checks a partition's folder; files are those in it.
func (v *verifier) folder(head InspectedFile, files []InspectedFile) error {
	if _, err := v.in.fs.List(head.Path); isMissing(err) {
		return nil // its topic was deleted while we looked
	}
	v.sum.Partitions++
	p := v.newPartition(head.Path)
	var bases []record.Offset
	segments := map[record.Offset]bool{}
	for _, f := range files {
		switch f.Kind {
		case KindSegment:
			bases = append(bases, f.Offset)
			segments[f.Offset] = true
		case KindSnapshot:
			p.snapshots = append(p.snapshots, f.Offset)
		default:
		}
	}
	bases = p.swapped(files, bases)
	p.listed(files, segments)
	p.promise(head, len(bases))
	if p.resetting(files) {
		return nil // what lies here counts no more
	}
	if err := p.readEpochs(len(bases)); err != nil {
		return err
	}
	bases = p.begin(bases)
	for i, base := range bases {
		if p.tail {
			p.note(KindSegment, p.path(offsetName(base)+logExt), fmt.Sprintf("the log ends at offset %d, before this segment", p.next), "the next start sets it aside as *.torn")
			continue
		}
		if i > 0 && base != p.next && !p.lost {
			p.gap(base)
			if p.tail {
				continue
			}
		}
		p.next = base
		last, due := i == len(bases)-1, p.state.flushed
		if !last {
			due = bases[i+1]
		}
		if err := p.segment(base, due, last); err != nil {
			return err
		}
	}
	return p.finish()
}

// swapped puts whole segments of a compaction that was interrupted in the place of
// those that they replace, as the next start will do.
func (p *partitionCheck) swapped(files []InspectedFile, bases []record.Offset) []record.Offset {
	for _, f := range files {
		base, end, ok := parseSwapName(f.Name())
		if f.Kind != KindCompacted || !ok {
			continue
		}
		if p.swaps == nil {
			p.swaps = map[record.Offset]string{}
		}
		p.swaps[base] = f.Path
		bases = slices.DeleteFunc(bases, func(b record.Offset) bool { return b >= base && b < end })
		bases = append(bases, base)
		p.note(f.Kind, f.Path, "a compaction was interrupted", "the next start finishes it")
	}
	slices.Sort(bases)
	return bases
}

// listed reports what lies in the folder and is no part of the log.
func (p *partitionCheck) listed(files []InspectedFile, segments map[record.Offset]bool) {
	for _, f := range files {
		switch f.Kind {
		case KindStrange:
			p.v.whole(SeverityStrange, f.Kind, f.Path, "nothing of ours has that name", "it is left alone")
		case KindTorn:
			p.note(f.Kind, f.Path, "cut off the end of the log by an earlier start", "delete it when nobody asks for it any more")
		case KindTemporary:
			p.note(f.Kind, f.Path, "unfinished", "the next start removes it")
		case KindDeleted:
			p.note(f.Kind, f.Path, "expired, and being deleted", "the next start goes on with it")
		case KindIndex, KindTimeIndex:
			if !segments[f.Offset] {
				p.note(f.Kind, f.Path, "an index without a segment: what a crash left of a deletion", "")
			}
		default:
		}
	}
}

// resetting says whether the log was being reset, which the next start finishes.
func (p *partitionCheck) resetting(files []InspectedFile) bool {
	for _, f := range files {
		if f.Kind != KindReset {
			continue
		}
		b, err := p.v.in.read(f.Path, maxSnapshotFile)
		if err == nil {
			_, _, err = decodeReset(b)
		}
		if err != nil {
			p.note(f.Kind, f.Path, err.Error(), "the log may have been in the middle of a reset")
			return false
		}
		p.note(f.Kind, f.Path, "the log was being reset: what lies here counts no more", "the next start finishes it")
		return true
	}
	return false
}

func (p *partitionCheck) note(kind FileKind, path, problem, want string) {
	p.v.whole(SeverityNote, kind, path, problem, want)
}

func (p *partitionCheck) damage(kind FileKind, path string, off record.Offset, problem, want string) {
	p.v.find(Finding{Severity: SeverityDamage, Kind: kind, Path: path, Position: -1, Offset: off, Problem: problem, Want: want})
}

// promise finds out whose the folder is and what the checkpoint says of it.
func (p *partitionCheck) promise(head InspectedFile, segments int) {
	in := p.v.in
	name := p.path(metadataName)
	b, err := in.read(name, maxSmallFile)
	var id [16]byte
	if err == nil {
		id, err = decodeMetadata(b)
	}
	if err != nil {
		if segments == 0 {
			p.note(KindMetadata, head.Path, "a folder without a readable topic id and without segments: what a crash left of a creation", "")
		} else {
			p.damage(KindMetadata, name, record.UnknownOffset, err.Error(), "without a topic id the folder is not opened")
		}
		return
	}
	if in.promises != promisesKnown {
		return
	}
	p.state, p.known = in.states[logKey{id, head.Partition}]
	if p.believed = !p.known; p.believed {
		return
	}
	if p.state.damage != DamageNone {
		p.damage(KindPartition, head.Path, record.UnknownOffset, "the checkpoint says: "+p.state.damage.String(), "")
	}
	if p.state.flushed < 0 {
		p.known = false
	}
}

// promised says whether what begins at an offset must be there.
func (p *partitionCheck) promised(off record.Offset) bool {
	switch {
	case p.v.in.clean:
		return true
	case p.known:
		return off < p.state.flushed
	default:
		return !p.believed
	}
}

// begin drops segments that a deletion left, and says which records are missing
// at the front.
func (p *partitionCheck) begin(bases []record.Offset) []record.Offset {
	if len(bases) == 0 {
		if p.known && p.state.flushed > p.state.start {
			p.damage(KindPartition, p.folder, p.state.start, "no segment", fmt.Sprintf("offsets %d to %d were flushed", p.state.start, p.state.flushed))
		}
		return nil
	}
	for p.known && len(bases) > 1 && bases[1] <= p.state.start {
		p.note(KindSegment, p.path(offsetName(bases[0])+logExt), fmt.Sprintf("wholly below the log start %d: what a crash left of a deletion", p.state.start), "the next start removes it")
		bases = bases[1:]
	}
	p.first = bases[0]
	if p.known && p.first > p.state.start && p.state.flushed > p.state.start {
		p.damage(KindSegment, p.path(offsetName(bases[0])+logExt), p.state.start, fmt.Sprintf("the first segment begins at offset %d", p.first), fmt.Sprintf("the log begins at %d", p.state.start))
	}
	return bases
}

// gap handles a segment that does not begin where the one before ends.
func (p *partitionCheck) gap(base record.Offset) {
	name := p.path(offsetName(base) + logExt)
	if p.promised(min(p.next, base)) {
		p.damage(KindSegment, p.last, p.next, fmt.Sprintf("the segment ends at offset %d", p.next), fmt.Sprintf("the next one begins at %d", base))
		return
	}
	p.tail = true
	p.note(KindSegment, name, fmt.Sprintf("unflushed tail: the segment begins at offset %d, the one before ends at %d", base, p.next), "the next start sets it aside as *.torn")
}

// segment reads one segment with its indexes. due is where it must reach at least.
func (p *partitionCheck) segment(base, due record.Offset, last bool) (err error) {
	p.v.sum.Segments++
	p.lost = false
	path := segmentPath(p.folder, base)
	file, swapped := p.swaps[base]
	if !swapped {
		file = path + logExt
	}
	p.last = file
	// The next start reads it and makes its indexes anew.
	unsettled := last || !p.promised(due-1)
	w, err := p.v.in.walk(file, 0)
	if err != nil {
		return p.unreadable(file, err)
	}
	defer func() { err = errors.Join(err, w.file.Close()) }()
	x := &indexCheck{in: p.v.in, newest: noTime()} // its indexes are not in their place yet
	if !swapped {
		if x, err = p.v.in.newIndexCheck(path, base); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, x.close()) }()
	x.report = func(kind FileKind, at int64, off record.Offset, problem, want string) {
		ext := indexExt
		if kind == KindTimeIndex {
			ext = timeExt
		}
		p.index(Finding{Kind: kind, Path: path + ext, Position: at, Offset: off, Problem: problem, Want: want}, unsettled)
	}
	if !unsettled && !swapped {
		p.indexesThere(path, x)
	}
	for {
		b, err := w.next(p.v.ctx)
		if err != nil {
			return p.unreadable(file, err)
		}
		if b == nil {
			break
		}
		switch p.batch(file, b, last) {
		case batchGood:
			x.batch(b)
		case batchBad:
			x.doubt(b)
		case batchNone:
			return nil // the indexes may name what was there
		}
	}
	if p.next >= due { // else batches are missing at its end, which others tell
		x.end(w.size, !unsettled || p.v.in.clean)
	}
	return nil
}

// unreadable is an error of reading, unless the file went while we looked.
func (p *partitionCheck) unreadable(path string, err error) error {
	if isMissing(err) {
		p.lost = true
		p.note(KindSegment, path, "deleted while we looked", "")
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// index reports an index that does not fit. After a crash those of segments that
// reach above the flushed offset count for as much as is right of them.
func (p *partitionCheck) index(f Finding, unsettled bool) {
	f.Severity = SeverityDamage
	if unsettled && !p.v.in.clean && !p.alone {
		f.Severity = SeverityNote
		f.Want += "; the next start builds it anew"
	}
	p.v.find(f)
}

func (p *partitionCheck) indexesThere(path string, x *indexCheck) {
	for _, k := range []struct {
		c    *indexCursor
		kind FileKind
		ext  string
	}{{x.offsets, KindIndex, indexExt}, {x.times, KindTimeIndex, timeExt}} {
		if k.c == nil {
			p.damage(k.kind, path+k.ext, record.UnknownOffset, "a rolled segment has no index of this kind", "the next start builds it anew")
		}
	}
}

// verdict is what batch makes of a place in a segment.
type verdict uint8

const (
	batchGood verdict = iota
	batchBad          // the next one can be read
	batchNone         // nothing behind can
)

// batch checks one batch. last: it is in the last segment.
func (p *partitionCheck) batch(file string, b *InspectedBatch, last bool) verdict {
	problem, want, off := p.fault(b)
	if problem == "" {
		p.good(b)
		return batchGood
	}
	f := Finding{Severity: SeverityDamage, Kind: KindSegment, Path: file, Position: b.Position, Offset: off, Problem: problem, Want: want}
	p.lost = b.Rest > 0
	// Where nobody says what was flushed, a torn end may be just that.
	torn := last && p.lost && !p.known && !p.v.in.clean
	if torn || !p.promised(off) {
		f.Severity, f.Problem, f.Want = SeverityNote, "unflushed tail: "+problem, "the next start cuts it off"
		p.tail = true
		p.v.find(f)
		return batchNone
	}
	p.v.find(f)
	if p.lost {
		return batchNone
	}
	// Is its offset wrong, or did records vanish before it? What follows tells.
	p.instead = p.next + record.Offset(b.LastDelta) + 1
	p.next, p.epoch = b.NextOffset(), max(p.epoch, b.Epoch)
	return batchBad
}

// fault says what is wrong with a batch, and the offset that it is about.
func (p *partitionCheck) fault(b *InspectedBatch) (problem, want string, off record.Offset) {
	switch {
	case b.Zero:
		return b.Problem, fmt.Sprintf("the batch of offset %d", p.next), p.next
	case b.Rest > 0:
		return fmt.Sprintf("%s; %d bytes are not read", b.Problem, b.Rest), fmt.Sprintf("the batch of offset %d", p.next), p.next
	case b.Problem != "":
		return b.Problem, "", p.next
	case b.Epoch >= p.epoch && p.gapUnknown(b):
		return "", "", p.next
	case b.BaseOffset != p.instead && misplaced(b.BaseOffset, p.next, p.state.cleaned):
		return fmt.Sprintf("the batch has base offset %d", b.BaseOffset), fmt.Sprintf("base offset %d", p.next), min(p.next, b.BaseOffset)
	case b.Epoch < p.epoch || b.Epoch < 0:
		return fmt.Sprintf("the batch is of leader epoch %d", b.Epoch), fmt.Sprintf("epoch %d or later", max(p.epoch, 0)), p.next
	}
	return "", "", p.next
}

// gapUnknown tells, once, of a gap that nobody can judge: without a checkpoint
// there is no cleaned offset.
func (p *partitionCheck) gapUnknown(b *InspectedBatch) bool {
	if p.v.in.promises == promisesKnown || b.BaseOffset <= p.next || b.BaseOffset == p.instead {
		return false
	}
	if !p.gapped {
		p.gapped = true
		p.v.find(Finding{
			Severity: SeverityNote, Kind: KindSegment, Path: p.last, Position: b.Position, Offset: p.next,
			Problem: fmt.Sprintf("no record from here to offset %d", b.BaseOffset), Want: "right if the log was compacted; no checkpoint tells",
		})
	}
	return true
}

// good takes a batch into the replayed state.
func (p *partitionCheck) good(b *InspectedBatch) {
	p.v.sum.Batches++
	p.v.sum.Records += int64(b.Count)
	p.v.sum.Bytes += int64(b.Size)
	p.checkSnapshots(b.BaseOffset)
	p.checkEpoch(b)
	p.next, p.instead, p.epoch = b.NextOffset(), record.UnknownOffset, b.Epoch
	if b.ProducerID >= 0 {
		p.partial = p.partial || len(p.replayed.byID) >= maxVerifiedProducers
		p.replayed.update(&b.BatchInfo, int64(b.BaseOffset))
	}
}

// readEpochs loads the epoch file.
func (p *partitionCheck) readEpochs(segments int) error {
	name := p.path(epochsName)
	b, err := p.v.in.read(name, maxEpochsFile)
	if isMissing(err) {
		if segments > 0 && p.known && p.state.flushed > p.state.start {
			p.damage(KindEpochs, name, p.state.start, "the file is missing", "the next start builds it anew from the batches")
		}
		return nil
	}
	if err == nil {
		p.epochs, err = decodeEpochs(b)
	}
	if err != nil {
		return p.v.broken(InspectedFile{Kind: KindEpochs, Path: name}, err)
	}
	p.epochsRead = true
	return nil
}

// checkEpoch compares the epoch file with a batch.
func (p *partitionCheck) checkEpoch(b *InspectedBatch) {
	if !p.epochsRead || b.NextOffset() <= p.state.start || b.BaseOffset < p.ahead {
		return
	}
	at := max(b.BaseOffset, p.state.start)
	i := sort.Search(len(p.epochs), func(i int) bool { return p.epochs[i].start > at })
	said := record.UnknownEpoch
	if i > 0 {
		said = p.epochs[i-1].epoch
	}
	if said == b.Epoch {
		return
	}
	p.ahead = record.Offset(1<<63 - 1) // one difference tells it
	name, problem := p.path(epochsName), fmt.Sprintf("the file says epoch %d at offset %d", said, at)
	want := fmt.Sprintf("epoch %d, which the batch there has", b.Epoch)
	if !p.promised(b.BaseOffset) {
		p.note(KindEpochs, name, problem, want)
		return
	}
	p.damage(KindEpochs, name, at, problem, want)
}

// checkSnapshots compares the snapshots at or below an offset, which the replay has reached.
func (p *partitionCheck) checkSnapshots(upTo record.Offset) {
	for len(p.snapshots) > 0 && p.snapshots[0] <= upTo {
		off := p.snapshots[0]
		p.snapshots = p.snapshots[1:]
		name := p.path(offsetName(off) + snapshotExt)
		ps, err := p.v.snapshot(name, off)
		problem := ""
		if err != nil {
			problem = err.Error()
		} else if off >= p.first {
			problem = p.disagrees(ps)
		}
		if problem == "" {
			continue
		}
		if !p.promised(off - 1) {
			p.note(KindSnapshot, name, problem, "the next start takes an older one")
			continue
		}
		p.damage(KindSnapshot, name, off, problem, "the state that the batches below lead to")
	}
}

// disagrees compares a snapshot with the replay. A snapshot may lack producers and
// early batches, that were forgotten, and know some whose batches were deleted or
// compacted away.
func (p *partitionCheck) disagrees(ps *producers) string {
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		said, have := ps.byID[id], p.replayed.byID[id]
		newest := said.newest()
		switch {
		case newest.base < max(p.first, p.state.cleaned) || have == nil && p.partial:
			continue // deleted, compacted away, or forgotten by us
		case have == nil:
			return fmt.Sprintf("producer %d has a batch at offset %d, where the log holds none of it", id, newest.base)
		case have.epoch != said.epoch || have.newest() != newest:
			return fmt.Sprintf("producer %d: epoch %d and last a batch at offset %d with sequences %d to %d, the log has epoch %d, offset %d, sequences %d to %d",
				id, said.epoch, newest.base, newest.firstSeq, newest.lastSeq, have.epoch, have.newest().base, have.newest().firstSeq, have.newest().lastSeq)
		}
		for _, r := range said.batches[:said.count] {
			if r.base >= max(p.first, p.state.cleaned) && !slices.Contains(have.batches[:have.count], r) {
				return fmt.Sprintf("producer %d: a batch at offset %d with sequences %d to %d, which the log does not hold", id, r.base, r.firstSeq, r.lastSeq)
			}
		}
	}
	return ""
}

// finish looks at the end of the log.
func (p *partitionCheck) finish() error {
	p.checkSnapshots(p.next)
	for _, off := range p.snapshots {
		p.note(KindSnapshot, p.path(offsetName(off)+snapshotExt), fmt.Sprintf("a snapshot above the end of the log, %d: what a crash left", p.next), "the next start removes it")
	}
	if p.known && p.state.flushed > p.state.start && p.next < p.state.flushed {
		p.damage(KindSegment, cmp.Or(p.last, p.folder), p.next, fmt.Sprintf("the log ends at offset %d", p.next), fmt.Sprintf("offsets to %d were flushed", p.state.flushed))
	}
	return nil
}
