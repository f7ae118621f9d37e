package storm

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/boltfile"
)

// Faults of the metadata log of a node, a file of bbolt: one that a power cut may leave,
// with which the node must come up, and damage, with which it must not.

// refuseWait is how long a node may take to find that its metadata log is damaged.
const refuseWait = 15 * time.Second

func (s *storm) raftLog(node int) string {
	return filepath.Join(s.lab.DataDir(node), "raft", "raft.db")
}

// tearRaft kills a node and leaves its metadata log as a power cut in the midst of the
// next write may: the pages that were free have some of what was to be written, and the file
// has grown, or not. Everything that was synced is there.
func (s *storm) tearRaft(a Action) error {
	if err := s.lab.Kill(a.Node); err != nil {
		return err
	}
	torn, err := tear(s.raftLog(a.Node), rand.New(rand.NewPCG(a.Seed, 2)))
	if err != nil {
		return err
	}
	s.say("  %d bytes of the metadata log of node %d that nothing refers to are torn", torn, a.Node)
	if torn == 0 {
		s.absent(TornRaft)
	}
	return nil
}

// tear writes over what a file of bbolt does not use.
func tear(path string, rng *rand.Rand) (torn int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	l, err := boltfile.Walk(f, info.Size(), func(boltfile.Entry) error { return nil })
	if err != nil {
		return 0, err
	}
	page := make([]byte, l.PageSize)
	for _, at := range free(l) {
		// Half of a page that is in use, as its next version would be, or anything.
		for i := range page {
			page[i] = byte(rng.Uint32())
		}
		if used := l.Used[rng.IntN(len(l.Used))]; rng.IntN(2) == 0 {
			if _, err := f.ReadAt(page[:l.PageSize/2], used.From); err != nil {
				return torn, err
			}
		}
		n, err := f.WriteAt(page[:512*(1+rng.Int64N(l.PageSize/512))], at)
		if torn += int64(n); err != nil {
			return torn, err
		}
	}
	switch rng.IntN(3) {
	case 0:
		torn += info.Size() - l.End
		return torn, f.Truncate(l.End)
	case 1:
		n, err := f.WriteAt(page, l.End+rng.Int64N(4)*l.PageSize)
		return torn + int64(n), err
	default:
		return torn, nil
	}
}

// free lists where the pages lie that are not in use.
func free(l *boltfile.Layout) (at []int64) {
	used := map[int64]bool{l.Older.From: true}
	for _, s := range l.Used {
		for p := s.From; p < s.To; p += l.PageSize {
			used[p] = true
		}
	}
	for p := int64(0); p < l.End; p += l.PageSize {
		if !used[p] {
			at = append(at, p)
		}
	}
	return at
}

// damageRaft kills a node, damages its metadata log, and sees that it does not start, and
// that its last words name the file and what to do. Then the file is as it was.
func (s *storm) damageRaft(a Action) error {
	if err := s.lab.Kill(a.Node); err != nil {
		return err
	}
	path := s.raftLog(a.Node)
	whole, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	what, err := damage(path, rand.New(rand.NewPCG(a.Seed, 3)))
	if err != nil {
		return err
	}
	s.say("  the metadata log of node %d is damaged: %s", a.Node, what)
	said, err := s.refuses(a.Node)
	if err != nil {
		keep := filepath.Join(s.lab.Dir, fmt.Sprintf("node%d-raft.db.damaged", a.Node))
		err = errors.Join(fmt.Errorf("its metadata log was damaged (%s): %w", what, err), copyFile(path, keep), os.WriteFile(keep+".before", whole, 0o600))
	} else {
		s.say("  %s", said)
	}
	f, openErr := os.OpenFile(path, os.O_RDWR, 0)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	_, writeErr := f.WriteAt(whole, 0)
	return errors.Join(err, writeErr, f.Sync(), f.Close())
}

// refuses starts a node that must end at once, and returns why it said that it does.
func (s *storm) refuses(node int) (said string, err error) {
	logged, err := os.Stat(s.lab.LogFile(node))
	if err != nil {
		return "", err
	}
	if err := s.lab.Start(node); err != nil {
		return "", err
	}
	ended, how := s.lab.Ended(node, refuseWait)
	if !ended {
		return "", errors.Join(fmt.Errorf("node %d runs with it", node), s.lab.Kill(node))
	}
	if how == nil {
		return "", fmt.Errorf("node %d ended without an error", node)
	}
	f, err := os.Open(s.lab.LogFile(node))
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.NewSectionReader(f, logged.Size(), 1<<20))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, s.raftLog(node)) && strings.Contains(line, "cluster replace") {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("node %d ended (%w) and did not say which file is damaged and what to do: %s", node, how, text)
}

// damage changes bytes of a file of bbolt that were synced.
func damage(path string, rng *rand.Rand) (what string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var entries []boltfile.Span
	l, err := boltfile.Walk(f, info.Size(), func(e boltfile.Entry) error {
		entries = append(entries, boltfile.Span{From: e.At, To: e.At + int64(len(e.Key)+len(e.Value))})
		return nil
	})
	if err != nil {
		return "", err
	}
	switch rng.IntN(5) {
	case 0:
		at := l.Used[0].From + 16 + rng.Int64N(64) // behind the head of the newest meta page
		return fmt.Sprintf("a bit in its newest meta page, byte %d", at), flipBit(f, at, rng)
	case 1:
		cut := l.End - 1 - rng.Int64N(l.PageSize)
		return fmt.Sprintf("it ends after %d of %d bytes", cut, l.End), f.Truncate(cut)
	case 2:
		pages := slices.DeleteFunc(slices.Clone(l.Used), func(s boltfile.Span) bool { return s.From < 2*l.PageSize })
		at := pages[rng.IntN(len(pages))].From
		_, err := f.WriteAt(make([]byte, l.PageSize), at)
		return fmt.Sprintf("a page of zeros at byte %d", at), err
	default:
		e := entries[rng.IntN(len(entries))]
		at := e.From + rng.Int64N(e.To-e.From)
		return fmt.Sprintf("a bit of an entry, byte %d", at), flipBit(f, at, rng)
	}
}

func flipBit(f *os.File, at int64, rng *rand.Rand) error {
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte{b[0] ^ 1<<rng.IntN(8)}, at)
	return err
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
