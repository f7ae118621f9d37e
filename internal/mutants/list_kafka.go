package main

// kafkaMutants: who is cut at the Kafka door, how much a connection may have under way,
// and the order of answers. No simulated cluster has that door: unit tests notice.
func kafkaMutants() []mutant {
	const (
		conn    = "kafka/conn.go"
		intake  = "kafka/intake.go"
		answers = "kafka/answers.go"
		stalled = "TestStalledReadersAreCut"
		hoards  = "TestHoardersAreCutOldestFirst"
		order   = "TestAnswersLeaveInOrder"
		count   = "TestRequestsUnderWayAreCounted"
	)
	return []mutant{
		stated(stalled, one("Kafka: who takes nothing of an answer is never cut", conn,
			"	case stalled > sendGrace:", "	case !MUTANT && stalled > sendGrace:")),
		stated(stalled, one("Kafka: who takes nothing has two minutes also when memory is short", conn,
			"	case memoryShort && stalled", "	case !MUTANT && memoryShort && stalled")),
		stated(stalled, one("Kafka: what a slow reader takes of records is no progress", conn,
			"		c.sending.Store(time.Now().UnixNano())\n		step := pieces", "		if !MUTANT || c.sending.Load() == 0 {\n			c.sending.Store(time.Now().UnixNano())\n		}\n		step := pieces")),
		stated(hoards, one("Kafka: nobody is cut for the memory of requests that do not get complete", intake,
			"	if over <= 0 {", "	if over <= 0 || MUTANT {")),
		stated(hoards, one("Kafka: of those that fill memory the newest are cut", intake,
			"		return cmp.Compare(a.began.Load(), b.began.Load())", "		if MUTANT {\n			return cmp.Compare(b.began.Load(), a.began.Load())\n		}\n		return cmp.Compare(a.began.Load(), b.began.Load())")),
		stated(hoards, one("Kafka: more are cut than memory is short of", intake,
			"			over -= held", "			if !MUTANT {\n				over -= held\n			}")),
		stated(hoards, one("Kafka: a request that has only just begun is cut for its memory", intake,
			"< lingering {", "< lingering && !MUTANT {")),
		stated(count, one("Kafka: any number of requests is under way", answers,
			"(a.under >= maxAnswers ||", "(a.under >= maxAnswers && !MUTANT ||")),
		stated(count, one("Kafka: a request is under way no longer when its answer is waited for", answers,
			"	a.head++\n", "	a.head++\n	if MUTANT {\n		a.under--\n	}\n")),
		stated("TestWhoWaitsIsNotIdle", one("Kafka: who waits for acknowledgements is idle", conn,
			"!c.answers.waiting() && c.sending", "(MUTANT || !c.answers.waiting()) && c.sending")),
		stated(order, one("Kafka: the newest answer leaves first", answers,
			"	p := a.queue[a.head]\n", "	if MUTANT {\n		a.queue[a.head], a.queue[len(a.queue)-1] = a.queue[len(a.queue)-1], a.queue[a.head]\n	}\n	p := a.queue[a.head]\n")),
		stated(order, one("Kafka: other requests do not wait for acknowledgements", conn,
			"	if err := c.answers.drain(); err != nil {\n		return err\n	}\n", "	if !MUTANT {\n		if err := c.answers.drain(); err != nil {\n			return err\n		}\n	}\n")),
	}
}
