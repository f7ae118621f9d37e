// Package api holds what the front doors and the broker say to each other:
// requests, results, identifiers and typed errors. It is a leaf, so that the
// gRPC door and the Kafka door map the same values without knowing each other,
// and the broker knows neither.
//
// Batches are *record.Buf, one RecordBatch v2 each. A request hands its
// references over to the broker, which releases them whatever the outcome; a
// fetch result hands references to the caller, who calls Release on the result
// when the bytes have left.
package api
