package log

import (
	"slices"

	"github.com/penstock/penstock/log/record"
)

// InspectedEpoch is a line of a leader-epoch-checkpoint.
type InspectedEpoch struct {
	Epoch record.Epoch
	Start record.Offset
}

// Epochs reads a leader-epoch-checkpoint.
func (in *Inspector) Epochs(path string) ([]InspectedEpoch, error) {
	b, err := in.read(path, maxEpochsFile)
	if err != nil {
		return nil, err
	}
	all, err := decodeEpochs(b)
	out := make([]InspectedEpoch, len(all))
	for i, e := range all {
		out[i] = InspectedEpoch{e.epoch, e.start}
	}
	return out, err
}

// InspectedProducer is a producer of a snapshot.
type InspectedProducer struct {
	ID       int64
	Epoch    int16
	LastUsed int64 // ms, by the broker's clock
	Batches  []InspectedSequence
}

// InspectedSequence is a batch that a snapshot remembers: sequences [First, Last]
// at offsets [Base, Next).
type InspectedSequence struct {
	First, Last int32
	Base, Next  record.Offset
}

// Producers reads a producer snapshot: the producers by id, and the offset as of
// which the snapshot was made.
func (in *Inspector) Producers(path string) (all []InspectedProducer, at record.Offset, err error) {
	b, err := in.read(path, maxSnapshotFile)
	if err != nil {
		return nil, record.UnknownOffset, err
	}
	ps, at, err := decodeProducers(b, 0)
	if err != nil {
		return nil, record.UnknownOffset, err
	}
	for id, p := range ps.byID {
		out := InspectedProducer{ID: id, Epoch: p.epoch, LastUsed: p.lastUsed}
		for _, r := range p.batches[:p.count] {
			out.Batches = append(out.Batches, InspectedSequence{r.firstSeq, r.lastSeq, r.base, r.next})
		}
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b InspectedProducer) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return all, at, nil
}

// InspectedPromise is an entry of a flushed checkpoint.
type InspectedPromise struct {
	TopicID   [16]byte
	Partition int32
	// Flushed is exclusive; -1: unknown, all checkpoints were lost.
	Flushed, HighWatermark, Start record.Offset
	// Cleaned: compaction may have left gaps below it. Dirty: where the next one begins.
	Cleaned, Dirty record.Offset
	Damage         Damage
}

// Checkpoint reads a slot of the flushed checkpoint: its sequence, the greater of
// which holds, and what it promises.
func (in *Inspector) Checkpoint(path string) (sequence uint64, all []InspectedPromise, err error) {
	b, err := in.read(path, maxCheckpointFile)
	if err != nil {
		return 0, nil, err
	}
	sequence, states, err := decodeCheckpoint(b)
	if err != nil {
		return 0, nil, err
	}
	for _, key := range sortedKeys(states) {
		s := states[key]
		all = append(all, InspectedPromise{
			TopicID: key.topicID, Partition: key.partition,
			Flushed: s.flushed, HighWatermark: s.highWatermark, Start: s.start, Cleaned: s.cleaned, Dirty: s.dirty, Damage: s.damage,
		})
	}
	return sequence, all, nil
}

// TopicID reads a partition.metadata.
func (in *Inspector) TopicID(path string) ([16]byte, error) {
	b, err := in.read(path, maxSmallFile)
	if err != nil {
		return [16]byte{}, err
	}
	return decodeMetadata(b)
}

// Marker reads a clean-stop marker: the broker epoch that was last registered.
func (in *Inspector) Marker(path string) (brokerEpoch int64, err error) {
	b, err := in.read(path, markerSize)
	if err != nil {
		return 0, err
	}
	return decodeMarker(b)
}
