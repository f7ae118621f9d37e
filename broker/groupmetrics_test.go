package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// groupGauges are what a scrape shows of groups, by name and labels.
func groupGauges(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "penstock_group_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue()
		}
	}
	return out
}

// Lag is shown in records and in time, of partitions and in sums; and a coordinator that
// takes long to say it is shown as it was, with its age, instead of not at all.
func TestGroupMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, images, lapse := groupBroker(t)
		m := newGroupMetrics(b)
		registry := prometheus.NewRegistry()
		require.NoError(t, registry.Register(m))
		tell := func(high int64) {
			b.Progress(1, []api.PartitionProgress{{TopicID: api.TopicID{15: 9}, HighWatermark: record.Offset(high)}})
		}
		tell(7)
		time.Sleep(2 * time.Second)
		tell(10)
		joined, err := b.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{
			Group: "h", MemberID: "m", ClientID: "c", HasTopics: true, Topics: []string{"t"}, HasOwned: true, RebalanceTimeout: 60_000,
		})
		require.NoError(t, err)
		for joined.Assignment == nil {
			joined, err = b.ConsumerHeartbeat(t.Context(), &api.ConsumerHeartbeat{Group: "h", MemberID: "m", MemberEpoch: joined.MemberEpoch})
			require.NoError(t, err)
		}
		time.Sleep(3 * time.Second)
		shown := groupGauges(t, registry)
		for name, want := range map[string]float64{
			"lag_records g 0 t": 3, "lag_seconds g 0 t": 3, "lag_records_sum g": 3, "lag_seconds_max g": 3, "lag_age_seconds g": 3,
			"topic_lag_records g t": 3, "topic_lag_seconds g t": 3, "members g": 0,
			// It has committed nothing.
			"lag_records h 0 t": 10, "lag_seconds h 0 t": 5, "lag_records_sum h": 10, "lag_seconds_max h": 5,
			"member_lag_records h m": 10, "member_lag_seconds h m": 5, "members h": 1,
		} {
			require.Contains(t, shown, name)
			require.InDelta(t, want, shown[name], 0, name)
		}

		release := images.stall()
		time.Sleep(4 * time.Second)
		began := time.Now()
		shown = groupGauges(t, registry)
		require.Equal(t, lagPatience, time.Since(began))
		require.InDelta(t, 3, shown["lag_records g 0 t"], 0)
		require.InDelta(t, 8, shown["lag_age_seconds g"], 0, "3 s when it was looked at, 5 s ago")
		release()
		synctest.Wait() // that look ended, and counts
		tell(20)
		shown = groupGauges(t, registry)
		require.InDelta(t, 13, shown["lag_records g 0 t"], 0)
		require.Zero(t, shown["lag_age_seconds g"])

		lapse()
		require.NotContains(t, groupGauges(t, registry), "lag_records g 0 t", "the group may be another's")
		require.NoError(t, b.coordinator.Close())
		m.close()
	})
}
