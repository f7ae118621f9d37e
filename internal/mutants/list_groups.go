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
			"		m.told = keep\n		g.expectAck(now, m)\n		g.update(m, out)\n		return\n",
			"		m.told = keep\n		if MUTANT {\n			g.keepOnly(m, sorted(keep))\n		}\n		g.expectAck(now, m)\n		g.update(m, out)\n		return\n"),
		one("a member is told anew before it answered", reconcile,
			"m.away || !m.acked ||", "m.away || (!MUTANT && !m.acked) ||"),
		one("a member moves while its group assigns", reconcile,
			" g.assigning() {", " (!MUTANT && g.assigning()) {"),
		{name: "a new coordinator does not wait for the members", edits: []edit{
			{group, "out.Assign = out.Assign || g.dirty && g.awaited == 0", "out.Assign = out.Assign || g.dirty && (MUTANT || g.awaited == 0)"},
			{reconcile, "	if !g.dirty || g.awaited > 0 {", "	if !g.dirty || !MUTANT && g.awaited > 0 {"},
			{query, "return g.dirty || g.awaited > 0 }", "return g.dirty || !MUTANT && g.awaited > 0 }"},
		}},
		one("what a returning member no longer has stays its own", member,
			"		g.keepOnly(m, ev.Owned)\n", "		if !MUTANT {\n			g.keepOnly(m, ev.Owned)\n		}\n"),
		one("a heartbeat of an older stream is heard", member,
			"	case m.stream != ev.Stream:\n		refuse", "	case !MUTANT && m.stream != ev.Stream:\n		refuse"),
		one("a process that begins anew keeps what the one before owned", member,
			"	g.releaseAll(m)\n	m.epoch = 0\n", "	if !MUTANT {\n		g.releaseAll(m)\n	}\n	m.epoch = 0\n"),
		one("a member that goes keeps what it owned", group,
			"	g.releaseAll(m)\n	g.back(m, out)", "	if !MUTANT {\n		g.releaseAll(m)\n	}\n	g.back(m, out)"),
		one("a member that never answers is waited for", member,
			"m.acked, m.ackBy = false, now.Add(m.RebalanceTimeout)", "m.acked, m.ackBy = false, now.Add(m.RebalanceTimeout)\n	if MUTANT {\n		m.ackBy = now.AddDate(1, 0, 0)\n	}"),
		one("a former owner's commit counts", query,
			"	case !owns:", "	case !MUTANT && !owns:"),
		one("a commit of before the partition was given counts", query,
			"	case epoch < given:", "	case !MUTANT && epoch < given:"),
		one("the members are not persisted", member,
			"	out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})\n	m.left = false\n	clear(",
			"	if !MUTANT {\n		out.List = append(out.List, Effect{Kind: EffectPersistMember, MemberID: m.ID, Member: m.details()})\n	}\n	m.left = false\n	clear("),
		one("members that went are not forgotten", group,
			"	out.List = append(out.List, Effect{Kind: EffectForgetMember, MemberID: m.ID})\n",
			"	if !MUTANT {\n		out.List = append(out.List, Effect{Kind: EffectForgetMember, MemberID: m.ID})\n	}\n"),
	}
	for i := range mutants {
		mutants[i].inGroups = true
	}
	return mutants
}
