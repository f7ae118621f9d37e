package kafka

import (
	"context"
	"encoding/binary"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

const (
	defaultFetchBytes = 50 << 20
	maxFetchWait      = 5 * time.Minute
	// zstdFetch is the first version of the request whose clients know zstd (KIP-110).
	zstdFetch = 10
	// notAvailableFetch is the first one whose clients know OFFSET_NOT_AVAILABLE (KIP-392).
	notAvailableFetch = 11
)

// fetch reads and sends the answer, its records by reference. One connection
// holds one answer: the next request is read once it has left.
func (c *conn) fetch(ctx context.Context, h *header, in kmsg.Request) error {
	req, ok := in.(*kmsg.FetchRequest)
	if !ok {
		return malformed("%T is not a fetch", in)
	}
	a := fetchAnswer{header: *h, in: req}
	if req.SessionID != 0 {
		// None was ever handed out: sessions are declined with the id 0.
		a.code = h.entry.stats.fail(kerr.FetchSessionIDNotFound)
		a.in.Topics = nil
		return a.send(c)
	}
	if replica := replicaOf(a.in); replica >= 0 {
		a.refuseReplica(replica)
		return a.send(c)
	}
	var err error
	if a.results, err = c.door.services.Fetcher.Fetch(ctx, c.fetchIn(&a)); err != nil {
		return err
	}
	defer a.release()
	a.refuseZstd()
	a.sayOlder()
	return a.send(c)
}

// replicaOf is the broker that a fetch claims to come from; less than 0: from none, as
// all consumers say.
func replicaOf(req *kmsg.FetchRequest) int32 { return max(req.ReplicaID, req.ReplicaState.ID) }

// refuseReplica refuses who fetches as a broker does. In Kafka such a fetch says how far a
// follower has come and reads beyond the watermark; brokers here replicate otherwise, so
// that it is a stranger's. The code is the one for who may not act for the cluster.
func (a *fetchAnswer) refuseReplica(replica int32) {
	e := kafkaError(kerr.TopicAuthorizationFailed, "a fetch of replica %d: brokers replicate otherwise, consumers say -1", replica)
	for i := range a.in.Topics {
		a.refuse(i, e)
	}
}

// refuse has a topic of the request answered with an error.
func (a *fetchAnswer) refuse(topic int, e *api.Error) {
	if a.refused == nil {
		a.refused = make(map[int]*api.Error)
	}
	a.refused[topic] = e
}

func (a *fetchAnswer) send(c *conn) error {
	v, files, size := a.encode(c)
	if err := c.writeAnswer(v, files); err != nil {
		return err
	}
	a.header.entry.stats.answered(a.header.arrived, size)
	return nil
}

// fetchIn converts the request. Topics whose id nobody knows get no entry.
func (c *conn) fetchIn(a *fetchAnswer) *api.FetchRequest {
	in := a.in
	req := &api.FetchRequest{
		Files:    c.tcp != nil && a.header.version >= zstdFetch, // before it, batches are looked into
		MaxWait:  min(time.Duration(max(in.MaxWaitMillis, 0))*time.Millisecond, maxFetchWait),
		MinBytes: max(int(in.MinBytes), 0),
		MaxBytes: min(max(int(in.MaxBytes), 0), defaultFetchBytes),
	}
	for i := range in.Topics {
		t := &in.Topics[i]
		name := t.Topic
		if a.header.version >= 13 {
			var known bool
			if name, known = c.door.services.Cluster.TopicName(t.TopicID); !known {
				a.refuse(i, kafkaError(kerr.UnknownTopicID, "there is no topic with the id %s", api.TopicID(t.TopicID)))
				req.MaxWait = 0 // The client should hear of it.
				continue
			}
		}
		for j := range t.Partitions {
			p := &t.Partitions[j]
			epoch := record.UnknownEpoch
			if a.header.version >= 9 {
				epoch = record.Epoch(p.CurrentLeaderEpoch)
			}
			req.Partitions = append(req.Partitions, api.FetchPartition{
				PartitionRef: api.PartitionRef{TopicID: t.TopicID, Topic: name, Partition: p.Partition},
				Offset:       record.Offset(p.FetchOffset),
				MaxBytes:     min(max(int(p.PartitionMaxBytes), 0), defaultFetchBytes),
				LeaderEpoch:  epoch,
			})
		}
	}
	return req
}

// fetchAnswer is an answer to fetch.
type fetchAnswer struct {
	header  header
	in      *kmsg.FetchRequest
	code    int16
	refused map[int]*api.Error // topics of in by place that nobody was asked about
	results []api.FetchResult
}

func (a *fetchAnswer) release() {
	for i := range a.results {
		a.results[i].Release()
	}
}

// refuseZstd keeps records from clients that are too old to know the codec, as
// Kafka does (KIP-110).
func (a *fetchAnswer) refuseZstd() {
	if a.header.version >= zstdFetch {
		return
	}
	for i := range a.results {
		if r := &a.results[i]; usesZstd(r.Batches) {
			r.Release()
			r.Err = kafkaError(kerr.UnsupportedCompressionType, "zstd needs Fetch version 10, this is %d", a.header.version).At(r.Topic, r.Partition)
		}
	}
}

// sayOlder tells clients that would not know the code that they should look for the
// leader, and ask again.
func (a *fetchAnswer) sayOlder() {
	if a.header.version >= notAvailableFetch {
		return
	}
	for i := range a.results {
		if r := &a.results[i]; r.Err != nil && r.Err.Code == api.CodeOffsetNotAvailable {
			r.Err = kafkaError(kerr.NotLeaderForPartition, "%s", r.Err.Message).At(r.Topic, r.Partition)
		}
	}
}

func usesZstd(runs []record.Slice) bool {
	for _, run := range runs {
		for rest := run.Bytes; len(rest) > 0; {
			info, ok := record.Peek(rest)
			if !ok || info.Size > len(rest) {
				break
			}
			if info.Attributes.Codec() == record.CodecZstd {
				return true
			}
			rest = rest[info.Size:]
		}
	}
	return false
}

// encode lays the answer out as buffers to be sent one behind the other: what is
// ours in one piece of memory, the records where they lie. A nil buffer stands for the
// next of files.
func (a *fetchAnswer) encode(c *conn) (v net.Buffers, files []api.FileRange, size int) {
	e := fetchEncoder{encoder: encoder{flexible: a.header.entry.flexible(a.header.version)}, version: a.header.version, stats: a.header.entry.stats}
	e.cuts = make([]recordCut, 0, len(a.results))
	e.own = beginFrame(make([]byte, 0, 128+64*len(a.results)), &a.header)
	e.own = kbin.AppendInt32(e.own, 0) // throttle
	if e.version >= 7 {
		e.own = kbin.AppendInt16(e.own, a.code)
		e.own = kbin.AppendInt32(e.own, 0) // session: none
	}
	e.array(len(a.in.Topics))
	rest := a.results
	for i := range a.in.Topics {
		t := &a.in.Topics[i]
		if e.version >= 13 {
			e.own = append(e.own, t.TopicID[:]...)
		} else {
			e.text(t.Topic)
		}
		e.array(len(t.Partitions))
		for j := range t.Partitions {
			if err := a.refused[i]; err != nil {
				e.partition(t.Partitions[j].Partition, &api.FetchResult{Err: err, HighWatermark: -1, LogStartOffset: -1})
				continue
			}
			e.partition(t.Partitions[j].Partition, &rest[0])
			rest = rest[1:]
		}
		e.noTags()
	}
	e.end(c, e.version >= 16, 0)
	return e.finish()
}

// fetchEncoder writes an answer; cuts say where in own records belong.
type fetchEncoder struct {
	encoder

	version int16
	stats   *stats
	cuts    []recordCut
	size    int // of the records
}

type recordCut struct {
	at   int // in own
	runs []record.Slice
	file api.FileRange // in place of runs
}

func (e *fetchEncoder) partition(number int32, r *api.FetchResult) {
	b := kbin.AppendInt32(e.own, number)
	b = kbin.AppendInt16(b, e.stats.code(r.Err))
	b = kbin.AppendInt64(b, int64(r.HighWatermark))
	b = kbin.AppendInt64(b, int64(r.HighWatermark)) // last stable offset: there are no transactions
	if e.version >= 5 {
		b = kbin.AppendInt64(b, int64(r.LogStartOffset))
	}
	e.own = b
	e.array(0) // aborted transactions
	if e.version >= 11 {
		e.own = kbin.AppendInt32(e.own, -1) // preferred read replica
	}
	size := r.Bytes()
	if e.flexible {
		e.own = kbin.AppendUvarint(e.own, uint32(size)+1)
	} else {
		e.own = kbin.AppendInt32(e.own, int32(size))
	}
	if size > 0 {
		e.cuts = append(e.cuts, recordCut{len(e.own), r.Batches, r.File})
		e.size += size
	}
	e.leader(r.Err, true, 1)
}

func (e *fetchEncoder) finish() (v net.Buffers, files []api.FileRange, size int) {
	size = len(e.own) + e.size
	binary.BigEndian.PutUint32(e.own, uint32(size-4))
	n := 1 + len(e.cuts)
	for _, cut := range e.cuts {
		n += max(len(cut.runs), 1)
	}
	v = make(net.Buffers, 0, n)
	from := 0
	for _, cut := range e.cuts {
		v = append(v, e.own[from:cut.at])
		for _, run := range cut.runs {
			v = append(v, run.Bytes)
		}
		if cut.file != nil {
			v = append(v, nil)
			files = append(files, cut.file)
		}
		from = cut.at
	}
	return append(v, e.own[from:]), files, size
}
