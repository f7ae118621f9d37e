package record

import (
	"encoding/binary"
	"math"
)

// plainHead is how many bytes there must be from the beginning of a record on, for
// plainAt to read two words of eight bytes without further question. In a plain record
// they hold everything in front of the key.
const plainHead = 16

// plainAt reads the record at pos of a section in one go, if it is as nearly all
// records are: without headers, and with every number in one or two bytes (three for the
// offset delta, which counts a batch's records). What it accepts, cursor.next
// accepts with the same result, at three times the cost. Everything else has end 0
// and is not judged, for cursor.next knows all shapes and all errors: headers, long
// records, the last few bytes of a section, and whatever is malformed.
//
// The key is at key and the value ends one byte before end; a length of -1 is
// none of it.
//
// The words may reach beyond the record, and a number may be taken from there.
// Then the value does not end where it must: one byte, the header count of 0,
// before the end that the record's length names.
func plainAt(section []byte, pos int) (timeDelta int64, offsetDelta, key, keyLen, valueLen, end int) {
	if pos < 0 || pos > len(section)-plainHead {
		return
	}
	head := (*[plainHead]byte)(section[pos : pos+plainHead : pos+plainHead])
	length, n := short(uint64(head[0]) | uint64(head[1])<<8)
	if n == 0 || length&1 != 0 {
		return
	}
	w := binary.LittleEndian.Uint64(head[1:]) // from the attributes on
	if n == 2 {
		w = binary.LittleEndian.Uint64(head[2:])
	}
	at := pos + n
	headers := at + int(length>>1) - 1 // where their count is
	if headers >= len(section) {
		return
	}
	at++ // the attributes, unused
	w >>= 8

	time, n := short(w)
	if n == 0 {
		return
	}
	at += n
	w >>= n * 8 & 63

	offset, n := short(w)
	if n == 0 {
		if w&0x800000 != 0 {
			return
		}
		offset, n = w&0x7f|w>>1&0x3f80|w>>2&0x1fc000, 3
	}
	if offset&1 != 0 {
		return
	}
	at += n
	w >>= n * 8 & 63

	k, n := short(w)
	if n == 0 || k&1 != 0 && k != 1 {
		return
	}
	at += n
	keyAt := at
	at += int(k >> 1) // 0 for none too, which is 1

	if at >= headers {
		return
	}
	v, n := short(uint64(section[at]) | uint64(section[at+1])<<8)
	if n == 0 || v&1 != 0 && v != 1 {
		return
	}
	if at+n+int(v>>1) != headers || section[headers] != 0 {
		return
	}
	return int64(unzigzag(time)), int(offset >> 1), keyAt, unzigzag(k), unzigzag(v), headers + 1
}

// short reads the varint of one or two bytes at the low end of w, zigzag not yet
// undone; n is 0 for a longer one.
func short(w uint64) (v uint64, n int) {
	if w&0x80 == 0 {
		return w & 0x7f, 1
	}
	if w&0x8000 == 0 {
		return w&0x7f | w>>1&0x3f80, 2
	}
	return 0, 0
}

func unzigzag(v uint64) int { return int(v>>1) ^ -int(v&1) }

// plainTimes returns the timestamps that checkTimestamp certainly accepts. What
// lies outside is for it to judge.
func plainTimes(info *BatchInfo, lim Limits) (oldest, newest int64) {
	switch {
	case info.Attributes.LogAppendTime():
		return math.MinInt64, math.MaxInt64
	case lim.Internal:
		return -1, info.MaxTimestamp
	default:
		return max(-1, lim.MinTimestamp), info.MaxTimestamp
	}
}
