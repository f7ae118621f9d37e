package kafka

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// fill draws a message: fields by reflection, as deep as they go.
func fill(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			tags := v.Addr().Interface().(*kmsg.Tags)
			for range rapid.IntRange(0, 2).Draw(t, "tags") {
				tags.Set(uint32(rapid.IntRange(10, 300).Draw(t, "tag")), rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "tagged"))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				fill(t, v.Field(i))
			}
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "set") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "bytes"))
			return
		}
		n := rapid.IntRange(-1, 3).Draw(t, "length")
		if n < 0 {
			return // null
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(t, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.String:
		v.SetString(rapid.StringN(0, 20, 200).Draw(t, "string"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(int8(rapid.Int64().Draw(t, "int"))))
	case reflect.Uint8:
		v.SetUint(uint64(rapid.Byte().Draw(t, "byte")))
	default:
		t.Fatalf("%s is not known here", v.Type())
	}
}

// Every request that a client may encode passes, in every version, and one that is
// cut short or goes on behind its end does not.
func TestShapesAreThoseOfTheMessages(t *testing.T) {
	entries := table()
	for i := range entries {
		e := &entries[i]
		if e.key == keyProduce {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			require.NotEmpty(t, e.shape)
			rapid.Check(t, func(t *rapid.T) {
				req := e.request()
				req.SetVersion(int16(rapid.IntRange(int(e.min), int(e.max)).Draw(t, "version")))
				fill(t, reflect.ValueOf(req).Elem())
				body := req.AppendTo(nil)
				flexible := e.flexible(req.GetVersion())
				require.NoError(t, e.shape.check(body, req.GetVersion(), flexible))
				again := e.request()
				again.SetVersion(req.GetVersion())
				require.NoError(t, again.ReadFrom(body))
				require.Error(t, e.shape.check(append(body, 0), req.GetVersion(), flexible))
				if cut := rapid.IntRange(0, max(len(body)-1, 0)).Draw(t, "cut"); cut < len(body) {
					require.Error(t, e.shape.check(body[:cut], req.GetVersion(), flexible))
				}
			})
		})
	}
}

// A request may not cost more than it has bytes, whatever counts it claims.
func TestShapesRefuseWhatIsNotThere(t *testing.T) {
	metadata := parseShape(shapes()[3])
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"four thousand million tagged fields", []byte{1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"four thousand million topics", []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}},
		{"a varint without an end", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{"a million tagged fields", append([]byte{1, 1, 0, 0xc0, 0x84, 0x3d}, make([]byte, 2_000_000)...)},
		{"nothing", nil},
	} {
		require.Error(t, metadata.check(tt.body, 12, true), tt.name)
		require.Zero(t, testing.AllocsPerRun(10, func() {
			w := walker{rest: tt.body, version: 12, flexible: true}
			w.structure(metadata)
		}), tt.name)
	}
}
