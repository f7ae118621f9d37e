package vfs

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is sent is what was asked for, of a file that is long enough; the socket may take
// it in many pieces, or close.
func TestSendTo(t *testing.T) {
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than a socket holds
	_, err = f.WriteAt(content, 0)
	require.NoError(t, err)
	sender, ok := f.(Sender)
	require.True(t, ok)

	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	client, err := new(net.Dialer).DialContext(t.Context(), "tcp", lis.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	server, err := lis.Accept()
	require.NoError(t, err)
	raw, err := server.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)

	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	send := func(off int64, n int) {
		go func() {
			n, err := sender.SendTo(raw, off, n)
			done <- result{n, err}
		}()
	}
	got := make([]byte, len(content)-5)
	send(5, len(got))
	_, err = io.ReadFull(client, got)
	require.NoError(t, err)
	require.Equal(t, result{len(got), nil}, <-done)
	require.True(t, bytes.Equal(content[5:], got))

	send(int64(len(content)-10), 20)
	r := <-done
	require.Equal(t, 10, r.n)
	require.ErrorIs(t, r.err, io.ErrUnexpectedEOF)

	send(0, len(content)) // nobody takes it
	require.NoError(t, server.Close())
	r = <-done
	require.Less(t, r.n, len(content))
	require.Error(t, r.err)
}
