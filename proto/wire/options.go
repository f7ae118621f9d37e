package wire

import "google.golang.org/grpc"

const (
	// MaxMessageBytes bounds a message in either direction: 64 MiB.
	MaxMessageBytes = 64 << 20
	// streamWindow and connWindow are the bytes that may be under way before the
	// receiver has read them. Set, they replace grpc-go's estimate, which cost a
	// quarter of the throughput of 256 KiB messages.
	streamWindow = 4 << 20
	connWindow   = 16 << 20
	// maxStreams bounds the calls in progress on one connection, so that a flood of
	// streams that are opened and reset stays within it.
	maxStreams = 4096
)

// ServerOptions are what a server needs for the services of this package.
func ServerOptions(codec *Codec) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
	}
}

// DialOptions are what a connection needs for the calls of this package.
func DialOptions(codec *Codec) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		// Callers know which requests may be sent twice; grpc's own retries would
		// also keep copies of what was sent.
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec),
			grpc.MaxCallRecvMsgSize(MaxMessageBytes),
			grpc.MaxCallSendMsgSize(MaxMessageBytes),
		),
	}
}
