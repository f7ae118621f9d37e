package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
)

// DamagedError says what is wrong with a file.
type DamagedError struct {
	Page   uint64 // where it was found
	Reason string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("page %d: %s", e.Page, e.Reason) }

// Entry is a key with its value, in a bucket of the top level. The bytes are valid
// during the visit.
type Entry struct {
	Bucket, Key, Value []byte
	// At is where the key lies in the file; the value follows it.
	At int64
}

// Span is a run of bytes in the file: of the tree of the newest transaction, or a meta page.
type Span struct{ From, To int64 }

// Layout is how a file is laid out.
type Layout struct {
	PageSize int64
	// End is after the last page that was ever used. The file may be longer.
	End int64
	// Older is the meta page that the next transaction will write.
	Older Span
	// Used are the pages of the newest transaction, in no order; all else below End is free.
	Used []Span
}

// The format: bbolt's internal/common, version 2, in the machine's own byte order.
const (
	magic   = 0xED0CDAED
	version = 2

	headerSize  = 16
	elementSize = 16
	bucketSize  = 16
	metaSize    = 64
	sumAt       = 56 // in a meta page, behind its header

	flagBranch = 1
	flagLeaf   = 2
	flagMeta   = 4

	leafBucket = 1 // the value is a bucket

	smallestPage, largestPage = 1 << 10, 1 << 24
	// deepest is far beyond what a tree of all pages there can be would need.
	deepest = 32
)

// Walk shows every entry of the newest transaction to visit, whose error it returns as it
// is. A *DamagedError says that the file is not what was written.
func Walk(r io.ReaderAt, size int64, visit func(Entry) error) (*Layout, error) {
	newest, older, pageSize, err := metas(r, size)
	if err != nil {
		return nil, err
	}
	w := &walk{
		r: r, visit: visit, pages: newest.pages, seen: map[uint64]bool{},
		layout: &Layout{PageSize: pageSize, End: int64(newest.pages) * pageSize},
	}
	if newest.pages < 3 || newest.pages > uint64(size/pageSize) {
		return nil, &DamagedError{newest.id, fmt.Sprintf("the file has %d bytes, its pages take %d of %d bytes each: its end is missing", size, newest.pages, pageSize)}
	}
	w.layout.Older = w.span(older.id, 0)
	w.layout.Used = append(w.layout.Used, w.span(newest.id, 0))
	if err := w.page(newest.root, nil, keys{}, 0); err != nil {
		return nil, err
	}
	return w.layout, nil
}

type meta struct {
	id, root, pages, txid uint64
}

// metas reads both meta pages.
func metas(r io.ReaderAt, size int64) (newest, older meta, pageSize int64, err error) {
	first, pageSize, err := metaAt(r, 0, 0)
	if err != nil {
		return meta{}, meta{}, 0, err
	}
	if 2*pageSize > size {
		return meta{}, meta{}, 0, &DamagedError{1, fmt.Sprintf("the file ends after %d bytes", size)}
	}
	second, other, err := metaAt(r, pageSize, 1)
	if err != nil {
		return meta{}, meta{}, 0, err
	}
	if other != pageSize {
		return meta{}, meta{}, 0, &DamagedError{1, fmt.Sprintf("pages of %d bytes, by page 0 they have %d", other, pageSize)}
	}
	if second.txid > first.txid {
		first, second = second, first
	}
	return first, second, pageSize, nil
}

func metaAt(r io.ReaderAt, at int64, id uint64) (m meta, pageSize int64, err error) {
	b := make([]byte, headerSize+metaSize)
	if _, err := r.ReadAt(b, at); err != nil {
		return meta{}, 0, &DamagedError{id, fmt.Sprintf("the meta page cannot be read: %v", err)}
	}
	sum := fnv.New64a()
	sum.Write(b[headerSize : headerSize+sumAt])
	h, body := headerOf(b), b[headerSize:]
	switch pageSize = int64(binary.NativeEndian.Uint32(body[8:])); {
	case binary.NativeEndian.Uint32(body) != magic || binary.NativeEndian.Uint32(body[4:]) != version:
		return meta{}, 0, &DamagedError{id, "it is no meta page of this format"}
	case binary.NativeEndian.Uint64(body[sumAt:]) != sum.Sum64():
		return meta{}, 0, &DamagedError{id, "the checksum of the meta page is wrong"}
	case h.id != id || h.flags != flagMeta:
		return meta{}, 0, &DamagedError{id, fmt.Sprintf("the meta page calls itself page %d, of kind %d", h.id, h.flags)}
	case pageSize < smallestPage || pageSize > largestPage || pageSize&(pageSize-1) != 0:
		return meta{}, 0, &DamagedError{id, fmt.Sprintf("pages of %d bytes", pageSize)}
	}
	return meta{id: id, root: binary.NativeEndian.Uint64(body[16:]), pages: binary.NativeEndian.Uint64(body[40:]), txid: binary.NativeEndian.Uint64(body[48:])}, pageSize, nil
}

type header struct {
	id           uint64
	flags, count uint16
	overflow     uint32
}

func headerOf(b []byte) header {
	return header{binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint16(b[8:]), binary.NativeEndian.Uint16(b[10:]), binary.NativeEndian.Uint32(b[12:])}
}

// walk is one walk over a tree.
type walk struct {
	r      io.ReaderAt
	visit  func(Entry) error
	pages  uint64
	seen   map[uint64]bool
	layout *Layout
}

func (w *walk) span(page uint64, overflow uint32) Span {
	from := int64(page) * w.layout.PageSize
	return Span{from, from + (1+int64(overflow))*w.layout.PageSize}
}

// load reads a page with what it overflows into.
func (w *walk) load(id uint64) (h header, b []byte, err error) {
	if id < 2 || id >= w.pages {
		return header{}, nil, &DamagedError{id, fmt.Sprintf("it is referred to, the tree has the pages 2 to %d", w.pages-1)}
	}
	head := make([]byte, headerSize)
	if _, err := w.r.ReadAt(head, w.span(id, 0).From); err != nil {
		return header{}, nil, &DamagedError{id, fmt.Sprintf("it cannot be read: %v", err)}
	}
	h = headerOf(head)
	if h.id != id || h.flags != flagBranch && h.flags != flagLeaf {
		return header{}, nil, &DamagedError{id, fmt.Sprintf("it calls itself page %d, of kind %d", h.id, h.flags)}
	}
	if uint64(h.overflow) >= w.pages-id {
		return header{}, nil, &DamagedError{id, fmt.Sprintf("it claims %d more pages, the file has %d", h.overflow, w.pages)}
	}
	for p := id; p <= id+uint64(h.overflow); p++ {
		if w.seen[p] {
			return header{}, nil, &DamagedError{p, "it is in use twice"}
		}
		w.seen[p] = true
	}
	at := w.span(id, h.overflow)
	b = make([]byte, at.To-at.From)
	if _, err := w.r.ReadAt(b, at.From); err != nil {
		return header{}, nil, &DamagedError{id, fmt.Sprintf("it cannot be read: %v", err)}
	}
	w.layout.Used = append(w.layout.Used, at)
	return h, b, nil
}

// keys is what a page may hold: from low on, below high; nil: no bound.
type keys struct{ low, high []byte }

// page walks over a page and what is below it. bucket is the name of the bucket, nil at
// the top.
func (w *walk) page(id uint64, bucket []byte, allowed keys, depth int) error {
	if depth > deepest {
		return &DamagedError{id, "the tree is deeper than any can be"}
	}
	h, b, err := w.load(id)
	if err != nil {
		return err
	}
	if h.flags == flagLeaf {
		return w.leaf(place{id, w.span(id, 0).From, depth}, h, b, bucket, allowed)
	}
	children, err := branches(b, int(h.count))
	if err != nil {
		return &DamagedError{id, err.Error()}
	}
	if len(children) == 0 {
		return &DamagedError{id, "a branch without children"}
	}
	for i, child := range children {
		inside := keys{low: child.key, high: allowed.high}
		if i+1 < len(children) {
			inside.high = children[i+1].key
			if bytes.Compare(child.key, inside.high) >= 0 {
				return &DamagedError{id, fmt.Sprintf("key %x is not in front of key %x", child.key, inside.high)}
			}
		}
		if !allowed.hold(child.key) {
			return &DamagedError{id, fmt.Sprintf("key %x does not belong here", child.key)}
		}
		if err := w.page(child.page, bucket, inside, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (k keys) hold(key []byte) bool {
	return (k.low == nil || bytes.Compare(key, k.low) >= 0) && (k.high == nil || bytes.Compare(key, k.high) < 0)
}

type branch struct {
	key  []byte
	page uint64
}

// elements reads the entries of a page, whose bytes lie one after the other, behind the
// last of their heads: bbolt writes whole pages. So a count or a size that is wrong does
// not fit the others.
func elements(b []byte, count int, sizes func(head []byte) (pos, key, value uint32)) (found [][2][]byte, err error) {
	next := int64(headerSize + count*elementSize)
	if next > int64(len(b)) {
		return nil, fmt.Errorf("%d entries in %d bytes", count, len(b))
	}
	for i := range count {
		at := headerSize + i*elementSize
		pos, key, value := sizes(b[at : at+elementSize])
		end := next + int64(key) + int64(value)
		if int64(at)+int64(pos) != next || key == 0 || end > int64(len(b)) {
			return nil, fmt.Errorf("entry %d of %d has %d and %d bytes at byte %d of %d, and should begin at %d", i, count, key, value, int64(at)+int64(pos), len(b), next)
		}
		found = append(found, [2][]byte{b[next : next+int64(key)], b[next+int64(key) : end]})
		next = end
	}
	return found, nil
}

func branches(b []byte, count int) (children []branch, err error) {
	found, err := elements(b, count, func(head []byte) (pos, key, value uint32) {
		return binary.NativeEndian.Uint32(head), binary.NativeEndian.Uint32(head[4:]), 0
	})
	for i, e := range found {
		children = append(children, branch{e[0], binary.NativeEndian.Uint64(b[headerSize+i*elementSize+8:])})
	}
	return children, err
}

// place is where a page lies: one of the file, or one in a value of a page.
type place struct {
	page  uint64
	at    int64
	depth int
}

// leaf shows the entries of a page, or walks over the buckets in it.
func (w *walk) leaf(in place, h header, b, bucket []byte, allowed keys) error {
	id, at := in.page, in.at+headerSize+elementSize*int64(h.count)
	if rest := b[headerSize:]; h.count == 0 && slices.ContainsFunc(rest[:min(len(rest), elementSize)], func(b byte) bool { return b != 0 }) {
		return &DamagedError{id, "it says that it is empty, and is not"}
	}
	found, err := elements(b, int(h.count), func(head []byte) (pos, key, value uint32) {
		return binary.NativeEndian.Uint32(head[4:]), binary.NativeEndian.Uint32(head[8:]), binary.NativeEndian.Uint32(head[12:])
	})
	if err != nil {
		return &DamagedError{id, err.Error()}
	}
	var last []byte
	for i, e := range found {
		key, value, flags := e[0], e[1], binary.NativeEndian.Uint32(b[headerSize+i*elementSize:])
		switch {
		case last != nil && bytes.Compare(last, key) >= 0:
			return &DamagedError{id, fmt.Sprintf("key %x is not in front of key %x", last, key)}
		case !allowed.hold(key):
			return &DamagedError{id, fmt.Sprintf("key %x does not belong here", key)}
		case flags > leafBucket, flags == leafBucket && bucket != nil, flags == 0 && bucket == nil:
			return &DamagedError{id, fmt.Sprintf("key %x is of kind %d", key, flags)}
		case flags == leafBucket:
			err = w.bucket(place{id, at + int64(len(key)), in.depth}, key, value)
		default:
			err = w.visit(Entry{bucket, key, value, at})
		}
		if err != nil {
			return err
		}
		last, at = key, at+int64(len(key)+len(value))
	}
	return nil
}

// bucket walks over a bucket, which is small and lies in its value, or has pages of its own.
func (w *walk) bucket(in place, name, value []byte) error {
	id := in.page
	if len(value) < bucketSize {
		return &DamagedError{id, fmt.Sprintf("the bucket %q has %d bytes", name, len(value))}
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		if len(value) != bucketSize {
			return &DamagedError{id, fmt.Sprintf("the bucket %q has a page of its own, %d, and %d bytes", name, root, len(value))}
		}
		return w.page(root, name, keys{}, in.depth+1)
	}
	inline := value[bucketSize:]
	if len(inline) < headerSize {
		return &DamagedError{id, fmt.Sprintf("the bucket %q has %d bytes", name, len(value))}
	}
	h := headerOf(inline)
	if h.id != 0 || h.flags != flagLeaf || h.overflow != 0 {
		return &DamagedError{id, fmt.Sprintf("the bucket %q is of kind %d", name, h.flags)}
	}
	return w.leaf(place{id, in.at + bucketSize, in.depth + 1}, h, inline, name, keys{})
}
