package kafka

import (
	"github.com/twmb/franz-go/pkg/kbin"

	"github.com/penstock/penstock/broker/api"
)

// answer appends the answer to dst, in the form of ProduceResponse.
func (p *produced) answer(c *conn, dst []byte, results []api.ProduceResult) []byte {
	from := len(dst)
	e := produceEncoder{encoder: encoder{own: beginFrame(dst, &p.header), flexible: p.header.entry.flexible(p.header.version)}, version: p.header.version, stats: p.header.entry.stats}
	e.array(len(p.topics))
	partitions := p.partitions
	for i := range p.topics {
		t := &p.topics[i]
		e.text(t.name)
		e.array(t.partitions)
		for j := range partitions[:t.partitions] {
			v := &partitions[j]
			if refused := v.refused.err(); refused != nil {
				e.partition(v.number, &api.ProduceResult{Err: refused, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1})
				continue
			}
			e.partition(v.number, &results[0])
			results = results[1:]
		}
		partitions = partitions[t.partitions:]
		e.noTags()
	}
	e.own = kbin.AppendInt32(e.own, 0) // throttle
	e.end(c, p.header.version >= 10, 0)
	endFrame(e.own, from)
	return e.own
}

// encoder writes what the answers of the hot path have in common. own is memory of
// ours.
type encoder struct {
	flexible bool
	own      []byte
	leaders  leaders
}

func (e *encoder) array(n int) {
	if e.flexible {
		e.own = kbin.AppendCompactArrayLen(e.own, n)
	} else {
		e.own = kbin.AppendArrayLen(e.own, n)
	}
}

func (e *encoder) text(s string) {
	if e.flexible {
		e.own = kbin.AppendCompactString(e.own, s)
	} else {
		e.own = kbin.AppendString(e.own, s)
	}
}

func (e *encoder) nullableText(s *string) {
	if e.flexible {
		e.own = kbin.AppendCompactNullableString(e.own, s)
	} else {
		e.own = kbin.AppendNullableString(e.own, s)
	}
}

func (e *encoder) noTags() {
	if e.flexible {
		e.own = append(e.own, 0)
	}
}

// leader ends a partition: as a tagged field it says who leads, when the error does
// and the version has it.
func (e *encoder) leader(err *api.Error, has bool, tag byte) {
	if !e.flexible {
		return
	}
	id, epoch := int32(-1), int32(-1)
	if has {
		id, epoch = e.leaders.note(err)
	}
	if id < 0 {
		e.noTags()
		return
	}
	e.own = append(e.own, 1, tag, 9)
	e.own = kbin.AppendInt32(e.own, id)
	e.own = kbin.AppendInt32(e.own, epoch)
	e.own = append(e.own, 0)
}

// end ends the message: as a tagged field it says where the leaders are that it
// named, when the version has it.
func (e *encoder) end(c *conn, has bool, tag byte) {
	if !e.flexible {
		return
	}
	var list []endpoint
	if has {
		list = c.door.endpoints(e.leaders.ids, c.listener)
	}
	if len(list) == 0 {
		e.noTags()
		return
	}
	field := kbin.AppendCompactArrayLen(nil, len(list))
	for _, b := range list {
		field = kbin.AppendInt32(field, b.id)
		field = kbin.AppendCompactString(field, b.host)
		field = kbin.AppendInt32(field, b.port)
		field = kbin.AppendCompactNullableString(field, nil) // the rack: Metadata has it
		field = append(field, 0)
	}
	e.own = append(e.own, 1, tag)
	e.own = kbin.AppendUvarint(e.own, uint32(len(field)))
	e.own = append(e.own, field...)
}

// produceEncoder writes an answer to Produce.
type produceEncoder struct {
	encoder

	version int16
	stats   *stats
}

func (e *produceEncoder) partition(number int32, r *api.ProduceResult) {
	b := kbin.AppendInt32(e.own, number)
	b = kbin.AppendInt16(b, e.stats.code(r.Err))
	b = kbin.AppendInt64(b, int64(r.BaseOffset))
	b = kbin.AppendInt64(b, r.LogAppendTime)
	if e.version >= 5 {
		b = kbin.AppendInt64(b, int64(r.LogStartOffset))
	}
	e.own = b
	if e.version >= 8 {
		e.array(0) // the records that are at fault: a batch is refused as a whole
		e.nullableText(messageOf(r.Err))
	}
	e.leader(r.Err, e.version >= 10, 0)
}
