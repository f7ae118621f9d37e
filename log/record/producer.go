package record

import "encoding/binary"

// SetProducer gives a batch that was built before another producer id, epoch and
// base sequence (KIP-98) and renews the CRC: a client whose sequences broke sends
// what is not appended under a new id. The caller holds the only reference.
func SetProducer(batch []byte, id int64, epoch int16, baseSequence int32) {
	binary.BigEndian.PutUint64(batch[posProducerID:], uint64(id))
	binary.BigEndian.PutUint16(batch[posProdEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(batch[posBaseSeq:], uint32(baseSequence))
	setCRC(batch)
}
