package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/penstock/penstock/internal/arenatest"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
	"github.com/penstock/penstock/proto/wire"
)

// peerWorld is a peer listener with a gRPC server behind it.
type peerWorld struct {
	address        string
	listener       *wire.PeerListener
	server, client *record.Arena
}

func newPeerWorld(t *testing.T, replicate func(wire.ReplicateServer) error) *peerWorld {
	t.Helper()
	w := &peerWorld{server: arenatest.New(t, 64<<20), client: arenatest.New(t, 64<<20)}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.address = lis.Addr().String()
	codec := wire.NewCodec(w.server)
	w.listener = wire.NewPeerListener(lis, codec, replicate)
	s := grpc.NewServer(wire.ServerOptions(codec)...)
	wire.RegisterCluster(s, &services{arena: w.server, answer: []int{5000}})
	served := make(chan error, 1)
	go func() { served <- s.Serve(w.listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; !errors.Is(err, net.ErrClosed) { // closed by the test
			require.NoError(t, err)
		}
	})
	return w
}

// open dials a framed stream, which ends with the test.
func (w *peerWorld) open(t *testing.T) *wire.Framed {
	t.Helper()
	f, err := wire.OpenFramed(t.Context(), w.dial(t), wire.NewCodec(w.client))
	require.NoError(t, err)
	return f
}

func (w *peerWorld) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // a second time, where the stream did
	return conn
}

// echo answers each request with batches of the sizes that its acks name.
func echo(arena func() *record.Arena) func(wire.ReplicateServer) error {
	return func(s wire.ReplicateServer) error {
		for {
			req, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			m := &wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{}}
			for i, a := range req.GetAcks() {
				b := batch(arena(), int(a.GetAppended()), byte(i))
				m.Batches = append(m.Batches, record.SliceOf(b, 0, b.Len()))
				b.Release()
				m.Pushes = append(m.Pushes, &pb.ReplicaPush{TopicId: a.GetTopicId(), To: a.GetAppended(), BatchCount: 1})
			}
			err = s.Send(m)
			m.Release()
			if err != nil {
				return err
			}
		}
	}
}

func TestFramedStream(t *testing.T) {
	var w *peerWorld
	w = newPeerWorld(t, echo(func() *record.Arena { return w.server }))
	f := w.open(t)
	for _, sizes := range [][]int{
		{}, {0}, {1}, {8 << 10}, {8<<10 + 1}, {100, 20_000, 3, 40_000, 50_000}, {1 << 20, 1<<20 + 1, 3_333_333}, make([]int, 5000),
	} {
		req := &pb.ReplicateRequest{CreditBytes: 7}
		for _, n := range sizes {
			req.Acks = append(req.Acks, &pb.ReplicaAck{TopicId: []byte("0123456789abcdef"), Appended: int64(n)})
		}
		require.NoError(t, f.Send(req))
		var m wire.Replicated
		require.NoError(t, f.Recv(&m))
		require.Len(t, m.Batches, len(sizes))
		require.Len(t, m.GetPushes(), len(sizes))
		for i, n := range sizes {
			same(t, n, byte(i), m.Batches[i].Bytes)
			require.EqualValues(t, n, m.GetPushes()[i].GetTo())
		}
		m.Release()
	}
}

// The follower is told why a stream ended, and the leader's stream ends with the
// follower's connection.
func TestFramedStreamEnds(t *testing.T) {
	reasons := make(chan error, 1)
	heard := make(chan error, 1)
	w := newPeerWorld(t, func(s wire.ReplicateServer) error {
		_, err := s.Recv()
		heard <- err
		return <-reasons
	})
	for _, tc := range []struct{ reason, want error }{
		{nil, io.EOF},
		{status.Error(codes.Unavailable, "this node is starting"), status.Error(codes.Unavailable, "this node is starting")},
		{errors.New("no status"), status.Error(codes.Unknown, "no status")},
		{status.Error(codes.Internal, string(make([]byte, 70_000))), status.Error(codes.Unknown, "the reason is too long to be told")},
	} {
		f := w.open(t)
		require.NoError(t, f.Send(&pb.ReplicateRequest{}))
		require.NoError(t, <-heard)
		reasons <- tc.reason
		err := f.Recv(new(wire.Replicated))
		require.Equal(t, status.Convert(tc.want).Proto().String(), status.Convert(err).Proto().String())
		require.Equal(t, errors.Is(tc.want, io.EOF), errors.Is(err, io.EOF))
	}

	ctx, cancel := context.WithCancel(t.Context())
	_, err := wire.OpenFramed(ctx, w.dial(t), wire.NewCodec(w.client))
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-heard, io.EOF)
	reasons <- nil
}

// A stream that nobody reads from, one that says nothing and one that has not begun
// do not hold up a node that stops.
func TestPeerListenerCloses(t *testing.T) {
	blocked := make(chan struct{}, 1)
	var w *peerWorld
	w = newPeerWorld(t, func(s wire.ReplicateServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		b := batch(w.server, 1<<20, 1)
		defer b.Release()
		m := &wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{}, Batches: []record.Slice{b.Borrow()}}
		for {
			if err := s.Send(m); err != nil {
				return err
			}
			select {
			case blocked <- struct{}{}:
			default:
			}
		}
	})
	w.dial(t)
	w.open(t)
	require.NoError(t, w.open(t).Send(&pb.ReplicateRequest{}))
	<-blocked
	require.NoError(t, w.listener.Close())
	_, err := w.listener.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// Whoever speaks neither is let go, and gRPC is served on the same port.
func TestPeerListenerKnowsWhoSpeaks(t *testing.T) {
	w := newPeerWorld(t, func(wire.ReplicateServer) error { return errors.New("nobody opened a stream") })
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "PSK", "PSK2....", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"} {
		conn := w.dial(t)
		_, err := io.WriteString(conn, garbage)
		require.NoError(t, err)
		_ = conn.(*net.TCPConn).CloseWrite() // it may have been reset, with bytes unread
		_, _ = io.Copy(io.Discard, conn)
	}
	conn, err := grpc.NewClient(w.address, append(wire.DialOptions(wire.NewCodec(w.client)), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	answer, err := pb.NewClusterServiceClient(conn).Hello(t.Context(), &pb.HelloRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 3, answer.GetNodeId())
	stream, err := wire.ReplicateStream(t.Context(), conn)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.ReplicateRequest{}))
	m, err := stream.Recv()
	require.NoError(t, err)
	same(t, 5000, 0, m.Batches[0].Bytes)
	m.Release()
}

// script is a connection on which the other side says what it says, and hangs up.
func script(t require.TestingT, codec *wire.Codec, says []byte) (f *wire.Framed, done func()) {
	ours, theirs := net.Pipe()
	said := make(chan struct{})
	go func() {
		defer close(said)
		preface := make([]byte, 4)
		_, _ = io.ReadFull(theirs, preface)
		_, _ = theirs.Write(says) // the reader may have had enough before
		_ = theirs.Close()
	}()
	f, err := wire.OpenFramed(context.Background(), ours, codec)
	require.NoError(t, err)
	return f, func() {
		_ = ours.Close()
		<-said
	}
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)
}

// compareFramed checks what comes of a frame with these bytes against the generated code.
func compareFramed(t require.TestingT, data []byte) {
	arena := record.NewArena(1 << 20)
	f, done := script(t, wire.NewCodec(arena), frame(data))
	defer done()
	var want pb.ReplicateResponse
	wantErr := proto.Unmarshal(data, &want)
	var got wire.Replicated
	err := f.Recv(&got)
	if err == nil {
		require.NoError(t, wantErr)
		require.Len(t, got.Batches, len(want.GetBatches()))
		for i, b := range got.Batches {
			require.True(t, bytes.Equal(want.GetBatches()[i], b.Bytes))
		}
		want.Batches = nil
		// What this release does not know is not kept as it was spelt.
		want.ProtoReflect().SetUnknown(nil)
		got.ReplicateResponse.ProtoReflect().SetUnknown(nil)
		require.True(t, proto.Equal(&want, got.ReplicateResponse))
		require.ErrorIs(t, f.Recv(&got), io.EOF)
	} else if wantErr == nil {
		require.True(t, errors.Is(err, wire.ErrTooManyBatches) || errors.Is(err, wire.ErrMalformed) && hasGroup(data), "%v", err)
	}
	got.Release()
	require.Zero(t, arena.InUse())
}

// hasGroup: none of our messages has one, and a framed stream takes none.
func hasGroup(data []byte) bool {
	for len(data) > 0 {
		_, kind, n := protowire.ConsumeField(data)
		if n < 0 || kind == protowire.StartGroupType {
			return true
		}
		data = data[n:]
	}
	return false
}

func TestFramedAgreesWithGeneratedCode(t *testing.T) {
	for _, data := range seeds() {
		compareFramed(t, data)
	}
}

func FuzzFramed(f *testing.F) {
	for _, data := range seeds() {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareFramed(t, data) })
}

// Whatever comes after the preface, nothing is kept and nothing hangs.
func FuzzFramedStream(f *testing.F) {
	f.Add(append(frame(nil), frame([]byte{0x7a, 1, 'x'})...))
	f.Add([]byte{0x80, 0, 0, 2, 8, 14})
	f.Add([]byte{0x80, 0, 0xff, 0xff, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0x7a, 0xff, 0xff, 0xff, 0x1f})
	f.Fuzz(func(t *testing.T, data []byte) {
		arena := record.NewArena(1 << 20)
		s, done := script(t, wire.NewCodec(arena), data)
		defer done()
		for {
			var m wire.Replicated
			if err := s.Recv(&m); err != nil {
				break
			}
			m.Release()
		}
		require.Zero(t, arena.InUse())
	})
}

// A connection that ends within a frame is told from one that ends after it.
func TestFramedCutAnywhere(t *testing.T) {
	message, err := proto.Marshal(&pb.ReplicateResponse{
		Pushes: []*pb.ReplicaPush{{To: 1, BatchCount: 2}}, Batches: [][]byte{bytes.Repeat([]byte("a"), 300), []byte("b")},
	})
	require.NoError(t, err)
	whole := frame(message)
	for n := range whole {
		arena := record.NewArena(1 << 20)
		f, done := script(t, wire.NewCodec(arena), whole[:n])
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		require.ErrorIs(t, f.Recv(new(wire.Replicated)), want, "%d of %d bytes", n, len(whole))
		require.Zero(t, arena.InUse())
		done()
	}
}

func TestFramedRefuses(t *testing.T) {
	many := bytes.Repeat([]byte{0x7a, 0}, wire.MaxBatches+1)
	for name, tc := range map[string]struct {
		says []byte
		want error
	}{
		"a message that is too large":            {[]byte{4, 0, 0, 1}, wire.ErrTooLarge},
		"a status that is too large":             {[]byte{0x80, 1, 0, 1}, wire.ErrMalformed},
		"a batch that ends behind its message":   {frame([]byte{0x7a, 5, 'x'}), wire.ErrMalformed},
		"a field that ends behind its message":   {frame([]byte{0x0d, 1, 2}), wire.ErrMalformed},
		"a length that ends behind its message":  {frame([]byte{0x7a, 0x80}), wire.ErrMalformed},
		"a group":                                {frame([]byte{0x0b, 0x0c}), wire.ErrMalformed},
		"field number 0":                         {frame([]byte{0x02, 0}), wire.ErrMalformed},
		"a varint of more than 64 bits":          {frame(bytes.Repeat([]byte{0xff}, 11)), wire.ErrMalformed},
		"more batches than one message may have": {frame(many), wire.ErrTooManyBatches},
	} {
		t.Run(name, func(t *testing.T) {
			arena := record.NewArena(1 << 20)
			f, done := script(t, wire.NewCodec(arena), tc.says)
			defer done()
			require.ErrorIs(t, f.Recv(new(wire.Replicated)), tc.want)
			require.Zero(t, arena.InUse())
		})
	}
}

// Memory is laid out for what arrived, and a mebibyte that may.
func TestFramedLengthIsNotBelieved(t *testing.T) {
	arena := record.NewArena(256 << 20)
	ours, theirs := net.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.ReadFull(theirs, make([]byte, 4))
		const n = 60 << 20
		head := binary.BigEndian.AppendUint32(nil, n+10)
		head = protowire.AppendVarint(append(head, 0x7a), n)
		_, _ = theirs.Write(append(head, make([]byte, 3<<20)...))
	}()
	f, err := wire.OpenFramed(t.Context(), ours, wire.NewCodec(arena))
	require.NoError(t, err)
	received := make(chan error, 1)
	go func() { received <- f.Recv(new(wire.Replicated)) }()
	<-sent
	require.LessOrEqual(t, arena.InUse(), int64(12<<20), "after 3 MiB of 60")
	require.NoError(t, theirs.Close())
	require.ErrorIs(t, <-received, io.ErrUnexpectedEOF)
	require.NoError(t, ours.Close())
	require.Zero(t, arena.InUse())
}

func TestFramedRefusesToSend(t *testing.T) {
	arena := arenatest.New(t, 256<<20)
	f, done := script(t, wire.NewCodec(arena), nil)
	defer done()
	require.ErrorContains(t, f.Send(3), "cannot be sent")
	require.ErrorIs(t, f.Send(&wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{Batches: [][]byte{{1}}}}), wire.ErrBatchesTwice)
	b := arena.Get(wire.MaxMessageBytes)
	defer b.Release()
	require.ErrorIs(t, f.Send(&wire.Replicated{ReplicateResponse: &pb.ReplicateResponse{}, Batches: []record.Slice{b.Borrow()}}), wire.ErrTooLarge)
}

// discard takes what is written.
type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

func TestFramedSendAllocatesNothing(t *testing.T) {
	arena := arenatest.New(t, 64<<20)
	f, err := wire.OpenFramed(t.Context(), discard{}, wire.NewCodec(arena))
	require.NoError(t, err)
	small, large := batch(arena, 500, 1), batch(arena, 200_000, 2)
	defer small.Release()
	defer large.Release()
	m := &wire.Replicated{
		ReplicateResponse: &pb.ReplicateResponse{Pushes: []*pb.ReplicaPush{{TopicId: make([]byte, 16), To: 3, BatchCount: 2}}},
		Batches:           []record.Slice{small.Borrow(), large.Borrow()},
	}
	req := &pb.ReplicateRequest{Acks: []*pb.ReplicaAck{{TopicId: make([]byte, 16), Appended: 3}}}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := errors.Join(f.Send(m), f.Send(req)); err != nil {
			t.Fatal(err)
		}
	}))
}

// A connection on which nobody answers any more breaks within seconds, also while
// something is under way: the kernel sees to it.
func TestFramedConnectionsBreak(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 1)
	began := make(chan struct{})
	server := record.NewArena(1 << 20)
	l := wire.NewPeerListener(seen{lis, accepted}, wire.NewCodec(server), func(s wire.ReplicateServer) error {
		close(began)
		_, err := s.Recv()
		return err
	})
	defer func() { require.NoError(t, l.Close()) }()
	conn, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	_, err = wire.OpenFramed(t.Context(), conn, wire.NewCodec(record.NewArena(1<<20)))
	require.NoError(t, err)
	<-began
	for _, tt := range []struct {
		conn net.Conn
		want int
	}{{conn, 3000}, {<-accepted, 10_000}} {
		raw, err := tt.conn.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			require.NoError(t, err)
			require.Equal(t, tt.want, ms)
		}))
	}
}

// seen tells which connections were accepted.
type seen struct {
	net.Listener
	conns chan net.Conn
}

func (l seen) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}
