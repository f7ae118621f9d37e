package chaos

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestRulesOfLoss(t *testing.T) {
	var got []string
	for _, rule := range (Loss{Node: 2, Percent: 10}).rules() {
		got = append(got, strings.Join(rule, " "))
	}
	require.Equal(t, []string{
		"-w -A INPUT -i eth0 -m statistic --mode random --probability 0.10 -j DROP",
		"-w -A OUTPUT -o eth0 -m statistic --mode random --probability 0.10 -j DROP",
	}, got)
}

func TestDroppedPacketsAreCounted(t *testing.T) {
	n, err := dropped(`Chain INPUT (policy ACCEPT 12 packets, 3456 bytes)
    pkts      bytes target     prot opt in     out     source               destination
      17     1020 DROP       0    --  eth0   *       0.0.0.0/0            0.0.0.0/0            statistic mode random probability 0.09999999963
       4      240 REJECT     6    --  *      *       10.213.77.2          0.0.0.0/0            reject-with tcp-reset
      99     9900 NFQUEUE    0    --  eth0   *       0.0.0.0/0            0.0.0.0/0            NFQUEUE num 1 bypass
`)
	require.NoError(t, err)
	require.EqualValues(t, 21, n)
	_, err = dropped("many bytes DROP")
	require.Error(t, err)
}

// lab is a network of one node, and a way to talk to it.
func oneNode(t *testing.T) *Network {
	t.Helper()
	if _, err := exec.LookPath("iptables"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and iptables")
	}
	if !CanLose() || !CanSlow() {
		t.Skip("the kernel cannot lose or queue packets")
	}
	lock, err := os.OpenFile("/run/lock/penstock-chaos.lock", os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lock.Close()) })
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		t.Skip("the network is in use by a run of chaos")
	}
	require.NoError(t, removeNetwork())
	n, err := NewNetwork(t.Context(), 1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// echo answers datagrams in the node, and returns a connection to it.
func echo(t *testing.T) net.Conn {
	t.Helper()
	var server net.PacketConn
	require.NoError(t, inNamespace(namespace(1), func() (err error) {
		server, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", nodeIP(1)+":4000")
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from) // refused (EPERM) when the packet is lost
		}
	}()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp", nodeIP(1)+":4000")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		require.NoError(t, server.Close())
		<-done
	})
	return conn
}

// rounds sends datagrams and returns how many came back, and how long the fastest took.
func rounds(t *testing.T, conn net.Conn, n int) (back int, fastest time.Duration) {
	t.Helper()
	fastest = time.Hour
	for i := range n {
		began := time.Now()
		_, err := conn.Write([]byte{byte(i)})
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(began.Add(300*time.Millisecond)))
		if _, err := conn.Read(make([]byte, 64)); err == nil {
			back++
			fastest = min(fastest, time.Since(began))
		}
	}
	return back, fastest
}

func TestLostPackets(t *testing.T) {
	n := oneNode(t)
	conn := echo(t)
	back, _ := rounds(t, conn, 20)
	require.Equal(t, 20, back)
	require.NoError(t, n.Lose(t.Context(), Loss{Node: 1, Percent: 60}))
	back, _ = rounds(t, conn, 20)
	require.Less(t, back, 20)
	lost, err := n.Lost(t.Context(), 1)
	require.NoError(t, err)
	require.Positive(t, lost)
	require.NoError(t, n.Mend(t.Context(), 1))
	back, _ = rounds(t, conn, 20)
	require.Equal(t, 20, back)
	lost, err = n.Lost(t.Context(), 1)
	require.NoError(t, err)
	require.Zero(t, lost, "Mend begins to count anew")
}

func TestSlowNetwork(t *testing.T) {
	n := oneNode(t)
	conn := echo(t)
	const least = 40 * time.Millisecond
	line, err := n.Slow(t.Context(), Delay{Node: 1, Least: least, Most: 2 * least})
	require.NoError(t, err)
	back, fastest := rounds(t, conn, 5)
	require.Equal(t, 5, back)
	require.GreaterOrEqual(t, fastest, 2*least, "each way")
	require.GreaterOrEqual(t, line.Delayed(), int64(10))
	require.NoError(t, line.Close(t.Context()))
	back, fastest = rounds(t, conn, 5)
	require.Equal(t, 5, back)
	require.Less(t, fastest, least)
	require.NoError(t, n.Mend(t.Context(), 1))
}
