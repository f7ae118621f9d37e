package metadata

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

const (
	snapshotMagic = "PSKIMG01"
	// maxEntryBytes bounds one object: a topic of MaxPartitions with
	// MaxReplicationFactor replicas stays below 8 MiB.
	maxEntryBytes = 16 << 20
)

// ErrCorruptSnapshot marks every error of ReadSnapshot that is about the bytes
// and not about reading them.
var ErrCorruptSnapshot = errors.New("metadata: corrupt snapshot")

// SnapshotVersionError says that a snapshot is of a version that this build does
// not read, that is, of a newer one. It is ErrCorruptSnapshot, too: nothing says
// that the rest of the bytes is well.
type SnapshotVersionError struct{ Version uint32 }

func (e *SnapshotVersionError) Error() string {
	return fmt.Sprintf("metadata: snapshot of version %d; this build reads 1 to %d", e.Version, Version)
}

// Is makes it ErrCorruptSnapshot.
func (e *SnapshotVersionError) Is(target error) bool { return target == ErrCorruptSnapshot }

// WriteSnapshot writes the image. Equal images give equal bytes.
func WriteSnapshot(im *Image, w io.Writer) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sw := &snapshotWriter{buffered: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)}
	if _, err := sw.buffered.WriteString(snapshotMagic); err != nil {
		return fmt.Errorf("metadata: write snapshot: %w", err)
	}
	sw.message(&metav1.ImageHeader{
		Version: im.snapshotVersion(), Index: im.index, ClusterId: im.clusterID, NextProducerId: im.nextProducerID,
		Entries: im.entries(), FeatureLevel: max(im.featureLevel, levelBase),
	})
	im.writeEntries(sw)
	if sw.err == nil {
		sw.err = sw.buffered.Flush()
	}
	if sw.err == nil {
		_, sw.err = w.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	}
	if sw.err != nil {
		return fmt.Errorf("metadata: write snapshot: %w", sw.err)
	}
	return nil
}

// snapshotVersion is that of the format: nothing that an older build cannot read
// is in an image before its feature level says that there is none.
func (im *Image) snapshotVersion() uint32 { return max(im.featureLevel, levelBase) }

func (im *Image) entries() uint64 {
	n := im.brokers.len() + im.topics.len() + im.memory.outcomes.len() + im.retired.len() + im.deletions.len()
	for _, s := range im.staged.all() {
		n += len(s.chunks)
	}
	return uint64(n)
}

func (im *Image) writeEntries(sw *snapshotWriter) {
	for b := range im.Brokers() {
		sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_Broker{Broker: brokerState(b)}})
	}
	for t := range im.Topics() {
		sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_Topic{Topic: topicState(t)}})
	}
	for _, r := range im.memory.outcomes.all() {
		sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_AppliedCommand{AppliedCommand: appliedCommand(r)}})
	}
	for _, s := range im.staged.all() {
		for _, c := range s.chunks {
			sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_StagedRegistration{
				StagedRegistration: &metav1.StagedRegistration{
					StagingId: s.id[:], Chunks: []*metav1.RegisterBroker{c}, Index: s.index,
				},
			}})
		}
	}
	for r := range im.RetiredStorages() {
		sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_RetiredStorage{RetiredStorage: &metav1.RetiredStorage{
			StorageId: r.StorageID[:], NodeId: r.NodeID, Index: r.Index,
		}}})
	}
	for d := range im.Deletions() {
		sw.message(&metav1.ImageEntry{Kind: &metav1.ImageEntry_DeletedTopic{DeletedTopic: &metav1.DeletedTopic{
			TopicId: d.TopicID[:], Name: d.Name, Index: d.Index, Nodes: d.Nodes,
		}}})
	}
}

// snapshotWriter keeps the first error, so that writers need not look at each.
type snapshotWriter struct {
	buffered *bufio.Writer
	scratch  []byte
	err      error
}

func (sw *snapshotWriter) message(m proto.Message) {
	if sw.err != nil {
		return
	}
	options := proto.MarshalOptions{Deterministic: true}
	sw.scratch = binary.AppendUvarint(sw.scratch[:0], uint64(options.Size(m)))
	if sw.scratch, sw.err = options.MarshalAppend(sw.scratch, m); sw.err == nil {
		_, sw.err = sw.buffered.Write(sw.scratch)
	}
}

// ReadSnapshot reads what WriteSnapshot wrote, up to the end of r. Bytes that
// are no valid image give an error that is ErrCorruptSnapshot. It allocates in
// proportion to the bytes that arrive.
func ReadSnapshot(r io.Reader) (*Image, error) {
	sr := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	im, err := sr.image()
	if err != nil {
		return nil, fmt.Errorf("metadata: read snapshot: %w", err)
	}
	return im, nil
}

type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash32
	buf bytes.Buffer
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorruptSnapshot, fmt.Sprintf(format, args...))
}

// cut turns the end of the input inside a snapshot into corruption.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("it ends early")
	}
	return err
}

func (sr *snapshotReader) image() (*Image, error) {
	var magic [len(snapshotMagic)]byte
	if _, err := io.ReadFull(sr.r, magic[:]); err != nil {
		return nil, cut(err)
	}
	if string(magic[:]) != snapshotMagic {
		return nil, corrupt("it begins with %q, not %q", magic[:], snapshotMagic)
	}
	sr.sum.Write(magic[:])
	var header metav1.ImageHeader
	if err := sr.message(&header); err != nil {
		return nil, err
	}
	if header.GetVersion() < 1 || header.GetVersion() > Version {
		return nil, &SnapshotVersionError{Version: header.GetVersion()}
	}
	im := Empty()
	im.index, im.clusterID, im.nextProducerID = header.GetIndex(), header.GetClusterId(), header.GetNextProducerId()
	if im.clusterID != "" {
		im.featureLevel = header.GetFeatureLevel()
	}
	for n := range header.GetEntries() {
		var entry metav1.ImageEntry
		if err := sr.message(&entry); err != nil {
			return nil, err
		}
		if err := im.addEntry(&entry); err != nil {
			return nil, corrupt("entry %d: %v", n, err)
		}
	}
	if err := sr.end(); err != nil {
		return nil, err
	}
	if err := im.Check(); err != nil {
		return nil, corrupt("%v", err)
	}
	return im, nil
}

// message reads one length and the message of that length.
func (sr *snapshotReader) message(m proto.Message) error {
	size, err := binary.ReadUvarint(sr.r)
	if err != nil {
		if cutErr := cut(err); errors.Is(cutErr, ErrCorruptSnapshot) {
			return cutErr
		}
		return corrupt("length of an entry: %v", err)
	}
	if size > maxEntryBytes {
		return corrupt("an entry of %d bytes; the most is %d", size, maxEntryBytes)
	}
	sr.sum.Write(binary.AppendUvarint(nil, size))
	sr.buf.Reset()
	if _, err := io.CopyN(&sr.buf, sr.r, int64(size)); err != nil {
		return cut(err)
	}
	sr.sum.Write(sr.buf.Bytes())
	if err := proto.Unmarshal(sr.buf.Bytes(), m); err != nil {
		return corrupt("an entry does not decode: %v", err)
	}
	return nil
}

func (sr *snapshotReader) end() error {
	var sum [4]byte
	if _, err := io.ReadFull(sr.r, sum[:]); err != nil {
		return cut(err)
	}
	if got, want := binary.BigEndian.Uint32(sum[:]), sr.sum.Sum32(); got != want {
		return corrupt("CRC %08x, computed %08x", got, want)
	}
	switch _, err := sr.r.ReadByte(); {
	case err == nil:
		return corrupt("bytes follow its end")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}
