package record

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// checkSlowly is checkRecords without plainAt.
func checkSlowly(section []byte, info *BatchInfo, lim Limits) error {
	c := cursor{b: section}
	last := -1
	for i := range int(info.Count) {
		var err error
		if last, err = checkRecord(&c, i, last, info, lim); err != nil {
			return err
		}
	}
	if c.pos != len(section) {
		return malformed("%d bytes are left after %d records", len(section)-c.pos, info.Count)
	}
	return nil
}

// requireSame holds everything that uses plainAt to what it does without, errors and
// their words included.
func requireSame(t require.TestingT, section []byte, info BatchInfo, lim Limits) {
	require.Equal(t, checkSlowly(section, &info, lim), checkRecords(section, &info, lim))

	fast := Reader{info: info, c: cursor{b: section}, left: info.Count}
	slow := fast
	junk := Record{Key: []byte("old"), Value: []byte("old"), Headers: []Header{{Key: "old"}}}
	for slow.left > 0 {
		slow.left--
		want, got := junk, junk
		wantOK, wantErr := slow.framed(&want)
		gotOK, gotErr := fast.Next(&got)
		require.Equal(t, wantErr, gotErr)
		require.Equal(t, wantOK, gotOK)
		if wantErr != nil {
			break
		}
		require.Equal(t, want, got)
		require.Equal(t, [2]int{cap(want.Key), cap(want.Value)}, [2]int{cap(got.Key), cap(got.Value)})
		require.Equal(t, slow.c.pos, fast.c.pos)
	}
	require.Equal(t, slow.left, fast.left)

	for pos := range section {
		requirePlain(t, section, pos)
	}
}

// requirePlain holds plainAt to cursor.next.
func requirePlain(t require.TestingT, section []byte, pos int) (plain bool) {
	timeDelta, offsetDelta, key, keyLen, valueLen, end := plainAt(section, pos)
	if end == 0 {
		return false
	}
	c := cursor{b: section, pos: pos}
	var f frame
	require.True(t, c.next(&f))
	require.True(t, f.skipHeaders())
	require.Zero(t, f.headers)
	require.Equal(t, c.pos, end)
	require.Equal(t, f.timeDelta, timeDelta)
	require.Equal(t, f.offsetDelta, offsetDelta)
	require.Equal(t, f.key == nil, keyLen < 0)
	require.Equal(t, f.value == nil, valueLen < 0)
	if keyLen >= 0 {
		require.Equal(t, f.key, section[key:key+keyLen])
	}
	if valueLen >= 0 {
		require.Equal(t, f.value, section[end-1-valueLen:end-1])
	}
	return true
}

// wide appends a zigzag varint in a chosen number of bytes, or in as many as it takes.
func wide(dst []byte, v int64, bytes int) []byte {
	from := len(dst)
	dst = binary.AppendVarint(dst, v)
	for len(dst)-from < bytes {
		dst[len(dst)-1] |= 0x80
		dst = append(dst, 0)
	}
	return dst
}

// drawSection draws records as they may come: mostly as a client writes them, some
// with one number a little wrong, or written wider than it needs to be.
func drawSection(t *rapid.T) (section []byte, count int) {
	count = rapid.IntRange(1, 6).Draw(t, "count")
	first := rapid.SampledFrom([]int{0, 0, 0, 62, 8190, 1<<20 - 2}).Draw(t, "first delta")
	number := func(name string) *rapid.Generator[int64] {
		return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-3, 3), rapid.SampledFrom([]int64{
			-64, 63, 64, -65, 8191, 8192, -8192, -8193, 1 << 20, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64,
		}))
	}
	amiss := rapid.IntRange(0, 11)
	put := func(dst []byte, name string, v int64) []byte {
		switch amiss.Draw(t, name+" amiss") {
		case 10:
			return wide(dst, v, rapid.IntRange(2, 10).Draw(t, "bytes"))
		case 11:
			return wide(dst, v+rapid.Int64Range(-2, 2).Draw(t, "off by"), 0)
		default:
			return wide(dst, v, 0)
		}
	}
	bytes := func(dst []byte, name string) []byte {
		n := rapid.SampledFrom([]int{-1, 0, 1, 5, 20, 63, 64, 100, 8191, 8192}).Draw(t, name)
		dst = put(dst, name+" length", int64(n))
		return append(dst, make([]byte, max(n, 0))...)
	}
	for i := range count {
		body := []byte{rapid.Byte().Draw(t, "attributes")}
		body = put(body, "time", number("time").Draw(t, "time"))
		body = put(body, "offset", int64(first+i))
		body = bytes(bytes(body, "key"), "value")
		headers := rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "headers")
		body = put(body, "headers", int64(headers))
		for range headers {
			body = bytes(bytes(body, "header key"), "header value")
		}
		section = append(put(section, "length", int64(len(body))), body...)
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "mutations") {
		at := rapid.IntRange(0, len(section)-1).Draw(t, "at")
		section[at] = rapid.Byte().Draw(t, "byte")
	}
	return section[:len(section)-rapid.SampledFrom([]int{0, 0, 0, 1, 12}).Draw(t, "cut")%len(section)], count
}

// The short way and the long way agree on every batch.
func TestPlainAgrees(t *testing.T) {
	times := []int64{-1, 0, 1000, 1_700_000_000_000, math.MaxInt64 - 8192, math.MaxInt64 - 1, math.MaxInt64}
	rapid.Check(t, func(t *rapid.T) {
		section, count := drawSection(t)
		base := rapid.SampledFrom(times).Draw(t, "base")
		newest := rapid.OneOf(rapid.Just(base), rapid.SampledFrom(times), rapid.Map(rapid.Int64Range(0, 9000), func(d int64) int64 {
			return base - min(base+1, d-100)
		})).Draw(t, "newest")
		requireSame(t, section, BatchInfo{
			BaseOffset:    rapid.SampledFrom([]Offset{0, 7, math.MaxInt64}).Draw(t, "base offset"),
			Attributes:    rapid.SampledFrom([]Attributes{0, 0, attrAppendTime, attrDeleteHorizon}).Draw(t, "attributes"),
			LastDelta:     rapid.SampledFrom([]int32{int32(count) - 1, int32(count) - 1, 0, 8195, math.MaxInt32}).Draw(t, "last delta"),
			BaseTimestamp: base, MaxTimestamp: newest,
			Count: int32(count + rapid.SampledFrom([]int{0, 0, -1, 1}).Draw(t, "miscounted")),
		}, Limits{
			Internal:     rapid.Bool().Draw(t, "internal"),
			Keys:         rapid.Bool().Draw(t, "keys"),
			MinTimestamp: rapid.OneOf(rapid.Just(int64(0)), rapid.SampledFrom(times), rapid.Just(base)).Draw(t, "oldest"),
		})
	})
}

// Each of these is wrong in one way only, and would be plain without it.
func TestPlainRefuses(t *testing.T) {
	value := append([]byte{20}, make([]byte, 11)...) // ten bytes and no header
	rec := func(body ...byte) []byte {
		body = append(body, value...)
		return append([]byte{byte(2 * len(body))}, body...)
	}
	good := rec(0, 0, 0, 2, 'k')
	info := BatchInfo{Count: 2, LastDelta: 1, BaseTimestamp: 1000, MaxTimestamp: 1002}
	append2 := func(second []byte) []byte { return append(append([]byte(nil), good...), second...) }
	require.NoError(t, checkSlowly(append2(rec(0, 2, 2, 2, 'k')), &info, Limits{Keys: true, MinTimestamp: 1000}))
	for _, c := range []struct {
		name   string
		second []byte
		lim    Limits
	}{
		{name: "no key", second: rec(0, 0, 2, 1), lim: Limits{Keys: true}},
		{name: "key -2", second: rec(0, 0, 2, 3, 'k')},
		{name: "value -22", second: append([]byte{56, 0, 0, 2, 2, 'k', 43}, make([]byte, 22)...)},
		{name: "offset delta 0 again", second: rec(0, 0, 0, 2, 'k')},
		{name: "offset delta 2", second: rec(0, 0, 4, 2, 'k')},
		{name: "offset delta -1", second: rec(0, 0, 1, 2, 'k')},
		{name: "offset delta of four bytes", second: rec(0, 0, 0x82, 0x80, 0x80, 1)},
		{name: "newer than the newest", second: rec(0, 6, 2, 2, 'k')},
		{name: "the same for a follower", second: rec(0, 6, 2, 2, 'k'), lim: Limits{Internal: true}},
		{name: "older than the bound", second: rec(0, 1, 2, 2, 'k'), lim: Limits{MinTimestamp: 1000}},
		{name: "older than time", second: rec(0, 0xd3, 0x0f, 2, 2, 'k')},
		{name: "a header that is not there", second: func() []byte { b := rec(0, 0, 2, 2, 'k'); b[len(b)-1] = 2; return b }()},
		{name: "a byte after the headers", second: append([]byte{36, 0, 0, 2, 2, 'k', 20}, make([]byte, 12)...)},
		{name: "longer than the section", second: func() []byte { b := rec(0, 0, 2, 2, 'k'); b[0] += 2; return b }()},
		{name: "value up to the section's end", second: append([]byte{36, 0, 0, 2, 2, 'k', 22}, make([]byte, 11)...)},
		{name: "length -18", second: func() []byte { b := rec(0, 0, 2, 2, 'k'); b[0]++; return b }()},
	} {
		t.Run(c.name, func(t *testing.T) {
			section := append2(c.second)
			require.Error(t, checkSlowly(section, &info, c.lim))
			requireSame(t, section, info, c.lim)
		})
	}
}

// FuzzPlain is TestPlainAgrees on whatever bytes there are.
func FuzzPlain(f *testing.F) {
	b := NewBuilder(BuilderOptions{})
	for _, r := range []Record{
		{Timestamp: 1000, Value: make([]byte, 64)},
		{Timestamp: 990, Key: []byte("key"), Value: make([]byte, 10)},
		{Timestamp: 9999, Key: []byte{}, Value: nil},
		{Timestamp: 1001, Key: make([]byte, 7), Headers: []Header{{Key: "a", Value: []byte("b")}}},
		{Timestamp: -1, Value: []byte{}},
	} {
		require.NoError(f, b.Append(&r))
	}
	f.Add(b.section, b.baseTime, b.maxTime, int64(0), b.count, b.count-1, byte(0))
	f.Add(b.section, b.baseTime, b.maxTime, int64(995), b.count, b.count-1, byte(2))
	f.Add(b.section, b.baseTime, int64(math.MaxInt64), int64(0), b.count, int32(math.MaxInt32), byte(1))
	f.Add(b.section, int64(math.MaxInt64), int64(math.MaxInt64), int64(0), b.count, b.count-1, byte(12))
	f.Fuzz(func(t *testing.T, section []byte, base, newest, oldest int64, count, last int32, flags byte) {
		requireSame(t, section, BatchInfo{ // as checkHeader lets them pass
			Attributes:    Attributes(flags) & (attrAppendTime | attrDeleteHorizon),
			BaseTimestamp: max(base, -1), MaxTimestamp: max(newest, -1),
			Count: max(count, 0), LastDelta: max(last, 0),
		}, Limits{MinTimestamp: oldest, Internal: flags&1 != 0, Keys: flags&2 != 0})
	})
}

// What is to be quick is: a plain record that took the long way would be right
// too, and only cost time.
func TestPlainTakes(t *testing.T) {
	for _, c := range []struct {
		name  string
		plain bool
		r     Record
	}{
		{"no key", true, Record{Value: make([]byte, 100)}},
		{"key", true, Record{Key: make([]byte, 20), Value: make([]byte, 100)}},
		{"tombstone", true, Record{Key: make([]byte, 20)}},
		{"empty", true, Record{Key: []byte{}, Value: []byte{}}},
		{"1 KiB", true, Record{Value: make([]byte, 1024)}},
		{"all that two bytes tell", true, Record{Key: make([]byte, 4000), Value: make([]byte, 4000)}},
		{"more", false, Record{Value: make([]byte, 8192)}},
		{"earlier", true, Record{Timestamp: -1, Value: make([]byte, 100)}},
		{"eight seconds later", true, Record{Timestamp: 8191, Value: make([]byte, 100)}},
		{"later", false, Record{Timestamp: 8192, Value: make([]byte, 100)}},
		{"headers", false, Record{Value: make([]byte, 100), Headers: []Header{{}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, delta := range []int32{1, 63, 64, 8191, 8192, 1<<20 - 1} {
				body := bodySize(&c.r, c.r.Timestamp, delta)
				section := appendRecord(nil, &c.r, body, c.r.Timestamp, delta)
				section = append(section, make([]byte, plainHead)...)
				require.Equal(t, c.plain, requirePlain(t, section, 0), delta)
			}
		})
	}
}
