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
		one("a group goes on from what the log refused", "consumergroup/coordinator/refused.go",
			"	for _, g := range back {\n		s.goBack(", "	for _, g := range back {\n		if MUTANT {\n			continue\n		}\n		s.goBack("),
		one("an offset can be read though its record was refused", commit,
			"			r.Err = commitError(err).At(r.Topic, r.Partition)\n", "			r.Err = commitError(err).At(r.Topic, r.Partition)\n			if MUTANT && definite(err) {\n				s.store(c.group, r.TopicPartition, c.stored(i))\n			}\n"),
		stated("TestOldStreamDoesNotCommit", one("a commit of a stream that was replaced is taken", commit,
			"err == nil && c.session != nil && (", "err == nil && !MUTANT && c.session != nil && (")),
		one("a commit is not checked against who owns the partition", commit,
			"	if outside(req) || g.classic != nil {\n", "	if MUTANT || outside(req) || g.classic != nil {\n"),
		one("the offsets of a topic stay when it is created again", expiry,
			" c.topic != id }", " c.topic != id && !MUTANT }"),
		stated("TestNothingIsRememberedAfterTheSession", one("a broker answers out of its memory after its session", calls,
			"	if b.lapsed() {\n		var none T\n", "	if b.lapsed() && !MUTANT {\n		var none T\n")),
		stated("TestOffsetsAreConfirmed", one("a broker does not look whether another coordinates the group by now", calls,
			"	case !b.coordinates(", "	case !MUTANT && !b.coordinates(")),
		stated("TestGroupsAreShownConfirmed", one("that there is no such group is not confirmed", calls,
			"	return ok && epoch != record.UnknownEpoch && ", "	return ok && !MUTANT && epoch != record.UnknownEpoch && ")),
		stated("TestGroupsAreShownConfirmed", one("groups that others coordinate by now are listed", calls,
			" return !mine(g.Group) }", " return !mine(g.Group) && !MUTANT }")),
		stated("TestOffsetsAreConfirmed", one("a broker that reaches no controller says what is committed", calls,
			"	case !asked:\n", "	case !MUTANT && !asked:\n")),
	}
	mutants = append(mutants, classicMutants()...)
	mutants = append(mutants, patternMutants()...)
	for i := range mutants {
		mutants[i].inShell = true
	}
	return mutants
}

// classicMutants: members that assign among themselves, and groups that go from them to the
// coordinator and back, while topics go and come.
func classicMutants() []mutant {
	const (
		classic = "consumergroup/classic.go"
		member  = "consumergroup/classic_member.go"
		group   = "consumergroup/group.go"
	)
	return []mutant{
		one("a commit of another generation counts", classic,
			"	case !c.speaks(m, generation):", "	case !MUTANT && !c.speaks(m, generation):"),
		one("what the leader assigns is not persisted", member,
			"		c.members[id].Assignment = assignments[id]\n	}\n	out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n",
			"		c.members[id].Assignment = assignments[id]\n	}\n	if !MUTANT {\n		out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n	}\n"),
		one("the next process of a static member is not persisted", member,
			"		out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n		e := c.joined(",
			"		if !MUTANT {\n			out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n		}\n		e := c.joined("),
		stated("TestReleasedGroupRebalancesUnderItsNextCoordinator", one("nobody leads a group that was given back when its coordinator moves", classic,
			"	case c.leader != \"\":\n", "	case c.leader != \"\" || MUTANT:\n")),
		stated("TestReleasedGroupIsWrittenAsItWas", one("a group that was given back is written as it is after the rebalance", "consumergroup/convert.go",
			"	c.enter(now, ClassicStable)\n", "	c.enter(now, ClassicStable)\n	if MUTANT {\n		c.prepare(now, out)\n	}\n")),
		one("a classic member is told what it lists and does not have", "consumergroup/reconcile.go",
			" || len(m.strays) > 0 {", " || !MUTANT && len(m.strays) > 0 {"),
		stated("TestHostedPartitionOfADeletedTopic", one("what members had of a deleted topic is of the next one of its name", group,
			"		if md.Partitions[p.Topic] == 0 {\n", "		if !MUTANT && md.Partitions[p.Topic] == 0 {\n")),
	}
}

// patternMutants: subscriptions by pattern, while the topics that they match come, grow and go.
func patternMutants() []mutant {
	const matches = "consumergroup/coordinator/matches.go"
	return []mutant{
		one("a pattern is not tried on topics that came later", matches,
			"		if !known {\n", "		if !known && (m == nil || !MUTANT) {\n"),
		one("a group that subscribes by a pattern does not hear of topics", "consumergroup/coordinator/coordinator.go",
			"	c.patterns.topicsChanged()\n", "	if !MUTANT {\n		c.patterns.topicsChanged()\n	}\n"),
	}
}
