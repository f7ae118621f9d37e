package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/log/record"
)

// Every code that Kafka has can be told apart.
func TestCodesHavePlaces(t *testing.T) {
	for code := int16(-1); code < 1000; code++ {
		if e := kerr.TypedErrorForCode(code); e != nil && e.Code == code {
			require.Less(t, code, int16(maxCode))
			require.Equal(t, e.Message, errorName(code))
		}
	}
	require.Equal(t, "UNKNOWN_SERVER_ERROR", errorName(-1))
}

// What clients do is seen: requests, errors, bytes and times by API, connections, and
// why they ended. Nothing that a client sends becomes a label.
func TestDoorMetrics(t *testing.T) {
	d, address := startDoor(t, record.NewArena(4<<20))
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(d.Metrics()))
	c := dial(t, address)
	requireAnswers(t, c)
	requireAnswers(t, c)
	batch := testBatch(t, 1000)
	produce := produceRequest(9, -1, 2, batch)
	produce.Topics[0].Partitions[1].Records = batch[:10] // less than a header
	ask(t, c, produce)
	heartbeat := kmsg.NewPtrHeartbeatRequest()
	heartbeat.Group = "a group that nobody has"
	ask(t, c, heartbeat)
	bad := dial(t, address)
	_, err := bad.Write(framed(header12(1000, 0)))
	require.NoError(t, err)
	_, err = bad.Read(make([]byte, 1))
	require.Error(t, err)
	counted := func() bool { return d.apis[12].stats.sent.Load() > 0 } // a moment after the last answer has left
	require.Eventually(t, func() bool { return d.Connections() == 1 && counted() }, 10*time.Second, time.Millisecond)

	got := make(map[string]float64)
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "penstock_kafka_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	size := func(req kmsg.Request) float64 { return float64(len(frame(req, 7))) }
	sent := func(api string) float64 {
		n := got["sent_bytes_total "+api]
		delete(got, "sent_bytes_total "+api)
		return n
	}
	require.Greater(t, sent("ApiVersions"), 2*6.0*float64(len(table())))
	require.Greater(t, sent("Produce"), 60.0)
	require.Greater(t, sent("Heartbeat"), 8.0)
	versions := kmsg.NewPtrApiVersionsRequest()
	require.Equal(t, map[string]float64{
		"connections": 1, "connections_accepted_total": 2, "incomplete_request_bytes": 0,
		"connections_cut_total idle": 0, "connections_cut_total incomplete_request": 0, "connections_cut_total malformed": 1,
		"connections_cut_total max_connections": 0, "connections_cut_total slow_request": 0, "connections_cut_total stalled": 0,
		"connections_cut_total stalled_memory":        0,
		"errors_total Heartbeat UNKNOWN_SERVER_ERROR": 1, "errors_total Produce INVALID_RECORD": 1,
		"requests_total ApiVersions": 2, "requests_total Heartbeat": 1, "requests_total Produce": 1,
		"request_seconds ApiVersions": 2, "request_seconds Heartbeat": 1, "request_seconds Produce": 1,
		"received_bytes_total ApiVersions": 2 * size(versions), "received_bytes_total Heartbeat": size(heartbeat), "received_bytes_total Produce": size(produce),
	}, got)
}
