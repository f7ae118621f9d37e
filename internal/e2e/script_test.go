package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/chaos"
	commitlog "github.com/penstock/penstock/log"
)

// The scripts share one cluster of one node, and use topics and groups of
// their own. They see its address as $BROKERS, its configuration, data and
// gRPC address as $NODE_CONFIG, $NODE_DATA and $NODE_ADDR; nobody listens at
// $DEAD, $RAFT and $PEER.
func TestCommandLine(t *testing.T) {
	w := start(t, chaos.Options{Nodes: 1, Config: []string{"offsets.topic.replication.factor: 1", "offsets.topic.num.partitions: 2"}})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", os.Getenv("PATH"))
			env.Setenv("BROKERS", w.nodes.Addr(1))
			env.Setenv("NODE_ADDR", w.nodes.Addr(1))
			env.Setenv("NODE_CONFIG", w.nodes.ConfigFile(1))
			env.Setenv("NODE_DATA", w.nodes.DataDir(1))
			env.Setenv("LONG", strings.Repeat("n", 250))
			for _, name := range []string{"DEAD", "RAFT", "PEER"} {
				address, err := deadAddress()
				if err != nil {
					return err
				}
				env.Setenv(name, address)
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "large.txt"), []byte(strings.Repeat("x", 3<<20)+"\n"), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": status,
			"subst":  subst,
			"setenv": setenv, "await": await,
			"damage": damage, "promised": promised,
		},
	})
}

// deadAddress returns an address where nothing listens.
func deadAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// status runs a command and checks its exit status: status 2 penstock topic.
func status(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s: exit status %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// damage changes a file: damage flip FILE AT, damage cut FILE SIZE, damage zero FILE FROM.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: damage flip|cut|zero FILE BYTE")
	}
	name := ts.MkAbs(args[1])
	b, err := os.ReadFile(name)
	ts.Check(err)
	at, err := strconv.Atoi(args[2])
	ts.Check(err)
	switch args[0] {
	case "flip":
		b[at] ^= 0x55
	case "cut":
		b = b[:at]
	case "zero":
		clear(b[at:])
	default:
		ts.Fatalf("damage %s", args[0])
	}
	ts.Check(os.WriteFile(name, b, 0o600))
}

// promised waits until the checkpoint of a data directory promises a partition's
// records below an offset: promised DIR FOLDER OFFSET.
func promised(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: promised DIR FOLDER OFFSET")
	}
	want, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	in, err := commitlog.Inspect(commitlog.InspectOptions{Path: args[0], Partition: -1})
	ts.Check(err)
	id, err := in.TopicID(filepath.Join(args[0], args[1], "partition.metadata"))
	ts.Check(err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(testWait); time.Now().Before(end); <-tick.C {
		for _, slot := range []string{"flushed-checkpoint.0", "flushed-checkpoint.1"} {
			_, all, err := in.Checkpoint(filepath.Join(args[0], slot))
			if err != nil {
				continue // it is being written
			}
			for _, e := range all {
				if e.TopicID == id && strings.HasSuffix(args[1], fmt.Sprintf("-%d", e.Partition)) && int64(e.Flushed) >= want {
					return
				}
			}
		}
	}
	ts.Fatalf("%s is not promised to offset %d", args[1], want)
}

// setenv sets a variable to what a file, or stdout, says: setenv NAME FILE.
func setenv(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: setenv NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// await runs a command until it prints what matches: await PATTERN COMMAND ARGS...
func await(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: await PATTERN COMMAND ARGS...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(testWait); time.Now().Before(end); <-tick.C {
		if ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("%s does not print %s", strings.Join(args[1:], " "), args[0])
}

// subst replaces $NAME in a file by the script's variables.
func subst(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// Every command shows its help, and the help names only what runs.
func TestHelp(t *testing.T) {
	w := &world{t: t, ctx: t.Context()}
	var walk func(path []string)
	commands := 0
	walk = func(path []string) {
		out := w.penstock(append(slices.Clip(path), "--help")...)
		require.Contains(t, out, "Usage:\n  penstock", "help of %v", path)
		_, list, ok := strings.Cut(out, "Available Commands:\n")
		if !ok {
			commands++
			return
		}
		list, _, _ = strings.Cut(list, "\n\n")
		for line := range strings.Lines(list) {
			if name := strings.Fields(line)[0]; name != "help" {
				walk(append(slices.Clip(path), name))
			}
		}
	}
	walk(nil)
	require.Greater(t, commands, 15, fmt.Sprint("commands in the help: ", commands))
	for _, absent := range []string{"--tls"} {
		require.NotContains(t, w.penstock("--help")+w.penstock("dev", "--help")+w.penstock("produce", "--help"), absent, "not in this version")
	}
}
