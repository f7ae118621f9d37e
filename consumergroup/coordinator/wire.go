package coordinator

import "encoding/binary"

// The primitives of Kafka's message schemas that kmsg does not export: classic
// (16-bit length) and compact (uvarint length plus one, 0: null) strings, and
// tagged fields.

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendCompact(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))+1), s...)
}

// appendNullable writes the empty string as null.
func appendNullable(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, 0)
	}
	return appendCompact(dst, s)
}

// decoder takes primitives off the front of b. After the first that is not
// whole, bad is set and everything reads as zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) int16() int16 {
	if b := d.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (d *decoder) int32() int32 {
	if b := d.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes reads what string reads, and refers to what is decoded.
func (d *decoder) bytes() []byte {
	n := d.int16()
	if n < 0 {
		d.bad = true
		return nil
	}
	return d.take(uint64(n))
}

func (d *decoder) string() string { return string(d.bytes()) }

// compact reads null as the empty string.
func (d *decoder) compact() string {
	n := d.uvarint()
	if n == 0 {
		return ""
	}
	return string(d.take(n - 1))
}

// count reads the length of a compact array; every element has at least a byte.
func (d *decoder) count() int {
	n := d.uvarint()
	if n == 0 {
		return 0
	}
	if n-1 > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n - 1)
}

// tags calls field with each tagged field.
func (d *decoder) tags(field func(tag uint64, value []byte)) {
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		tag := d.uvarint()
		if value := d.take(d.uvarint()); !d.bad {
			field(tag, value)
		}
	}
}
