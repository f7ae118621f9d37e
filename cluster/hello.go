package cluster

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/penstock/penstock/cluster/metadata"
)

const (
	helloVersion = 1
	// maxHello bounds the body of a hello or an answer, so that a stranger
	// cannot make the node allocate.
	maxHello = 2048
	// maxClusterID bounds the characters of a cluster id.
	maxClusterID = 64
	maxAddress   = 255
	maxReason    = 512
	// noNode stands for an unknown node in an answer.
	noNode = metadata.NoNode
)

// helloMagic begins every connection to the Raft listener.
const helloMagic = "PNSR"

// purpose is what a connection to the Raft listener is for.
type purpose uint8

const (
	// purposeRaft: after the answer, Raft's own messages follow.
	purposeRaft purpose = 1
	// purposeIdentity: the answer is all that is wanted.
	purposeIdentity purpose = 2
)

// refusal is why a hello was refused; 0: it was not.
type refusal uint8

const (
	accepted        refusal = 0
	refusedVersion  refusal = 1
	refusedCluster  refusal = 2
	refusedIdentity refusal = 3
	refusedPurpose  refusal = 4
)

// hello opens a connection to the Raft listener.
//
//	magic "PNSR" | version u8 | length u16 | body
//	body: purpose u8 | node id i32 | storage id 16 | cluster id str | raft address str
//
// Numbers are big-endian; a str is a length byte and as many bytes. The first
// seven bytes keep their meaning in every version, so that a refusal of another
// version can be read.
type hello struct {
	purpose     purpose
	nodeID      int32
	storageID   metadata.ID
	clusterID   string // empty: none yet
	raftAddress string // where the sender listens
}

// helloAnswer is what the answering node says about itself and the leader it
// knows. It is filled in for refusals too.
//
//	magic, version, length as above
//	body: refusal u8 | reason str16 | known storage id 16 | node id i32 |
//	      storage id 16 | cluster id str | has state u8 | raft address str |
//	      peer address str | leader node id i32 | leader raft address str
type helloAnswer struct {
	refusal refusal
	reason  string
	// knownStorageID is what the node id in the hello is known with, for
	// refusedIdentity.
	knownStorageID metadata.ID

	nodeID      int32
	storageID   metadata.ID
	clusterID   string // empty: none yet
	hasState    bool   // the node has a Raft log, vote or snapshot
	raftAddress string
	peerAddress string

	leaderID      int32 // noNode: none known, or not known by id
	leaderAddress string
}

func writeHello(w io.Writer, h hello) error {
	b := make([]byte, 0, 128)
	b = append(b, byte(h.purpose))
	b = binary.BigEndian.AppendUint32(b, uint32(h.nodeID))
	b = append(b, h.storageID[:]...)
	b = appendStr(b, h.clusterID, maxClusterID)
	b = appendStr(b, h.raftAddress, maxAddress)
	return writeFrame(w, b)
}

func writeAnswer(w io.Writer, a helloAnswer) error {
	reason := a.reason[:min(len(a.reason), maxReason)]
	b := make([]byte, 0, 256)
	b = append(b, byte(a.refusal))
	b = binary.BigEndian.AppendUint16(b, uint16(len(reason)))
	b = append(b, reason...)
	b = append(b, a.knownStorageID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(a.nodeID))
	b = append(b, a.storageID[:]...)
	b = appendStr(b, a.clusterID, maxClusterID)
	b = append(b, boolByte(a.hasState))
	b = appendStr(b, a.raftAddress, maxAddress)
	b = appendStr(b, a.peerAddress, maxAddress)
	b = binary.BigEndian.AppendUint32(b, uint32(a.leaderID))
	b = appendStr(b, a.leaderAddress, maxAddress)
	return writeFrame(w, b)
}

func writeFrame(w io.Writer, body []byte) error {
	frame := make([]byte, 0, len(helloMagic)+3+len(body))
	frame = append(frame, helloMagic...)
	frame = append(frame, helloVersion)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

// readFrame reads exactly one frame, so that what follows it on the connection
// is left for Raft. A frame of another version is an unknownVersionError.
func readFrame(r io.Reader) ([]byte, error) {
	var head [len(helloMagic) + 3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return nil, fmt.Errorf("%w: the connection begins with %q, not %q", ErrProtocol, head[:len(helloMagic)], helloMagic)
	}
	if v := head[len(helloMagic)]; v != helloVersion {
		return nil, &unknownVersionError{version: v}
	}
	n := int(binary.BigEndian.Uint16(head[len(helloMagic)+1:]))
	if n > maxHello {
		return nil, fmt.Errorf("%w: hello of %d bytes, at most %d are allowed", ErrProtocol, n, maxHello)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

type unknownVersionError struct{ version byte }

func (e *unknownVersionError) Error() string {
	return fmt.Sprintf("cluster: hello of version %d, this program knows version %d", e.version, helloVersion)
}

func readHello(r io.Reader) (hello, error) {
	body, err := readFrame(r)
	if err != nil {
		return hello{}, err
	}
	return parseHello(body)
}

func parseHello(body []byte) (hello, error) {
	d := decoder{rest: body}
	h := hello{purpose: purpose(d.byte()), nodeID: int32(d.uint32()), storageID: d.id()}
	h.clusterID, h.raftAddress = d.str(), d.str()
	if err := d.finish(); err != nil {
		return hello{}, err
	}
	return h, nil
}

func readAnswer(r io.Reader) (helloAnswer, error) {
	body, err := readFrame(r)
	if err != nil {
		return helloAnswer{}, err
	}
	return parseAnswer(body)
}

func parseAnswer(body []byte) (helloAnswer, error) {
	d := decoder{rest: body}
	a := helloAnswer{refusal: refusal(d.byte()), reason: string(d.bytes(int(d.uint16()))), knownStorageID: d.id()}
	a.nodeID, a.storageID, a.clusterID = int32(d.uint32()), d.id(), d.str()
	a.hasState = d.byte() != 0
	a.raftAddress, a.peerAddress = d.str(), d.str()
	a.leaderID, a.leaderAddress = int32(d.uint32()), d.str()
	if err := d.finish(); err != nil {
		return helloAnswer{}, err
	}
	return a, nil
}

// decoder takes fields off the front of a body. After the first one that is
// too short it yields zero values, and finish says so.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) bytes(n int) []byte {
	if d.short || n > len(d.rest) {
		d.short = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) id() (id metadata.ID) {
	copy(id[:], d.bytes(len(id)))
	return id
}

func (d *decoder) str() string { return string(d.bytes(int(d.byte()))) }

// finish tolerates bytes after the last known field: a later release may add
// some without a new version.
func (d *decoder) finish() error {
	if d.short {
		return fmt.Errorf("%w: hello is cut short", ErrProtocol)
	}
	return nil
}

func appendStr(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	b = append(b, byte(len(s)))
	return append(b, s...)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
