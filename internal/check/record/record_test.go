package record_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

var key = check.Key{Topic: "orders", Partition: 2}

func all(t *testing.T, r *bytes.Reader) ([]check.Op, error) {
	t.Helper()
	var ops []check.Op
	for op, err := range record.Read(r) {
		if err != nil {
			return ops, err
		}
		ops = append(ops, *op)
	}
	return ops, nil
}

func TestWhatIsAppendedIsRead(t *testing.T) {
	var b bytes.Buffer
	rec := record.New(&b)
	p, q := rec.Process(), rec.Process()
	want := []check.Op{
		{Type: check.Invoke, F: check.FSend, Acks: check.AcksLeader, Plain: true, Sends: []check.Send{{Key: key, Value: 1<<64 - 1, Offset: -1}}},
		{Type: check.OK, F: check.FSend, Retried: true, Sends: []check.Send{{Key: key, Value: 1<<64 - 1, Offset: 0}}},
		{Type: check.OK, F: check.FPoll, Error: "fenced", Parts: []check.Part{{Key: key, Reads: []check.Read{{Value: 7}}, Bounds: &check.Bounds{LogStart: -1, LeaderEpoch: -1}}}},
		{Type: check.OK, F: check.FAssign, Final: true, Keys: []check.Position{{Key: key, Offset: -1}}},
		{Type: check.OK, F: check.FSubscribe, Topics: []string{"orders"}},
		{Type: check.OK, F: check.FCommit, Group: "g", Member: "m", Epoch: -1, Keys: []check.Position{{Key: key}}},
	}
	for _, op := range want {
		p.Append(op)
	}
	q.Append(check.Op{Type: check.Info, F: check.FCrash})
	require.NoError(t, rec.Close())
	require.EqualValues(t, 7, rec.Ops())

	got, err := all(t, bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	require.Len(t, got, 7)
	require.Equal(t, q.ID(), got[6].Process)
	for i := range want {
		require.Positive(t, got[i].Time)
		want[i].Index, want[i].Process, want[i].Time = int64(i+1), p.ID(), got[i].Time
		require.Equal(t, want[i], got[i])
	}
}

// A file may end anywhere: what is before the cut is read.
func TestAFileCutAnywhere(t *testing.T) {
	var b bytes.Buffer
	rec := record.New(&b)
	p := rec.Process()
	for v := range check.Value(20) {
		p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: []check.Send{{Key: key, Value: v, Offset: -1}}})
	}
	for cut := range b.Len() {
		whole := bytes.Count(b.Bytes()[:cut], []byte{'\n'})
		got, err := all(t, bytes.NewReader(b.Bytes()[:cut]))
		require.Len(t, got, whole)
		if cut > 0 && b.Bytes()[cut-1] != '\n' {
			require.ErrorIs(t, err, record.ErrCut)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestALineThatIsNoOp(t *testing.T) {
	_, err := all(t, bytes.NewReader([]byte("{\"type\":\"invoke\"}\nnonsense\n{}\n")))
	require.ErrorContains(t, err, "line 2 is no op")
}

// Many goroutines append; every op is there once, whole, and each process's in its order.
func TestConcurrentAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	rec, err := record.Create(path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		p := rec.Process()
		wg.Go(func() {
			for v := range check.Value(200) {
				s := []check.Send{{Key: key, Value: check.Value(p.ID())<<32 | v, Offset: -1}}
				p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: s})
				p.Append(check.Op{Type: check.Info, F: check.FSend, Sends: s})
			}
		})
	}
	wg.Wait()
	require.NoError(t, rec.Close())
	r, err := record.Check(path, check.Options{})
	require.NoError(t, err)
	require.Zero(t, r.Anomalies, r.Text())
	require.EqualValues(t, 3200, r.Ops)
	require.EqualValues(t, 1600, r.Indefinite)
}

// A run that was killed is checked as one that has not finished.
func TestCheckOfACutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	rec, err := record.Create(path)
	require.NoError(t, err)
	p := rec.Process()
	s := []check.Send{{Key: key, Value: 1, Offset: 0}}
	p.Append(check.Op{Type: check.Invoke, F: check.FSend, Sends: s})
	p.Append(check.Op{Type: check.OK, F: check.FSend, Sends: s})
	r, err := record.Check(path, check.Options{}) // the recorder is still open
	require.NoError(t, err)
	require.Equal(t, 1, r.Count(check.Unseen))
	p.Append(check.Op{Type: check.Invoke, F: check.FPoll})
	require.NoError(t, rec.Close())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()-3))
	r, err = record.Check(path, check.Options{})
	require.NoError(t, err)
	require.Zero(t, r.Anomalies, r.Text())
}

type fullDisk struct{ left int }

var errFull = errors.New("no space left")

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.left--; d.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// A recorder that could not write says so, and writes nothing after the hole.
func TestAFailureIsKept(t *testing.T) {
	d := &fullDisk{left: 1}
	rec := record.New(d)
	p := rec.Process()
	p.Append(check.Op{})
	p.Append(check.Op{})
	d.left = 10
	p.Append(check.Op{})
	require.Equal(t, 10, d.left)
	require.EqualValues(t, 1, rec.Ops())
	require.ErrorIs(t, rec.Close(), errFull)
}

func TestAppendAfterClose(t *testing.T) {
	var b bytes.Buffer
	rec := record.New(&b)
	p := rec.Process()
	require.NoError(t, rec.Close())
	p.Append(check.Op{})
	require.Zero(t, b.Len())
	require.ErrorIs(t, rec.Close(), os.ErrClosed)
}

// Any change of any byte, and any other length, stands for a value that nobody sent.
func TestPayload(t *testing.T) {
	for _, size := range []int{0, 16, 17, 100} {
		v := check.Value(3<<40 | 12345)
		b := record.Payload(v, size)
		require.Len(t, b, max(size, 16))
		require.Equal(t, v, record.ValueOf(b))
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				require.NotZero(t, record.ValueOf(b)>>63)
				b[i] ^= 1 << bit
			}
			require.NotZero(t, record.ValueOf(b[:i])>>63)
		}
		require.NotZero(t, record.ValueOf(append(b, 0))>>63)
	}
	require.NotContains(t, string(record.Payload(1, 64)), string(record.Payload(2, 64)[8:24]), "the filling depends on the value")
}
