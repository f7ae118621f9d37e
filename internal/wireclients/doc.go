// Package wireclients runs clients of the gRPC API that know nothing of Penstock but its
// .proto files or what it reflects: a Python client of stubs that protoc generated, and
// grpcurl with the very commands that README.md shows. So the protobuf on the wire is
// anybody's, though Penstock encodes and decodes its batches with a codec of its own. It
// is a module of its own, so that what they need stays out of the product's.
//
// The Python client (python/test_client.py) makes, changes and deletes topics; produces
// records by unary calls, streams, and as batches that it encodes itself; reads them back
// as records and as batches; runs members of a group through their session, and commits
// and moves offsets; and reads the typed detail of refusals.
//
// scripts/wire-clients installs the clients and runs the test.
package wireclients
