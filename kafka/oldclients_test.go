package kafka

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// zstdBatch says that its records are so compressed; nobody looks.
func zstdBatch(t *testing.T) []byte {
	t.Helper()
	b := testBatch(t, 100)
	b[attributesOffset] |= zstdCodec
	return b
}

// Clients that are too old to know zstd neither write it nor are sent it (KIP-110).
func TestZstdIsKeptFromOldClients(t *testing.T) {
	for version, want := range map[int16]string{3: "UNSUPPORTED_COMPRESSION_TYPE", 6: "UNSUPPORTED_COMPRESSION_TYPE", 7: "ok"} {
		client, _ := observed(t, refusingDoor(t, &refusing{}))
		require.Equal(t, want, codesIn(ask(t, client, produceRequest(version, -1, 1, zstdBatch(t)))), "Produce version %d", version)
	}
	for version, want := range map[int16]*kerr.Error{4: kerr.UnsupportedCompressionType, 9: kerr.UnsupportedCompressionType, 10: nil, 16: nil} {
		plain, zstd := record.NewBuf(testBatch(t, 100)), record.NewBuf(zstdBatch(t))
		a := &fetchAnswer{header: header{version: version}, results: []api.FetchResult{
			{Batches: []record.Slice{record.SliceOf(plain, 0, plain.Len())}}, {Batches: []record.Slice{record.SliceOf(zstd, 0, zstd.Len())}},
		}}
		a.refuseZstd()
		require.Nil(t, a.results[0].Err, "Fetch version %d", version)
		if want == nil {
			require.Nil(t, a.results[1].Err, "Fetch version %d", version)
		} else {
			require.Equal(t, want.Code, codeOf(a.results[1].Err), "Fetch version %d", version)
			require.Zero(t, a.results[1].Bytes(), "the records go out nevertheless")
		}
		a.release()
		plain.Release()
		zstd.Release()
	}
}

// The versions of Produce that are listed for the sake of old librdkafka are not served:
// their records are of a format that the log does not keep.
func TestProduceBeforeItsTimeEndsTheConnection(t *testing.T) {
	for version := range int16(3) {
		client, _ := observed(t, refusingDoor(t, &refusing{}))
		_, err := client.Write(framed(header12(keyProduce, version, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0)))
		require.NoError(t, err)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = client.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "version %d is answered, or waited for", version)
	}
}

// What clients ask for that keep a part of their log elsewhere has a meaning here too:
// all of it is local. A fetch session is declined by the id 0, whoever asks for one.
func TestNothingIsTieredAndNoSessionIsKept(t *testing.T) {
	client, _ := observed(t, refusingDoor(t, &refusing{}))
	for timestamp, want := range map[int64]int64{-2: 3, -4: 3, -5: -1} {
		resp, ok := ask(t, client, asked(9, func(r *kmsg.ListOffsetsRequest) {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Timestamp = timestamp
			r.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		})).(*kmsg.ListOffsetsResponse)
		require.True(t, ok)
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
		require.Equal(t, want, resp.Topics[0].Partitions[0].Offset, "timestamp %d", timestamp)
	}
	for _, version := range []int16{7, 12, 16} {
		req := fetchRequest(version, 1)
		req.SessionID, req.SessionEpoch = 0, 0 // a new session is wanted
		resp, ok := ask(t, client, req).(*kmsg.FetchResponse)
		require.True(t, ok)
		require.Zero(t, resp.ErrorCode)
		require.Zero(t, resp.SessionID, "version %d", version)
		require.Len(t, resp.Topics, 1)
	}
}
