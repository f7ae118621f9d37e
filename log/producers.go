package log

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/penstock/penstock/log/record"
)

// rememberedBatches is how many batches of a producer can be told from new
// ones: a producer keeps at most five in flight, as Kafka's do (KIP-98).
const rememberedBatches = 5

// Producer snapshots; docs/FORMAT.md draws them.
const (
	snapshotMagic   = "PSPS"
	snapshotVersion = 1
	snapshotHeader  = 20
	producerFixed   = 24
	producerBatch   = 24
)

// batchRange is a batch that a producer wrote: sequences [first, last] at
// offsets [base, next).
type batchRange struct {
	firstSeq, lastSeq int32
	base, next        record.Offset
}

// producer is what the log knows of one idempotent producer.
type producer struct {
	epoch    int16
	lastUsed int64 // ms, by this broker's clock
	batches  [rememberedBatches]batchRange
	count    int // of batches; the newest is last
	// displaced are older batches that a snapshot may need: the newest one on disk
	// and those behind it that wait to be written. Else five in flight would leave a
	// snapshot that does not know their producer.
	displaced []batchRange
}

func (p *producer) newest() batchRange { return p.batches[p.count-1] }

// push remembers a batch; written is the end of what is on disk.
func (p *producer) push(b batchRange, written record.Offset) {
	if p.count == rememberedBatches {
		if p.batches[0].base < written {
			p.displaced = p.displaced[:0]
		}
		p.displaced = append(p.displaced, p.batches[0])
		copy(p.batches[:], p.batches[1:])
		p.count--
	}
	p.batches[p.count] = b
	p.count++
}

func (p *producer) find(firstSeq, lastSeq int32) (batchRange, bool) {
	for _, b := range p.batches[:p.count] {
		if b.firstSeq == firstSeq && b.lastSeq == lastSeq {
			return b, true
		}
	}
	return batchRange{}, false
}

// producers is a log's producer state, guarded by Log.mu.
type producers struct {
	byID map[int64]*producer
	// limit bounds how many are remembered.
	limit int
}

func newProducers(limit int) *producers {
	return &producers{byID: map[int64]*producer{}, limit: limit}
}

// sequenceAfter counts on from a batch's first sequence; 2^31-1 is followed by 0.
func sequenceAfter(first, by int32) int32 {
	return int32((int64(first) + int64(by)) & math.MaxInt32)
}

// pendingSequence is what earlier batches of the same append will have done.
type pendingSequence struct {
	id      int64
	epoch   int16
	lastSeq int32
}

// check decides about one batch of a leader append. dup is valid when the batch
// is in the log already. pending holds what the earlier batches of the append do.
func (ps *producers) check(info *record.BatchInfo, pending []pendingSequence) (dup batchRange, isDup bool, err error) {
	refuse := func(reason error, epoch int16, expected int32) (batchRange, bool, error) {
		return batchRange{}, false, &SequenceError{
			Reason: reason, ProducerID: info.ProducerID, ProducerEpoch: info.ProducerEpoch,
			Sequence: info.BaseSequence, CurrentEpoch: epoch, Expected: expected,
		}
	}
	epoch, lastSeq, known := int16(-1), int32(0), false
	if p := ps.byID[info.ProducerID]; p != nil {
		if p.epoch == info.ProducerEpoch {
			if dup, ok := p.find(info.BaseSequence, sequenceAfter(info.BaseSequence, info.LastDelta)); ok {
				return dup, true, nil
			}
		}
		epoch, lastSeq, known = p.epoch, p.newest().lastSeq, true
	}
	for _, s := range pending {
		if s.id == info.ProducerID {
			epoch, lastSeq, known = s.epoch, s.lastSeq, true
		}
	}
	switch {
	case !known && info.BaseSequence != 0:
		return refuse(ErrUnknownProducer, -1, 0)
	case !known:
		return batchRange{}, false, nil
	case info.ProducerEpoch < epoch:
		return refuse(ErrProducerFenced, epoch, 0)
	case info.ProducerEpoch > epoch && info.BaseSequence != 0:
		return refuse(ErrOutOfOrderSequence, epoch, 0)
	case info.ProducerEpoch == epoch && info.BaseSequence != sequenceAfter(lastSeq, 1):
		return refuse(ErrOutOfOrderSequence, epoch, sequenceAfter(lastSeq, 1))
	}
	return batchRange{}, false, nil
}

// update takes in a batch that is on disk.
func (ps *producers) update(info *record.BatchInfo, nowMS int64) {
	ps.appended(info, nowMS, info.NextOffset())
}

// appended takes in a batch that is in the log, which is on disk up to written.
// There are no checks: what the leader accepted is right.
func (ps *producers) appended(info *record.BatchInfo, nowMS int64, written record.Offset) {
	if info.ProducerID < 0 || info.Attributes.Control() {
		return
	}
	p := ps.byID[info.ProducerID]
	if p == nil {
		if len(ps.byID) >= ps.limit {
			ps.evict()
		}
		p = &producer{epoch: info.ProducerEpoch}
		ps.byID[info.ProducerID] = p
	}
	if p.epoch != info.ProducerEpoch {
		p.epoch, p.count, p.displaced = info.ProducerEpoch, 0, nil
	}
	p.lastUsed = max(p.lastUsed, nowMS)
	p.push(batchRange{
		firstSeq: info.BaseSequence, lastSeq: sequenceAfter(info.BaseSequence, info.LastDelta),
		base: info.BaseOffset, next: info.NextOffset(),
	}, written)
}

// evict forgets the longest idle tenth, so that it is seldom called.
func (ps *producers) evict() {
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b int64) int {
		return cmp.Or(cmp.Compare(ps.byID[a].lastUsed, ps.byID[b].lastUsed), cmp.Compare(a, b))
	})
	for _, id := range ids[:len(ids)/10+1] {
		delete(ps.byID, id)
	}
}

// expire forgets producers that were idle since before a time in ms.
func (ps *producers) expire(beforeMS int64) {
	for id, p := range ps.byID {
		if p.lastUsed < beforeMS {
			delete(ps.byID, id)
		}
	}
}

// encode is the state as of an offset: later batches, which wait to be written,
// are left out. Of the five remembered batches they may have displaced some; a
// producer that resends those has as many fewer in flight.
func (ps *producers) encode(at record.Offset) []byte {
	b := append([]byte(snapshotMagic), 0, snapshotVersion, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = append(b, 0, 0, 0, 0)
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		p := *ps.byID[id]
		for p.count > 0 && p.newest().base >= at {
			p.count--
		}
		for _, b := range slices.Backward(p.displaced) {
			if p.count == 0 && b.base < at {
				p.batches[0], p.count = b, 1
			}
		}
		if p.count == 0 {
			continue
		}
		b = binary.BigEndian.AppendUint64(b, uint64(id))
		b = binary.BigEndian.AppendUint64(b, uint64(p.lastUsed))
		b = binary.BigEndian.AppendUint16(b, uint16(p.epoch))
		b = append(b, byte(p.count), 0, 0, 0, 0, 0)
		for _, r := range p.batches[:p.count] {
			b = binary.BigEndian.AppendUint32(b, uint32(r.firstSeq))
			b = binary.BigEndian.AppendUint32(b, uint32(r.lastSeq))
			b = binary.BigEndian.AppendUint64(b, uint64(r.base))
			b = binary.BigEndian.AppendUint64(b, uint64(r.next))
		}
	}
	binary.BigEndian.PutUint32(b[16:], snapshotSum(b))
	return b
}

// snapshotSum covers everything but the field that holds it.
func snapshotSum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, b[:16]), table, b[snapshotHeader:])
}

func decodeProducers(b []byte, limit int) (*producers, record.Offset, error) {
	if len(b) < snapshotHeader || string(b[:4]) != snapshotMagic {
		return nil, 0, errors.New("not a producer snapshot")
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != snapshotVersion {
		return nil, 0, fmt.Errorf("producer snapshot of version %d, known is %d", v, snapshotVersion)
	}
	if got, want := snapshotSum(b), binary.BigEndian.Uint32(b[16:]); got != want {
		return nil, 0, fmt.Errorf("producer snapshot: CRC is %08x, want %08x", got, want)
	}
	ps := newProducers(limit)
	for e := b[snapshotHeader:]; len(e) > 0; {
		if len(e) < producerFixed {
			return nil, 0, errors.New("producer snapshot: torn entry")
		}
		p := &producer{
			lastUsed: int64(binary.BigEndian.Uint64(e[8:])),
			epoch:    int16(binary.BigEndian.Uint16(e[16:])), count: int(e[18]),
		}
		id := int64(binary.BigEndian.Uint64(e))
		e = e[producerFixed:]
		if p.count < 1 || p.count > rememberedBatches || len(e) < p.count*producerBatch {
			return nil, 0, fmt.Errorf("producer snapshot: producer %d has %d batches", id, p.count)
		}
		for i := range p.count {
			p.batches[i] = batchRange{
				firstSeq: int32(binary.BigEndian.Uint32(e)), lastSeq: int32(binary.BigEndian.Uint32(e[4:])),
				base: record.Offset(binary.BigEndian.Uint64(e[8:])), next: record.Offset(binary.BigEndian.Uint64(e[16:])),
			}
			e = e[producerBatch:]
		}
		ps.byID[id] = p
	}
	return ps, record.Offset(binary.BigEndian.Uint64(b[8:])), nil
}

// ProducerInfo is what a log remembers of one idempotent producer.
type ProducerInfo struct {
	ID           int64
	Epoch        int16
	LastSequence int32
	LastUsed     int64 // ms, by this broker's clock
}

// Producers lists the idempotent producers that the log remembers, by id.
func (l *Log) Producers() []ProducerInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]ProducerInfo, 0, len(l.producers.byID))
	for id, p := range l.producers.byID {
		if p.count > 0 {
			out = append(out, ProducerInfo{ID: id, Epoch: p.epoch, LastSequence: p.newest().lastSeq, LastUsed: p.lastUsed})
		}
	}
	slices.SortFunc(out, func(a, b ProducerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
