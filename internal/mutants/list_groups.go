package main

// groupMutants: who owns a partition, and whose commits count.
func groupMutants() []mutant {
	const (
		group     = "consumergroup/group.go"
		member    = "consumergroup/member.go"
		reconcile = "consumergroup/reconcile.go"
		query     = "consumergroup/query.go"
	)
	mutants := []mutant{
		one("a partition is given while another member has it", reconcile,
			"!has && g.holder[p] == nil {", "!has && (MUTANT || g.holder[p] == nil) {"),
		one("a partition is free as soon as it is to be given up", reconcile,
			"		m.told = keep\n		g.saveCurrent(m, out)\n		return true, true\n",
			"		m.told = keep\n		if MUTANT {\n			g.keepOnly(m, sorted(keep))\n		}\n		g.saveCurrent(m, out)\n		return true, true\n"),
		one("a member is told anew before it answered", reconcile,
			"m.stream == 0 || !m.acked {", "m.stream == 0 || (!MUTANT && !m.acked) {"),
		one("a member moves while its group assigns", reconcile,
			" g.assigning() {", " (!MUTANT && g.assigning()) {"),
		{name: "a new coordinator does not wait for the members", edits: []edit{
			{group, "out.Assign = out.Assign || g.dirty && g.awaited == 0", "out.Assign = out.Assign || g.dirty && (MUTANT || g.awaited == 0)"},
			{reconcile, "	if !g.dirty || g.awaited > 0 {", "	if !g.dirty || !MUTANT && g.awaited > 0 {"},
			{query, "return g.dirty || g.awaited > 0 }", "return g.dirty || !MUTANT && g.awaited > 0 }"},
		}},
		one("what a returning member no longer has stays its own", member,
			"		moved = g.keepOnly(m, ev.Owned)\n", "		if !MUTANT {\n			moved = g.keepOnly(m, ev.Owned)\n		}\n"),
		one("a heartbeat of an older stream is heard", member,
			"	case m.stream != ev.Stream:\n		refuse", "	case !MUTANT && m.stream != ev.Stream:\n		refuse"),
		one("a process that begins anew keeps what the one before owned", member,
			"	g.releaseAll(m)\n	m.epoch, m.previous = 0, 0\n", "	if !MUTANT {\n		g.releaseAll(m)\n	}\n	m.epoch, m.previous = 0, 0\n"),
		one("a member that goes keeps what it owned", group,
			"	g.releaseAll(m)\n	g.back(m, out)", "	if !MUTANT {\n		g.releaseAll(m)\n	}\n	g.back(m, out)"),
		one("a member that never answers is waited for", member,
			"m.acked, m.ackBy = false, now.Add(m.RebalanceTimeout)", "m.acked, m.ackBy = false, now.Add(m.RebalanceTimeout)\n	if MUTANT {\n		m.ackBy = now.AddDate(1, 0, 0)\n	}"),
		one("a former owner's commit counts", query,
			"	case !owns:", "	case !MUTANT && !owns:"),
		one("a commit of before the partition was given counts", query,
			"	case epoch < given:", "	case !MUTANT && epoch < given:"),
		one("a commit of a topic that was deleted and created again counts", query,
			"had != topic:", "!MUTANT && had != topic:"),
		one("what a member has of a topic that was deleted stays its own", reconcile,
			"ok && !g.gone(p) {", "ok && (MUTANT || !g.gone(p)) {"),
		one("the members are not persisted", member,
			"	out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})\n	m.left = false\n	clear(",
			"	if !MUTANT {\n		out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})\n	}\n	m.left = false\n	clear("),
		one("members that went are not forgotten", group,
			"	out.List = append(out.List, Effect{Kind: EffectForgetMember, MemberID: m.ID})\n",
			"	if !MUTANT {\n		out.List = append(out.List, Effect{Kind: EffectForgetMember, MemberID: m.ID})\n	}\n"),
	}
	mutants = append(mutants, assignmentMutants()...)
	mutants = append(mutants, rollingMutants()...)
	for i := range mutants {
		mutants[i].inGroups = true
	}
	return mutants
}

// assignmentMutants: what a new coordinator must know of who owns what.
func assignmentMutants() []mutant {
	const (
		group     = "consumergroup/group.go"
		member    = "consumergroup/member.go"
		reconcile = "consumergroup/reconcile.go"
		restore   = "consumergroup/restore.go"
	)
	return []mutant{
		stated("TestARefusalIsOfOneGroup", one("a refused join loads all groups of the partition anew", "consumergroup/coordinator/shard.go",
			"err != nil && !definite(err) {", "err != nil && (MUTANT && b.groups || !definite(err)) {")),
		stated("TestADeletionThatIsRefused", one("what rests on a refused decision is appended", "consumergroup/coordinator/refused.go",
			"	if len(back) > 0 {", "	if len(back) > 0 && !MUTANT {")),
		one("what a member is given is not persisted", reconcile,
			"	if changed {\n", "	if changed && !MUTANT {\n"),
		one("what a member is to give up is not persisted", restore,
			"			c.Revoking = append(c.Revoking, given)\n", "			if !MUTANT {\n				c.Revoking = append(c.Revoking, given)\n			}\n"),
		one("what a member gave up is not persisted", member,
			"	if released {\n", "	if released && !MUTANT {\n"),
		one("a new coordinator takes what is being given up for free", restore,
			"[][]Given{s.Current.Assigned, s.Current.Revoking} {\n		for _, p := range list {\n", "[][]Given{s.Current.Assigned, s.Current.Revoking} {\n		for _, p := range list {\n			if MUTANT && i == 1 {\n				continue\n			}\n"),
		one("the epoch in which a partition was given is lost with the coordinator", restore,
			"m.owned[p.TopicPartition] = p.Epoch", "m.owned[p.TopicPartition] = p.Epoch\n			if MUTANT {\n				m.owned[p.TopicPartition] = 0\n			}"),
		one("the target is not persisted", reconcile,
			"			g.saveTarget(m, out)\n", "			if !MUTANT {\n				g.saveTarget(m, out)\n			}\n"),
		one("assignments of before an older build are trusted", group,
			"	if g.awaited == 0 {\n		e.Hash", "	if MUTANT || g.awaited == 0 {\n		e.Hash"),
	}
}

// rollingMutants: a group that goes from one protocol to the other while its
// members roll. Two rules are too seldom at stake in a hunt and have tests of their
// own: what a cooperative consumer has not given up yet (TestHostHoldsWhatIsBeingGivenUp),
// and a join that was overtaken (testdata/scripts/hosted.txt).
func rollingMutants() []mutant {
	const (
		convert = "consumergroup/convert.go"
		hosted  = "consumergroup/hosted.go"
	)
	return []mutant{
		one("conversion forgets who owns what", convert,
			"			g.hold(m, p)\n			m.target", "			if !MUTANT {\n				g.hold(m, p)\n			}\n			m.target"),
		one("conversion leaves the joins that wait without an answer", convert,
			"		if m.join != 0 {\n			details", "		if m.join != 0 && !MUTANT {\n			details"),
		one("conversion begins with epoch 0", convert,
			"	g.epoch, g.targetEpoch = c.generation, c.generation\n", "	g.epoch, g.targetEpoch = c.generation, c.generation\n	if MUTANT {\n		g.epoch, g.targetEpoch = 0, 0\n	}\n"),
		one("back-conversion loses the epoch", convert,
			"	c.protocolType = consumerProtocolType\n", "	c.protocolType = consumerProtocolType\n	if MUTANT {\n		c.generation = 0\n	}\n"),
		one("back-conversion lets the members go on as they are", convert,
			"	c.prepare(now, out)\n	out.Deadline", "	if !MUTANT {\n		c.prepare(now, out)\n	}\n	out.Deadline"),
		one("back-conversion is not persisted", convert,
			"	out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n", "	if !MUTANT {\n		out.List = append(out.List, ClassicEffect{Kind: ClassicPersist, Stored: c.Stored()})\n	}\n"),
		one("a classic member's join frees nothing", hosted,
			"		g.keepOnly(m, ev.Subscription.Owned)\n", "		if !MUTANT {\n			g.keepOnly(m, ev.Subscription.Owned)\n		}\n"),
		one("a classic member is never told to join again", hosted,
			"!m.syncing && !g.assigning() && g.rejoins(m) {", "!MUTANT && !m.syncing && !g.assigning() && g.rejoins(m) {"),
		one("a classic member that does not join again is waited for", hosted,
			"		if m.acked && g.rejoins(m) {\n", "		if !MUTANT && m.acked && g.rejoins(m) {\n"),
	}
}
