package record

import "iter"

// Reader decodes the records of one batch after another. It is not safe for
// concurrent use. The zero value is ready for Reset.
type Reader struct {
	info BatchInfo
	c    cursor
	left int32
	buf  []byte // decompressed section, reused by Reset

	headers []Header // room for those of the next records
	// names are the header keys of earlier records, by position: producers set the same
	// ones on every record, as a rule.
	names []string
}

const (
	// headerRoom is how many headers memory is taken for at once.
	headerRoom = 64
	// maxNames and maxNameBytes bound what a Reader remembers of header keys.
	maxNames, maxNameBytes = 16, 64
)

// Reset starts on the batch at the beginning of b. It decompresses the records
// into memory of its own, at most lim.MaxDecompressed bytes of it, which the next
// Reset overwrites; uncompressed records stay in b. The CRC is not checked: that is
// VerifyCRC's work. The error is an *InvalidError.
func (r *Reader) Reset(b []byte, lim Limits) error {
	r.left = 0
	batch, _, err := Next(b)
	if err != nil {
		return err
	}
	lim.Internal = true // whoever reads trusts the broker
	if r.info, err = checkHeader(batch, lim); err != nil {
		return err
	}
	section := batch[HeaderSize:]
	if codec := r.info.Attributes.Codec(); codec != CodecNone {
		if r.buf, err = decompress(r.buf[:0], section, codec, lim.maxDecompressed()); err != nil {
			return err
		}
		section = r.buf
	}
	r.c = cursor{b: section}
	r.left = r.info.Count
	return nil
}

// Info returns the header of the current batch.
func (r *Reader) Info() BatchInfo { return r.info }

// Next decodes the next record into rec; ok is false after the last one. Key,
// Value and header values point into the batch or into the reader's memory: they
// are valid until the batch is released or Reset is called, whichever comes first.
// The list of headers and their keys are the caller's to keep. The error is an
// *InvalidError, and no record follows it.
func (r *Reader) Next(rec *Record) (ok bool, err error) {
	if r.left == 0 {
		return false, nil
	}
	r.left--
	if r.plain(rec) {
		return true, nil
	}
	return r.framed(rec)
}

// plain decodes the next record if it is a plain one.
func (r *Reader) plain(rec *Record) bool {
	b := r.c.b
	timeDelta, offsetDelta, key, keyLen, valueLen, end := plainAt(b, r.c.pos)
	if end == 0 {
		return false
	}
	r.c.pos = end
	rec.Offset = r.info.BaseOffset + Offset(offsetDelta)
	rec.Timestamp = r.info.BaseTimestamp + timeDelta
	if r.info.Attributes.LogAppendTime() {
		rec.Timestamp = r.info.MaxTimestamp
	}
	rec.Key, rec.Value, rec.Headers = nil, nil, nil
	if keyLen >= 0 {
		rec.Key = b[key : key+keyLen : key+keyLen]
	}
	if valueLen >= 0 {
		rec.Value = b[end-1-valueLen : end-1 : end-1]
	}
	return true
}

// framed decodes the next record, whatever it looks like.
func (r *Reader) framed(rec *Record) (ok bool, err error) {
	index := r.info.Count - r.left - 1
	var f frame
	if !r.c.next(&f) {
		return false, r.malformed(index)
	}
	*rec = Record{
		Offset:    r.info.BaseOffset + Offset(f.offsetDelta),
		Timestamp: r.info.BaseTimestamp + f.timeDelta,
		Key:       f.key,
		Value:     f.value,
	}
	if r.info.Attributes.LogAppendTime() {
		rec.Timestamp = r.info.MaxTimestamp
	}
	if f.headers > 0 {
		rec.Headers = r.room(f.headers)
	}
	for i := range rec.Headers {
		key, value, ok := f.rest.header()
		if !ok {
			return false, r.malformed(index)
		}
		rec.Headers[i] = Header{Key: r.name(i, key), Value: value}
	}
	return true, nil
}

// room returns n headers that no record has.
func (r *Reader) room(n int) []Header {
	if n > len(r.headers) {
		r.headers = make([]Header, max(n, headerRoom))
	}
	h := r.headers[:n:n]
	r.headers = r.headers[n:]
	return h
}

// name is the key of the header at a position, in memory of its own.
func (r *Reader) name(position int, key []byte) string {
	if position < len(r.names) && r.names[position] == string(key) {
		return r.names[position]
	}
	name := string(key)
	switch {
	case len(name) > maxNameBytes:
	case position < len(r.names):
		r.names[position] = name
	case position == len(r.names) && position < maxNames:
		r.names = append(r.names, name)
	}
	return name
}

func (r *Reader) malformed(index int32) error {
	r.left = 0
	return corrupt("record %d of %d, in the batch at offset %d, is malformed", index, r.info.Count, r.info.BaseOffset)
}

// Records yields the records of the batch at the beginning of b, then stops; a
// last pair with an error, an *InvalidError, says that the batch is damaged. The
// records stay valid as long as b does: what is decompressed is not reused.
func Records(b []byte, lim Limits) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var r Reader
		if err := r.Reset(b, lim); err != nil {
			yield(Record{}, err)
			return
		}
		for {
			var rec Record
			ok, err := r.Next(&rec)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !ok || !yield(rec, nil) {
				return
			}
		}
	}
}
