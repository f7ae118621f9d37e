package main

// raftLogMutants: what is taken of the file of the metadata log. No simulated cluster
// has one: unit tests notice.
func raftLogMutants() []mutant {
	const (
		sums    = "cluster/checksum.go"
		file    = "internal/boltfile/boltfile.go"
		flipped = "TestFlippedBitInTheRaftLogIsRefused"
		bits    = "TestFlippedBits"
	)
	return []mutant{
		stated(flipped, one("metadata log: the checksum of an entry is not compared", sums,
			"	case ok && sum != entrySum(l):", "	case ok && sum != entrySum(l) && !MUTANT:")),
		stated(flipped, one("metadata log: the checksum of a vote is not compared", sums,
			"	if ok && sum != valueSum(key, value) {", "	if ok && sum != valueSum(key, value) && !MUTANT {")),
		stated(flipped, one("metadata log: what has no checksum is not looked for one", sums,
			"	case !ok && len(l.Extensions) > 0:", "	case !ok && len(l.Extensions) > 0 && !MUTANT:")),
		stated(bits, one("metadata log: a page may hold fewer entries than lie in it", file,
			"		if int64(at)+int64(pos) != next || key == 0", "		if MUTANT {\n			next = int64(at) + int64(pos)\n			end = next + int64(key) + int64(value)\n		}\n		if int64(at)+int64(pos) != next || key == 0")),
	}
}
