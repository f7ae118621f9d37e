package kafkaclients

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFigures prints what the Kafka door costs; make kafka-figures runs it. MEBIBYTES
// says how much is produced each time.
func TestFigures(t *testing.T) {
	mib, err := strconv.Atoi(os.Getenv("MEBIBYTES"))
	if err != nil {
		t.Skip("make kafka-figures runs it")
	}
	s := newSuite(t)
	value := "replicated"
	created, err := s.admin.CreateTopic(t.Context(), 6, 1, map[string]*string{"durability": &value, "retention.bytes": new("268435456")}, "figures")
	require.NoError(t, err)
	require.NoError(t, created.Err)
	address := startSink(t, "figures", 6)
	records := mib << 20 / 100
	produceFigure(t, []string{address}, records/4) // touches memory
	sink := produceFigure(t, []string{address}, records)
	before := s.cpu(t)
	ours := produceFigure(t, strings.Split(s.brokers(), ","), records)
	produced := s.cpu(t)
	t.Logf("franz-go, 100 B, acks=all, 6 partitions of one replica: %.0f records/s, against an in-memory sink %.0f: %.0f %%", ours, sink, 100*ours/sink)
	s.read(t, "figures", records)
	fetched := s.cpu(t)
	gib := float64(mib) / 1024
	t.Logf("CPU of the three brokers: %.2f s a GiB produced, %.2f s a GiB fetched", (produced-before)/gib, (fetched-produced)/gib)

	const idle = 5000
	empty := s.resident(t, 0)
	for range idle {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address(0, 4))
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		req := kmsg.NewPtrApiVersionsRequest()
		_, err = c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 64))
		require.NoError(t, err)
	}
	t.Logf("%d idle connections: %.1f MiB above none", idle, float64(s.resident(t, 0)-empty)/(1<<20))
}

// produceFigure returns records a second from the first send to the last ack.
func produceFigure(t *testing.T, brokers []string, records int) float64 {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic("figures"), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(1_000_000))
	require.NoError(t, err)
	defer cl.Close()
	payloads := make([][]byte, 10_000)
	for i := range payloads {
		payloads[i] = make([]byte, 100)
		for j := range payloads[i] {
			payloads[i][j] = byte(rand.IntN(256))
		}
	}
	failed := make(chan error, 1)
	start := time.Now()
	for i := range records {
		cl.Produce(t.Context(), &kgo.Record{Value: payloads[i%len(payloads)]}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	require.NoError(t, cl.Flush(t.Context()))
	took := time.Since(start)
	select {
	case err := <-failed:
		require.NoError(t, err)
	default:
	}
	return float64(records) / took.Seconds()
}

// cpu is the processor time of the nodes in seconds.
func (c *cluster) cpu(t *testing.T) float64 {
	t.Helper()
	sum := 0.0
	for _, n := range c.nodes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Process.Pid))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(text), ") ")
		for _, f := range strings.Fields(rest)[11:13] { // utime and stime, in ticks of 10 ms
			ticks, err := strconv.ParseFloat(f, 64)
			require.NoError(t, err)
			sum += ticks / 100
		}
	}
	return sum
}

// resident is the memory of a node in bytes.
func (c *cluster) resident(t *testing.T, node int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.nodes[node].Process.Pid))
	require.NoError(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

// startSink is a broker that forgets: it says that it has taken whatever comes.
func startSink(t *testing.T, topic string, partitions int32) string {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = lis.Close() })
	go func() { // Ends with the listener; its connections with their clients.
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_ = serveSink(c, lis.Addr().(*net.TCPAddr).Port, topic, partitions)
			}()
		}
	}()
	return lis.Addr().String()
}

func serveSink(c net.Conn, port int, topic string, partitions int32) error {
	var head [4]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		b := buf[:n]
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		key, version, correlation := int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:])), b[4:8]
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		b = b[10+max(int(int16(binary.BigEndian.Uint16(b[8:]))), 0):]
		out := append([]byte{0, 0, 0, 0}, correlation...)
		if req.IsFlexible() {
			b = b[1:]
			if key != 18 {
				out = append(out, 0)
			}
		}
		if err := req.ReadFrom(b); err != nil {
			return err
		}
		resp := sinkAnswer(req, port, topic, partitions)
		resp.SetVersion(version)
		out = resp.AppendTo(out)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

func sinkAnswer(req kmsg.Request, port int, topic string, partitions int32) kmsg.Response {
	resp := req.ResponseKind()
	switch resp := resp.(type) {
	case *kmsg.ApiVersionsResponse:
		for key, most := range map[int16]int16{0: 11, 3: 12, 18: 3, 22: 4} {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: most})
		}
	case *kmsg.MetadataResponse:
		resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "127.0.0.1", Port: int32(port)}}
		t := kmsg.MetadataResponseTopic{Topic: &topic, TopicID: [16]byte{1}}
		for p := range partitions {
			t.Partitions = append(t.Partitions, kmsg.MetadataResponseTopicPartition{Partition: p, Leader: 1, Replicas: []int32{1}, ISR: []int32{1}})
		}
		resp.Topics = append(resp.Topics, t)
	case *kmsg.InitProducerIDResponse:
		resp.ProducerID = 1
	case *kmsg.ProduceResponse:
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			out := kmsg.ProduceResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
			for _, p := range t.Partitions {
				v := kmsg.NewProduceResponseTopicPartition()
				v.Partition = p.Partition
				out.Partitions = append(out.Partitions, v)
			}
			resp.Topics = append(resp.Topics, out)
		}
	}
	return resp
}
