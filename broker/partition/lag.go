package partition

import (
	"time"

	"github.com/penstock/penstock/log/record"
)

// lagSamples cover the lag time by lagSteps, with room for the one that lies
// just beyond it.
const (
	lagSteps   = 8
	lagSamples = lagSteps + 2
)

// lagWindow remembers where the log ended at times in the past, in a few samples.
type lagWindow struct {
	at   [lagSamples]time.Time
	end  [lagSamples]record.Offset
	n    int // samples in use
	last int // position of the newest
}

func (w *lagWindow) reset() { *w = lagWindow{} }

// add takes a sample unless the last one is younger than gap.
func (w *lagWindow) add(now time.Time, end record.Offset, gap time.Duration) {
	if w.n > 0 {
		if now.Sub(w.at[w.last]) < gap {
			return
		}
		w.last = (w.last + 1) % lagSamples
	}
	w.at[w.last], w.end[w.last] = now, end
	w.n = min(w.n+1, lagSamples)
}

// before returns the newest sample not after t; false when none is that old.
func (w *lagWindow) before(t time.Time) (record.Offset, bool) {
	for i := range w.n {
		if p := (w.last - i + lagSamples) % lagSamples; !w.at[p].After(t) {
			return w.end[p], true
		}
	}
	return 0, false
}

// lagging reports whether f has not reached the LEO of replica.lag.time.max.ms ago.
func (r *Replica) lagging(now time.Time, f *peer) bool {
	then, ok := r.lead.lag.before(now.Add(-r.cfg.LagTimeMax))
	return ok && f.reached < then
}

// fellBehind is lagging for a member of the ISR, who gets that time in full when
// its broker has registered anew.
func (r *Replica) fellBehind(now time.Time, f *peer) bool {
	return now.Sub(f.since) >= r.cfg.LagTimeMax && r.lagging(now, f)
}

// silent reports whether nothing came from f for a broker session, counted from
// when this leader first knew of it for those never heard.
func (r *Replica) silent(now time.Time, f *peer) bool {
	return now.Sub(f.heard) >= r.cfg.SessionTimeout
}
