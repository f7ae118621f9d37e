package kafkaclients

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestFigures prints what the Kafka door costs, as rows of a table; make kafka-figures runs
// it. MEBIBYTES says how much is produced each time, BATCH how large batches are at most,
// NODES how many brokers there are.
func TestFigures(t *testing.T) {
	mib, err := strconv.Atoi(os.Getenv("MEBIBYTES"))
	if err != nil {
		t.Skip("make kafka-figures runs it")
	}
	f := &figures{records: mib << 20 / 100, batch: 256 << 10, rounds: 3, cost: make(map[string][]float64)}
	brokers := 1
	for name, v := range map[string]*int{"BATCH": &f.batch, "ROUNDS": &f.rounds, "NODES": &brokers} {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			*v = n
		}
	}
	f.suite = newSuiteOn(t, startNodes(t, brokers))
	f.sink = startSink(t)
	f.idle(t) // first: what others have used and left would hide what connections take
	f.warm(t)
	f.rest(t)
	f.settle(t)
	f.againstSink(t)
	for i := range f.rounds {
		f.round(t, i%2 == 1)
	}
	f.report(t)
}

// figures are those of a cluster, over all rounds.
type figures struct {
	*suite

	records, batch, rounds int
	sink                   string
	idleRate               float64              // CPU seconds a second of brokers that do nothing
	mean                   float64              // bytes of a batch that franz-go made last
	cost                   map[string][]float64 // CPU seconds of the brokers a GiB, by what was done
	ours, theirs           []float64            // mean bytes of a batch that franz-go made, and penstock's client
	rows                   []string             // of the table
}

// row adds one to the table: what was measured, the figure, and what it should be.
func (f *figures) row(what, figure, bound string, met bool) {
	word := "met"
	if !met {
		word = "missed"
	}
	f.rows = append(f.rows, fmt.Sprintf("| %s, %s | %s | %s, %s |", what, f.machines(), figure, bound, word))
}

func (f *figures) machines() string {
	if len(f.nodes) == 1 {
		return "one node"
	}
	return fmt.Sprintf("%d nodes", len(f.nodes))
}

func (f *figures) gib() float64 { return float64(f.records) * 100 / (1 << 30) }

// newFiguresTopic has one replica and is not synced: what is measured is the door.
func (f *figures) newFiguresTopic(t *testing.T) string {
	t.Helper()
	name := "figures" + strconv.Itoa(int(f.topic.Add(1)))
	created, err := f.admin.CreateTopic(t.Context(), 6, 1, map[string]*string{"durability": new("replicated")}, name)
	require.NoError(t, err)
	require.NoError(t, created.Err)
	return name
}

func (f *figures) drop(t *testing.T, topics ...string) {
	t.Helper()
	deleted, err := f.admin.DeleteTopics(t.Context(), topics...)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
}

// warm touches memory and lets everybody open what they need.
func (f *figures) warm(t *testing.T) {
	t.Helper()
	topic := f.newFiguresTopic(t)
	f.kafkaProduce(t, strings.Split(f.brokers(), ","), topic, f.records/4, untilFull)
	f.mean = f.kafkaConsume(t, topic, f.records/4)
	f.kafkaProduce(t, []string{f.sink}, "sink", f.records/4, linger)
	f.bench(t, "produce", topic, f.records/4, f.batch)
	f.kafkaConsume(t, topic, 2*(f.records/4))
	f.bench(t, "consume", topic, 2*(f.records/4), 0)
	f.drop(t, topic)
}

func (f *figures) againstSink(t *testing.T) {
	t.Helper()
	var sink, ours, share []float64
	var topics []string
	for range f.rounds {
		topic := f.newFiguresTopic(t)
		topics = append(topics, topic)
		sink = append(sink, f.kafkaProduce(t, []string{f.sink}, "sink", f.records, linger))
		ours = append(ours, f.kafkaProduce(t, strings.Split(f.brokers(), ","), topic, f.records, linger))
		share = append(share, 100*ours[len(ours)-1]/sink[len(sink)-1])
	}
	f.drop(t, topics...)
	f.settle(t)
	f.row("franz-go produce, 100 B, one replica, `replicated`, acks=all, 6 partitions",
		fmt.Sprintf("%s %% of franz-go against an in-memory sink: %s k of %s k records/s", spread(share, "%.0f"), spread(thousands(ours), "%.0f"), spread(thousands(sink), "%.0f")),
		">= 70 %", median(share) >= 70)
}

func thousands(list []float64) []float64 {
	var out []float64
	for _, v := range list {
		out = append(out, v/1000)
	}
	return out
}

// round does the same through both doors: each produces a topic, and both read the
// one that came through the Kafka door, so that the batches are the same ones. Those of
// franz-go are not as large as they may be, however long it waits; so penstock's client
// makes them as large as franz-go's turned out to be. Who comes second finds warmer memory or
// a busier disk, so the doors change places from round to round.
func (f *figures) round(t *testing.T, swapped bool) {
	t.Helper()
	kafka, grpc := f.newFiguresTopic(t), f.newFiguresTopic(t)
	mean := 0.0
	inTurn(swapped, func() {
		f.measure(t, "produce, Kafka door", func() { f.kafkaProduce(t, strings.Split(f.brokers(), ","), kafka, f.records, untilFull) })
		// At once, for what came last is in the page cache.
		inTurn(swapped, func() {
			f.measure(t, "fetch, Kafka door", func() { mean = f.kafkaConsume(t, kafka, f.records) })
		}, func() {
			f.measure(t, "fetch, gRPC door", func() { f.bench(t, "consume", kafka, f.records, 0) })
		})
	}, func() {
		f.measure(t, "produce, gRPC door", func() { f.bench(t, "produce", grpc, f.records, int(f.mean)) })
	})
	f.ours, f.theirs, f.mean = append(f.ours, mean), append(f.theirs, f.kafkaConsume(t, grpc, f.records)), mean
	f.drop(t, kafka, grpc)
	f.settle(t)
}

func inTurn(swapped bool, first, second func()) {
	if swapped {
		first, second = second, first
	}
	first()
	second()
}

// settle waits until the brokers have freed what was deleted, which takes a tenth of the time
// that writing it took and would be counted as of what is measured next.
func (f *figures) settle(t *testing.T) {
	t.Helper()
	const step = 500 * time.Millisecond
	require.Eventually(t, func() bool {
		before := f.cpu(t)
		<-time.After(step)
		return f.cpu(t)-before < 2*f.idleRate*step.Seconds()+0.02
	}, time.Minute, step)
}

func (f *figures) measure(t *testing.T, what string, do func()) {
	t.Helper()
	done := f.profile(t, what)
	before, began := f.cpu(t), time.Now()
	do()
	spent := f.cpu(t) - before - f.idleRate*time.Since(began).Seconds()
	f.cost[what] = append(f.cost[what], spent/f.gib())
	done()
}

// rest finds out what the brokers take when nobody does anything: a slower client would
// have to answer for more of it.
func (f *figures) rest(t *testing.T) {
	t.Helper()
	const enough = 5 * time.Second
	before := f.cpu(t)
	<-time.After(enough)
	f.idleRate = (f.cpu(t) - before) / enough.Seconds()
}

func (f *figures) report(t *testing.T) {
	t.Helper()
	ours, theirs := median(f.ours), median(f.theirs)
	for _, what := range []string{"produce", "fetch"} {
		kafka, grpc := f.cost[what+", Kafka door"], f.cost[what+", gRPC door"]
		batches := fmt.Sprintf("both read batches of %.0f KiB", ours/1024)
		if what == "produce" {
			batches = fmt.Sprintf("batches of %.0f and %.0f KiB", ours/1024, theirs/1024)
		}
		f.row("brokers' CPU a GiB, "+what+", 100 B, one replica, `replicated`",
			fmt.Sprintf("%s s at the Kafka door, %s s at the gRPC door; %s", spread(kafka, "%.2f"), spread(grpc, "%.2f"), batches),
			"<= the gRPC door's", median(kafka) <= median(grpc))
	}
	t.Logf("median [min-max] of %d rounds of %.2f GiB, CPU above the %.3f s a second at rest:\n\n| what | figure | bound |\n|---|---|---|\n%s\n",
		f.rounds, f.gib(), f.idleRate, strings.Join(f.rows, "\n"))
	if max(ours, theirs) > 1.1*min(ours, theirs) {
		t.Errorf("batches of the Kafka client have %.0f bytes, of the gRPC client %.0f: what producing costs cannot be compared", ours, theirs)
	}
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

func spread(list []float64, format string) string {
	return fmt.Sprintf(format+" ["+format+"-"+format+"]", median(list), slices.Min(list), slices.Max(list))
}

// profile writes a CPU profile of the first node into PROFILES, a folder, if it is set.
func (f *figures) profile(t *testing.T, what string) (done func()) {
	t.Helper()
	dir := os.Getenv("PROFILES")
	if dir == "" {
		return func() {}
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		resp, err := http.Get("http://" + f.address(0, 2) + "/debug/pprof/profile?seconds=8")
		if err != nil {
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if file, err := os.Create(filepath.Join(dir, strings.NewReplacer(", ", "-", " ", "-").Replace(what)+".pprof")); err == nil {
			_, _ = io.Copy(file, resp.Body)
			_ = file.Close()
		}
	}()
	return func() { <-finished }
}

// bench runs the benchmark of the product's own client, in a process as the Kafka client is.
func (f *figures) bench(t *testing.T, mode, topic string, records, batch int) {
	t.Helper()
	var brokers []string
	for i := range f.nodes {
		brokers = append(brokers, f.address(i, 0))
	}
	args := []string{"bench", mode, "--brokers", strings.Join(brokers, ","), "--topic", topic, "--records", strconv.Itoa(records)}
	if mode == "produce" {
		args = append(args, "--record-size", "100", "--batch-size", strconv.Itoa(batch), "--linger", untilFull.String())
	}
	output(t, f.binary, args...)
}

const (
	linger    = 5 * time.Millisecond
	untilFull = time.Second // batches are as large as they get long before
)

// kafkaConsume reads records from the start and returns the mean size of a batch.
func (f *figures) kafkaConsume(t *testing.T, topic string, records int) float64 {
	t.Helper()
	var b batches
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(f.brokers(), ",")...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.WithHooks(&b))
	require.NoError(t, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for n := 0; n < records; {
		fs := cl.PollFetches(ctx)
		require.NoError(t, fs.Err())
		n += fs.NumRecords()
	}
	return float64(b.bytes.Load()) / float64(max(b.count.Load(), 1))
}

// batches counts what a client reads.
type batches struct{ count, bytes atomic.Int64 }

// OnFetchBatchRead implements kgo.HookFetchBatchRead.
func (b *batches) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	b.count.Add(1)
	b.bytes.Add(int64(m.CompressedBytes))
}

// idle is what connections cost that nobody uses.
func (f *figures) idle(t *testing.T) {
	t.Helper()
	const idle = 5000
	open := func() net.Conn {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", f.address(0, 4))
		require.NoError(t, err)
		_, err = c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 64))
		require.NoError(t, err)
		return c
	}
	require.NoError(t, open().Close())
	empty := f.resident(t, 0)
	var conns []net.Conn
	for range idle {
		conns = append(conns, open())
	}
	<-time.After(2 * time.Second) // what only arriving took is freed, or not
	more := float64(f.resident(t, 0)-empty) / (1 << 20)
	for _, c := range conns {
		_ = c.Close()
	}
	f.row(fmt.Sprintf("%d idle connections", idle), fmt.Sprintf("%.1f MiB above none", more), "< 50 MiB", more < 50)
}

// kafkaProduce returns records a second from the first send to the last ack.
func (f *figures) kafkaProduce(t *testing.T, brokers []string, topic string, records int, linger time.Duration) float64 {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(linger), kgo.MaxBufferedRecords(1_000_000), kgo.ProducerBatchMaxBytes(int32(f.batch)))
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

// startSink starts a broker that forgets, in a process of its own as a broker is: it says
// that it has taken whatever comes.
func startSink(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSink$")
	cmd.Env = append(os.Environ(), "KAFKA_SINK=true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// TestSink is the sink's process, which says where it is and serves until it is killed.
func TestSink(t *testing.T) {
	if os.Getenv("KAFKA_SINK") == "" {
		t.Skip("TestFigures starts it")
	}
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fmt.Println(lis.Addr())
	for {
		c, err := lis.Accept()
		require.NoError(t, err)
		go func() {
			defer func() { _ = c.Close() }()
			_ = serveSink(c, lis.Addr().(*net.TCPAddr).Port, "sink", 6)
		}()
	}
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
