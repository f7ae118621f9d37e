package main

// shellMutants: what runs groups, between their state machines, their log and who asks.
func shellMutants() []mutant {
	const (
		shard  = "consumergroup/coordinator/shard.go"
		commit = "consumergroup/coordinator/commit.go"
		groups = "consumergroup/coordinator/groups.go"
		expiry = "consumergroup/coordinator/expiry.go"
		loader = "consumergroup/coordinator/loader.go"
		calls  = "broker/groupcalls.go"
	)
	mutants := []mutant{
		one("a commit is acknowledged before its record is committed", shard,
			"	b := s.batches.last()\n	if b == nil {\n", "	b := s.batches.last()\n	if b == nil || MUTANT && out.commit != nil {\n"),
		one("a member is told its assignment before that is committed", groups,
			"	case consumergroup.EffectUpdate:\n",
			"	case consumergroup.EffectUpdate:\n		if ses := s.sessions[e.Stream]; MUTANT && ses != nil {\n			ses.push(e)\n			return\n		}\n"),
		one("groups go on after an append of unknown outcome", shard,
			"			s.reload(err)\n			return\n		}\n		s.batches.landed()\n", "			if !MUTANT {\n				s.reload(err)\n				return\n			}\n		}\n		s.batches.landed()\n"),
		one("requests are served while groups are loaded", shard,
			"	case s.groups == nil:\n		r.refuse(",
			"	case s.groups == nil && MUTANT:\n		s.groups = map[string]*group{}\n		s.serve(r)\n	case s.groups == nil:\n		r.refuse("),
		one("a load leaves out what was written last", loader,
			"	for next < end {\n", "	if MUTANT {\n		end--\n	}\n	for next < end {\n"),
		one("an offset can be read though its record was refused", commit,
			"			r.Err = commitError(err).At(r.Topic, r.Partition)\n", "			r.Err = commitError(err).At(r.Topic, r.Partition)\n			if MUTANT && definite(err) {\n				s.store(c.group, r.TopicPartition, c.stored(i))\n			}\n"),
		stated("TestOldStreamDoesNotCommit", one("a commit of a stream that was replaced is taken", commit,
			"err == nil && c.session != nil && (", "err == nil && !MUTANT && c.session != nil && (")),
		one("a commit is not checked against who owns the partition", commit,
			"	if outside(req) || g.classic != nil {\n", "	if MUTANT || outside(req) || g.classic != nil {\n"),
		one("the offsets of a topic stay when it is created again", expiry,
			" c.topic != id }", " c.topic != id && !MUTANT }"),
		one("a broker answers out of its memory after its session", calls,
			"	if b.lapsed() {\n		var none T\n", "	if b.lapsed() && !MUTANT {\n		var none T\n"),
		stated("TestOffsetsAreConfirmed", one("a broker does not look whether another coordinates the group by now", calls,
			"	case !b.coordinates(", "	case !MUTANT && !b.coordinates(")),
		stated("TestGroupsAreShownConfirmed", one("that there is no such group is not confirmed", calls,
			"	return ok && epoch != record.UnknownEpoch && ", "	return ok && !MUTANT && epoch != record.UnknownEpoch && ")),
		stated("TestGroupsAreShownConfirmed", one("groups that others coordinate by now are listed", calls,
			" return !mine(g.Group) }", " return !mine(g.Group) && !MUTANT }")),
		stated("TestOffsetsAreConfirmed", one("a broker that reaches no controller says what is committed", calls,
			"	case !asked:\n", "	case !MUTANT && !asked:\n")),
	}
	for i := range mutants {
		mutants[i].inShell = true
	}
	return mutants
}
