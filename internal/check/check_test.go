package check_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
)

type kinds = []check.Anomaly

// Each anomaly in its smallest history, and the same history as it should have been.
func TestEachAnomaly(t *testing.T) {
	eachAnomaly(t, []anomalyCase{
		{
			"a value is sent twice",
			kinds{check.Malformed},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.invoke(1, 1, 7); b.poll(2, 0, 7) },
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7) },
		},
		{
			"a completion of nothing",
			kinds{check.Malformed},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.done(1, check.OK, 0, 7); b.poll(2, 0, 7) },
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7) },
		},
		{
			"a leader gives an offset twice",
			kinds{check.InconsistentOffsets, check.LostWrite},
			check.Options{},
			func(b *builder) {
				b.invoke(1, 0, 7)
				b.invoke(2, 0, 8)
				b.done(1, check.OK, 0, 7)
				b.done(2, check.OK, 0, 8)
				b.poll(3, 0, 7)
			},
			func(b *builder) {
				b.invoke(1, 0, 7)
				b.invoke(2, 1, 8)
				b.done(1, check.OK, 0, 7)
				b.done(2, check.OK, 1, 8)
				b.poll(3, 0, 7, 1, 8)
			},
		},
		{
			"an index comes twice",
			kinds{check.Malformed, check.Unseen},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7); b.h[3].Index = 3 },
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7); b.h[3].Index = 9 },
		},
		{
			"a record at no offset",
			kinds{check.Malformed},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7, unknown, 8) },
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7) },
		},
		{
			"two readers see different values",
			kinds{check.InconsistentOffsets},
			check.Options{},
			func(b *builder) { b.invoke(1, 0, 7, 1, 8); b.poll(2, 0, 7); b.poll(3, 0, 8) },
			func(b *builder) { b.invoke(1, 0, 7, 1, 8); b.poll(2, 0, 7); b.poll(3, 0, 7) },
		},
		{
			"the offset acked is not that of the record",
			kinds{check.Duplicate},
			check.Options{},
			func(b *builder) { b.send(1, 4, 7); b.poll(2, 5, 7) },
			func(b *builder) { b.send(1, 4, 7); b.poll(2, 4, 7) },
		},
		{
			"a retry is appended again",
			kinds{check.Duplicate},
			check.Options{},
			func(b *builder) {
				b.sendAs(check.Op{Process: 1, Retried: true}, 1, 7)
				b.poll(2, 0, 7, 1, 7)
			},
			func(b *builder) {
				b.sendAs(check.Op{Process: 1, Retried: true}, 0, 7)
				b.poll(2, 0, 7)
			},
		},
		{
			"a producer that did not retry is appended twice",
			kinds{check.Duplicate},
			check.Options{},
			func(b *builder) { b.sendAs(check.Op{Process: 1, Plain: true}, 1, 7); b.poll(2, 0, 7, 1, 7) },
			func(b *builder) { b.sendAs(check.Op{Process: 1, Plain: true}, 0, 7); b.poll(2, 0, 7) },
		},
		{
			"a failed send is read",
			kinds{check.G1a},
			check.Options{},
			func(b *builder) { b.invoke(1, 0, 7); b.done(1, check.Fail, unknown, 7); b.poll(2, 0, 7) },
			func(b *builder) { b.invoke(1, 0, 7); b.done(1, check.Info, unknown, 7); b.poll(2, 0, 7) },
		},
		{
			"bytes that nobody wrote",
			kinds{check.UnwrittenRead},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7, 1, 1234) },
			func(b *builder) { b.send(1, 0, 7); b.poll(2, 0, 7) },
		},
		{
			"a hole in what is read",
			kinds{check.LostWrite},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.poll(2, 1, 8) },
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.poll(2, 0, 7, 1, 8) },
		},
		{
			"only a poll without an end saw it",
			kinds{check.LostWrite},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7)
				b.send(1, 1, 8)
				b.pair(check.Op{Process: 2, Type: check.Info, F: check.FPoll, Parts: []check.Part{part(0, 7)}})
				b.poll(3, 1, 8)
			},
			func(b *builder) {
				b.send(1, 0, 7)
				b.send(1, 1, 8)
				b.pair(check.Op{Process: 2, Type: check.Info, F: check.FPoll, Parts: []check.Part{part(0, 7)}})
				b.poll(2, 0, 7)
				b.poll(3, 1, 8)
			},
		},
		{
			"unread, and a later copy might still be read",
			kinds{check.Duplicate, check.Unseen},
			check.Options{},
			func(b *builder) {
				b.send(1, 1, 7)
				b.pair(check.Op{Process: 2, Type: check.Info, F: check.FPoll, Parts: []check.Part{part(9, 7)}})
				b.invoke(1, 5, 8)
				b.poll(3, 5, 8)
			},
			func(b *builder) { b.send(1, 1, 7); b.invoke(1, 5, 8); b.poll(3, 1, 7, 5, 8) },
		},
		{
			"unread below a record whose first copy is lower still",
			kinds{check.Duplicate, check.Unseen},
			check.Options{},
			func(b *builder) { b.send(1, 5, 7); b.invoke(1, 2, 8); b.poll(3, 9, 8); b.poll(4, 2, 8) },
			func(b *builder) { b.send(1, 5, 7); b.invoke(1, 2, 8); b.poll(3, 5, 7); b.poll(4, 2, 8) },
		},
		{
			"a tail that nobody reads",
			kinds{check.Unseen},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.poll(2, 0, 7) },
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.poll(2, 0, 7); b.poll(2, 1, 8) },
		},
		{
			"acked without an offset and not there",
			kinds{check.Unseen},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.send(1, unknown, 8); b.poll(2, 0, 7) },
			func(b *builder) { b.send(1, 0, 7); b.send(1, unknown, 8); b.poll(2, 0, 7, 1, 8) },
		},
		{
			"below the log start, but not deleted",
			kinds{check.Unseen},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.offsets(3, 1, 2, unknown) },
			func(b *builder) { b.send(1, 0, 7); b.send(1, 1, 8); b.offsets(3, 2, 2, unknown) },
		},
		{
			"a visible record goes",
			kinds{check.Vanished},
			check.Options{},
			func(b *builder) { b.invoke(1, 0, 7); b.poll(2, 0, 7); b.final(3); b.poll(3) },
			func(b *builder) { b.invoke(1, 0, 7); b.poll(2, 0, 7); b.final(3); b.poll(3, 0, 7) },
		},
		{
			"a reader jumps",
			kinds{check.PollSkip},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(2, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7)
				b.poll(3, 2, 9)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(2, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7)
				b.poll(3, 1, 8, 2, 9)
			},
		},
		{
			"a reader from the beginning jumps",
			kinds{check.PollSkip},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8); b.assign(3, 0); b.poll(3, 1, 8) },
			func(b *builder) { b.send(1, 1, 7, 3, 8); b.poll(2, 1, 7, 3, 8); b.assign(3, 0); b.poll(3, 1, 7, 3, 8) },
		},
		{
			"a key that stays assigned jumps",
			kinds{check.PollSkip},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(2, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7)
				b.assign(3, unknown)
				b.poll(3, 2, 9)
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8, 2, 9)
				b.poll(2, 0, 7, 1, 8, 2, 9)
				b.poll(3, 0, 7)
				b.add(check.Op{Process: 3, Type: check.OK, F: check.FAssign})
				b.assign(3, unknown)
				b.poll(3, 2, 9)
			},
		},
		{
			"a member begins past what is committed",
			kinds{check.PollSkip},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8); b.assigned(3, 1, 0); b.poll(3, 1, 8) },
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8); b.assigned(3, 1, 1); b.poll(3, 1, 8) },
		},
		{
			"a reader goes back",
			kinds{check.NonmonotonicPoll},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8); b.poll(2, 1, 8) },
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8); b.assign(2, 1); b.poll(2, 1, 8) },
		},
		{
			"a member goes back without a rebalance",
			kinds{check.NonmonotonicPoll},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.assigned(2, 1, 0); b.poll(2, 0, 7, 1, 8); b.poll(2, 1, 8) },
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.assigned(2, 1, 0)
				b.poll(2, 0, 7, 1, 8)
				b.lost(2, 1)
				b.assigned(2, 2, 1)
				b.poll(2, 1, 8)
			},
		},
		{
			"one poll jumps",
			kinds{check.IntPollSkip},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8, 2, 9); b.poll(2, 0, 7, 1, 8, 2, 9); b.poll(3, 0, 7, 2, 9) },
			func(b *builder) { b.send(1, 0, 7, 2, 9); b.poll(2, 0, 7, 2, 9); b.poll(3, 0, 7, 2, 9) },
		},
		{
			"one poll goes back",
			kinds{check.IntNonmonotonicPoll},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8, 0, 7) },
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8) },
		},
		{
			"one poll goes back, by its two parts",
			kinds{check.IntNonmonotonicPoll},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.pair(check.Op{Process: 2, F: check.FPoll, Parts: []check.Part{part(0, 7, 1, 8), part(1, 8)}})
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				b.pair(check.Op{Process: 2, F: check.FPoll, Parts: []check.Part{part(0, 7), part(1, 8)}})
			},
		},
		{
			"a producer's sends change places",
			kinds{check.NonmonotonicSend},
			check.Options{},
			func(b *builder) {
				b.invoke(1, 1, 7)
				b.invoke(1, 0, 8)
				b.done(1, check.OK, 1, 7)
				b.done(1, check.OK, 0, 8)
				b.poll(2, 0, 8, 1, 7)
			},
			func(b *builder) {
				b.invoke(1, 0, 7)
				b.invoke(1, 1, 8)
				b.done(1, check.OK, 0, 7)
				b.done(1, check.OK, 1, 8)
				b.poll(2, 0, 7, 1, 8)
			},
		},
		{
			"sends change places, one after the other, without idempotence",
			kinds{check.NonmonotonicSend, check.StaleSend},
			check.Options{},
			func(b *builder) {
				b.sendAs(check.Op{Process: 1, Plain: true}, 1, 7)
				b.sendAs(check.Op{Process: 1, Plain: true}, 0, 8)
				b.poll(2, 0, 8, 1, 7)
			},
			func(b *builder) {
				b.sendAs(check.Op{Process: 1, Plain: true}, 0, 7)
				b.sendAs(check.Op{Process: 1, Plain: true}, 1, 8)
				b.poll(2, 0, 7, 1, 8)
			},
		},
		{
			"sends of one op change places",
			kinds{check.IntNonmonotonicSend},
			check.Options{},
			func(b *builder) { b.send(1, 1, 7, 0, 8); b.poll(2, 0, 8, 1, 7) },
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.poll(2, 0, 7, 1, 8) },
		},
		{
			"an old leader acks",
			kinds{check.StaleSend},
			check.Options{},
			func(b *builder) { b.send(1, 5, 7); b.send(2, 3, 8); b.poll(3, 3, 8, 5, 7) },
			func(b *builder) { b.invoke(2, 3, 8); b.send(1, 5, 7); b.done(2, check.OK, 3, 8); b.poll(3, 3, 8, 5, 7) },
		},
		{
			"past the watermark",
			kinds{check.ReadPastWatermark},
			check.Options{},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				p := bounds(0, 1, unknown)
				p.Reads = part(0, 7, 1, 8).Reads
				b.pair(check.Op{Process: 2, F: check.FPoll, Parts: []check.Part{p}})
			},
			func(b *builder) {
				b.send(1, 0, 7, 1, 8)
				p := bounds(0, 2, unknown)
				p.Reads = part(0, 7, 1, 8).Reads
				b.pair(check.Op{Process: 2, F: check.FPoll, Parts: []check.Part{p}})
			},
		},
		{
			"the end goes below what was acked",
			kinds{check.WatermarkRegress},
			check.Options{},
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.offsets(2, 0, 1, unknown); b.poll(3, 0, 7, 1, 8) },
			func(b *builder) { b.send(1, 0, 7, 1, 8); b.offsets(2, 0, 2, unknown); b.poll(3, 0, 7, 1, 8) },
		},
		{
			"the watermark of an epoch goes back",
			kinds{check.WatermarkRegress},
			check.Options{},
			func(b *builder) { b.offsets(2, 0, 3, 1); b.offsets(2, 0, 2, 1) },
			func(b *builder) { b.offsets(2, 0, 3, 1); b.offsets(2, 0, 2, 2) },
		},
		{
			"the log start goes back",
			kinds{check.LogStartRegress},
			check.Options{},
			func(b *builder) { b.offsets(2, 3, 9, unknown); b.offsets(2, 2, 9, unknown) },
			func(b *builder) { b.offsets(2, 2, 9, unknown); b.offsets(2, 3, 9, unknown) },
		},
		{
			"two owners in one epoch",
			kinds{check.OverlappingOwnership},
			check.Options{},
			func(b *builder) { b.assigned(1, 4, unknown); b.lost(1, 4); b.assigned(2, 4, unknown) },
			func(b *builder) { b.assigned(1, 4, unknown); b.lost(1, 4); b.assigned(2, 5, unknown) },
		},
		{
			"two owners at one time",
			kinds{check.OverlappingOwnership},
			check.Options{},
			func(b *builder) { b.assigned(1, 4, unknown); b.assigned(2, 5, unknown); b.revoked(1, 4) },
			func(b *builder) { b.assigned(1, 4, unknown); b.revoked(1, 4); b.assigned(2, 5, unknown) },
		},
		{
			"two owners at one time, as it seems to the one who lost it",
			kinds{check.OverlappingOwnership},
			check.Options{},
			func(b *builder) { b.assigned(1, 4, unknown); b.assigned(2, 5, unknown); b.revoked(1, 4) },
			func(b *builder) { b.assigned(1, 4, unknown); b.assigned(2, 5, unknown); b.lost(1, 4) },
		},
		{
			"a former owner commits",
			kinds{check.ZombieCommit},
			check.Options{},
			func(b *builder) { b.assigned(1, 4, unknown); b.assigned(2, 5, unknown); b.commit(1, 4, 3) },
			func(b *builder) {
				b.assigned(1, 4, unknown)
				b.assigned(2, 5, unknown)
				late := member(1, check.FCommit, 4, 3)
				late.Type = check.Fail
				b.pair(late)
			},
		},
		{
			"a former owner commits in the newest epoch",
			kinds{check.ZombieCommit},
			check.Options{},
			func(b *builder) {
				b.assigned(1, 4, unknown)
				b.revoked(1, 4)
				b.assigned(2, 5, unknown)
				b.commit(1, 5, 3)
			},
			func(b *builder) {
				b.assigned(1, 4, unknown)
				b.revoked(1, 4)
				b.add(func() check.Op { op := member(1, check.FCommit, 5, 3); op.Type = check.Invoke; return op }())
				b.assigned(2, 5, unknown)
				b.add(member(1, check.FCommit, 5, 3))
			},
		},
		{
			"a commit is gone",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.commit(1, 1, 3); b.commit(1, 1, 5); b.committed(2, 3) },
			func(b *builder) { b.commit(1, 1, 3); b.commit(1, 1, 5); b.reset(3, 3); b.committed(2, 3) },
		},
		{
			"a coordinator that has not loaded says none",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.commit(1, 1, 3); b.committed(2, unknown) },
			func(b *builder) { b.committed(2, unknown); b.commit(1, 1, 3) },
		},
		{
			"one look-up goes back behind another",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.committed(1, 5); b.committed(2, 3) },
			func(b *builder) { b.committed(1, 3); b.committed(2, 5) },
		},
		{
			"a member begins below what is committed",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.assigned(1, 1, 0); b.commit(1, 1, 5); b.revoked(1, 1); b.assigned(2, 2, 0) },
			func(b *builder) { b.assigned(1, 1, 0); b.commit(1, 1, 5); b.revoked(1, 1); b.assigned(2, 2, 5) },
		},
		{
			"a commit without an answer may be found, or not, but not both ways round",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) {
				b.commit(1, 1, 3)
				late := member(1, check.FCommit, 1, 5)
				late.Type = check.Info
				b.pair(late)
				b.committed(2, 5)
				b.committed(2, 3)
			},
			func(b *builder) {
				b.commit(1, 1, 3)
				late := member(1, check.FCommit, 1, 5)
				late.Type = check.Info
				b.pair(late)
				b.committed(2, 3)
				b.committed(2, 5)
			},
		},
		{
			"a commit is gone that a look-up overlapped",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.overlapped(); b.committed(3, 3) },
			func(b *builder) { b.overlapped(); b.committed(3, 5) },
		},
		{
			"a commit is back that was overwritten while a look-up ran",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.overlapped(); b.committed(3, 7) },
			func(b *builder) { b.overlapped(); b.committed(3, 5) },
		},
		{
			"a reset is undone",
			kinds{check.CommittedRegress},
			check.Options{},
			func(b *builder) { b.commit(1, 1, 9); b.reset(2, 3); b.committed(3, 9) },
			func(b *builder) { b.commit(1, 1, 9); b.reset(2, 3); b.committed(3, 3) },
		},
		{
			"a former owner commits, who heard late that it was one",
			kinds{check.ZombieCommit},
			check.Options{},
			func(b *builder) { b.assigned(2, 5, unknown); b.assigned(1, 4, unknown); b.commit(1, 4, 3) },
			func(b *builder) { b.assigned(2, 5, unknown); b.assigned(1, 4, unknown); b.commit(2, 5, 3) },
		},
		{
			"a refused commit is found",
			kinds{check.CommittedUnwritten},
			check.Options{},
			func(b *builder) {
				refused := member(1, check.FCommit, 1, 3)
				refused.Type = check.Fail
				b.pair(refused)
				b.committed(2, 3)
			},
			func(b *builder) {
				unclear := member(1, check.FCommit, 1, 3)
				unclear.Type = check.Info
				b.pair(unclear)
				b.committed(2, 3)
			},
		},
		{
			"a committed offset that nobody committed",
			kinds{check.CommittedUnwritten},
			check.Options{},
			func(b *builder) { b.commit(1, 1, 3); b.committed(2, 4) },
			func(b *builder) { b.committed(2, 4) }, // the commits of this group are not recorded
		},
	})
}

// anomalyCase is an anomaly in its smallest history, and the same as it should have been.
type anomalyCase struct {
	name      string
	want      kinds
	opt       check.Options
	bad, good func(*builder)
}

func eachAnomaly(t *testing.T, cases []anomalyCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var bad, good builder
			c.bad(&bad)
			c.good(&good)
			r := check.Check(bad.h, c.opt)
			assert.Equal(t, c.want, failed(r), "bad history:\n%s", r.Text())
			r = check.Check(good.h, c.opt)
			assert.Empty(t, r.Findings, "good history:\n%s", r.Text())
		})
	}
}

// failed lists the anomalies that count, in their order.
func failed(r *check.Report) kinds {
	var out kinds
	for _, f := range r.Findings {
		if !f.Allowed {
			out = append(out, f.Anomaly)
		}
	}
	return out
}

// What weaker settings permit is reported, not counted.
func TestAllowed(t *testing.T) {
	weak := check.Op{Process: 1, Acks: check.AcksLeader}
	for _, c := range []struct {
		name string
		want check.Anomaly // "": nothing at all
		opt  check.Options
		h    func(*builder)
	}{
		{"acks=1 is lost", check.LostWriteWeak, check.Options{}, func(b *builder) {
			b.sendAs(weak, 0, 7)
			b.send(2, 0, 8)
			b.poll(3, 0, 8)
		}},
		{"acks=1 is lost at the end", check.UnseenWeak, check.Options{}, func(b *builder) {
			b.sendAs(weak, 0, 7)
			b.poll(3)
		}},
		{"acks=0 is lost", check.UnseenWeak, check.Options{}, func(b *builder) {
			b.sendAs(check.Op{Process: 1, Acks: check.AcksNone}, unknown, 7)
			b.offsets(2, 0, 0, unknown)
		}},
		{"acks=1 and the offset given again", "", check.Options{}, func(b *builder) {
			b.sendAs(weak, 5, 7)
			b.send(2, 3, 8)
			b.poll(3, 3, 8, 5, 7)
		}},
		{"a producer without idempotence retried", check.DuplicatePlain, check.Options{}, func(b *builder) {
			b.sendAs(check.Op{Process: 1, Plain: true, Retried: true}, 1, 7)
			b.poll(2, 0, 7, 1, 7)
		}},
		{"a producer without idempotence gave up", check.DuplicatePlain, check.Options{}, func(b *builder) {
			b.sendAs(check.Op{Process: 1, Type: check.Info, Plain: true}, unknown, 7)
			b.poll(2, 0, 7, 1, 7)
		}},
		{"sends in flight change places without idempotence", "", check.Options{}, func(b *builder) {
			for _, s := range []check.Op{
				{Type: check.Invoke, Sends: sends(unknown, 7)},
				{Type: check.Invoke, Sends: sends(unknown, 8)},
				{Type: check.OK, Sends: sends(1, 7)},
				{Type: check.OK, Sends: sends(0, 8)},
			} {
				s.Process, s.F, s.Plain = 1, check.FSend, true
				b.add(s)
			}
			b.poll(2, 0, 8, 1, 7)
		}},
		{"the option", check.Unseen, check.Options{Allow: kinds{check.Unseen}}, func(b *builder) { b.send(1, 0, 7) }},
		{"unfinished", "", check.Options{Unfinished: true}, func(b *builder) {
			b.send(1, 0, 7)
			b.poll(2, 0, 7)
			b.send(1, 1, 8)
			b.final(3)
		}},
		{"compaction", "", check.Options{Compacted: []string{"orders"}}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.poll(2, 0, 7, 1, 8)
			b.final(3)
			b.poll(3, 0, 7, 2, 9)
			b.final(4)
			b.poll(4, 2, 9)
		}},
		{"retention", "", check.Options{}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.poll(2, 0, 7)
			b.offsets(3, 2, 3, unknown)
			b.poll(2, 2, 9)
			b.final(3)
			b.poll(3, 2, 9)
		}},
		{"another leader had not heard of the log start", check.LogStartRewound, check.Options{}, func(b *builder) {
			b.add(check.Op{Process: 1, Type: check.Invoke, F: check.FTrim, Keys: at(5)})
			b.add(check.Op{Process: 1, Type: check.Info, F: check.FTrim})
			b.offsets(2, 5, 9, 1)
			b.offsets(2, 0, 9, 2)
		}},
		{"a leader that was replaced has not heard of a deletion", check.LogStartRewound, check.Options{Stale: time.Hour}, func(b *builder) {
			b.offsets(2, 0, 9, 1)
			b.trim(1, 5, 5)
			b.offsets(2, 5, 9, 2)
			b.offsets(2, 0, 9, 1)
		}},
		{"retention beside deletions", "", check.Options{Retained: []string{"orders"}, ReadFirst: true}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.trim(4, 1, 1)
			b.offsets(3, 2, 3, unknown)
			b.assign(2, 0)
			b.poll(2, 2, 9)
			b.final(3)
			b.poll(3, 2, 9)
		}},
		{"a group whose rebalances nobody recorded", "", check.Options{}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.poll(2, 0, 7)
			b.add(check.Op{Process: 2, Type: check.OK, F: check.FSubscribe, Topics: []string{"orders"}})
			b.poll(2, 0, 7, 1, 8, 2, 9)
			b.poll(2, 1, 8)
			b.poll(2, 0, 7)
			b.poll(2, 2, 9)
		}},
		{"a rebalance during the poll", "", check.Options{}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.assigned(2, 1, 0)
			b.poll(2, 0, 7)
			b.add(check.Op{Process: 2, Type: check.Invoke, F: check.FPoll})
			b.revoked(2, 1)
			b.assigned(2, 3, 0)
			b.add(check.Op{Process: 2, Type: check.OK, F: check.FPoll, Parts: []check.Part{part(1, 8, 0, 7)}})
			b.poll(2, 2, 9) // who knows: 0 may have come first, and then 1
		}},
		{"an assignment that is heard of late", "", check.Options{}, func(b *builder) {
			b.reset(3, 3)
			b.assigned(2, 5, 3)
			b.commit(2, 5, 9)
			b.assigned(1, 4, 3) // looked up before member 2 had it
			b.revoked(2, 5)
			b.lost(1, 4)
		}},
		{"a poll without an end, in two parts", "", check.Options{}, func(b *builder) {
			b.send(1, 0, 7, 1, 8, 2, 9)
			b.assign(2, 0)
			b.pair(check.Op{Process: 2, Type: check.Info, F: check.FPoll, Parts: []check.Part{part(0, 7, 1, 8), part(2, 9)}})
			b.poll(2, 0, 7, 1, 8, 2, 9)
		}},
		{"look-ups of bounds that overlap", "", check.Options{}, func(b *builder) {
			b.add(check.Op{Process: 4, Type: check.Invoke, F: check.FOffsets})
			b.send(1, 0, 7, 1, 8)
			b.poll(2, 0, 7, 1, 8)
			b.offsets(3, 2, 2, 1)
			late := check.Op{Process: 4, Type: check.OK, F: check.FOffsets, Parts: []check.Part{bounds(0, 0, unknown), bounds(0, 0, 1)}}
			b.add(late)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b builder
			c.h(&b)
			r := check.Check(b.h, c.opt)
			assert.Zero(t, r.Anomalies, r.Text())
			if c.want == "" {
				assert.Empty(t, r.Findings, r.Text())
			} else {
				assert.Equal(t, 1, r.Count(c.want), r.Text())
				assert.Len(t, r.Findings, 1, r.Text())
			}
		})
	}
}

func TestReport(t *testing.T) {
	var b builder
	for v := range int64(20) {
		b.send(1, v, v+100)
	}
	b.assigned(2, 1, 0)
	b.poll(2, 0, 100, 1, 101)
	b.invoke(1, unknown, 1)
	b.done(1, check.Fail, unknown, 1)
	b.invoke(1, unknown, 2)
	b.sendAs(check.Op{Process: 3, Acks: check.AcksNone}, unknown, 3)
	r := check.Check(b.h, check.Options{Examples: 3})
	assert.Equal(t, 18, r.Anomalies)
	assert.Equal(t, []int64{20, 1, 1, 1}, []int64{r.Acked, r.AckedWeak, r.Failed, r.Indefinite})
	assert.Equal(t, [4]int64{19, 2, 0, 0}, r.Consumed)
	// The poll left offset 2 unread, which had been known since the ack of value 102 (op 6).
	b.poll(2)
	lag := check.Check(b.h, check.Options{}).WorstLag
	assert.Equal(t, int32(2), lag.Process)
	assert.Equal(t, "43ms", lag.Behind.String())

	text := r.Text()
	assert.True(t, strings.HasSuffix(text, "\nanomalies: 18\n"), text)
	assert.Contains(t, text, "unseen: 18\n  orders-0: value 102 was acked at offset 2 by op 6 and never read\n")
	assert.Contains(t, text, "unseen-weak: 1 (allowed)\n")

	raw, err := json.Marshal(r)
	require.NoError(t, err)
	var back check.Report
	require.NoError(t, json.Unmarshal(raw, &back))
	assert.Equal(t, *r, back)
	require.Len(t, back.Findings[0].Examples, 3)
	assert.Equal(t, []int64{2}, back.Findings[0].Examples[0].Offsets)
}

// The table of anomalies is whole: a finding that is not in it would not be counted.
func TestAnomaliesAreDistinct(t *testing.T) {
	seen := map[check.Anomaly]bool{}
	for _, a := range check.Anomalies() {
		assert.False(t, seen[a], a)
		seen[a] = true
	}
	assert.Len(t, seen, 28)
}
