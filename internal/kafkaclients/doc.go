// Package kafkaclients runs Kafka clients that nobody here wrote against a cluster of
// real penstock processes. It is a module of its own, so that what they need stays
// out of the product's.
//
// Each client has a driver, a small program in the client's language. All of them
// take the same arguments and print the same lines, and the test knows no client:
//
//	produce  client= brokers= topic= count= codec= idempotent= rate=
//	         sends records and prints "acked N" for each that was acknowledged; with a rate
//	         until its standard input ends, or it has sent count
//	consume  client= brokers= topic= count= from=earliest|MILLISECONDS
//	group    client= brokers= topic= count= group= commit=manual|auto protocol=classic|consumer
//	         prints "record PARTITION OFFSET KEY VALUE HEADER"; a member of a group leaves when
//	         it has count records or its standard input ends
//	admin    client= brokers= topic=
//	         creates the topic, shows it, changes it and deletes it
//
// Record N has the value "vN", the header "n" with N in it, and the key "kN%7", or no
// key when N is odd. A dash stands for what is not there.
//
// Beside them run the tools that come with Kafka, with the commands that operators type
// (tools_test.go).
//
// scripts/kafka-clients installs the clients and runs the test.
package kafkaclients
