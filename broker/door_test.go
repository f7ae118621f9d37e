package broker

import (
	"math"
	"testing"

	"github.com/penstock/penstock/cluster/metadata"
)

// The bounds of time follow the topic's settings and the clock, whatever either is.
func TestBoundsOfTime(t *testing.T) {
	for _, tt := range []struct {
		name              string
		configs           map[string]string
		now, earliest, to int64
	}{
		{"defaults", nil, 5_000_000, 0, 8_600_000},
		{"both", map[string]string{"message.timestamp.before.max.ms": "1000", "message.timestamp.after.max.ms": "10"}, 5000, 4000, 5010},
		{"older than the clock", map[string]string{"message.timestamp.before.max.ms": "6000"}, 5000, 0, 3_605_000},
		{"no bound", map[string]string{"message.timestamp.after.max.ms": "9223372036854775807"}, 5000, 0, 0},
		{"almost none", map[string]string{"message.timestamp.after.max.ms": "9223372036854775806"}, 5000, 0, 0},
		{"none ahead", map[string]string{"message.timestamp.after.max.ms": "0"}, 5000, 0, 5000},
		{"append time", map[string]string{"message.timestamp.type": "LogAppendTime", "message.timestamp.before.max.ms": "1"}, 5000, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			settings, err := metadata.ParseSettings(tt.configs)
			if err != nil {
				t.Fatal(err)
			}
			l := &localReplica{}
			l.admit(settings)
			lim := l.limits(tt.now)
			if lim.MinTimestamp != tt.earliest || lim.MaxTimestamp != tt.to {
				t.Errorf("from %d to %d, want %d to %d", lim.MinTimestamp, lim.MaxTimestamp, tt.earliest, tt.to)
			}
		})
	}
	if math.MaxInt64 != metadataDefault(t).TimestampBefore {
		t.Error("by default the past is not bounded")
	}
}

func metadataDefault(t *testing.T) metadata.TopicSettings {
	t.Helper()
	s, err := metadata.ParseSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
