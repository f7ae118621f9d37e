package chaos

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimitLeavesSoManyNumbers(t *testing.T) {
	for _, c := range []struct {
		open  []int
		leave int
		want  uint64
	}{
		{[]int{0, 1, 2}, 0, 3},
		{[]int{0, 1, 2}, 4, 7},
		{[]int{0, 1, 2, 5}, 0, 3},  // 3 and 4 are free below 5
		{[]int{0, 1, 2, 5}, 2, 6},  // those two
		{[]int{0, 1, 2, 5}, 3, 7},  // and 6
		{[]int{0, 1, 2, 5}, 1, 4},  // 3 alone
		{[]int{3, 4}, 0, 0},        // nothing
		{[]int{0, 1, 2, 99}, 5, 8}, // all below 99
	} {
		require.Equal(t, c.want, limitFor(c.open, c.leave), "%v, %d more", c.open, c.leave)
	}
}

// A process at its limit of open files can open no more, and can again when it is lifted.
func TestLimitOfOpenFiles(t *testing.T) {
	// For each line it opens its own folder for good, and says whether it could.
	cmd := exec.CommandContext(t.Context(), "bash", "-c", `fd=20; while read -r line; do if { eval "exec $fd< ."; } 2>/dev/null; then echo yes; else echo no; fi; fd=$((fd+1)); done`)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	answers := bufio.NewReader(out)
	opens := func() string {
		_, err := io.WriteString(in, "open\n")
		require.NoError(t, err)
		line, err := answers.ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line)
	}
	require.Equal(t, "yes", opens())
	limit, err := LimitFiles(cmd.Process.Pid, 0)
	if err != nil {
		t.Skip("no limit on another process: ", err)
	}
	require.Equal(t, "no", opens())
	require.NoError(t, limit.Lift())
	require.Equal(t, "yes", opens())
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	require.NoError(t, limit.Lift(), "of a process that has ended")
}

// Who touches more memory than the limit leaves is killed for it, and that is counted.
func TestLimitOfMemory(t *testing.T) {
	if os.Getuid() != 0 || !CanLimitMemory() {
		t.Skip("needs root and memory groups")
	}
	group := filepath.Join(memoryRoot, netPrefix+"-test")
	require.NoError(t, os.Mkdir(group, 0o755)) //nolint:gosec // the kernel decides who may read it
	t.Cleanup(func() { require.NoError(t, os.Remove(group)) })
	cmd := exec.CommandContext(t.Context(), "bash", "-c", `read -r line; while :; do line=$line$line; done`)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600))
	limit, err := limitMemory(group, 8<<20)
	require.NoError(t, err)
	_, err = io.WriteString(in, strings.Repeat("x", 1000)+"\n")
	require.NoError(t, err)
	require.Error(t, cmd.Wait(), "killed")
	reached, killed, err := limit.Lift()
	require.NoError(t, err)
	require.Positive(t, reached)
	require.EqualValues(t, 1, killed)
}

func TestRulesOfANarrowLink(t *testing.T) {
	require.Equal(t, "qdisc replace dev eth0 root tbf rate 800000bit burst 32768 latency 300ms",
		strings.Join(Narrow{Node: 1, Rate: 100_000}.shaper("eth0"), " "))
	bytes, held, dropped := shaped("qdisc tbf 8001: root refcnt 9 rate 1Mbit burst 32Kb lat 300ms \n" +
		" Sent 123456 bytes 789 pkt (dropped 12, overlimits 345 requeues 0) \n backlog 0b 0p requeues 0\n")
	require.Equal(t, []int64{123456, 345, 12}, []int64{bytes, held, dropped})
	bytes, held, _ = shaped("qdisc noqueue 0: root refcnt 2 \n Sent 5 bytes 1 pkt (dropped 0, overlimits 0 requeues 0) \n")
	require.Zero(t, bytes+held)
}

// No more passes a narrow link than it says, and all that there is once it is closed.
func TestNarrowLink(t *testing.T) {
	n := oneNode(t)
	if !CanNarrow() {
		t.Skip("the kernel cannot shape what is sent")
	}
	var server net.Listener
	require.NoError(t, inNamespace(namespace(1), func() (err error) {
		server, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", nodeIP(1)+":4000")
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := server.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, conn) // ends with the connection
			_ = conn.Close()
		}
	}()
	const rate, total = 256 << 10, 512 << 10
	link, err := n.Narrow(t.Context(), Narrow{Node: 1, Rate: rate})
	require.NoError(t, err)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", nodeIP(1)+":4000")
	require.NoError(t, err)
	began := time.Now()
	_, err = conn.Write(make([]byte, total))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	<-done
	require.GreaterOrEqual(t, time.Since(began), (total-narrowBurst)*time.Second/rate)
	passed, err := link.Close(t.Context())
	require.NoError(t, err)
	require.Positive(t, passed.Held)
	require.GreaterOrEqual(t, passed.Bytes, int64(total))
	require.LessOrEqual(t, passed.Rate(), int64(rate))
	require.NoError(t, n.Widen(t.Context(), 1), "twice")
	require.NoError(t, server.Close())
}
