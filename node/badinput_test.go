package node

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

func batch(t *testing.T, values ...string) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for _, v := range values {
		if err := b.Append(&record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// batchAt is a batch of one record with a timestamp in ms.
func batchAt(t *testing.T, ms int64) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	if err := b.Append(&record.Record{Timestamp: ms, Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	out, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// resealed changes a batch and puts the CRC right again.
func resealed(b []byte, change func([]byte)) []byte {
	change(b)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// Every refusal has its code, names what was wrong, and appends nothing.
func TestProduceBadInput(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t", Configs: map[string]string{"max.message.bytes": "2048"}})
	w.createTopic(&pb.CreateTopicRequest{Name: "fresh", Configs: map[string]string{"message.timestamp.before.max.ms": "60000"}})
	for _, tt := range []struct {
		name      string
		topic     string
		partition int32
		batch     []byte
		code      pb.ErrorCode
		says      string
	}{
		{"unknown topic", "nope", 0, batch(t, "a"), pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, `"nope"`},
		{"partition out of range", "t", 7, batch(t, "a"), pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION, "partition 7"},
		{"negative partition", "t", -1, batch(t, "a"), pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION, "partition -1"},
		{"the year 9999", "t", 0, batchAt(t, 253402300799999), pb.ErrorCode_ERROR_CODE_INVALID_TIMESTAMP, "message.timestamp.after.max.ms"},
		{"the end of time", "t", 0, batchAt(t, math.MaxInt64), pb.ErrorCode_ERROR_CODE_INVALID_TIMESTAMP, "message.timestamp.after.max.ms"},
		{"1970", "fresh", 0, batchAt(t, 0), pb.ErrorCode_ERROR_CODE_INVALID_TIMESTAMP, "message.timestamp.before.max.ms"},
		{"too large", "t", 0, batch(t, strings.Repeat("x", 4096)), pb.ErrorCode_ERROR_CODE_RECORD_TOO_LARGE, "2048"},
		{"wrong crc", "t", 0, func() []byte { b := batch(t, "a"); b[len(b)-1] ^= 1; return b }(), pb.ErrorCode_ERROR_CODE_CORRUPT_BATCH, "CRC"},
		{"wrong count", "t", 0, resealed(batch(t, "a", "b"), func(b []byte) { binary.BigEndian.PutUint32(b[57:], 3); binary.BigEndian.PutUint32(b[23:], 2) }), pb.ErrorCode_ERROR_CODE_INVALID_RECORD, ""},
		{"unknown codec", "t", 0, resealed(batch(t, "a"), func(b []byte) { b[22] |= 7 }), pb.ErrorCode_ERROR_CODE_UNSUPPORTED_CODEC, "7"},
		{"control batch", "t", 0, resealed(batch(t, "a"), func(b []byte) { b[22] |= 32 }), pb.ErrorCode_ERROR_CODE_INVALID_RECORD, ""},
		{"short", "t", 0, []byte{1, 2, 3}, pb.ErrorCode_ERROR_CODE_CORRUPT_BATCH, ""},
		{"empty", "t", 0, []byte{}, pb.ErrorCode_ERROR_CODE_CORRUPT_BATCH, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := wire.CallProduce(t.Context(), w.any(), &wire.Produce{
				ProduceRequest: &pb.ProduceRequest{Partitions: []*pb.ProducePartition{{Topic: tt.topic, Partition: tt.partition, BatchCount: 1}}},
				Batches:        []*record.Buf{record.NewBuf(tt.batch)},
			})
			if err != nil {
				t.Fatal(err)
			}
			r := out.GetResults()[0]
			if e := r.GetError(); e.GetCode() != tt.code || !strings.Contains(e.GetMessage(), tt.says) || r.GetBaseOffset() != -1 {
				t.Errorf("got %v, want %s that says %q", r, tt.code, tt.says)
			}
		})
	}
	if got := w.mustProduce("t", 0, "good"); got != 0 {
		t.Errorf("the first good record is at %d", got)
	}
}

func TestFetchBadInput(t *testing.T) {
	w := startWorld(t, 1, 0)
	w.createTopic(&pb.CreateTopicRequest{Name: "t"})
	w.mustProduce("t", 0, "a")
	epoch := func(e int32) *int32 { return &e }
	for _, tt := range []struct {
		name string
		p    *pb.FetchPartition
		code pb.ErrorCode
	}{
		{"unknown topic", &pb.FetchPartition{Topic: "nope"}, pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC},
		{"unknown topic id", &pb.FetchPartition{TopicId: make([]byte, 15), Topic: "t"}, pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT},
		{"another topic's id", &pb.FetchPartition{TopicId: []byte("0123456789abcdef")}, pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC},
		{"partition", &pb.FetchPartition{Topic: "t", Partition: 3}, pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION},
		{"past the end", &pb.FetchPartition{Topic: "t", FetchOffset: 2}, pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE},
		{"negative", &pb.FetchPartition{Topic: "t", FetchOffset: -1}, pb.ErrorCode_ERROR_CODE_OFFSET_OUT_OF_RANGE},
		{"newer epoch", &pb.FetchPartition{Topic: "t", LeaderEpoch: epoch(1000)}, pb.ErrorCode_ERROR_CODE_UNKNOWN_LEADER_EPOCH},
		{"at the end", &pb.FetchPartition{Topic: "t", FetchOffset: 1}, pb.ErrorCode_ERROR_CODE_UNSPECIFIED},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := wire.CallFetch(t.Context(), w.any(), &pb.FetchRequest{Partitions: []*pb.FetchPartition{tt.p}})
			got := detail(err).GetCode()
			if err == nil {
				got = out.GetResults()[0].GetError().GetCode()
				out.Release()
			}
			if got != tt.code {
				t.Errorf("got %s (%v), want %s", got, err, tt.code)
			}
		})
	}
}

func TestTopicBadInput(t *testing.T) {
	w := startWorld(t, 1, 0)
	admin := pb.NewAdminServiceClient(w.any())
	w.createTopic(&pb.CreateTopicRequest{Name: "there"})
	for _, tt := range []struct {
		name string
		req  *pb.CreateTopicRequest
		code pb.ErrorCode
		says string
	}{
		{"empty", &pb.CreateTopicRequest{}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, "empty"},
		{"long", &pb.CreateTopicRequest{Name: strings.Repeat("a", 250)}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, "249"},
		{"dot", &pb.CreateTopicRequest{Name: "."}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, ""},
		{"dots", &pb.CreateTopicRequest{Name: ".."}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, ""},
		{"path", &pb.CreateTopicRequest{Name: "../x"}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, ""},
		{"nul", &pb.CreateTopicRequest{Name: "a\x00"}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, ""},
		{"internal", &pb.CreateTopicRequest{Name: "__consumer_offsets"}, pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, "internal"},
		{"exists", &pb.CreateTopicRequest{Name: "there"}, pb.ErrorCode_ERROR_CODE_TOPIC_EXISTS, "there"},
		{"replicas", &pb.CreateTopicRequest{Name: "r", ReplicationFactor: 4}, pb.ErrorCode_ERROR_CODE_INVALID_REPLICATION_FACTOR, "4"},
		{"partitions", &pb.CreateTopicRequest{Name: "p", Partitions: -1}, pb.ErrorCode_ERROR_CODE_INVALID_PARTITIONS, "-1"},
		{"config key", &pb.CreateTopicRequest{Name: "c", Configs: map[string]string{"retention.m": "1"}}, pb.ErrorCode_ERROR_CODE_INVALID_CONFIG, "retention.ms"},
		{"config value", &pb.CreateTopicRequest{Name: "c", Configs: map[string]string{"retention.ms": "x"}}, pb.ErrorCode_ERROR_CODE_INVALID_CONFIG, "whole number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := admin.CreateTopic(t.Context(), tt.req)
			if e := detail(err); e.GetCode() != tt.code || !strings.Contains(status.Convert(err).Message(), tt.says) {
				t.Errorf("got %v, want %s that says %q", err, tt.code, tt.says)
			}
		})
	}
	if _, err := admin.DeleteTopic(t.Context(), &pb.DeleteTopicRequest{Name: "nope"}); detail(err).GetCode() != pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC {
		t.Errorf("delete: %v", err)
	}
	if _, err := admin.DeleteTopic(t.Context(), &pb.DeleteTopicRequest{Name: "there"}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := w.produce("there", 0, "x", pb.Acks_ACKS_ALL); err == nil {
		t.Error("a deleted topic takes records")
	}
	w.createTopic(&pb.CreateTopicRequest{Name: "there"})
	if got := w.mustProduce("there", 0, "x"); got != 0 {
		t.Errorf("a topic made anew begins at %d", got)
	}
}

func nodeConfig(t *testing.T) Config {
	t.Helper()
	c := devConfig(DevOptions{}, t.TempDir(), 0)
	c.DiskReserve = 1 << 20
	port := strconv.Itoa(freePorts(t, 1))
	c.ListenRaft = net.JoinHostPort("127.0.0.1", port)
	c.Voters = []Voter{{NodeID: 1, Address: c.ListenRaft}}
	return c
}

func startNode(t *testing.T, c Config) (*Node, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Start(ctx, c, Options{Version: "test", Logger: testLogger()})
}

func TestPortInUse(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	for _, key := range []string{"listen.grpc", "listen.raft", "listen.http", "listen.peer"} {
		c := nodeConfig(t)
		if err := c.Set(key, lis.Addr().String()); err != nil {
			t.Fatal(err)
		}
		_, err := startNode(t, c)
		if e, ok := errors.AsType[*ListenError](err); !ok || e.Key != key || !strings.Contains(err.Error(), lis.Addr().String()) || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestListenErrorSaysWhatWouldBeRight(t *testing.T) {
	for cause, want := range map[syscall.Errno]string{
		syscall.EADDRINUSE:    "listen.raft: 10.9.9.9:80 is in use by another process; choose another port or stop that process",
		syscall.EADDRNOTAVAIL: "listen.raft: this machine has no address 10.9.9.9:80; listen on one that it has",
		syscall.EACCES:        "listen.raft: this process may not listen on 10.9.9.9:80; choose a port from 1024",
		syscall.EMFILE:        "too many open files",
	} {
		err := &ListenError{"listen.raft", "10.9.9.9:80", &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", cause)}}
		if !strings.Contains(err.Error(), want) || !errors.Is(err, cause) {
			t.Errorf("%v: %v, want %s", cause, err, want)
		}
	}
}

func TestDataDirRefuses(t *testing.T) {
	c := nodeConfig(t)
	n, err := startNode(t, c)
	if err != nil {
		t.Fatal(err)
	}
	second := c
	second.ListenRaft = nodeConfig(t).ListenRaft
	second.Voters = []Voter{{NodeID: 1, Address: second.ListenRaft}}
	if _, err := startNode(t, second); err == nil || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("in use by a live process: %v", err)
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := c
	other.NodeID = 2
	other.Voters = []Voter{{NodeID: 2, Address: c.ListenRaft}}
	if _, err := startNode(t, other); err == nil || !strings.Contains(err.Error(), "belongs to node 1") {
		t.Errorf("of another node: %v", err)
	}
	file := c
	file.DataDir = filepath.Join(t.TempDir(), "file")
	file.RaftDir = ""
	if err := os.WriteFile(file.DataDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := startNode(t, file); err == nil || !strings.Contains(err.Error(), "data.dir") {
		t.Errorf("a file: %v", err)
	}
	if n, err = startNode(t, c); err != nil {
		t.Fatalf("the right node again: %v", err)
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
