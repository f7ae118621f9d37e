// Package codec is the spike behind docs/decisions/0002-grpc-codec.md: gRPC with
// plain protobuf against proto/wire's no-copy codec, over loopback, with the same
// windows and message sizes. Both ends are in one process, so a figure counts
// the CPU of client and server together. Run it with
//
//	go test ./bench/spikes/codec -run '^$' -bench . -benchtime 2s -count 3
//
// and compare the two codecs of one run: the machine moves both.
package codec
