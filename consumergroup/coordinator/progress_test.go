package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

func (b *bed) tell(epoch record.Epoch, start, high record.Offset) {
	id, _ := b.topics.Topic("a")
	b.c.Progress(1, []api.PartitionProgress{{TopicID: id, Partition: 0, LeaderEpoch: epoch, LogStart: start, HighWatermark: high}})
}

func (b *bed) lagOf(t *testing.T, group string) api.PartitionLag {
	t.Helper()
	d, err := b.c.DescribeGroup(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range d.Lags {
		if l.Topic == "a" && l.Partition == 0 {
			return l
		}
	}
	t.Fatalf("no lag of a-0 in %+v", d.Lags)
	return api.PartitionLag{}
}

func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 10))
		if l := b.lagOf(t, "g"); l.Committed != 10 || l.Lag != -1 || l.LagTime != -1 || l.Age != -1 || l.HighWatermark != -1 {
			t.Fatalf("before the leader said anything: %+v", l)
		}
		b.tell(3, 0, 10)
		if l := b.lagOf(t, "g"); l.Lag != 0 || l.LagTime != 0 || l.Age != 0 {
			t.Fatalf("%+v", l)
		}
		time.Sleep(5 * time.Second)
		b.tell(3, 0, 15)
		time.Sleep(5 * time.Second)
		b.tell(3, 0, 20)
		time.Sleep(time.Second)
		l := b.lagOf(t, "g")
		if l.Lag != 10 || l.LagTime != 6000 || l.AtLeast || l.Age != 1000 || l.HighWatermark != 20 {
			t.Fatalf("record 10 is there for 6 s: %+v", l)
		}
		mustCommit(t, b.c, adminCommit("g", 0, 15))
		if l := b.lagOf(t, "g"); l.Lag != 5 || l.LagTime != 1000 {
			t.Fatalf("record 15 is there for 1 s: %+v", l)
		}
		// Nothing changed, says the leader: the figures are as fresh as that.
		time.Sleep(time.Second)
		b.c.Progress(1, nil)
		if l := b.lagOf(t, "g"); l.LagTime != 2000 || l.Age != 0 {
			t.Fatalf("%+v", l)
		}
		// What retention removed is not waited for.
		b.tell(3, 18, 20)
		if l := b.lagOf(t, "g"); l.Lag != 2 || l.LogStart != 18 {
			t.Fatalf("%+v", l)
		}
		// A leader of the past is not heard; a new one may know less.
		b.tell(2, 0, 500)
		if l := b.lagOf(t, "g"); l.HighWatermark != 20 {
			t.Fatalf("%+v", l)
		}
		b.tell(4, 0, 17)
		if l := b.lagOf(t, "g"); l.HighWatermark != 17 || l.Lag != 2 {
			t.Fatalf("%+v", l)
		}
		m := b.member(api.JoinGroup{Group: "h", ClientID: "c"}).start()
		synctest.Wait()
		if l := b.lagOf(t, "h"); l.Committed != -1 || l.MemberID != m.last().MemberID || l.Lag != 17 || l.HighWatermark != 17 {
			t.Fatalf("who has committed nothing has all before him: %+v", l)
		}
		b.tell(4, 12, 17)
		if l := b.lagOf(t, "h"); l.Lag != 5 || l.LagTime != 7000 {
			t.Fatalf("%+v", l)
		}
		time.Sleep(4 * time.Second)
		if l := b.lagOf(t, "h"); l.LagTime != 11000 {
			t.Fatalf("a member that stands still from the first record on: %+v", l)
		}
		lags, err := b.c.Lags(t.Context())
		if err != nil || len(lags) != 2 || lags[0].Group != "g" || lags[0].Lags[0].Lag != 2 || lags[1].Members != 1 {
			t.Fatalf("%+v %v", lags, err)
		}
		m.cut()
		b.close()
	})
}

// An offset that the coordinator did not see arrive is dated at least.
func TestLagOfABeginner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 10))
		b.tell(1, 0, 1000)
		time.Sleep(3 * time.Second)
		if l := b.lagOf(t, "g"); l.Lag != 990 || l.LagTime != 3000 || !l.AtLeast {
			t.Fatalf("%+v", l)
		}
		b.close()
	})
}

// However long a partition is written to, its history stays small, and dates
// offsets within a sixteenth or so of their age.
func TestLagHistoryIsThin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 0))
		for high := record.Offset(1); high <= 10_000; high++ {
			b.tell(1, 0, high)
			time.Sleep(time.Second)
		}
		id, _ := b.topics.Topic("a")
		if n := len(b.c.progress.partitions[progressKey{id, 0}].marks); n > maxMarks {
			t.Fatalf("%d marks", n)
		}
		for _, age := range []int64{1, 10, 100, 1000, 5000} {
			mustCommit(t, b.c, adminCommit("g", 0, record.Offset(10_000-age)))
			if got := b.lagOf(t, "g").LagTime / 1000; got < age-age/8-1 || got > age+1 {
				t.Errorf("dated %d s, is %d s", got, age)
			}
		}
		b.close()
	})
}

// Of what no group here reads only the end is kept, of all the rest a history; and of
// what nobody owns and nobody committed, no lag.
func TestLagHistoryIsOfWhatIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		id, _ := b.topics.Topic("a")
		marks := func() int { return len(b.c.progress.partitions[progressKey{id, 0}].marks) }
		high := record.Offset(0)
		tell := func(seconds int) {
			for range seconds {
				high++
				b.tell(1, 0, high)
				time.Sleep(time.Second)
			}
		}
		tell(100)
		if n := marks(); n != 1 {
			t.Fatalf("%d marks of a partition that nobody reads", n)
		}
		mustCommit(t, b.c, adminCommit("g", 0, 0))
		tell(10)
		if n := marks(); n != 11 {
			t.Fatalf("%d marks", n)
		}
		mustCommit(t, b.c, adminCommit("g", 0, 105))
		if l := b.lagOf(t, "g"); l.Lag != 5 || l.LagTime != 5000 || l.AtLeast {
			t.Fatalf("%+v", l)
		}
		mustCommit(t, b.c, adminCommit("g", 0, 50))
		if l := b.lagOf(t, "g"); l.Lag != 60 || l.LagTime != 11000 || !l.AtLeast {
			t.Fatalf("what came before is dated at least: %+v", l)
		}
		l := api.PartitionLag{TopicPartition: api.TopicPartition{Topic: "a"}, Committed: record.UnknownOffset}
		b.c.progress.lag(time.Now(), id, &l)
		if l.Lag != -1 {
			t.Fatalf("%+v", l)
		}
		b.close()
	})
}

func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		synctest.Wait()
		mustCommit(t, b.c, adminCommit("g", 0, 10))
		offsets := append(adminCommit("g", 0, 4).Offsets, adminCommit("g", 1, 5).Offsets...)
		for _, dryRun := range []bool{true, false} {
			moved, err := b.c.ResetOffsets(t.Context(), "g", offsets, dryRun)
			if err != nil || moved[0].Before != 10 || moved[0].After != 4 || moved[1].Before != -1 || moved[1].After != 5 {
				t.Fatalf("%+v %v", moved, err)
			}
			if got := fetchA(t, b.c, "g", 0); dryRun && got != 10 || !dryRun && got != 4 {
				t.Fatalf("dry run %v: %d", dryRun, got)
			}
		}
		moved, err := b.c.ResetOffsets(t.Context(), "g", adminCommit("g", 9, 1).Offsets, true)
		if err != nil || moved[0].Err == nil || moved[0].Err.Code != api.CodeUnknownPartition {
			t.Fatalf("%+v %v", moved, err)
		}
		m := b.member(api.JoinGroup{}).start()
		synctest.Wait()
		for _, dryRun := range []bool{true, false} {
			_, err := b.c.ResetOffsets(t.Context(), "g", offsets, dryRun)
			wantCode(t, err, api.CodeGroupNotEmpty)
		}
		m.cut()
		b.close()
	})
}
