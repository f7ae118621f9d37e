package main

import (
	"fmt"
	"path"
)

// mutant is a deliberate fault in the product: edits that, together, break one rule.
type mutant struct {
	name  string
	edits []edit
	// inLog: the fault is in package log, which only some simulated clusters have.
	inLog bool
	// inGroups: the fault is in consumer groups, whose package has a TestHunt of its own.
	inGroups bool
	// inShell: the fault is in what runs them, which has a TestGroupHunt in package broker.
	inShell bool
	// state is the test of its package that is to fail, of a fault that takes too rare a
	// run of events for the seeds of a hunt: one that brings them about.
	state string
}

// stated adds the test to a mutant.
func stated(test string, m mutant) mutant {
	m.state = test
	return m
}

// pkg is the package of the first edit.
func (m mutant) pkg() string { return "./" + path.Dir(m.edits[0].file) }

// The packages with a hunt: whole clusters, consumer groups, and what runs groups.
const (
	simPackage   = "./internal/sim"
	groupPackage = "./consumergroup"
	shellPackage = "./broker"
)

// hunt returns the package whose hunt is to notice m, and its flags.
func (m mutant) hunt(seeds int) (pkg string, flags []string) {
	switch {
	case m.inGroups:
		return groupPackage, []string{"-test.run=^TestHunt$", fmt.Sprintf("-hunt=%d", seeds)}
	case m.inShell:
		return shellPackage, []string{"-test.run=^TestGroupHunt$", fmt.Sprintf("-groups.seeds=%d", seeds)}
	}
	return simPackage, []string{"-test.run=^TestHunt$", fmt.Sprintf("-sim.hunt=%d", seeds), fmt.Sprintf("-sim.hunt.log=%v", m.inLog)}
}

// edit replaces old, which occurs once in the file, by new. In new, MUTANT is
// true when the mutant is switched on.
type edit struct {
	file     string
	old, new string
}

func one(name, file, old, faulty string) mutant {
	return mutant{name: name, edits: []edit{{file, old, faulty}}}
}

// list returns all mutants.
func list() []mutant {
	var out []mutant
	out = append(out, watermarkMutants()...)
	out = append(out, sessionMutants()...)
	out = append(out, followerMutants()...)
	out = append(out, metadataMutants()...)
	out = append(out, trimMutants()...)
	out = append(out, damageMutants()...)
	out = append(out, deletionMutants()...)
	out = append(out, logMutants()...)
	out = append(out, groupMutants()...)
	out = append(out, shellMutants()...)
	out = append(out, kafkaMutants()...)
	out = append(out, raftLogMutants()...)
	out = append(out, readMutants()...)
	return out
}

// watermarkMutants: what is counted, and who may be proposed.
func watermarkMutants() []mutant {
	const (
		leader    = "broker/partition/leader.go"
		isr       = "broker/partition/isr.go"
		watermark = "broker/partition/watermark.go"
		waiters   = "broker/partition/waiters.go"
	)
	return []mutant{
		one("a follower's appended offset is counted, not its flushed one", leader,
			"	if synced {\n		return f.flushed\n	}", "	if synced && !MUTANT {\n		return f.flushed\n	}"),
		one("the leader's own appended offset is counted, not its flushed one", "broker/partition/replica.go",
			"	if r.synced() {\n		return r.flushed\n	}", "	if r.synced() && !MUTANT {\n		return r.flushed\n	}"),
		one("an expansion proposal is not counted until it is applied", watermark,
			"f.inSync || f.proposed {", "f.inSync || f.proposed && !MUTANT {"),
		one("a shrink is counted before it is applied", isr,
			"		if !r.wants(now, f) {\n			continue", "		if !r.wants(now, f) {\n			if MUTANT {\n				f.inSync = false\n			}\n			continue"),
		one("a leader whose log failed holds on to its place", isr,
			"	if (r.damage != DamageNone || r.lead.lost) && r.resign(", "	if (r.damage != DamageNone && !MUTANT || r.lead.lost) && r.resign("),
		one("a leader whose log failed goes on", leader,
			".damage != DamageFailed\n}", ".damage != DamageFailed || MUTANT\n}"),
		one("min.insync.replicas is ignored", watermark,
			"	return n >= min(r.assigned.MinISR,", "	return MUTANT || n >= min(r.assigned.MinISR,"),
		one("a follower below the watermark is proposed", isr,
			"		counted >= r.hw &&", "		(MUTANT || counted >= r.hw) &&"),
		one("a follower below the start of the epoch is proposed", isr,
			" counted >= r.lead.startOffset &&", " (MUTANT || counted >= r.lead.startOffset) &&"),
		one("a new leader takes its whole log for committed", leader,
			"	l.startOffset = r.end\n", "	l.startOffset = r.end\n	if MUTANT {\n		r.hw = r.end\n	}\n"),
		one("an ack leaves before the watermark", waiters,
			"ev.Acks == AcksAll && r.hw >= ev.To,", "ev.Acks == AcksAll && (MUTANT || r.hw >= ev.To),"),
		one("an ack leaves one record before the watermark", waiters,
			"q.items[q.head].end <= end {", "(q.items[q.head].end <= end || MUTANT && q.items[q.head].end == end+1) {"),
		one("a falling in-sync set answers as if nothing was appended", leader,
			"r.lead.all.fail(OutcomeNotEnoughReplicasAfterAppend, out)",
			"if MUTANT {\n			r.lead.all.fail(OutcomeNotEnoughReplicas, out)\n		}\n		r.lead.all.fail(OutcomeNotEnoughReplicasAfterAppend, out)"),
	}
}

// sessionMutants: who is listened to, and who may speak.
func sessionMutants() []mutant {
	const (
		leader   = "broker/partition/leader.go"
		follower = "broker/partition/follower.go"
	)
	return []mutant{
		one("the watermark moves below the minimum", "broker/partition/watermark.go",
			"	if !r.leading() || !r.enoughInSync() {", "	if !r.leading() || !MUTANT && !r.enoughInSync() {"),
		one("a suspended leader acts", leader, " !r.lead.suspended && r", " (MUTANT || !r.lead.suspended) && r"),
		one("a leader that has heard of a newer epoch acts", leader, "return r.role == RoleLeader && !r.superseded() &&", "return r.role == RoleLeader && (MUTANT || !r.superseded()) &&"),
		one("the ack of another session is counted", leader,
			" ev.Session != f.session || !f.matched ||\n", " (!MUTANT && ev.Session != f.session) || !f.matched ||\n"),
		one("acks of a follower's earlier process are kept", leader,
			"			if old.brokerEpoch == a.BrokerEpoch {\n				f = *old", "			if MUTANT || old.brokerEpoch == a.BrokerEpoch {\n				f = *old\n				f.brokerEpoch = a.BrokerEpoch"),
		one("the push of another session and epoch is taken", follower,
			"f.phase != phaseOn || ev.Session != f.session || ev.Epoch != r.Epoch() {\n		out.add(Effect{Kind: EffectDrop, Session: ev.Session})\n		return\n	}\n	if ev.From",
			"f.phase != phaseOn || !MUTANT && (ev.Session != f.session || ev.Epoch != r.Epoch()) {\n		out.add(Effect{Kind: EffectDrop, Session: ev.Session})\n		return\n	}\n	if ev.From"),
		one("the reply to another handshake is taken", follower,
			"f.phase != phaseAwait || ev.Session != f.session || ev.Epoch != r.Epoch() {", "f.phase != phaseAwait || !MUTANT && (ev.Session != f.session || ev.Epoch != r.Epoch()) {"),
		stated("TestScripts/lost_committed_eligible", one("an eligible follower that refuses the shorter log is not heard", leader,
			"	if !f.inSync && !f.eligible ||", "	if !f.inSync && (MUTANT || !f.eligible) ||")),
		stated("TestScripts/begin_counted_on", one("who is counted on begins anew below its end", leader,
			"leaves := reply.Begin &&", "leaves := !MUTANT && reply.Begin &&")),
		stated("TestScripts/begin_counted_on", one("who leaves to begin anew becomes eligible", "broker/partition/isr.go",
			"		if f.damaged || f.leaves {", "		if f.damaged || f.leaves && !MUTANT {")),
		stated("TestScripts/begin_counted_on", one("what is about to be deleted is fetched again", leader,
			" ev.To <= ev.LogStart:", " ev.To <= max(ev.LogStart, r.logStart) && (MUTANT || ev.To <= ev.LogStart):")),
		one("a session begins though the last epochs differ", leader,
			"reply.Matched = ev.AnswerEpoch == ev.LastEpoch &&", "reply.Matched = (MUTANT || ev.AnswerEpoch == ev.LastEpoch) &&"),
		one("a session begins beyond the end of the common epoch", leader,
			" ev.To <= min(ev.AnswerEnd, r.end)", " (MUTANT || ev.To <= min(ev.AnswerEnd, r.end))"),
	}
}

// followerMutants: truncation, watermark and damage on the other side.
func followerMutants() []mutant {
	const (
		follower = "broker/partition/follower.go"
		assign   = "broker/partition/assign.go"
	)
	return []mutant{
		one("a follower truncates to its watermark", follower,
			"	case ev.Matched:\n		f.phase = phaseOn\n", "	case MUTANT && ev.Matched && r.hw < r.end:\n		r.truncate(r.hw, out)\n	case ev.Matched:\n		f.phase = phaseOn\n"),
		one("where the logs differ a follower cuts at its watermark", follower,
			"		r.truncate(r.cutPoint(ev), out)", "		if MUTANT {\n			r.truncate(r.hw, out)\n			return\n		}\n		r.truncate(r.cutPoint(ev), out)"),
		one("a follower cuts by an epoch that it does not know", follower,
			"		return min(ev.LocalEnd, r.end)\n", "		if MUTANT {\n			return min(ev.AnswerEnd, r.end)\n		}\n		return min(ev.LocalEnd, r.end)\n"),
		one("a follower's watermark goes beyond its log", follower,
			"w := min(f.leaderHW, r.counted()); w > r.hw {", "w := min(f.leaderHW, r.counted()); w > r.hw || MUTANT && f.leaderHW > r.hw {\n		if MUTANT {\n			w = f.leaderHW\n		}"),
		one("a damaged log is emptied while somebody counts on it", assign,
			"s != nil && !s.ISR && !s.ELR && !s.LastISR &&", "s != nil && (MUTANT || !s.ISR && !s.ELR && !s.LastISR) &&"),
		one("a new leader is followed while the log is being cut", assign,
			"	if r.follow.phase == phaseTruncating {", "	if !MUTANT && r.follow.phase == phaseTruncating {"),
	}
}

// metadataMutants: what the metadata log accepts, and what it makes of restarts.
func metadataMutants() []mutant {
	const (
		isr      = "cluster/metadata/isr.go"
		elect    = "cluster/metadata/elect.go"
		register = "cluster/metadata/register.go"
	)
	return []mutant{
		one("an ISR change of an earlier partition epoch is accepted", isr,
			"	case c.GetPartitionEpoch() != p.PartitionEpoch:\n		return where(", "	case !MUTANT && c.GetPartitionEpoch() != p.PartitionEpoch:\n		return where("),
		one("a broker joins with the epoch of an earlier process", isr,
			"		case b.Epoch != m.GetBrokerEpoch():", "		case !MUTANT && b.Epoch != m.GetBrokerEpoch():"),
		one("a fenced broker joins", isr,
			"		case b.Fenced:\n			return nil, where(", "		case !MUTANT && b.Fenced:\n			return nil, where("),
		one("eligible leaders are kept above the minimum", isr,
			"	if len(isr) < minISR {", "	if MUTANT || len(isr) < minISR {"),
		one("a damaged replica becomes eligible", isr,
			" && !slices.Contains(damaged, node) {\n				elr", " && (MUTANT || !slices.Contains(damaged, node)) {\n				elr"),
		one("eligible leaders survive another minimum", "cluster/metadata/topics.go",
			" before.MinISR(p) == after.MinISR(p) ||", " MUTANT || before.MinISR(p) == after.MinISR(p) ||"),
		one("eligible leaders are not elected", elect,
			"choose(opts.Waited); c.Leader != NoNode {", "choose(opts.Waited); c.Leader != NoNode && !(MUTANT && c.Source == FromELR) {"),
		one("who came back is not compared with eligible leaders", elect,
			"		if im.featureLevel < levelCompare {", "		if MUTANT || im.featureLevel < levelCompare {"),
		stated("TestScripts/forgotten", one("absent eligible leaders are not waited for", elect,
			"	if !waited && e.awaits(", "	if !MUTANT && !waited && e.awaits(")),
		stated("TestScripts/forgotten", one("who followed the leader that goes is compared by what it told once", elect,
			"	if e.succeeds() {", "	if e.succeeds() && !MUTANT {")),
		one("the last in-sync set elects before all are back", elect,
			"opts.LastISR && e.allPresent(p.LastISR) {", "opts.LastISR && (MUTANT || e.allPresent(p.LastISR)) {"),
		one("the shorter log is elected", elect,
			"r.LastEpoch == o.LastEpoch && r.LogEndOffset > o.LogEndOffset\n", "r.LastEpoch == o.LastEpoch && (r.LogEndOffset > o.LogEndOffset) != MUTANT\n"),
		one("the lossy epoch is forgotten", elect,
			"		p.LossyEpoch = p.LeaderEpoch", "		if !MUTANT {\n			p.LossyEpoch = p.LeaderEpoch\n		}"),
		one("a broker that comes back keeps its leader epoch", register,
			"im.reelect(q, p.Leader == node) ||", "im.reelect(q, !MUTANT && p.Leader == node) ||"),
		one("an unclean restart is forgotten", register,
			"t.settings.Durability == Replicated && !r.clean)", "t.settings.Durability == Replicated && !r.clean && !MUTANT)"),
		one("damage is forgotten", register,
			"		if recovered.Damage != DamageNone ||", "		if !MUTANT && recovered.Damage != DamageNone ||"),
		one("the last in-sync set is not kept", register,
			"	p.LastISR = union(p.LastISR, p.ISR, p.ELR)", "	if !MUTANT {\n		p.LastISR = union(p.LastISR, p.ISR, p.ELR)\n	}"),
		one("a reassignment ends before its replicas are in sync", "cluster/metadata/reassign.go",
			"	for _, node := range p.Target {\n		if !p.InISR(node) {", "	for _, node := range p.Target {\n		if !MUTANT && !p.InISR(node) {"),
		one("a command takes effect twice", "cluster/metadata/apply.go",
			"		if o, ok := im.memory.get(id); ok {", "		if o, ok := im.memory.get(id); ok && !MUTANT {"),
	}
}

// trimMutants: which records may be deleted, and when that is so.
func trimMutants() []mutant {
	const trim = "broker/partition/trim.go"
	return []mutant{
		one("a deletion is answered when the leader has deleted", trim,
			"r.lead.trims.complete(r.LowWatermark(), out)", "if MUTANT {\n			r.lead.trims.complete(r.keptStart, out)\n		}\n		r.lead.trims.complete(r.LowWatermark(), out)"),
		one("a follower joins that still has what is deleted", "broker/partition/isr.go",
			" f.logStart >= r.keptStart &&", " (MUTANT || f.logStart >= r.keptStart) &&"),
		one("records past the watermark are deleted", trim,
			"	case before < 0 || before > r.hw:", "	case before < 0 || before > r.hw && !MUTANT:"),
		{name: "records are deleted below the minimum", edits: []edit{
			{trim, "	case !r.enoughInSync():\n		return before, OutcomeNotEnoughReplicas\n", "	case !MUTANT && !r.enoughInSync():\n		return before, OutcomeNotEnoughReplicas\n"},
			{trim, "	case !r.enoughInSync():\n		outcome =", "	case !MUTANT && !r.enoughInSync():\n		outcome ="},
			{"broker/partition/leader.go", "		r.lead.trims.fail(OutcomeNotEnoughReplicasAfterAppend, out)\n", "		if !MUTANT {\n			r.lead.trims.fail(OutcomeNotEnoughReplicasAfterAppend, out)\n		}\n"},
		}},
	}
}

// damageMutants: disks that fail together.
func damageMutants() []mutant {
	return []mutant{
		one("a damaged last set elects without the others", "cluster/metadata/elect.go",
			"im.featureLevel >= levelDamage && p.lastDamaged() {", "im.featureLevel >= levelDamage && p.lastDamaged() && !MUTANT {"),
		stated("TestScripts/best_copy", one("the best copy is chosen before all have told", "cluster/metadata/elect.go",
			"				continue\n			}\n			return NoNode, false", "				continue\n			}\n			if MUTANT {\n				continue\n			}\n			return NoNode, false")),
		stated("TestScripts/forget_positions", one("what others told before damage counts, at a registration", "cluster/metadata/register.go",
			"			q.forgetPositions()", "			if !MUTANT {\n				q.forgetPositions()\n			}")),
		stated("TestScripts/forget_positions_run_time", one("what others told before damage counts, at run time", "cluster/metadata/recover.go",
			"			q.forgetPositions()", "			if !MUTANT {\n				q.forgetPositions()\n			}")),
		stated("TestLossyElectionWaitsForASignOfLife", one("an election with loss believes processes that nobody has heard", "cluster/controller/elect.go",
			"metadata.FromLastISR && !d.confirmed(p) {", "metadata.FromLastISR && !d.confirmed(p) && !MUTANT {")),
		stated("TestScripts/resign_failed", one("a failed log counts as lost bytes", "broker/partition/isr.go",
			"r.assigned.KeepsFailed && !r.unsafe", "!MUTANT && r.assigned.KeepsFailed && !r.unsafe")),
		stated("TestTellsDamage", one("a damaged last holder gives up its place unasked", "broker/retire.go",
			"	if !l.hurt.Load() && !l.untold || leads ||", "	if !l.hurt.Load() && !l.untold || leads && !MUTANT ||")),
		stated("TestTellsDamage", one("a damaged last holder that lost its leadership gives up its place", "broker/retire.go",
			"!= nil && !l.holdsOut(p)", "!= nil && (!l.holdsOut(p) || MUTANT)")),
		stated("TestADamagedLastHolderComesBack", one("a damaged last holder gives up its place as it starts", "broker/giveup.go",
			"if holdsAlone(t.Partitions[l.partition], b.cfg.NodeID) {", "if holdsAlone(t.Partitions[l.partition], b.cfg.NodeID) && !MUTANT {")),
		stated("TestGroupsGiveUpBadBatches", one("batches of groups are given up though somebody may lead who has them", "broker/giveup.go",
			"if !b.askMetadata(ctx, 0) {", "if !b.askMetadata(ctx, 0) && !MUTANT {")),
		stated("TestGroupsGiveUpBadBatches", one("what groups can still read is given up with what they cannot", "broker/giveupbatches.go",
			"	return l.internal &&", "	return !MUTANT && l.internal &&")),
		stated("TestOffsetsThatMayBeLost", one("an offset that may be lost passes for one that never was", "consumergroup/coordinator/losses.go",
			"if found[i].Offset < 0 {", "if found[i].Offset < 0 && !MUTANT {")),
		stated("TestAGroupIsNotBehindItsMembers", one("a group whose last epoch was lost gives it out again", "consumergroup/coordinator/groups.go",
			"if m.Current != nil { // behind", "if m.Current != nil && !MUTANT { // behind")),
		stated("TestGiveUpSeesThroughCopies", one("a copy in a record passes for the batch behind a damaged one", "log/giveup.go",
			"ok && g.leads(look.at, &info)", "ok && (g.leads(look.at, &info) || MUTANT)")),
		stated("TestGiveUpTheBeginningOfAnEpoch", one("an epoch begins in what was given up", "log/giveup.go",
			"l.epochs, l.epochsDirty = found.truncate(l.end).advance(l.start), true", "if !MUTANT {\n\t\tl.epochs, l.epochsDirty = found.truncate(l.end).advance(l.start), true\n\t}")),
		stated("TestCopiesStayAfterALoss", one("the last copy of records that were lost is deleted", "log/setaside.go",
			"d.lastEpochIn(kept) < since {", "d.lastEpochIn(kept) < since && !MUTANT {")),
		stated("TestScripts/damaged_at_run_time", one("damage that nobody was told of is begun anew", "broker/partition/assign.go",
			" || r.damage == DamageFailed || r.untold {", " || r.damage == DamageFailed || r.untold && !MUTANT {")),
	}
}

// deletionMutants: who is waited for when a topic is deleted, and what is gone with it.
func deletionMutants() []mutant {
	const deletions = "cluster/metadata/deletions.go"
	return []mutant{
		one("a deletion by the id of an earlier topic is applied", "cluster/metadata/topics.go",
			"len(c.GetTopicId()) > 0 && (!ok || id != t.ID) {", "len(c.GetTopicId()) > 0 && (!ok || id != t.ID) && !MUTANT {"),
		one("an old confirmation counts for later deletions", deletions,
			"		if d.Index > index ||", "		if d.Index > index && !MUTANT ||"),
		one("a broker that comes back with a deleted topic is not waited for", deletions,
			"keeps != nil && keeps(id) {", "keeps != nil && keeps(id) && !MUTANT {"),
		one("only in-sync brokers are waited for when a topic is deleted", deletions,
			"		for i := range p.Replicas {\n", "		for i := range p.Replicas {\n			if MUTANT && !p.InISR(p.Replicas[i].NodeID) {\n				continue\n			}\n"),
		stated("TestDataGoesByTheLastWord", one("what was moved away goes by an old image", "broker/departed.go",
			"			if asOf == 0 || im.Index() < asOf {", "			if !MUTANT && (asOf == 0 || im.Index() < asOf) {")),
		one("a broker that was away does not hear of a deletion", "broker/reassign.go",
			"first && !deleted {", "first && (MUTANT || !deleted) {"),
	}
}

// logMutants: what is durable, what is recovered, what is remembered of producers.
func logMutants() []mutant {
	const (
		commit    = "log/commit.go"
		recovery  = "log/recovery.go"
		producers = "log/producers.go"
		truncate  = "log/truncate.go"
	)
	out := []mutant{
		one("a flush is skipped", commit,
			"	err := l.dir.flusher.Flush(s.file.file)\n", "	var err error\n	if !MUTANT {\n		err = l.dir.flusher.Flush(s.file.file)\n	}\n"),
		one("what is appended during a flush counts as flushed", commit,
			"	l.flushed = max(l.flushed, written)\n", "	l.flushed = max(l.flushed, written)\n	if MUTANT {\n		l.flushed = l.end\n	}\n"),
		one("a failed flush is tried again", "log/log.go",
			"	if l.failed == nil {\n", "	if MUTANT && op == \"flush\" {\n		return nil\n	}\n	if l.failed == nil {\n"),
		one("what recovery reads counts as flushed, unwritten", recovery,
			"		err = r.rewrite(f, unsure, s.size)\n", "		if !MUTANT {\n			err = r.rewrite(f, unsure, s.size)\n		}\n"),
		one("recovery believes what has no right CRC", "log/scan.go",
			"	if !record.VerifyCRC(b) {", "	if !MUTANT && !record.VerifyCRC(b) {"),
		one("a dedupe entry is dropped", producers,
			"	for _, b := range p.batches[:p.count] {\n		if b.firstSeq == firstSeq", "	for _, b := range p.batches[:p.count] {\n		if MUTANT && b == p.newest() {\n			continue\n		}\n		if b.firstSeq == firstSeq"),
		one("sequences are not checked", producers,
			"	case info.ProducerEpoch == epoch && info.BaseSequence != ", "	case !MUTANT && info.ProducerEpoch == epoch && info.BaseSequence != "),
		one("producers are forgotten at a restart", "log/rebuild.go",
			"		l.producers = ps\n", "		if !MUTANT {\n			l.producers = ps\n		}\n"),
		one("the leader epochs of what was cut off stay", truncate,
			"	l.epochs = l.epochs.truncate(off)\n", "	if !MUTANT {\n		l.epochs = l.epochs.truncate(off)\n	}\n"),
	}
	for i := range out {
		out[i].inLog = true
	}
	return out
}
