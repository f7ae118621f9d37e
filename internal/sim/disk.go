package sim

import (
	"slices"

	"github.com/penstock/penstock/broker/partition"
	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// entry is a record in a log, at the offset that is its place.
type entry struct {
	epoch    record.Epoch
	value    int64
	producer int64
	sequence int32
}

// disk is what a node's disk and page cache hold of one partition; it outlives
// the process.
type disk struct {
	entries []entry
	start   int // where the log begins: what is below is deleted
	durable int // entries below survive a power cut
	// promised and watermark are what the checkpoint says.
	promised, watermark int
	damage              partition.Damage
	// wounded: bytes that were durable were taken away, by a fault. forgot: the checkpoint
	// does not know, so that nobody does, of what went up to had; it ends with the wound
	// when so much is there again.
	wounded, forgot bool
	had             int
	// real is the log itself, if logs are real.
	real *commitlog.Log
	// version changes with every truncation: a flush that began before counts for nothing.
	version int
}

// disk is what a node's disk holds of a partition; nil: nothing.
func (n *node) disk(p *part) *disk {
	if p.index >= len(n.disks) {
		return nil
	}
	return n.disks[p.index]
}

// epochEnd is what a log answers for an epoch: its largest one at or below, and
// the end of that (KIP-101).
func (d *disk) epochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	if d.real != nil {
		return d.real.EpochEnd(e)
	}
	for i := len(d.entries) - 1; i >= d.start; i-- {
		if have := d.entries[i].epoch; have <= e {
			return have, record.Offset(i + 1)
		}
	}
	if n := len(d.entries); n > 0 && n == d.start && d.entries[n-1].epoch <= e { // all is deleted but the last epoch's name
		return d.entries[n-1].epoch, record.Offset(n)
	}
	return record.UnknownEpoch, record.Offset(d.start)
}

func (d *disk) lastEpoch() record.Epoch {
	if d.real != nil {
		return d.real.LastEpoch()
	}
	if n := len(d.entries); n > 0 {
		return d.entries[n-1].epoch
	}
	return record.UnknownEpoch
}

// find returns where a producer's sequence is, and the producer's last sequence.
func (d *disk) find(producer int64, sequence int32) (at int, last int32) {
	at, last = -1, -1
	for i, e := range slices.Backward(d.entries) {
		if e.producer != producer {
			continue
		}
		if last < 0 {
			last = e.sequence
		}
		if e.sequence == sequence {
			return i, last
		}
		if e.sequence < sequence {
			return -1, last
		}
	}
	return at, last
}

// truncate cuts the log; the checkpoint goes first.
func (d *disk) truncate(to int) {
	d.entries = d.entries[:to:to]
	d.durable, d.promised, d.watermark = min(d.durable, to), min(d.promised, to), min(d.watermark, to)
	d.start = min(d.start, to)
	d.version++
}

// wound takes durable bytes away; the checkpoint does not know.
func (d *disk) wound(to int) {
	d.entries = d.entries[:to:to]
	d.durable, d.wounded = min(d.durable, to), true
	d.version++
}

// forgetTo is a wound of a drive that lied: the checkpoint of what is gone is gone with it.
func (d *disk) forgetTo(to int) {
	d.forgot, d.had = true, d.durable
	d.wound(to)
	d.promised, d.watermark = min(d.promised, to), min(d.watermark, to)
}

// heal ends the wound of a drive that lied when all that is committed is there again.
func (d *disk) heal(committed []entry) {
	if n := len(committed); d.forgot && d.durable >= max(n, d.had) && differ(d.entries[:n], committed, d.start) < 0 {
		d.wounded, d.forgot = false, false
	}
}

// powerCut keeps some of what was not durable.
func (d *disk) powerCut(w *World) {
	if n := len(d.entries) - d.durable; n > 0 {
		kept := w.rng.IntN(n + 1)
		if kept < n {
			w.counts.LostPages++
		}
		d.entries = d.entries[:d.durable+kept]
	}
	d.version++
}

// forget is the end of a process with a real log: what was not written is gone, and
// with the machine what was not durable may be, which the next process finds out.
func (d *disk) forget(powerCut bool) {
	keep := int(d.real.Written())
	if powerCut {
		keep = d.durable
	}
	d.entries = d.entries[:min(keep, len(d.entries))]
}

// recover is the start of a process: what is readable is written again and
// durable; what was durable and is gone is damage.
func (d *disk) recover() {
	if d.real != nil {
		return // it did
	}
	d.durable = len(d.entries)
	d.version++
	if d.damage == partition.DamageNone && len(d.entries) < d.promised {
		d.damage = partition.DamageLostBytes
	}
	d.watermark = min(d.watermark, len(d.entries)) // or what comes after a loss would count as committed
}

func (d *disk) state() partition.LogState {
	if l := d.real; l != nil {
		return partition.LogState{
			Start: l.Start(), End: l.End(), Flushed: l.Flushed(), LastEpoch: l.LastEpoch(),
			HW: l.HighWatermark(), MustHave: l.Recovery().Flushed, Damage: d.damage,
		}
	}
	return partition.LogState{
		Start: record.Offset(d.start), End: record.Offset(len(d.entries)), Flushed: record.Offset(d.durable), LastEpoch: d.lastEpoch(),
		HW: record.Offset(min(d.watermark, len(d.entries))), MustHave: record.Offset(d.promised), Damage: d.damage,
	}
}
