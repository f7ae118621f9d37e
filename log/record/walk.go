package record

import "math"

// cursor reads the record section front to back. The first bad read sets bad and
// every later one returns zero, so that callers check once a record.
type cursor struct {
	b   []byte
	pos int
	bad bool
}

// varlong reads a zigzag varint of at most 10 bytes.
func (c *cursor) varlong() int64 {
	if rest := c.b[c.pos:]; len(rest) >= 2 { // most have one or two bytes
		if v := int64(rest[0]); v < 0x80 {
			c.pos++
			return v>>1 ^ -(v & 1)
		} else if rest[1] < 0x80 {
			v = v&0x7f | int64(rest[1])<<7
			c.pos += 2
			return v>>1 ^ -(v & 1)
		}
	}
	var v uint64
	for shift := uint(0); shift < 70 && c.pos < len(c.b); shift += 7 {
		x := c.b[c.pos]
		c.pos++
		if shift == 63 && x > 1 {
			break
		}
		v |= uint64(x&0x7f) << shift
		if x < 0x80 {
			return int64(v>>1) ^ -int64(v&1)
		}
	}
	c.bad = true
	return 0
}

// varint reads a zigzag varint that fits 32 bits.
func (c *cursor) varint() int {
	v := c.varlong()
	if v < math.MinInt32 || v > math.MaxInt32 {
		c.bad = true
		return 0
	}
	return int(v)
}

// bytes reads a length and that many bytes; length -1 is nil.
func (c *cursor) bytes() []byte {
	n := c.varint()
	if n == -1 {
		return nil
	}
	return c.take(n)
}

func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b)-c.pos {
		c.bad = true
		return nil
	}
	p := c.b[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return p
}

// frame is one record of the section, not yet taken apart.
type frame struct {
	timeDelta   int64
	offsetDelta int
	key, value  []byte
	headers     int
	rest        cursor // at the headers
}

// next reads the record at c and steps over it. The headers are left unread.
func (c *cursor) next(f *frame) bool {
	body := c.take(c.varint())
	if c.bad {
		return false
	}
	f.rest = cursor{b: body}
	f.rest.take(1) // attributes, unused
	f.timeDelta = f.rest.varlong()
	f.offsetDelta = f.rest.varint()
	f.key = f.rest.bytes()
	f.value = f.rest.bytes()
	f.headers = f.rest.varint()
	// A header takes two bytes at least; more cannot be true.
	if f.rest.bad || f.headers < 0 || f.headers > (len(body)-f.rest.pos)/2 {
		c.bad = true
	}
	return !c.bad
}

// header reads the next header; key is nil when the section is malformed.
func (c *cursor) header() (key, value []byte, ok bool) {
	key = c.take(c.varint())
	value = c.bytes()
	return key, value, !c.bad
}

// skipHeaders checks that the headers fill the rest of the record exactly.
func (f *frame) skipHeaders() bool {
	for range f.headers {
		if _, _, ok := f.rest.header(); !ok {
			return false
		}
	}
	return f.rest.pos == len(f.rest.b)
}
