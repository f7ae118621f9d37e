package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// LabOptions describe a Lab.
type LabOptions struct {
	Binary string
	Parent string // the folder of the run is made in it; must be on a disk
	Nodes  int
	Voters int // 0: all
	Disk   int64
	Config []string
}

// Lab is a cluster whose nodes have a network and a disk each, which can be broken:
//
//	PARENT/penstock-chaos-N/node1.yaml  node1.log  node1.img  node1/ (the mount) ...
//
// It needs root, and the machine: namespaces and addresses are the same in every run,
// so that scripts/chaos lets one run at a time. Everything it makes is gone after Close, and what a run that was
// killed left behind is removed by the next one.
type Lab struct {
	*Cluster

	Network *Network
	Disks   []*Disk // of node 1, 2, ...
	Dir     string
}

// runningMark lies in the folder of a run until it ends.
const runningMark = "running"

// ErrCannot means that this machine does not let a Lab be made, and why.
var ErrCannot = errors.New("chaos: this machine cannot")

// Probe reports what is missing for a Lab, as ErrCannot.
func Probe(ctx context.Context) error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, tool := range []string{"ip", "iptables", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, "the tool "+tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: missing are %s", ErrCannot, strings.Join(missing, ", "))
	}
	const trial = netPrefix + "-trial"
	if err := run(ctx, "ip", "netns", "add", trial); err != nil {
		return fmt.Errorf("%w: no network namespaces: %w", ErrCannot, err)
	}
	err := inNamespace(trial, func() error { return run(ctx, "iptables", "-w", "-A", "INPUT", "-s", clientIP, "-j", "DROP") })
	if err = errors.Join(err, run(ctx, "ip", "netns", "del", trial)); err != nil {
		return fmt.Errorf("%w: no packet filter in a namespace: %w", ErrCannot, err)
	}
	dir, err := os.MkdirTemp("", mountMark)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	d, err := NewDisk(ctx, dir, "trial", 16<<20)
	if err != nil {
		return fmt.Errorf("%w: no loop-mounted ext4: %w", ErrCannot, err)
	}
	err = d.CutPower()
	if err = errors.Join(err, d.Unmount(ctx)); err != nil {
		return fmt.Errorf("%w: no way to shut an ext4 down: %w", ErrCannot, err)
	}
	return nil
}

// NewLab makes a Lab; nothing runs in it yet.
func NewLab(ctx context.Context, o LabOptions) (l *Lab, err error) {
	l = &Lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(false))
		}
	}()
	parent, err := filepath.Abs(o.Parent)
	if err != nil {
		return l, err
	}
	if err := errors.Join(removeNetwork(), removeDisks(), removeGroups(), removeRuns(parent)); err != nil {
		return l, fmt.Errorf("chaos: remove what an earlier run left: %w", err)
	}
	if l.Dir, err = os.MkdirTemp(parent, mountMark); err != nil {
		return l, err
	}
	if err := os.WriteFile(filepath.Join(l.Dir, runningMark), nil, 0o600); err != nil {
		return l, err
	}
	if l.Network, err = NewNetwork(ctx, o.Nodes); err != nil {
		return l, err
	}
	groups := CanLimitMemory()
	hosts := make([]Host, 0, o.Nodes)
	for id := 1; id <= o.Nodes; id++ {
		d, err := NewDisk(ctx, l.Dir, fmt.Sprintf("node%d", id), o.Disk)
		if err != nil {
			return l, err
		}
		l.Disks = append(l.Disks, d)
		if err := SetSkew(l.skewFile(id), 0); err != nil {
			return l, err
		}
		h := Host{
			IP: nodeIP(id), Namespace: namespace(id), DataDir: filepath.Join(d.Path(), "data"), Env: []string{SkewEnv + "=" + l.skewFile(id)},
		}
		if groups {
			h.Group = memoryGroup(id)
			if err := os.Mkdir(h.Group, 0o755); err != nil { //nolint:gosec // the kernel decides who may read it
				return l, err
			}
		}
		hosts = append(hosts, h)
	}
	l.Cluster, err = New(Options{
		Binary: o.Binary, Dir: l.Dir, Nodes: o.Nodes, Voters: o.Voters, Config: o.Config, Hosts: hosts,
	})
	return l, err
}

func (l *Lab) skewFile(id int) string { return filepath.Join(l.Dir, fmt.Sprintf("node%d.skew", id)) }

// SetClock moves the wall clock of a node, if its binary came from BuildSkewed.
func (l *Lab) SetClock(id int, by time.Duration) error { return SetSkew(l.skewFile(id), by) }

// Close ends and removes everything; with keep, the folder stays.
func (l *Lab) Close(keep bool) error {
	var errs []error
	for _, d := range l.Disks {
		errs = append(errs, d.Thaw())
	}
	if l.Cluster != nil {
		errs = append(errs, l.Cluster.Close())
	}
	errs = append(errs, removeNetwork(), removeDisks(), removeGroups())
	if l.Dir != "" {
		errs = append(errs, os.Remove(filepath.Join(l.Dir, runningMark)))
		if !keep {
			errs = append(errs, os.RemoveAll(l.Dir))
		}
	}
	return errors.Join(errs...)
}

// removeRuns removes the folders of runs that were killed. Those that were kept
// have no mark.
func removeRuns(parent string) error {
	marks, err := filepath.Glob(filepath.Join(parent, mountMark+"*", runningMark))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		errs = append(errs, os.RemoveAll(filepath.Dir(m)))
	}
	return errors.Join(errs...)
}

// CutPower cuts the power of nodes: their disks stop at once, their processes are
// gone, and the disks are mounted again as they were at that instant. Nothing is
// started.
func (l *Lab) CutPower(ctx context.Context, ids ...int) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, l.Disks[id-1].CutPower())
	}
	for _, id := range ids {
		errs = append(errs, l.Kill(id))
	}
	for _, id := range ids {
		d := l.Disks[id-1]
		if err := d.Unmount(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, d.Mount(ctx))
	}
	return errors.Join(errs...)
}

// Kill is Cluster.Kill of a node whose disk may hang: a process does not end inside of
// a call that hangs, whatever signal it got, so its disk is let go once it is doomed.
func (l *Lab) Kill(id int) error { return l.thawing(func() error { return l.Cluster.Kill(id) }) }

// KillAll is Cluster.KillAll of nodes whose disks may hang.
func (l *Lab) KillAll() error { return l.thawing(l.Cluster.KillAll) }

func (l *Lab) thawing(kill func() error) error {
	done := make(chan error, 1)
	go func() { done <- kill() }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(200 * time.Millisecond):
			for _, d := range l.Disks {
				if err := d.Thaw(); err != nil {
					return errors.Join(err, <-done)
				}
			}
		}
	}
}
