package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/bench/peers/load"
)

// server is a process of a peer.
type server struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	log    string
}

// launch starts a server that dies with this process; what it prints goes to a file.
func launch(dir, name string, env []string, command string, args ...string) (*server, error) {
	logPath := filepath.Join(dir, name+".log")
	out, err := os.Create(logPath) //nolint:gosec // in the folder made for it
	if err != nil {
		return nil, err
	}
	defer out.Close()                                                  //nolint:errcheck // the child has its own descriptor
	cmd := exec.CommandContext(context.Background(), command, args...) //nolint:gosec // what the peer is
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &server{cmd: cmd, exited: make(chan struct{}), log: logPath}
	go func() { // ends with the process, which stop waits for
		_ = cmd.Wait() // how a server ends that was killed says nothing
		close(s.exited)
	}()
	return s, nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) stop() error {
	err := s.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-s.exited
	return err
}

// died says so with the end of its log when a server has ended by itself.
func (s *server) died() error {
	select {
	case <-s.exited:
		b, _ := os.ReadFile(s.log) // nothing is better than nothing
		return fmt.Errorf("%s ended; the end of its log: %s", filepath.Base(s.cmd.Path), tail(string(b)))
	default:
		return nil
	}
}

const tailBytes = 600

func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(len(s)-tailBytes, 0):]
}

// servers are the processes of a cluster.
type servers []*server

func (all servers) pids() (pids []int) {
	for _, s := range all {
		pids = append(pids, s.pid())
	}
	return pids
}

func (all servers) stop() error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.stop())
	}
	return errors.Join(errs...)
}

func (all servers) died() error {
	for _, s := range all {
		if err := s.died(); err != nil {
			return err
		}
	}
	return nil
}

const (
	readyWait = 90 * time.Second
	readyPoll = 200 * time.Millisecond
	// attemptWait is also how long RabbitMQ's tool may take to start.
	attemptWait = 15 * time.Second
)

// await tries until a cluster does what it is there for, or one of its servers dies.
func (all servers) await(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		err := attempt(ctx, try)
		if err == nil {
			return nil
		}
		if died := all.died(); died != nil {
			return died
		}
		if pause(ctx, readyPoll) != nil {
			return fmt.Errorf("not ready after %s: %w", readyWait, err)
		}
	}
}

// serves waits until a cluster makes a topic and drops it again.
func (all servers) serves(ctx context.Context, client string, addresses []string, replicas int) error {
	return all.await(ctx, func(ctx context.Context) (err error) {
		s, err := load.Dial(ctx, client, addresses)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		trial := &load.Topic{Name: "trial", Partitions: 1, Replicas: replicas, Retention: 1 << 20}
		if err := s.Create(ctx, trial); err != nil {
			return err
		}
		return s.Drop(ctx, trial)
	})
}

// attempt bounds one attempt: a request that came before there was a leader may never
// be answered.
func attempt(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, attemptWait)
	defer cancel()
	return try(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// command runs a program to its end; an error holds the end of what it said.
func command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // what a peer's installation is
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(string(out)))
	}
	return string(out), nil
}

// apt installs what is missing of Debian's packages, without starting a service.
func apt(ctx context.Context, program string, packages ...string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s is not installed, and there is no apt-get to install %s with", program, strings.Join(packages, " "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s is not installed; as root this command would apt-get install %s", program, strings.Join(packages, " "))
	}
	const policy = "/usr/sbin/policy-rc.d" // says which services a package may start
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil { //nolint:gosec // it is run
			return err
		}
		defer os.Remove(policy) //nolint:errcheck // the next package would not start its service
	}
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)
	if _, err := command(ctx, "", env, "apt-get", install...); err == nil {
		return nil
	}
	if _, err := command(ctx, "", env, "apt-get", "update", "-q"); err != nil {
		return err
	}
	_, err := command(ctx, "", env, "apt-get", install...)
	return err
}
