package main

// readMutants: how a controller confirms that it still is one before it says how far the
// metadata log goes. Raft itself is not simulated: unit tests notice.
func readMutants() []mutant {
	const (
		confirm = "cluster/confirm.go"
		barrier = "cluster/readbarrier.go"
		pure    = "TestConfirmations"
	)
	return []mutant{
		stated(pure, one("read barrier: an answer to a message from before the question counts", confirm,
			" c.term == term && at >= question {", " c.term == term && (MUTANT || at >= question) {")),
		stated(pure, one("read barrier: an answer of another term counts", confirm,
			"	case term < c.term:\n", "	case term < c.term && !MUTANT:\n")),
		stated(pure, one("read barrier: a controller confirms itself", confirm,
			"	return count > len(voters)/2, c.changed", "	return MUTANT || count > len(voters)/2, c.changed")),
		stated("TestNoReadBarrierWithoutAQuorum", one("read barrier: nobody is asked", barrier,
			"		if yes {\n", "		if yes || MUTANT {\n")),
		stated("TestReadBarrierIsAheadOfTheController", one("read barrier: what the controller has applied is all there is", barrier,
			"	index := max(t.node.Image().Index(), t.node.store.newestOf(t.number))\n",
			"	index := max(t.node.Image().Index(), t.node.store.newestOf(t.number))\n	if MUTANT {\n		index = t.node.Image().Index()\n	}\n")),
		stated("TestReadBarrierWritesNothing", one("read barrier: it is an entry of the metadata log", barrier,
			"	question := n.trans.followers.ask()\n", "	if MUTANT {\n		_ = t.barrier(ctx)\n	}\n	question := n.trans.followers.ask()\n")),
	}
}
