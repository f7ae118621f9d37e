package kafkaclients

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What every Kafka tutorial begins with runs as it stands there.
func TestTutorial(t *testing.T) {
	startCluster(t)
	require.Equal(t, "ok", output(t, bin(t, "venv", "bin", "python"), "-W", "ignore", "python/tutorial.py"))
}
