package kafkaclients

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// suite is the cluster with a client that checks what the others did.
type suite struct {
	*cluster

	own   *kgo.Client
	admin *kadm.Client
	topic atomic.Int32
}

// feature is a column of the matrix.
type feature struct {
	name string
	try  func(t *testing.T, s *suite, c *client)
}

func features() []feature {
	return []feature{
		{codecs, tryCodecs},
		{"idempotent", tryIdempotent},
		{"from earliest", tryEarliest},
		{"from a time", tryTimestamp},
		{"group of two", func(t *testing.T, s *suite, c *client) { t.Helper(); tryGroup(t, s, c, "classic") }},
		{"KIP-848", func(t *testing.T, s *suite, c *client) { t.Helper(); tryGroup(t, s, c, "consumer") }},
		{"manual commit", func(t *testing.T, s *suite, c *client) { t.Helper(); tryCommit(t, s, c, "manual") }},
		{"auto commit", func(t *testing.T, s *suite, c *client) { t.Helper(); tryCommit(t, s, c, "auto") }},
		{"admin", tryAdmin},
	}
}

const codecs = "codecs, keys, headers"

// Every client does what it is made for, unchanged, and the table of docs/KAFKA.md
// is what this run found.
func TestClients(t *testing.T) {
	s := newSuite(t)
	found := make(map[string]map[string]string)
	list := clients(t)
	t.Run("all", func(t *testing.T) {
		for i := range list {
			c := &list[i]
			row := map[string]string{"version": c.version(t)}
			found[c.name] = row
			t.Run(strings.ReplaceAll(c.name, "/", "-"), func(t *testing.T) {
				t.Parallel() // They wait for heartbeats most of the time.
				for _, f := range features() {
					row[f.name] = tryFeature(t, s, c, f)
				}
			})
		}
	})
	writeTable(t, list, found)
}

// What franz-go tests itself with passes, and its admin client finds everything.
func TestFranzGo(t *testing.T) {
	s := newSuite(t)
	t.Run("kgo", func(t *testing.T) { tryFranzGo(t, s) })
	t.Run("kadm", func(t *testing.T) { tryKadm(t, s) })
}

// tryFeature returns what goes into the table.
func tryFeature(t *testing.T, s *suite, c *client, f feature) string {
	t.Helper()
	switch {
	case c.lacks[f.name] != "":
		return "–"
	case !t.Run(f.name, func(t *testing.T) { f.try(t, s, c) }):
		return "fails"
	case f.name == codecs && len(c.codecs) < 5:
		return strings.Join(c.codecs[1:], ", ")
	default:
		return "yes"
	}
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	return newSuiteOn(t, startCluster(t))
}

func newSuiteOn(t *testing.T, c *cluster) *suite {
	t.Helper()
	s := &suite{cluster: c}
	var err error
	s.own, err = kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers(), ",")...), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression())) // not every client knows every codec
	require.NoError(t, err)
	t.Cleanup(s.own.Close)
	s.admin = kadm.NewClient(s.own)
	return s
}

// newTopic makes a topic for one test.
func (s *suite) newTopic(t *testing.T, partitions int32) string {
	t.Helper()
	name := fmt.Sprintf("t%d", s.topic.Add(1))
	created, err := s.admin.CreateTopic(t.Context(), partitions, 3, nil, name)
	require.NoError(t, err)
	require.NoError(t, created.Err)
	// On a busy machine a broker may be late to hear of it.
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	require.Eventually(t, func() bool {
		for id := range nodes {
			resp, err := req.RequestWith(t.Context(), s.own.Broker(id+1))
			if err != nil || len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond, "%s is not known everywhere", name)
	return name
}

// produce writes records as the drivers do, from number n on.
func (s *suite) produce(t *testing.T, topic string, n, count int, at time.Time) {
	t.Helper()
	require.NoError(t, s.write(t.Context(), topic, n, count, at))
}

// write is produce where a test may not be ended: on another goroutine.
func (s *suite) write(ctx context.Context, topic string, n, count int, at time.Time) error {
	var list []*kgo.Record
	for i := n; i < n+count; i++ {
		r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "v%d", i), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "n", Value: []byte(strconv.Itoa(i))}}}
		if i%2 == 0 {
			r.Key = fmt.Appendf(nil, "k%d", i%7)
		}
		list = append(list, r)
	}
	return s.own.ProduceSync(ctx, list...).FirstErr()
}

// read reads a whole topic with the suite's own client.
func (s *suite) read(t *testing.T, topic string, count int) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers(), ",")...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	var out []*kgo.Record
	for len(out) < count {
		fs := cl.PollFetches(ctx)
		require.NoError(t, fs.Err(), "%d of %d records are there", len(out), count)
		out = append(out, fs.Records()...)
	}
	return out
}

// requireRecords checks that rows are exactly the records n to n+count-1.
func requireRecords(t *testing.T, got []row, n, count int) {
	t.Helper()
	values := make(map[string]row)
	for _, r := range got {
		values[r.value] = r
	}
	require.Len(t, got, count)
	for i := n; i < n+count; i++ {
		r, ok := values[fmt.Sprintf("v%d", i)]
		require.True(t, ok, "record %d is missing", i)
		key := "-"
		if i%2 == 0 {
			key = fmt.Sprintf("k%d", i%7)
		}
		require.Equal(t, key, r.key)
		require.Equal(t, strconv.Itoa(i), r.header)
	}
}

func (s *suite) args(topic string, count int, more ...string) []string {
	return append([]string{"brokers=" + s.brokers(), "topic=" + topic, "count=" + strconv.Itoa(count)}, more...)
}

// tryCodecs: what the client writes with each codec is there, in that codec.
func tryCodecs(t *testing.T, s *suite, c *client) {
	t.Helper()
	const many = 600
	numbers := map[string]uint8{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
	for _, codec := range c.codecs {
		topic := s.newTopic(t, 3)
		c.run(t, "produce", s.args(topic, many, "codec="+codec, "idempotent=false")...)
		checkProduced(t, s, c, topic, many)
		compressed := 0
		for _, r := range s.read(t, topic, many) {
			if used := r.Attrs.CompressionType(); used != 0 { // small batches may not be worth it
				require.Equal(t, numbers[codec], used, "the client was asked for %s", codec)
				compressed++
			}
		}
		require.True(t, compressed > 0 || codec == "none", "the client was asked for %s and compressed nothing", codec)
		requireRecords(t, ownHeaders(c, rows(t, c.run(t, "consume", s.args(topic, many, "from=earliest")...))), 0, many)
	}
}

// ownHeaders: kcat writes one header for all records.
func ownHeaders(c *client, list []row) []row {
	if c.name == "kcat" {
		for i := range list {
			list[i].header = strings.TrimPrefix(list[i].value, "v")
		}
	}
	return list
}

func checkProduced(t *testing.T, s *suite, c *client, topic string, count int) {
	t.Helper()
	var got []row
	for _, r := range s.read(t, topic, count) {
		key := "-"
		if len(r.Key) > 0 { // an empty key is as good as none: some clients have no null
			key = string(r.Key)
		}
		require.Len(t, r.Headers, 1)
		got = append(got, row{int(r.Partition), int(r.Offset), key, string(r.Value), string(r.Headers[0].Value)})
	}
	requireRecords(t, ownHeaders(c, got), 0, count)
}

func tryIdempotent(t *testing.T, s *suite, c *client) {
	t.Helper()
	topic := s.newTopic(t, 1)
	c.run(t, "produce", s.args(topic, 200, "codec=none", "idempotent=true")...)
	checkProduced(t, s, c, topic, 200)
	for _, r := range s.read(t, topic, 200) {
		require.GreaterOrEqual(t, r.ProducerID, int64(0), "the batch has no producer id")
	}
}

func tryEarliest(t *testing.T, s *suite, c *client) {
	t.Helper()
	topic := s.newTopic(t, 3)
	s.produce(t, topic, 0, 100, time.Now())
	requireRecords(t, rows(t, c.run(t, "consume", s.args(topic, 100, "from=earliest")...)), 0, 100)
}

func tryTimestamp(t *testing.T, s *suite, c *client) {
	t.Helper()
	topic := s.newTopic(t, 3)
	now := time.Now()
	s.produce(t, topic, 0, 60, now.Add(-time.Hour))
	s.produce(t, topic, 60, 60, now)
	from := now.Add(-time.Minute).UnixMilli()
	requireRecords(t, rows(t, c.run(t, "consume", s.args(topic, 60, "from="+strconv.FormatInt(from, 10))...)), 60, 60)
}

// tryGroup: two members share the partitions; when one goes the other has all.
func tryGroup(t *testing.T, s *suite, c *client, protocol string) {
	t.Helper()
	topic := s.newTopic(t, 4)
	group := topic + "-" + protocol
	member := func() *process {
		return c.start(t, "group", s.args(topic, 1_000_000, "group="+group, "commit=auto", "protocol="+protocol)...)
	}
	seen := func(p *process) map[string]row {
		out := make(map[string]row)
		for _, r := range rows(t, p.output()) {
			out[r.value] = r
		}
		return out
	}
	a := member()
	n := 0
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(40 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline), "%s after %d records; a: %d, %s", what, n, len(seen(a)), a.errs.String())
		}
	}
	// Records go on while the group changes: each is read.
	feed := func() {
		s.produce(t, topic, n, 20, time.Now())
		n += 20
	}
	until("the first member reads nothing", func() bool { feed(); return len(seen(a)) > 0 })
	b := member()
	until("the second member gets no partition", func() bool { feed(); return len(seen(b)) > 0 })
	all := func() bool {
		union := seen(a)
		maps.Copy(union, seen(b))
		return len(union) == n
	}
	until("records are missing", all)
	requireProtocol(t, s, group, protocol)
	b.leave()
	b.wait(t)
	for range 10 { // not for as long as it takes: a client is always a fetch behind
		feed()
	}
	until("the partitions of the member that left are not read", all)
	a.leave()
	a.wait(t)
}

// requireProtocol: a client that cannot use the protocol it was asked for may use
// another, and say nothing.
func requireProtocol(t *testing.T, s *suite, group, protocol string) {
	t.Helper()
	groups, err := s.admin.ListGroupsByType(t.Context(), []string{protocol})
	require.NoError(t, err)
	require.Contains(t, groups.Groups(), group, "the group is not of the protocol %s", protocol)
}

// tryCommit: a member that comes after another goes on where that one committed.
func tryCommit(t *testing.T, s *suite, c *client, commit string) {
	t.Helper()
	topic := s.newTopic(t, 1)
	s.produce(t, topic, 0, 100, time.Now())
	first := rows(t, c.run(t, "group", s.args(topic, 50, "group="+topic, "commit="+commit)...))
	require.Len(t, first, 50)
	offsets, err := s.admin.FetchOffsets(t.Context(), topic)
	require.NoError(t, err)
	o, ok := offsets.Lookup(topic, 0)
	require.True(t, ok, "nothing is committed")
	require.NoError(t, o.Err)
	if commit == "manual" {
		require.Equal(t, int64(50), o.At)
	}
	require.Positive(t, o.At)
	left := 100 - int(o.At) // nothing, where all that was fetched is committed
	if left > 0 {
		rest := rows(t, c.run(t, "group", s.args(topic, left, "group="+topic, "commit="+commit)...))
		require.Equal(t, int(o.At), rest[0].offset)
		require.Len(t, rest, left)
	}
}

func tryAdmin(t *testing.T, s *suite, c *client) {
	t.Helper()
	topic := fmt.Sprintf("admin%d", s.topic.Add(1))
	c.run(t, "admin", s.args(topic, 0)...)
	topics, err := s.admin.ListTopics(t.Context())
	require.NoError(t, err)
	require.False(t, topics.Has(topic), "the topic is still there")
}

const docs = "../../docs/KAFKA.md"

// writeTable puts the matrix into the documentation.
func writeTable(t *testing.T, list []client, found map[string]map[string]string) {
	t.Helper()
	if only := flag.Lookup("test.run").Value.String(); strings.Contains(only, "/") {
		t.Logf("%s found a part of the table, which stays as it is", only)
		return
	}
	var b strings.Builder
	b.WriteString("\n| client | version |")
	var names []string
	for _, f := range features() {
		names = append(names, f.name)
	}
	b.WriteString(" " + strings.Join(names, " | ") + " |\n|---|---|" + strings.Repeat("---|", len(names)) + "\n")
	for i := range list {
		row := found[list[i].name]
		fmt.Fprintf(&b, "| %s | %s |", list[i].name, row["version"])
		for _, name := range names {
			b.WriteString(" " + row[name] + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	was := writeSection(t, "clients", b.String())
	if pinned(was) != pinned(b.String()) && slices.Contains([]string{"true", "1"}, os.Getenv("CI")) {
		t.Errorf("the table of docs/KAFKA.md was not what this run found: %s", b.String())
	}
}

// pinned is the table without the version of kcat, which is the one that the machine's
// packages have.
func pinned(table string) string {
	return regexp.MustCompile(`(?m)^\| kcat \| [^|]*\|`).ReplaceAllString(table, "| kcat | |")
}

// Another kcat is no other table; another answer is one.
func TestPinned(t *testing.T) {
	const row = "| kcat | 1.7.1, librdkafka 2.0.2 | yes | – |\n"
	require.Equal(t, pinned("\n"+row), pinned("\n| kcat | 1.7.0, librdkafka 1.8 | yes | – |\n"))
	require.NotEqual(t, pinned(row), pinned(strings.Replace(row, "yes", "fails", 1)))
	require.NotEqual(t, pinned("| sarama | 1 |\n"), pinned("| sarama | 2 |\n"))
}

// writeSection puts what was found into its place in the documentation, and returns what
// was there.
func writeSection(t *testing.T, name, text string) string {
	t.Helper()
	begin, end := "<!-- written by make kafka-clients: "+name+" -->\n", "<!-- end -->\n"
	page, err := os.ReadFile(docs)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), begin)
	was, after, ok2 := strings.Cut(rest, end)
	require.True(t, ok && ok2, "%s has no place for %s", docs, name)
	if was != text {
		require.NoError(t, os.WriteFile(docs, []byte(before+begin+text+end+after), 0o644))
	}
	return was
}
