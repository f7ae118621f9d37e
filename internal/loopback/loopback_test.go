package loopback

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnAddressStaysFree(t *testing.T) {
	var a Addresses
	seen := map[string]bool{}
	for range 3 {
		address, err := a.Next()
		require.NoError(t, err)
		require.False(t, seen[address], address)
		seen[address] = true
		for range 2 { // as a server that is started again
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
			require.NoError(t, err)
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
			require.NoError(t, err)
			from, _, err := net.SplitHostPort(c.LocalAddr().String())
			require.NoError(t, err)
			require.Equal(t, "127.0.0.1", from, "outgoing connections take no port of this host")
			require.NoError(t, c.Close())
			require.NoError(t, l.Close())
		}
	}
}

func TestHostsOfProcesses(t *testing.T) {
	require.Equal(t, "127.128.0.1", hostOf(1))
	require.Equal(t, "127.191.255.255", hostOf(1<<22-1))
}
