package kafkaclients

import (
	"bufio"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What every Kafka tutorial begins with runs as it stands there, against what somebody
// starts who tries it out.
func TestTutorial(t *testing.T) {
	startDev(t)
	require.Equal(t, "ok", python(t, "tutorial.py"))
}

// Topics keep what they are told to.
func TestRetention(t *testing.T) {
	startCluster(t) // which looks for what is too old twice a second
	require.Equal(t, "ok", python(t, "retention.py"))
}

func python(t *testing.T, program string) string {
	t.Helper()
	return output(t, bin(t, "venv", "bin", "python"), "-W", "ignore", "python/"+program)
}

// startDev runs `penstock dev` with the Kafka port that it has by itself.
func startDev(t *testing.T) {
	t.Helper()
	cmd := exec.Command(penstock(t), "dev", "--base-port", "0", "--kafka-port", "9092", "--data-dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "penstock dev has ended; it needs port 9092")
	require.Contains(t, line, "kafka 127.0.0.1:9092")
}
