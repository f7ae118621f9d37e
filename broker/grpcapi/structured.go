package grpcapi

import (
	"bytes"
	"strings"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

// encode turns structured records into a batch. Records without a timestamp get now.
func encode(records []*pb.Record, compression pb.Compression, now time.Time) (*record.Buf, *api.Error) {
	codec, apiErr := codecIn(compression)
	if apiErr != nil {
		return nil, apiErr
	}
	b := record.NewBuilder(record.BuilderOptions{Codec: codec})
	nowMS := now.UnixMilli()
	for i, r := range records {
		if r.GetTimestampMs() < 0 {
			return nil, api.Errorf(api.CodeInvalidTimestamp, "record %d: the timestamp %d is negative", i, r.GetTimestampMs())
		}
		rec := record.Record{Timestamp: r.GetTimestampMs(), Key: r.Key, Value: r.Value}
		if rec.Timestamp == 0 {
			rec.Timestamp = nowMS
		}
		for _, h := range r.GetHeaders() {
			rec.Headers = append(rec.Headers, record.Header{Key: h.GetKey(), Value: h.Value})
		}
		if err := b.Append(&rec); err != nil {
			return nil, api.Errorf(api.CodeRecordTooLarge, "record %d: %w", i, err)
		}
	}
	batch, err := b.Build(nil)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidArgument, "the records cannot be encoded: %w", err)
	}
	return record.NewBuf(batch), nil
}

func codecIn(c pb.Compression) (record.Codec, *api.Error) {
	switch c {
	case pb.Compression_COMPRESSION_UNSPECIFIED, pb.Compression_COMPRESSION_NONE:
		return record.CodecNone, nil
	case pb.Compression_COMPRESSION_GZIP:
		return record.CodecGzip, nil
	case pb.Compression_COMPRESSION_SNAPPY:
		return record.CodecSnappy, nil
	case pb.Compression_COMPRESSION_LZ4:
		return record.CodecLZ4, nil
	case pb.Compression_COMPRESSION_ZSTD:
		return record.CodecZstd, nil
	default:
		return 0, api.Errorf(api.CodeUnsupportedCodec, "compression %d is none of NONE, GZIP, SNAPPY, LZ4, ZSTD", c)
	}
}

// decode returns the records of batches from an offset on. The batches come
// from this broker's own log, so a fault in them is damage.
func decode(batches []record.Slice, from record.Offset) ([]*pb.Record, *api.Error) {
	var out []*pb.Record
	for i := range batches {
		rest := batches[i].Bytes
		for len(rest) > 0 {
			batch, next, err := record.Next(rest)
			if err != nil {
				return nil, api.Errorf(api.CodeStorageFailed, "a stored batch cannot be read: %w", err)
			}
			if out, err = decodeBatch(out, batch, from); err != nil {
				return nil, api.Errorf(api.CodeStorageFailed, "a stored batch cannot be decoded: %w", err)
			}
			rest = next
		}
	}
	return out, nil
}

// decodeBatch copies what it keeps: the batch goes back to its arena before the
// answer is sent.
func decodeBatch(out []*pb.Record, batch []byte, from record.Offset) ([]*pb.Record, error) {
	for rec, err := range record.Records(batch, record.Limits{Internal: true}) {
		if err != nil {
			return nil, err
		}
		if rec.Offset < from {
			continue
		}
		r := &pb.Record{Offset: int64(rec.Offset), TimestampMs: rec.Timestamp, Key: bytes.Clone(rec.Key), Value: bytes.Clone(rec.Value)}
		for _, h := range rec.Headers {
			r.Headers = append(r.Headers, &pb.Header{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
		}
		out = append(out, r)
	}
	return out, nil
}
