package metadata_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// TestGoldenCommands holds the bytes of a command of every kind with every field
// set, as the revision that released the kind wrote them. They must decode into
// the same fields for ever. A kind without a line in the golden file fails;
// -update adds the line, and changes none that is there. A field that is added
// to a released kind makes no new line: the old bytes, without it, must go on to
// decode.
func TestGoldenCommands(t *testing.T) {
	path := filepath.Join("testdata", "commands.txt")
	data, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	golden := make(map[string][]byte)
	for line := range strings.Lines(string(data)) {
		kind, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		if golden[kind], err = hex.DecodeString(digits); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	kinds := (&metav1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		fd := kinds.Get(i)
		kind := string(fd.Name())
		b, ok := golden[kind]
		delete(golden, kind)
		if !ok && *update {
			b = filledCommand(t, fd)
			data = fmt.Appendf(data, "%s %x\n", kind, b)
		}
		if b == nil {
			t.Errorf("%s has no golden bytes: -update writes them", kind)
			continue
		}
		cmd := new(metav1.Command)
		if err := proto.Unmarshal(b, cmd); err != nil {
			t.Errorf("%s does not decode any more: %v", kind, err)
			continue
		}
		if set := cmd.ProtoReflect().WhichOneof(fd.ContainingOneof()); set == nil || set.Number() != fd.Number() {
			t.Errorf("%s decodes as %v", kind, set)
		}
		checkFilled(t, kind, cmd.ProtoReflect())
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s is encoded in another way than when it was released: %x, %v", kind, again, err)
		}
	}
	for kind := range golden {
		t.Errorf("%s was released and is gone", kind)
	}
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func filledCommand(t *testing.T, kind protoreflect.FieldDescriptor) []byte {
	t.Helper()
	m := (&metav1.Command{}).ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.ContainingOneof() == nil || fd == kind {
			fillField(m, fd)
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fillField(m, fields.Get(i))
	}
}

func fillField(m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString("key").MapKey(), filled(fd.MapValue()))
	case fd.IsList():
		list := m.Mutable(fd).List()
		if fd.Message() != nil {
			fill(list.AppendMutable().Message())
			return
		}
		list.Append(filled(fd))
		list.Append(filled(fd))
	case fd.Message() != nil:
		fill(m.Mutable(fd).Message())
	default:
		m.Set(fd, filled(fd))
	}
}

// filled is the value of a field that is not a message: it follows from the
// field's number.
func filled(fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(100 + fd.Number())
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("field %d", fd.Number()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes.Repeat([]byte{byte(n)}, 16))
	default:
		panic("commands have no fields of kind " + fd.Kind().String())
	}
}

// checkFilled reports fields of decoded golden bytes that hold something else
// than was written, and bytes that belong to no field.
func checkFilled(t *testing.T, path string, m protoreflect.Message) {
	t.Helper()
	if len(m.GetUnknown()) > 0 {
		t.Errorf("%s: a field that was released is gone: %x", path, m.GetUnknown())
	}
	check := func(path string, fd protoreflect.FieldDescriptor, v protoreflect.Value) {
		if fd.Message() != nil {
			checkFilled(t, path, v.Message())
		} else if !v.Equal(filled(fd)) {
			t.Errorf("%s decodes as %v, not %v", path, v, filled(fd))
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := path + "." + string(fd.Name())
		switch {
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				check(path, fd.MapValue(), v)
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				check(path, fd, v.List().Get(i))
			}
		default:
			check(path, fd, v)
		}
		return true
	})
}
