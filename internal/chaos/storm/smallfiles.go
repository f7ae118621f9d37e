package storm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/chaos/load"
	commitlog "github.com/penstock/penstock/log"
)

// Damage to the files of a node that are not segments: what a start goes by. Whatever is
// done to one of them, the node must come up, and must have noticed when the cluster is whole
// again: the file was made anew, or the node said that it cannot be read.

// smallFiles names the files of a kind: in a partition's folder, or, of the checkpoint, in
// the data directory.
func smallFiles(k Kind) (patterns []string, root bool) {
	switch k {
	case BadIndex:
		return []string{"*.index", "*.timeindex"}, false
	case BadEpochs:
		return []string{"leader-epoch-checkpoint"}, false
	case BadSnapshot:
		return []string{"*.snapshot"}, false
	case BadTopicID:
		return []string{"partition.metadata"}, false
	case BadCheckpoint:
		return []string{"flushed-checkpoint.*"}, true
	default:
		return nil, false
	}
}

// spoiled is a file that was damaged.
type spoiled struct {
	kind Kind
	node int
	path string
	what string
	now  []byte // what is in it since; nil: it was removed
	said int64  // where in the node's log to look for what it said of it
}

// spoilFiles damages files of a node: of what it leads, or of what it follows, while it
// runs or while it is down. Either way it is down in between, so that it has to read them.
func (s *storm) spoilFiles(ctx context.Context, a Action) (heal, error) {
	led, err := s.leads(ctx, a.Node)
	if err != nil {
		return nothing, err
	}
	if !a.Running {
		if err := s.end(a); err != nil {
			return nothing, err
		}
	}
	log, err := os.Stat(s.lab.LogFile(a.Node))
	if err != nil {
		return nothing, err
	}
	rng := rand.New(rand.NewPCG(a.Seed, 4))
	paths, err := s.smallTargets(a, led, rng)
	if err != nil {
		return nothing, err
	}
	for _, path := range paths {
		what, now, err := spoil(path, rng)
		if err != nil {
			return nothing, err
		}
		s.say("  %s of node %d: %s", strings.TrimPrefix(path, s.lab.DataDir(a.Node)+"/"), a.Node, what)
		s.spoiled = append(s.spoiled, spoiled{kind: a.Kind, node: a.Node, path: path, what: what, now: now, said: log.Size()})
	}
	if len(paths) == 0 { // nothing has been rolled yet, say
		s.nothingHit(a.Kind)
	}
	return func(context.Context) error {
		if a.Running {
			if err := s.end(a); err != nil {
				return err
			}
		}
		return s.start(a.Node)
	}, nil
}

// end ends a node as the action says: in order, or not.
func (s *storm) end(a Action) error {
	if a.Orderly {
		return s.lab.Stop(a.Node, stopWait)
	}
	return s.lab.Kill(a.Node)
}

// fewFiles is how many files of a kind are damaged at once.
const fewFiles = 4

// smallTargets chooses the files.
func (s *storm) smallTargets(a Action, led map[int32]bool, rng *rand.Rand) (paths []string, err error) {
	patterns, root := smallFiles(a.Kind)
	folders := []string{s.lab.DataDir(a.Node)}
	if !root {
		if folders, err = filepath.Glob(filepath.Join(s.lab.DataDir(a.Node), load.Strict+"-*")); err != nil {
			return nil, err
		}
		folders = slices.DeleteFunc(folders, func(folder string) bool {
			_, err := partitionOf(folder)
			return err != nil // it is put away
		})
		// Who has none of the role has others hurt.
		if isOther := func(folder string) bool { n, _ := partitionOf(folder); return led[n] != a.Leads }; !all(folders, isOther) {
			folders = slices.DeleteFunc(folders, isOther)
		}
	}
	for _, folder := range folders {
		var found []string
		for _, p := range patterns {
			some, err := filepath.Glob(filepath.Join(folder, p))
			if err != nil {
				return nil, err
			}
			found = append(found, some...)
		}
		found = slices.DeleteFunc(found, empty)
		if a.Kind == BadSnapshot && len(found) > 1 {
			found = found[len(found)-1:] // the newest is the one that a start reads
		}
		paths = append(paths, found...)
	}
	rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	most := fewFiles
	if root { // one slot of the checkpoint, or both
		most = 1 + rng.IntN(2)
	}
	return paths[:min(most, len(paths))], nil
}

func partitionOf(folder string) (int32, error) {
	n, err := strconv.ParseInt(folder[strings.LastIndex(folder, "-")+1:], 10, 32)
	return int32(n), err
}

func all(paths []string, is func(string) bool) bool {
	return !slices.ContainsFunc(paths, func(path string) bool { return !is(path) })
}

func empty(path string) bool {
	info, err := os.Stat(path)
	return err != nil || info.Size() == 0
}

// spoil damages a file, durably, and says how, and what is in it then; nil: it is gone.
func spoil(path string, rng *rand.Rand) (what string, now []byte, err error) {
	was, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	if rng.IntN(8) == 0 {
		return "removed", nil, errors.Join(os.Remove(path), syncFolder(filepath.Dir(path)))
	}
	what, now = corrupted(was, rng)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return "", nil, err
	}
	_, err = f.WriteAt(now, 0)
	return what, now, errors.Join(err, f.Truncate(int64(len(now))), f.Sync(), f.Close())
}

// corrupted is content with damage: a flipped bit mostly, for that is the hardest to see.
func corrupted(was []byte, rng *rand.Rand) (what string, now []byte) {
	now = slices.Clone(was)
	at := rng.IntN(len(now))
	switch rng.IntN(6) {
	case 0:
		return fmt.Sprintf("cut to %d of %d bytes", at, len(was)), now[:at]
	case 1:
		clear(now[at:])
		what = fmt.Sprintf("zeros from byte %d of %d on", at, len(was))
	case 2:
		for i := at; i < len(now); i++ {
			now[i] = byte(rng.Uint32())
		}
		what = fmt.Sprintf("noise from byte %d of %d on", at, len(was))
	default:
	}
	if bytes.Equal(now, was) {
		now[at] ^= 1 << rng.IntN(8)
		what = fmt.Sprintf("a bit of byte %d of %d", at, len(was))
	}
	return what, now
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// noticed sees, in a cluster that is whole again, that the damage to small files was noticed.
func (s *storm) noticed(ctx context.Context) error {
	var errs []error
	seen := map[int]bool{} // by node: of a pair each has its own
	for i := range s.spoiled {
		f := &s.spoiled[i]
		how, err := s.cameOf(ctx, f)
		errs = append(errs, err)
		seen[f.node] = seen[f.node] || how != ""
		if how != "" {
			s.say("  %s of node %d, %s: %s", filepath.Join(filepath.Base(filepath.Dir(f.path)), filepath.Base(f.path)), f.node, f.what, how)
		}
	}
	for i := range s.spoiled {
		if f := &s.spoiled[i]; !seen[f.node] { // there was something newer to go by, say
			seen[f.node] = true
			s.nothingHit(f.kind)
		}
	}
	s.spoiled = nil
	return errors.Join(errs...)
}

// nothingHit notes a fault of this step that hit nothing that counted: it is not counted either.
func (s *storm) nothingHit(k Kind) {
	s.say("  the %s hit nothing that counted", k)
	s.moot = append(s.moot, k)
}

// cameOf says how a damaged file was noticed; "": nobody has had to read it.
func (s *storm) cameOf(ctx context.Context, f *spoiled) (how string, err error) {
	now, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.gone(ctx, f)
	case err != nil:
		return "", err
	case f.now == nil || !bytes.Equal(now, f.now):
		return "it was made anew", s.right(ctx, f)
	}
	reported, err := s.reported(f)
	if err != nil || reported {
		return "the node said that it cannot be read", err
	}
	wrong, err := verify(ctx, f.path)
	switch {
	case err != nil:
		return "", err
	case wrong == "": // of a file that is longer than what is in it, say
		return "", nil
	case f.kind == BadIndex:
		// Only the ends of an index are looked at when a log is opened. What is before them is
		// a hint, and who follows it finds out.
		return "it is still there, to mislead who looks", nil
	case f.kind == BadSnapshot && !newest(f.path):
		return "", nil // there is a newer one, which was read instead
	default:
		return "", fmt.Errorf("node %d did not notice: %s (%s)", f.node, wrong, f.what)
	}
}

// right sees that a file that was written since is what it should be: a node that believed
// the damage may have added to it.
func (s *storm) right(ctx context.Context, f *spoiled) error {
	if f.kind != BadEpochs {
		return nil
	}
	wrong, err := verify(ctx, f.path)
	if err == nil && wrong != "" {
		err = fmt.Errorf("node %d believed what was damaged: %s (%s)", f.node, wrong, f.what)
	}
	return err
}

// gone says what came of a file that is not there.
func (s *storm) gone(ctx context.Context, f *spoiled) (how string, err error) {
	switch {
	case f.now != nil: // retention took it, say
		return "it is gone", nil
	case f.kind == BadSnapshot: // the newest of those that are left was read instead
		return "", nil
	case f.kind == BadIndex: // that of a segment that is written to is in memory, and written later
		wrong, err := verify(ctx, f.path)
		if err == nil && wrong != "" {
			err = fmt.Errorf("node %d did not notice: %s (%s)", f.node, wrong, f.what)
		}
		return "", err
	default:
		return "", fmt.Errorf("%s was removed and is not there again", f.path)
	}
}

// reported looks for a warning about the file in what its node has logged since.
func (s *storm) reported(f *spoiled) (bool, error) {
	text, err := os.ReadFile(s.lab.LogFile(f.node))
	if err != nil {
		return false, err
	}
	name, _, _ := strings.Cut(filepath.Base(f.path), ".")
	offset, _ := strconv.ParseInt(name, 10, 64) // of a snapshot, whose name is a number
	for line := range strings.Lines(string(text[min(f.said, int64(len(text))):])) {
		about := strings.Contains(line, f.path)
		if f.kind == BadSnapshot { // it is named by folder and offset
			about = strings.Contains(line, filepath.Dir(f.path)) && slices.Contains(strings.Fields(line), fmt.Sprintf("offset=%d", offset))
		}
		if about && strings.Contains(line, "unreadable") {
			return true, nil
		}
	}
	return false, nil
}

// verify asks what is wrong with a file of a partition, beside its batches; "": nothing.
func verify(ctx context.Context, path string) (wrong string, err error) {
	in, err := commitlog.Inspect(commitlog.InspectOptions{Path: filepath.Dir(path), Partition: -1})
	if err != nil {
		return "", err
	}
	_, err = in.Verify(ctx, func(f commitlog.Finding) {
		if f.Path == path && f.Severity == commitlog.SeverityDamage && wrong == "" {
			wrong = f.String()
		}
	})
	return wrong, err
}

func newest(snapshot string) bool {
	all, err := filepath.Glob(filepath.Join(filepath.Dir(snapshot), "*.snapshot"))
	return err == nil && len(all) > 0 && all[len(all)-1] == snapshot
}
