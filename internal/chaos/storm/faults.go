package storm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/internal/chaos"
	"github.com/penstock/penstock/internal/chaos/load"
)

// heal takes a fault back.
type heal func(ctx context.Context) error

func nothing(context.Context) error { return nil }

// inject makes a fault happen on the node that a names.
func (s *storm) inject(ctx context.Context, a Action) (heal, error) {
	lab, node := s.lab, a.Node
	startAgain := func(context.Context) error { return s.start(node) }
	switch a.Kind {
	case Kill:
		return startAgain, lab.Kill(node)
	case KillAll:
		return s.startAll, lab.KillAll()
	case Pause:
		return func(context.Context) error { return s.signal(node, syscall.SIGCONT) }, s.signal(node, syscall.SIGSTOP)
	case Cut:
		return func(ctx context.Context) error { return lab.Network.Mend(ctx, node) }, lab.Network.Cut(ctx, s.cut(a))
	case PowerOne:
		return startAgain, lab.CutPower(ctx, node)
	case PowerAll:
		return s.startAll, lab.CutPower(ctx, s.all()...)
	case DiskFull:
		return func(context.Context) error { return lab.Disks[node-1].Drain() }, lab.Disks[node-1].Fill(a.Leave)
	case DiskHang:
		return func(context.Context) error { return lab.Disks[node-1].Thaw() }, lab.Disks[node-1].Freeze()
	case DiskDead:
		return func(ctx context.Context) error {
			return errors.Join(lab.CutPower(ctx, node), s.start(node))
		}, lab.Disks[node-1].CutPower()
	case FsyncFails:
		stop, err := s.strace(ctx, node, "error=EIO")
		return func(ctx context.Context) error {
			// The kernel may have dropped what it could not write.
			return errors.Join(stop(ctx), lab.CutPower(ctx, node), s.start(node))
		}, err
	case FsyncSlow:
		return s.strace(ctx, node, "delay_enter=300ms")
	case FsyncHangs:
		return s.strace(ctx, node, "delay_enter=8s")
	case FlipBits:
		return startAgain, s.flip(ctx, a)
	case Rolling:
		return nothing, s.roll(ctx)
	case Clock:
		return func(context.Context) error { return lab.SetClock(node, 0) }, lab.SetClock(node, a.Skew)
	case Loss:
		return s.lose(ctx, a)
	case Slow:
		return s.slow(ctx, a)
	case SlowLink:
		return s.narrow(ctx, a)
	case FewFiles:
		return s.limitFiles(ctx, a)
	case LittleMemory:
		return s.limitMemory(a)
	case BadIndex, BadEpochs, BadSnapshot, BadTopicID, BadCheckpoint:
		return s.spoilFiles(ctx, a)
	case TornRaft:
		return startAgain, s.tearRaft(a)
	case BadRaft:
		return startAgain, s.damageRaft(a)
	case Move:
		return s.move(ctx, a)
	case Vote:
		return s.vote(ctx, a)
	case Replace:
		return s.replace(ctx, a)
	default:
		return nothing, fmt.Errorf("storm: no fault %q", a.Kind)
	}
}

func (s *storm) all() (ids []int) {
	for id := 1; id <= s.lab.Nodes(); id++ {
		ids = append(ids, id)
	}
	return ids
}

// start starts a node unless it runs: another fault of the pair may have.
func (s *storm) start(node int) error {
	if s.lab.Running(node) {
		return nil
	}
	return s.lab.Start(node)
}

func (s *storm) startAll(context.Context) error { return s.lab.StartAll() }

// signal signals a node, unless the other fault of the pair has ended it.
func (s *storm) signal(node int, sig syscall.Signal) error {
	if !s.lab.Running(node) {
		return nil
	}
	return s.lab.Signal(node, sig)
}

func (s *storm) cut(a Action) chaos.Cut {
	c := chaos.Cut{Node: a.Node, Direction: a.Direction, Port: a.Port, Reset: a.Reset}
	for _, id := range s.all() {
		if id != a.Node {
			c.Peers = append(c.Peers, id)
		}
	}
	if a.Partial {
		c.Peers = []int{a.Node%s.lab.Nodes() + 1}
	}
	if a.Clients {
		c.Peers = append(c.Peers, 0)
	}
	return c
}

// lose loses some of a node's packets.
func (s *storm) lose(ctx context.Context, a Action) (heal, error) {
	return func(ctx context.Context) error {
		lost, err := s.lab.Network.Lost(ctx, a.Node)
		s.say("  %d packets of node %d were lost", lost, a.Node)
		if err == nil && lost == 0 {
			s.absent(Loss)
		}
		return errors.Join(err, s.lab.Network.Mend(ctx, a.Node))
	}, s.lab.Network.Lose(ctx, chaos.Loss{Node: a.Node, Percent: a.Percent})
}

// slow delays a node's packets.
func (s *storm) slow(ctx context.Context, a Action) (heal, error) {
	line, err := s.lab.Network.Slow(ctx, chaos.Delay{Node: a.Node, Least: a.Least, Most: a.Most})
	if err != nil {
		return nothing, err
	}
	return func(ctx context.Context) error {
		s.say("  %d packets of node %d were held back", line.Delayed(), a.Node)
		if line.Delayed() == 0 {
			s.absent(Slow)
		}
		return line.Close(ctx)
	}, nil
}

// strace changes what syncs of a node's process do until it is healed.
func (s *storm) strace(ctx context.Context, node int, what string) (heal, error) {
	pid := s.lab.Pid(node)
	if pid == 0 {
		return nothing, nil
	}
	// Signals would reach strace with the harness; it is told to let go below.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(pid),
		"-e", "trace=fsync,fdatasync,sync_file_range,syncfs", "-e", "inject=fsync,fdatasync,syncfs:"+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if err := cmd.Start(); err != nil {
		return nothing, err
	}
	return func(context.Context) error {
		err := cmd.Process.Signal(os.Interrupt)
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		done := make(chan struct{})
		go func() { // ends with strace, which is killed if it does not listen
			_ = cmd.Wait() // it ends with the signal, or with the process it watches
			close(done)
		}()
		select {
		case <-done:
			return err
		case <-time.After(5 * time.Second):
			err = errors.Join(err, cmd.Process.Kill())
			<-done
			return err
		}
	}, nil
}

// flip stops a node and flips a bit in some of its segments, each well below what
// it had synced, so that it cannot be taken for a torn tail.
func (s *storm) flip(ctx context.Context, a Action) error {
	led, err := s.leads(ctx, a.Node)
	if err != nil {
		return err
	}
	if err := s.lab.Kill(a.Node); err != nil {
		return err
	}
	leads := slices.Collect(maps.Values(led))
	rng := rand.New(rand.NewPCG(a.Seed, 1))
	folders, err := filepath.Glob(filepath.Join(s.lab.DataDir(a.Node), load.Strict+"-*"))
	if err != nil {
		return err
	}
	rng.Shuffle(len(folders), func(i, j int) { folders[i], folders[j] = folders[j], folders[i] })
	flipped := 0
	for _, folder := range folders {
		n, err := strconv.Atoi(folder[strings.LastIndex(folder, "-")+1:])
		// Who leads nothing has other partitions hurt. One that is hurt on another node is
		// left alone: nothing looks for damage that nobody reads, and two damaged copies
		// of a partition are more than is promised.
		if err != nil || led[int32(n)] != a.Leads && slices.Contains(leads, true) || s.hurtElsewhere(int32(n), a.Node) {
			continue
		}
		done, err := flipOne(rng, folder)
		if err != nil {
			return err
		}
		if done != nil {
			done.node, done.partition = a.Node, int32(n)
			s.hurts = append(s.hurts, *done)
			flipped++
		}
		if flipped == 2 {
			break
		}
	}
	s.say("flipped a bit in %d segments of node %d", flipped, a.Node)
	s.flipped += flipped
	return nil
}

// hurt is a flipped bit.
type hurt struct {
	node      int
	partition int32
	path      string
	at        int64
	was       byte
}

// repaired reports whether the file has the right byte again, or is another one.
func (h *hurt) repaired() bool {
	f, err := os.Open(h.path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, 1)
	_, err = f.ReadAt(b, h.at)
	return errors.Is(err, io.EOF) || err == nil && b[0] == h.was
}

// hurtElsewhere reports whether a partition has flipped bits on another node.
func (s *storm) hurtElsewhere(partition int32, node int) bool {
	s.hurts = slices.DeleteFunc(s.hurts, func(h hurt) bool { return h.repaired() })
	return slices.ContainsFunc(s.hurts, func(h hurt) bool { return h.partition == partition && h.node != node })
}

// damagedElsewhere names a file on another node with flipped bits; "": there is none.
func (s *storm) damagedElsewhere(node int) string {
	for i := range s.hurts {
		if h := &s.hurts[i]; h.node != node && !h.repaired() {
			return h.path
		}
	}
	return ""
}

// forget drops what was hurt on a disk that is gone.
func (s *storm) forget(node int) {
	s.hurts = slices.DeleteFunc(s.hurts, func(h hurt) bool { return h.node == node })
}

// minFlip is the size below which a segment is left alone: its first half must be far
// behind what is checked as a tail that may be torn.
const minFlip = 64 << 10

// flipOne flips a bit in one segment of a partition; nil: there was none to flip.
func flipOne(rng *rand.Rand, folder string) (done *hurt, err error) {
	segments, err := filepath.Glob(filepath.Join(folder, "*.log"))
	if err != nil || len(segments) == 0 {
		return nil, err
	}
	path := segments[rng.IntN(len(segments))]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.Size() < minFlip {
		return nil, errors.Join(err, f.Close())
	}
	at := rng.Int64N(info.Size() / 2)
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, at); err == nil {
		_, err = f.WriteAt([]byte{b[0] ^ 1<<rng.IntN(8)}, at)
	}
	return &hurt{path: path, at: at, was: b[0]}, errors.Join(err, f.Sync(), f.Close())
}

// roll stops and starts one node after the other in good order.
func (s *storm) roll(ctx context.Context) error {
	for _, id := range s.all() {
		if err := s.lab.Stop(id, stopWait); err != nil {
			return err
		}
		if err := s.lab.Start(id); err != nil {
			return err
		}
		if err := s.lab.WaitHealthy(ctx, recoverWait); err != nil {
			return fmt.Errorf("rolling restart: after node %d: %w", id, err)
		}
	}
	return nil
}

const stopWait = 30 * time.Second
