package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/cluster/metadata"
)

func TestHelloRoundTrip(t *testing.T) {
	h := hello{purpose: purposeRaft, nodeID: 7, storageID: metadata.ID{1, 2}, clusterID: "c", raftAddress: "host:7071"}
	a := helloAnswer{
		refusal: refusedIdentity, reason: "because", knownStorageID: metadata.ID{4}, nodeID: 3, storageID: metadata.ID{5},
		clusterID: "c", hasState: true, raftAddress: "a:1", peerAddress: "b:2", leaderID: noNode, leaderAddress: "d:3",
	}
	var b bytes.Buffer
	require.NoError(t, writeHello(&b, h))
	require.NoError(t, writeAnswer(&b, a))
	b.WriteString("what follows is Raft's")
	gotHello, err := readHello(&b)
	require.NoError(t, err)
	require.Equal(t, h, gotHello)
	gotAnswer, err := readAnswer(&b)
	require.NoError(t, err)
	require.Equal(t, a, gotAnswer)
	require.Equal(t, "what follows is Raft's", b.String())
}

func FuzzHello(f *testing.F) {
	var b bytes.Buffer
	_ = writeHello(&b, hello{purpose: purposeIdentity, nodeID: 1, clusterID: "c", raftAddress: "h:1"})
	f.Add(b.Bytes())
	b.Reset()
	_ = writeAnswer(&b, helloAnswer{reason: "r", nodeID: 1, leaderAddress: "l:1"})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := readHello(bytes.NewReader(data)); err == nil {
			var b bytes.Buffer
			require.NoError(t, writeHello(&b, h))
			again, err := readHello(&b)
			require.NoError(t, err)
			// Longer strings than we write are cut, not refused.
			if len(h.clusterID) <= maxClusterID {
				require.Equal(t, h, again)
			}
		}
		_, _ = readAnswer(bytes.NewReader(data))
	})
}

// Whatever a stranger sends, the connection is closed, nothing is answered but a
// refusal, and the node goes on.
func TestGarbageOnTheRaftPort(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	n := nodes[0]
	frame := func(version byte, length uint16, body []byte) []byte {
		b := append([]byte(helloMagic), version)
		return append(binary.BigEndian.AppendUint16(b, length), body...)
	}
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	var stranger bytes.Buffer
	require.NoError(t, writeHello(&stranger, hello{purpose: purposeRaft, nodeID: 9, clusterID: "other"}))
	for name, c := range map[string]struct {
		send   []byte
		answer string // part of the refusal; empty: none
	}{
		"http":            {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), ""},
		"tls":             {[]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, ""},
		"noise":           {noise, ""},
		"zeroes":          {make([]byte, 1000), ""},
		"length too big":  {frame(helloVersion, 0xffff, nil), ""},
		"empty body":      {frame(helloVersion, 0, nil), ""},
		"short body":      {frame(helloVersion, 5, []byte{1, 2, 3, 4, 5}), ""},
		"other version":   {frame(77, 0, nil), "version 77"},
		"other cluster":   {stranger.Bytes(), "belongs to cluster"},
		"unknown purpose": {frame(helloVersion, 23, append([]byte{9}, make([]byte, 22)...)), "purpose 9"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", n.raftAddr)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
			_, _ = conn.Write(c.send) // may be cut off
			got, err := io.ReadAll(conn)
			if c.answer == "" {
				require.Empty(t, got)
				return
			}
			require.NoError(t, err)
			a, err := readAnswer(bytes.NewReader(got))
			require.NoError(t, err)
			require.Contains(t, a.reason, c.answer)
			require.NotEqual(t, accepted, a.refusal)
		})
	}
	n.mustCreate("t", 1)
}

// After a hello that is in order, garbage reaches Raft's decoder.
func TestGarbageAfterTheHello(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	n := nodes[0]
	conn, err := net.Dial("tcp", n.raftAddr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	require.NoError(t, writeHello(conn, hello{purpose: purposeRaft, nodeID: 9, storageID: metadata.ID{9}, raftAddress: "x:1"}))
	a, err := readAnswer(conn)
	require.NoError(t, err)
	require.Equal(t, accepted, a.refusal)
	_, _ = io.WriteString(conn, strings.Repeat("\xff", 4096))
	_, err = io.Copy(io.Discard, conn)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "the connection stays open")
	n.mustCreate("t", 1)
}

// Heartbeats must reach Raft's main loop like any other message, and not race
// with it on the connection's goroutine (hashicorp/raft issue 695).
func TestHeartbeatsGoThroughTheMainLoop(t *testing.T) {
	nodes := newNodes(t, 2, 1)
	n := nodes[0].start()
	cfg := nodes[1].config()
	cfg.ensureDefaults()
	layer := newStreamLayer(&cfg, n)
	trans := newTransport(layer, &cfg, newRaftLogger(cfg.Logger))
	layer.start()
	defer trans.Close()
	trans.SetHeartbeatHandler(func(raft.RPC) { t.Error("the short cut was taken") })

	done := make(chan error, 1)
	go func() {
		done <- n.trans.AppendEntries("", raft.ServerAddress(nodes[1].raftAddr),
			&raft.AppendEntriesRequest{Term: 1, RPCHeader: raft.RPCHeader{Addr: []byte("x")}}, new(raft.AppendEntriesResponse))
	}()
	select {
	case rpc := <-trans.Consumer():
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	case <-within(t, 5*time.Second).Done():
		t.Fatal("no message")
	}
	require.NoError(t, <-done)
}

// A connection that says nothing is closed, and does not keep the node from
// closing.
func TestSilentConnectionIsClosed(t *testing.T) {
	nodes := newNodes(t, 1, 1)
	startAll(nodes...)
	conn, err := net.Dial("tcp", nodes[0].raftAddr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte(helloMagic)) // half a frame
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	idle, err := net.Dial("tcp", nodes[0].raftAddr)
	require.NoError(t, err)
	defer idle.Close()
	began := time.Now()
	nodes[0].server.Stop()
	require.NoError(t, nodes[0].Close())
	require.Less(t, time.Since(began), handshakeTimeout, "it was waited for")
}
