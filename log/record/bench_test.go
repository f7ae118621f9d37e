package record_test

import (
	"testing"

	"github.com/penstock/penstock/log/record"
)

// hundreds is records of 100 bytes, about 64 KiB of them.
func hundreds() []record.Record {
	out := make([]record.Record, 600)
	for i := range out {
		v := make([]byte, 100)
		x := uint32(i + 1)
		for j := range v {
			x = x*1664525 + 1013904223
			v[j] = byte(x>>24) & 0x3f
		}
		out[i] = record.Record{Timestamp: int64(1_700_000_000_000 + i/10), Value: v}
	}
	return out
}

func BenchmarkBuild(b *testing.B) {
	records := hundreds()
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			builder := record.NewBuilder(record.BuilderOptions{Codec: codec})
			var dst []byte
			b.SetBytes(int64(len(records) * 100))
			b.ReportAllocs()
			for b.Loop() {
				builder.Reset()
				for i := range records {
					if err := builder.Append(&records[i]); err != nil {
						b.Fatal(err)
					}
				}
				var err error
				if dst, err = builder.Build(dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			batch := build(b, record.BuilderOptions{Codec: codec}, hundreds()...)
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := record.Validate(batch, record.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReader(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			batch := build(b, record.BuilderOptions{Codec: codec}, hundreds()...)
			var r record.Reader
			var rec record.Record
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Reset(batch, record.Limits{}); err != nil {
					b.Fatal(err)
				}
				for {
					ok, err := r.Next(&rec)
					if err != nil {
						b.Fatal(err)
					}
					if !ok {
						break
					}
				}
			}
		})
	}
}

func BenchmarkVerifyCRC(b *testing.B) {
	batch := build(b, record.BuilderOptions{}, hundreds()...)
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		if !record.VerifyCRC(batch) {
			b.Fatal("CRC")
		}
	}
}

func BenchmarkMurmur2(b *testing.B) {
	key := []byte("a-little-bit-long-string")
	for b.Loop() {
		record.Murmur2(key)
	}
}

func BenchmarkArena(b *testing.B) {
	a := record.NewArena(64 << 20)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			a.Get(60_000).Release()
		}
	})
}
