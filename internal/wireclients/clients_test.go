package wireclients

import (
	"bufio"
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// installed is a file that scripts/wire-clients installed.
func installed(t *testing.T, name ...string) string {
	t.Helper()
	dir := os.Getenv("WIRE_CLIENTS_DIR")
	if dir == "" {
		t.Skip("scripts/wire-clients runs it")
	}
	path := filepath.Join(append([]string{dir}, name...)...)
	require.FileExists(t, path)
	return path
}

// startDev starts a cluster and returns the addresses of its brokers.
func startDev(t *testing.T, nodes int) []string {
	t.Helper()
	cmd := exec.Command(os.Getenv("PENSTOCK_BINARY"), "dev", "--nodes", strconv.Itoa(nodes), "--base-port", "0", "--data-dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait())
	})
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.True(t, late.Stop(), "penstock dev was not ready within a minute")
	require.NoError(t, err)
	brokers := regexp.MustCompile(`ready: brokers ([^;]+);`).FindStringSubmatch(line)
	require.NotNil(t, brokers, "the line of a cluster that is ready: %q", line)
	return strings.Split(brokers[1], ",")
}

func TestPythonClient(t *testing.T) {
	python := installed(t, "venv", "bin", "python")
	stubs := filepath.Dir(filepath.Dir(filepath.Dir(installed(t, "stubs", "penstock", "v1", "produce_pb2_grpc.py"))))
	brokers := startDev(t, 3)
	cmd := exec.CommandContext(t.Context(), python, "-B", "-m", "unittest", "-v")
	cmd.Dir = "python"
	cmd.Env = append(os.Environ(), "PYTHONPATH="+stubs, "BROKERS="+strings.Join(brokers, ","))
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Regexp(t, `Ran [1-9]\d* tests`, string(said))
	t.Logf("%s", said)
}

// shown are the grpcurl commands of README.md, line continuations taken out.
func shown(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var commands []string
	for line := range strings.Lines(strings.ReplaceAll(string(page), "\\\n", " ")) {
		if strings.HasPrefix(line, "grpcurl ") {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// shownAddress is where README.md has a broker.
const shownAddress = "127.0.0.1:7070"

// curl runs a command of README.md at the broker with the given address.
func curl(t *testing.T, command, address string) string {
	t.Helper()
	require.Contains(t, command, shownAddress)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(command, shownAddress, address))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(installed(t, "grpcurl"))+":"+os.Getenv("PATH"))
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", command, said)
	return string(said)
}

type recordJSON struct{ Key, Value string }

// result is one of the results that Produce and Fetch answer with.
type result struct {
	BaseOffset string // grpcurl leaves zeros out
	Records    []recordJSON
	Error      *struct {
		Code      string
		Retriable bool
		Leader    struct{ Address string }
	}
}

// led runs a command for the leader, whom a broker that is asked instead names, as
// README.md says. A leader that is new asks to be asked again.
func led(t *testing.T, command, address string) result {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		var answer struct{ Results []result }
		said := curl(t, command, address)
		require.NoError(t, json.Unmarshal([]byte(said), &answer), said)
		require.Len(t, answer.Results, 1, said)
		r := answer.Results[0]
		if r.Error == nil {
			return r
		}
		require.True(t, r.Error.Retriable && time.Now().Before(deadline), said)
		if r.Error.Code == "ERROR_CODE_NOT_LEADER" {
			require.NotEmpty(t, r.Error.Leader.Address, said)
			require.NotEqual(t, address, r.Error.Leader.Address, said)
			address = r.Error.Leader.Address
		}
	}
}

// TestCommandsOfTheREADME: they do what the page says, in the order of the page, with one
// node and, from each of its brokers, with three. Only the port is another.
func TestCommandsOfTheREADME(t *testing.T) {
	installed(t, "grpcurl")
	commands := shown(t)
	require.Len(t, commands, 5, "a command that is shown is tried here")
	for _, nodes := range []int{1, 3} {
		t.Run(strconv.Itoa(nodes), func(t *testing.T) {
			brokers := startDev(t, nodes)
			services := curl(t, commands[0], brokers[0])
			require.Contains(t, services, "penstock.v1.ProduceService\n")
			require.NotContains(t, services, "ClusterService", "the internal one is not for clients")

			require.Contains(t, curl(t, commands[1], brokers[0]), `"partitions": 1`)
			require.Contains(t, curl(t, commands[2], brokers[0]), `"leader": `)
			for i, broker := range brokers {
				produced := led(t, commands[3], broker)
				require.Equal(t, strconv.Itoa(i), cmp.Or(produced.BaseOffset, "0"))
				records := led(t, commands[4], broker).Records
				require.Len(t, records, i+1)
				require.Equal(t, recordJSON{Key: "YWxpY2U=", Value: "YXBwbGVz"}, records[i])
			}
		})
	}
}
