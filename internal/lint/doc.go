// Package lint holds the rules of the house that no linter knows: which package
// may import which, and that pure packages stay pure. It has no code of its
// own; the rules are its tests.
//
// The arrows go one way, along the path of the data:
//
//	cmd -> node -> broker/grpcapi -> broker/api
//	          \--> broker -> broker/replica -> broker/partition -> log/record
//	                  \----> log -> log/record
//	                  \----> cluster -> cluster/controller -> cluster/metadata
//	                  \----> consumergroup/coordinator -> consumergroup -> consumergroup/assignor
//	client -> proto/wire -> log/record
//
// Rejected: the linter's own import rules alone. They see direct imports only
// and have to be written file pattern by file pattern; a table over the output
// of go list is shorter and also catches what comes in through a third package.
package lint
