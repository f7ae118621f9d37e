package node

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// What no repetition makes better is refused for good, in Kafka's words: clients send
// again what they are told was damaged on the way, until their delivery times out.
func TestKafkaRefusesForGood(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	admin := w.kafkaClient()
	createKafkaTopic(ctx, t, admin, "t", 1)
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.Produce), 9)
	cl := w.kafkaClient(kgo.MaxVersions(versions))
	changed := func(change func([]byte)) []byte { return resealed(batch(t, "a", "b"), change) }
	put32 := func(at int, v int32) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
	}
	flag := func(bits byte) func([]byte) { return func(b []byte) { b[22] |= bits } }
	good := batch(t, "a", "b")
	for _, tt := range []struct {
		name    string
		records []byte
		want    *kerr.Error
		says    string
	}{
		{"damaged on the way", func() []byte { b := batch(t, "a"); b[len(b)-1] ^= 1; return b }(), kerr.CorruptMessage, "CRC"},
		{"a length that no batch has", func() []byte { b := batch(t, "a"); put32(8, 5)(b); return b }(), kerr.CorruptMessage, "batch length 5"},
		{"two batches", append(batch(t, "a"), good...), kerr.InvalidRecord, "arrived"},
		{"half a batch", good[:len(good)-1], kerr.InvalidRecord, "arrived"},
		{"control", changed(flag(32)), kerr.InvalidRecord, "control"},
		{"transactional", changed(flag(16)), kerr.TransactionalIDAuthorizationFailed, "transactions"},
		{"a delete horizon", changed(flag(64)), kerr.InvalidRecord, "delete horizon"},
		{"an offset of its own", func() []byte { b := batch(t, "a"); b[7] = 1; return b }(), kerr.InvalidRecord, "base offset 1"},
		{"fewer records than offsets", changed(put32(23, 2)), kerr.InvalidRecord, "2 records with a last offset delta of 2"},
		{"more records than offsets", changed(put32(23, 0)), kerr.InvalidRecord, "2 records do not fit"},
		{"no records", changed(func(b []byte) { put32(57, 0)(b); put32(23, 0)(b) }), kerr.InvalidRecord, "0 records"},
		{"a record too many", changed(func(b []byte) { put32(57, 1)(b); put32(23, 0)(b) }), kerr.InvalidRecord, "left after 1 records"},
		{"a producer without a sequence", changed(func(b []byte) {
			binary.BigEndian.PutUint64(b[43:], 5)
			binary.BigEndian.PutUint16(b[51:], 0)
		}), kerr.InvalidRecord, "producer id 5"},
		{"not what its codec makes", changed(flag(4)), kerr.InvalidRecord, "zstd records do not decompress"},
		{"no such codec", changed(flag(5)), kerr.UnsupportedCompressionType, "number 5"},
		{"append time", changed(flag(8)), kerr.InvalidTimestamp, "append time"},
		{"too large", batch(t, string(make([]byte, 2<<20))), kerr.MessageTooLarge, "max.message.bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := kmsg.NewProduceRequestTopicPartition()
			p.Records = tt.records
			topic := kmsg.NewProduceRequestTopic()
			topic.Topic, topic.Partitions = "t", append(topic.Partitions, p)
			req := kmsg.NewPtrProduceRequest()
			req.Acks, req.TimeoutMillis, req.Topics = -1, 5000, append(req.Topics, topic)
			resp, err := req.RequestWith(ctx, cl)
			require.NoError(t, err)
			got := resp.Topics[0].Partitions[0]
			require.Equal(t, tt.want, kerr.ErrorForCode(got.ErrorCode))
			require.Contains(t, *got.ErrorMessage, tt.says)
		})
	}
	require.Zero(t, w.mustProduce("t", 0, "good"), "something of that was appended")
}

// A producer that a partition has forgotten hears where the log begins: without that
// Java's idempotent producer sends the same again until its delivery times out, and with
// it goes on with a new epoch.
func TestKafkaForgottenProducers(t *testing.T) {
	w := startWorld(t, 1, 0)
	ctx := within(t, time.Minute)
	cl := w.kafkaClient()
	createKafkaTopic(ctx, t, cl, "t", 1)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = resealed(batch(t, "a"), func(b []byte) {
		binary.BigEndian.PutUint64(b[43:], 5)
		binary.BigEndian.PutUint16(b[51:], 0)
		binary.BigEndian.PutUint32(b[53:], 7)
	})
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.Partitions = "t", append(topic.Partitions, p)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.Topics = -1, 5000, append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(t, err)
	got := resp.Topics[0].Partitions[0]
	require.Equal(t, kerr.UnknownProducerID, kerr.ErrorForCode(got.ErrorCode))
	require.Zero(t, got.LogStartOffset)
	require.Equal(t, int64(-1), got.BaseOffset)
}
