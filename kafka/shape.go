package kafka

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// maxItems is how many array elements and tagged fields a request may have. Each
// costs memory, some of them a hundred bytes for the two that it takes to send it.
// Produce, which has no shape, counts its own (producing.item).
const maxItems = 250_000

// shape is the form of a request, in every version. Package kmsg reads requests, and
// believes their counts: a tagged field that says it is four thousand million is
// looked for that often. So the form is checked first, which allocates nothing.
type shape []field

// field is one field of a shape.
type field struct {
	kind     byte  // as in parseShape
	from, to int16 // versions that have it
	inner    shape // of '[', '{' and '('
}

// shapeSize is how many bytes a value of a fixed size has.
func shapeSize(kind byte) int {
	switch kind {
	case 'b':
		return 1
	case 'h':
		return 2
	case 'w':
		return 4
	case 'q':
		return 8
	case 'u':
		return 16
	default:
		return 0
	}
}

// parseShape reads a shape as shapes.go writes it: b, h, w, q and u are values of 1,
// 2, 4, 8 and 16 bytes, s a string and y bytes, null or not. [ ... ] is an array of
// structs, { ... } one of values, ( ... ) a struct that may be null. Behind each may stand
// the versions that have it: :3 from 3 on, :0-3 up to 3.
func parseShape(text string) shape {
	words := strings.Fields(text)
	s, rest := parseFields(words)
	if len(rest) > 0 {
		panic("kafka: shape " + strconv.Quote(text) + " ends too early")
	}
	return s
}

func parseFields(words []string) (shape, []string) {
	var s shape
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		kind, versions, _ := strings.Cut(word, ":")
		f := field{kind: kind[0], to: 1 << 14}
		switch kind {
		case "[", "{", "(":
			f.inner, words = parseFields(words)
			_, versions, _ = strings.Cut(words[0], ":")
			words = words[1:]
		case "]", "}", ")":
			return s, append([]string{word}, words...)
		}
		if versions != "" {
			from, to, bounded := strings.Cut(versions, "-")
			f.from = version(from)
			if bounded {
				f.to = version(to)
			}
		}
		s = append(s, f)
	}
	return s, nil
}

func version(s string) int16 {
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		panic("kafka: a shape has the version " + strconv.Quote(s))
	}
	return int16(n)
}

// check walks a request's body.
func (s shape) check(body []byte, version int16, flexible bool) error {
	w := walker{rest: body, version: version, flexible: flexible}
	w.structure(s)
	switch {
	case w.items > maxItems:
		return malformed("it has more than %d elements and tagged fields", maxItems)
	case w.bad:
		return malformed("it ends in the middle of a field, or has a length that cannot be")
	case len(w.rest) > 0:
		return malformed("%d bytes are left after it", len(w.rest))
	}
	return nil
}

type walker struct {
	rest     []byte
	version  int16
	flexible bool
	items    int
	bad      bool
}

func (w *walker) structure(s shape) {
	w.values(s)
	if w.flexible {
		w.tags()
	}
}

func (w *walker) values(s shape) {
	for i := 0; i < len(s) && !w.bad; i++ {
		f := &s[i]
		if w.version < f.from || w.version > f.to {
			continue
		}
		switch f.kind {
		case 's':
			w.skip(w.length(2))
		case 'y':
			w.skip(w.length(4))
		case '[', '{':
			for n := w.length(4); n > 0 && !w.bad; n-- {
				w.item()
				if f.kind == '[' {
					w.structure(f.inner)
				} else {
					w.values(f.inner)
				}
			}
		case '(':
			if b := w.take(1); len(b) == 1 && int8(b[0]) >= 0 {
				w.structure(f.inner)
			}
		default:
			w.skip(shapeSize(f.kind))
		}
	}
}

func (w *walker) item() {
	if w.items++; w.items > maxItems {
		w.bad = true
	}
}

func (w *walker) tags() {
	for n := w.uvarint(); n > 0 && !w.bad; n-- {
		w.item()
		w.uvarint()
		w.skip(int(w.uvarint()))
	}
}

// length reads that of a string, bytes or an array: compact, or of size bytes. Null
// counts as none.
func (w *walker) length(size int) int {
	if w.flexible {
		return max(int(w.uvarint())-1, 0)
	}
	switch b := w.take(size); len(b) {
	case 2:
		return max(int(int16(binary.BigEndian.Uint16(b))), 0)
	case 4:
		return max(int(int32(binary.BigEndian.Uint32(b))), 0)
	default:
		return 0
	}
}

func (w *walker) uvarint() uint32 {
	v, n := binary.Uvarint(w.rest)
	if n <= 0 || n > 5 || v > 1<<32-1 {
		w.bad = true
		return 0
	}
	w.rest = w.rest[n:]
	return uint32(v)
}

func (w *walker) skip(n int) { w.take(n) }

func (w *walker) take(n int) []byte {
	if n > len(w.rest) {
		w.bad, w.rest = true, nil
		return nil
	}
	b := w.rest[:n]
	w.rest = w.rest[n:]
	return b
}
