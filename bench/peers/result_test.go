package main

import (
	"bytes"
	"cmp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/bench/peers/load"
)

func rate(records int64) load.Outcome {
	return load.Outcome{Records: records, Seconds: 1, RSS: []int64{1 << 20, 3 << 20}, ServerCPU: 2, ClientCPU: 1, OthersCPU: 0.02}
}

// TestRatiosAreOfOneRound: a ratio pairs turns of the same round, and a round in which
// one of the two failed has none.
func TestRatiosAreOfOneRound(t *testing.T) {
	r := &result{}
	for round, records := range []int64{200, 900, 400} {
		r.add(&turn{Row: "produce-100", Workload: load.Produce, Durability: synced, Contender: penstockGRPC, Round: round, Outcome: rate(records)})
	}
	for round, records := range map[int]int64{0: 100, 2: 100} {
		r.add(&turn{Row: "produce-100", Workload: load.Produce, Durability: synced, Contender: kafkaFranz, Round: round, Outcome: rate(records)})
	}
	m := measures(load.Produce)[0]
	got := ratios(r.turnsOf("produce-100", synced, penstockGRPC), r.turnsOf("produce-100", synced, kafkaFranz), &m)
	require.Equal(t, []float64{2, 4}, got)
	require.Equal(t, "3.00 [2.00-4.00]", summary(got))
}

// TestALowerLatencyIsAhead: for latencies the ratio is theirs over ours.
func TestALowerLatencyIsAhead(t *testing.T) {
	ours := map[int]*turn{0: {Outcome: load.Outcome{P50: 1, P99: 2}}}
	theirs := map[int]*turn{0: {Outcome: load.Outcome{P50: 10, P99: 30}}}
	of := measures(load.Latency)
	require.Equal(t, []float64{10}, ratios(ours, theirs, &of[0]))
	require.Equal(t, []float64{15}, ratios(ours, theirs, &of[1]))
}

func TestTheTableNamesWhatIsMissing(t *testing.T) {
	r := &result{Absent: map[string]string{"redis": "no apt-get"}, Settings: map[string]string{"kafka": "defaults"}}
	r.add(&turn{Row: "produce-100", What: "produce, 100 B", Workload: load.Produce, Durability: synced, Contender: penstockGRPC, Outcome: rate(3_000_000)})
	r.add(&turn{Row: "produce-100", What: "produce, 100 B", Workload: load.Produce, Durability: synced, Contender: kafkaFranz, Outcome: rate(1_500_000)})
	r.fail(&contender{name: kafkaFranz}, replicated, "latency", 1, load.ErrClient)
	var out bytes.Buffer
	require.NoError(t, r.writeMarkdown(&out))
	for _, want := range []string{
		"| produce, 100 B | synced | Apache Kafka, franz-go | records/s | 1.50 M | 1 | 1.33 | 0.67 | 3.00 | 2.00 |  |\n",
		"| produce, 100 B | synced | Penstock, its own client | records/s | 3.00 M | 1 | 0.67 | 0.33 | 3.00 |  |  |\n",
		"* redis: no apt-get.", "* kafka: defaults.", "* latency, replicated, Apache Kafka, franz-go, round 2: load: unknown client.", "took this much of a processor: 2.00 [2.00-2.00] %", "fewer or shorter than the rule",
	} {
		require.Contains(t, out.String(), want)
	}
}

// TestMemoryThatNobodySaw: a turn whose nodes' memory was not seen leaves the cell empty.
func TestMemoryThatNobodySaw(t *testing.T) {
	require.Equal(t, []float64{3}, residents(map[int]*turn{0: {Outcome: rate(1)}, 1: {}}))
	require.Empty(t, summary(residents(map[int]*turn{0: {}})))
}

func TestGroupsShareTopics(t *testing.T) {
	names := func(rows ...string) (all [][]string) {
		l := &lab{options: &options{rows: rows, durabilities: []string{"synced", "replicated"}}}
		for _, g := range l.groups(synced) {
			var of []string
			for _, r := range g.rows {
				of = append(of, r.name)
			}
			if g.fill {
				of = append(of, "fill")
			}
			all = append(all, of)
		}
		return all
	}
	require.Equal(t, [][]string{{"produce-100", "consume-100"}, {"latency"}}, names("latency", "consume-100", "produce-100"))
	require.Equal(t, [][]string{{"produce-1k", "consume-1k", "fill"}}, names("consume-1k"))
	require.Equal(t, [][]string{{"produce-1k"}}, names("produce-1k"))
	l := &lab{options: &options{rows: []string{"consume-100"}, durabilities: []string{"synced", "replicated"}}}
	require.Empty(t, l.groups(replicated), "reading is compared once")
}

// TestWhoHasAnotherKindOfQueueReadsIt: RabbitMQ's streams are read where they are
// written, by Penstock too, and by nobody else.
func TestWhoHasAnotherKindOfQueueReadsIt(t *testing.T) {
	l := &lab{options: &options{rows: []string{"consume-100"}, durabilities: []string{"synced", "replicated"}}, installed: all()}
	readers := func(d durability) (names []string) {
		for _, g := range l.groups(d) {
			for _, who := range l.order(d, g, 0) {
				names = append(names, who.ct.name)
			}
		}
		return names
	}
	require.Equal(t, []string{penstockGRPC, penstockKafka, kafkaFranz, "JetStream, nats.go", "Redis Streams, go-redis", "RabbitMQ quorum queues, amqp091-go"}, readers(synced))
	require.Equal(t, []string{penstockGRPC, penstockKafka, "RabbitMQ streams, stream protocol"}, readers(replicated))
}

// TestNobodyAlwaysFollowsTheSame: each round begins with another contender, and every
// second goes the other way round.
func TestNobodyAlwaysFollowsTheSame(t *testing.T) {
	l := &lab{options: &options{}}
	for _, name := range []string{"a", "b", "c"} {
		l.installed = append(l.installed, &peer{name: name, contenders: []contender{{name: name}, {name: "other row", rows: []string{"latency"}}}})
	}
	names := func(round int) (s string) {
		for _, who := range l.order(synced, group{rows: rows()[:1]}, round) {
			s += who.ct.name
		}
		return s
	}
	require.Equal(t, []string{"abc", "bac", "cab", "acb"}, []string{names(0), names(1), names(2), names(3)})
	l.installed = nil
	require.Empty(t, l.order(synced, group{rows: rows()[:1]}, 1))
}

// TestContendersTakeTheirRowsOnly: what reads nothing of its own has no row of reading.
func TestContendersTakeTheirRowsOnly(t *testing.T) {
	for _, p := range all() {
		for i := range p.contenders {
			c := &p.contenders[i]
			require.Equal(t, c.client != load.NATSBatch, c.takes("consume-100", cmp.Or(c.only, synced)), c.name)
		}
	}
}

func TestServersAreConfiguredAsPrinted(t *testing.T) {
	p := kafkaProperties(2, []string{"a:1", "b:2", "c:3"}, []string{"a:4", "b:5", "c:6"}, "/data")
	require.Contains(t, p, "controller.quorum.voters=1@a:4,2@b:5,3@c:6\n")
	require.Contains(t, p, "listeners=PLAINTEXT://b:2,CONTROLLER://b:5\n")
	require.Contains(t, p, "min.insync.replicas=2\n")
	require.Contains(t, p, "log.retention.check.interval.ms=5000\n")
	n, err := newRabbitNode(2, "/data", "127.1.2.3:1", "127.1.2.3:2", "127.1.2.3:3", "127.1.2.3:4")
	require.NoError(t, err)
	c, err := n.config()
	require.NoError(t, err)
	require.Equal(t, "listeners.tcp.1 = 127.1.2.3:1\nstream.listeners.tcp.1 = 127.1.2.3:2\nstream.advertised_host = 127.1.2.3\nstream.advertised_port = 2\n", c)
	require.Contains(t, natsConfig(1, []string{"a:1"}, []string{"a:2"}, "/data", synced), "sync_interval: always")
	require.NotContains(t, natsConfig(1, []string{"a:1"}, []string{"a:2"}, "/data", replicated), "sync_interval")
}
