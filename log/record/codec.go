package record

import "strconv"

// ParseCodec reads the name of a codec: none, gzip, snappy, lz4 or zstd.
func ParseCodec(name string) (Codec, error) {
	for c := CodecNone; c <= CodecZstd; c++ {
		if c.String() == name {
			return c, nil
		}
	}
	return CodecNone, invalid(ErrUnsupportedCodec, "%q is none of none, gzip, snappy, lz4, zstd", name)
}

// String returns Kafka's name of the codec.
func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecGzip:
		return "gzip"
	case CodecSnappy:
		return "snappy"
	case CodecLZ4:
		return "lz4"
	case CodecZstd:
		return "zstd"
	default:
		return "codec " + strconv.Itoa(int(c))
	}
}
