package partition

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/penstock/penstock/log/record"
)

// TestScripts runs testdata/*.txt. Each file is a conversation with one replica,
// node 1; every command prints the effects that it led to.
//
//	new [start= end= flushed= hw= musthave= damage=]
//	assign leader= epoch= pe= replicas=1,2,3 isr=1,2 [elr=] [min=2] [durability=replicated] [maytruncate] [mayleaddamaged] [fenced=] [restarted=] [failed=] [keepsfailed]
//	append to= [acks=all|1|0] [handle=] [timeout=ms]
//	trim, admittrim before= [handle=] [timeout=ms]
//	wait, progress, fail, damaged, logstart, handshake, ack, gone, result, tick, suspend, drain
//	begin, reply, truncated, push, appended, streamgone, opened
//	status
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Helper()
		s := &script{now: time.Unix(1000, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

type script struct {
	now time.Time
	r   *Replica
	out Effects
}

// args reads the arguments of a command.
type args struct {
	t *testing.T
	d *datadriven.TestData
}

func (a args) num(key string, def int64) int64 {
	if arg, ok := a.d.Arg(key); ok {
		n, err := strconv.ParseInt(arg.SingleVal(a.t), 10, 64)
		if err != nil {
			a.d.Fatalf(a.t, "%s: %v", key, err)
		}
		return n
	}
	return def
}

func (a args) off(key string, def int64) record.Offset  { return record.Offset(a.num(key, def)) }
func (a args) epoch(key string, def int64) record.Epoch { return record.Epoch(a.num(key, def)) }
func (a args) has(key string) bool                      { return a.d.HasArg(key) }
func (a args) session() uint64                          { return uint64(a.num("session", 1)) }
func (a args) node() int32                              { return int32(a.num("node", 2)) }
func (a args) nodes(key string) (list []int32) {
	arg, ok := a.d.Arg(key)
	if !ok {
		return nil
	}
	for _, v := range arg.Vals {
		n, err := strconv.Atoi(v)
		if err != nil {
			a.d.Fatalf(a.t, "%s: %v", key, err)
		}
		list = append(list, int32(n))
	}
	return list
}

func (a args) outcome() Outcome {
	arg, ok := a.d.Arg("outcome")
	if !ok {
		return OutcomeOK
	}
	for i, name := range outcomeNames() {
		if strings.ReplaceAll(name, " ", "-") == arg.SingleVal(a.t) {
			return Outcome(i)
		}
	}
	a.d.Fatalf(a.t, "unknown outcome")
	return OutcomeOK
}

func (a args) acks() Acks {
	if arg, ok := a.d.Arg("acks"); ok {
		switch arg.SingleVal(a.t) {
		case "1":
			return AcksLeader
		case "0":
			return AcksNone
		}
	}
	return AcksAll
}

func (a args) logState() LogState {
	end := a.num("end", 0)
	return LogState{
		Start: a.off("start", 0), End: record.Offset(end), Flushed: a.off("flushed", end),
		HW: a.off("hw", 0), MustHave: a.off("musthave", 0), Damage: Damage(a.num("damage", 0)),
		LastEpoch: a.epoch("last", -1),
	}
}

func (a args) assignment() *Assignment {
	as := &Assignment{
		Leader: int32(a.num("leader", 1)), LeaderEpoch: a.epoch("epoch", 1), PartitionEpoch: int32(a.num("pe", 1)),
		MinISR: int(a.num("min", 2)), Synced: !a.has("durability"),
		MayTruncate: a.has("maytruncate"), LossyEpoch: a.epoch("lossy", 0), MayLeadDamaged: a.has("mayleaddamaged"), KeepsFailed: a.has("keepsfailed"),
	}
	for _, n := range a.nodes("replicas") {
		r := Assigned{
			Node: n, BrokerEpoch: int64(n) * 10,
			ISR: slices.Contains(a.nodes("isr"), n), ELR: slices.Contains(a.nodes("elr"), n),
			LastISR: slices.Contains(a.nodes("lastisr"), n), Fenced: slices.Contains(a.nodes("fenced"), n), Failed: slices.Contains(a.nodes("failed"), n),
		}
		if slices.Contains(a.nodes("restarted"), n) {
			r.BrokerEpoch++
		}
		as.Replicas = append(as.Replicas, r)
	}
	return as
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	a := args{t, d}
	s.now = s.now.Add(time.Duration(a.num("after", 0)) * time.Millisecond)
	s.out.Reset()
	if d.Cmd == "new" {
		s.r = New(Config{Node: 1, Log: a.logState()})
		return s.status()
	}
	if d.Cmd == "status" {
		return s.status()
	}
	if d.Cmd == "admittrim" {
		before, outcome := s.r.AdmitTrim(a.off("before", 0))
		return fmt.Sprintf("%d: %s\n", before, outcome)
	}
	if d.Cmd == "admit" {
		return s.r.Admit(a.acks()).String() + "\n"
	}
	s.r.Step(s.now, s.event(a), &s.out)
	if len(s.out.List) == 0 {
		return "nothing\n"
	}
	var b strings.Builder
	for _, e := range s.out.List {
		fmt.Fprintln(&b, describe(e, &s.out))
	}
	return b.String()
}

func (s *script) event(a args) Event {
	deadline := time.Time{}
	if ms := a.num("timeout", 0); ms > 0 {
		deadline = s.now.Add(time.Duration(ms) * time.Millisecond)
	}
	epoch := a.epoch("epoch", int64(s.r.Epoch()))
	switch a.d.Cmd {
	case "assign":
		return Assign(a.assignment())
	case "append":
		return Appended(s.r.End(), a.off("to", 0), a.acks(), uint64(a.num("handle", 0)), deadline)
	case "wait":
		return Wait(a.off("to", 0), a.acks(), uint64(a.num("handle", 0)), deadline)
	case "progress":
		return Progress(a.off("flushed", 0), a.off("flushed", 0))
	case "fail":
		return LogFailed()
	case "damaged":
		return LogDamaged(Damage(a.num("damage", int64(DamageCorrupt))))
	case "logstart":
		return LogStart(a.off("to", 0))
	case "handshake":
		return Handshake(a.node(), a.num("be", int64(a.node())*10), epoch, a.session(), a.epoch("last", -1),
			a.off("end", 0), a.off("flushed", 0), a.epoch("answer", -1), a.off("answerend", 0),
			a.off("start", int64(s.r.keptStart)), a.off("first", int64(s.r.keptStart)))
	case "refused":
		return Refused(a.node(), a.num("be", int64(a.node())*10), epoch, a.session(), a.off("committed", 0), a.off("end", a.num("committed", 0)),
			a.off("answerend", 0), a.off("first", int64(s.r.keptStart)))
	case "ack":
		return Ack(a.node(), epoch, a.session(), a.off("appended", a.num("flushed", 0)), a.off("flushed", 0), a.off("start", int64(s.r.logStart)))
	case "trim":
		return Trim(a.off("before", 0), uint64(a.num("handle", 0)), deadline)
	case "gone":
		return SessionGone(a.node(), a.session(), a.has("withdrawn"))
	case "result":
		return ProposalResult(int32(a.num("pe", int64(s.r.PartitionEpoch()))), a.outcome())
	case "tick":
		var heard []Heard
		for _, n := range a.nodes("heard") {
			heard = append(heard, Heard{Node: n, At: s.now})
		}
		return Tick(heard)
	case "suspend":
		return Suspend(!a.has("off"))
	case "drain":
		return Drain(!a.has("off"))
	case "begin":
		return Begin(a.session(), a.epoch("last", -1))
	case "reply":
		return Reply(epoch, a.session(), a.outcome(), a.has("matched"), a.has("begin"), a.epoch("answer", -1),
			a.off("answerend", 0), a.off("start", 0), a.off("hw", 0), a.epoch("local", -1), a.off("localend", 0))
	case "truncated":
		return Truncated(a.logState())
	case "opened":
		return Opened(a.logState())
	case "push":
		return Push(epoch, a.session(), a.off("from", int64(s.r.End())), a.off("to", 0), a.off("hw", 0), a.off("start", 0))
	case "appended":
		return AppendedFollower(a.off("to", 0))
	case "streamgone":
		return StreamGone(a.session())
	default:
		a.d.Fatalf(a.t, "unknown command %q", a.d.Cmd)
		return Event{}
	}
}

func (s *script) status() string {
	r := s.r
	latest, ok := r.Latest()
	line := fmt.Sprintf("%s epoch=%d start=%d hw=%d flushed=%d end=%d", r.Role(), r.Epoch(), r.logStart, r.hw, r.flushed, r.end)
	if r.damage != DamageNone {
		line += fmt.Sprintf(" damage=%d", r.damage)
	}
	if r.role == RoleLeader {
		line += fmt.Sprintf(" latest=%d/%v waiting=%d", latest, ok, r.Waiting())
		for _, f := range r.Followers(nil) {
			line += fmt.Sprintf("\n  %d: in-sync=%v proposed=%v session=%d appended=%d flushed=%d",
				f.Node, f.InSync, f.Proposed, f.Session, f.Appended, f.Flushed)
		}
	}
	return line + "\n"
}

func describe(e Effect, of *Effects) string {
	switch e.Kind {
	case EffectRole:
		return fmt.Sprintf("role %s leader=%d epoch=%d", e.Role, e.Node, e.Epoch)
	case EffectComplete:
		return fmt.Sprintf("complete %d: %s", e.Handle, e.Outcome)
	case EffectWatermark:
		return fmt.Sprintf("watermark %d", e.HW)
	case EffectPushable:
		return "pushable"
	case EffectHandshakeReply:
		return fmt.Sprintf("reply to %d session=%d: %s matched=%v begin=%v answer=(%d, %d) start=%d hw=%d",
			e.Node, e.Session, e.Outcome, e.Matched, e.Begin, e.AnswerEpoch, e.Offset, e.LogStart, e.HW)
	case EffectEndSession:
		return fmt.Sprintf("end session %d of %d", e.Session, e.Node)
	case EffectProposeISR:
		line := fmt.Sprintf("propose %v epoch=%d pe=%d", of.Members, e.Epoch, e.PartitionEpoch)
		if len(of.Damaged) > 0 {
			line += fmt.Sprintf(" damaged=%v", of.Damaged)
		}
		if len(of.Failed) > 0 {
			line += fmt.Sprintf(" failed=%v", of.Failed)
		}
		return line
	case EffectFollowerDamaged:
		return fmt.Sprintf("follower %d is damaged: end=%d hw=%d", e.Node, e.Offset, e.HW)
	case EffectFollowerLeaves:
		return fmt.Sprintf("follower %d leaves, to begin anew at %d: hw=%d", e.Node, e.Offset, e.HW)
	case EffectDrained:
		return "drained"
	case EffectRefusedLead:
		return fmt.Sprintf("refused to lead: holds %d, acknowledged %d, damage=%d", e.Offset, e.End, e.Damage)
	case EffectOffline:
		return "offline"
	case EffectLostCommitted:
		return fmt.Sprintf("lost committed records: follower %d holds %d, the log %d", e.Node, e.HW, e.Offset)
	case EffectHandshake:
		if e.HW != 0 {
			return fmt.Sprintf("tell the leader epoch=%d session=%d last=%d committed=%d", e.Epoch, e.Session, e.AnswerEpoch, e.HW)
		}
		return fmt.Sprintf("handshake epoch=%d session=%d last=%d end=%d flushed=%d", e.Epoch, e.Session, e.AnswerEpoch, e.Offset, e.Flushed)
	case EffectTruncate:
		return fmt.Sprintf("truncate to %d", e.Offset)
	case EffectReset:
		return fmt.Sprintf("reset to %d", e.Offset)
	case EffectRefusedTruncation:
		return fmt.Sprintf("refused truncation to %d below hw %d", e.Offset, e.HW)
	case EffectFollowing:
		return fmt.Sprintf("following in session %d", e.Session)
	case EffectAppend:
		return fmt.Sprintf("append [%d, %d)", e.Offset, e.End)
	case EffectAck:
		line := fmt.Sprintf("ack session=%d appended=%d flushed=%d", e.Session, e.Offset, e.Flushed)
		if e.LogStart > 0 {
			line += fmt.Sprintf(" start=%d", e.LogStart)
		}
		return line
	case EffectLogStart:
		return fmt.Sprintf("log start %d", e.Offset)
	case EffectDrop:
		return "drop"
	case EffectAgain:
		return "again"
	case EffectHold:
		return "hold"
	case EffectRebuild:
		return fmt.Sprintf("rebuild damage=%d", e.Damage)
	default:
		return fmt.Sprintf("effect %d", e.Kind)
	}
}
