package kafkaclients

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client is one that is tried, and what it can do at all.
type client struct {
	name    string
	version func(t *testing.T) string
	command []string // the driver; kcat has none
	codecs  []string
	lacks   map[string]string // features that the client does not have, and why
}

// bin is where scripts/kafka-clients puts what it installs.
func bin(t *testing.T, path ...string) string {
	t.Helper()
	root := os.Getenv("KAFKA_CLIENTS_DIR")
	require.NotEmpty(t, root, "run by scripts/kafka-clients")
	return filepath.Join(append([]string{root}, path...)...)
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

func goVersion(module string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		return strings.TrimPrefix(output(t, "go", "list", "-m", "-f", "{{.Version}}", module), "v")
	}
}

func pipVersion(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		return output(t, bin(t, "venv", "bin", "python"), "-c", "import importlib.metadata as m; print(m.version('"+name+"'))")
	}
}

func npmVersion(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		return output(t, "node", "-p", "JSON.parse(require('fs').readFileSync('"+bin(t, "js", "node_modules", name, "package.json")+"')).version")
	}
}

func kcatVersion(t *testing.T) string {
	t.Helper()
	_, after, _ := strings.Cut(output(t, "kcat", "-V"), "Version ")
	version, rest, _ := strings.Cut(after, " ")
	_, rest, _ = strings.Cut(rest, "librdkafka ")
	library, _, _ := strings.Cut(rest, " ")
	return version + ", librdkafka " + library
}

func javaVersion(t *testing.T) string {
	t.Helper()
	jars, err := filepath.Glob(bin(t, "java", "target", "dependency", "kafka-clients-*.jar"))
	require.NoError(t, err)
	require.Len(t, jars, 1)
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jars[0]), "kafka-clients-"), ".jar")
}

func clients(t *testing.T) []client {
	t.Helper()
	all := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	golang := []string{bin(t, "driver")}
	python := []string{bin(t, "venv", "bin", "python"), "python/driver.py"}
	js := []string{"node", bin(t, "js", "driver.mjs")}
	java := []string{"java", "-XX:TieredStopAtLevel=1", "-cp", bin(t, "java", "target", "classes") + ":" + bin(t, "java", "target", "dependency") + "/*", "Driver"}
	const noNewGroups = "the client does not have it"
	return []client{
		{"franz-go", goVersion("github.com/twmb/franz-go"), golang, all, nil},
		{"sarama", goVersion("github.com/IBM/sarama"), golang, all, map[string]string{"KIP-848": noNewGroups}},
		{"kafka-go", goVersion("github.com/segmentio/kafka-go"), golang, all, map[string]string{"KIP-848": noNewGroups, "idempotent": noNewGroups}},
		{"kcat", kcatVersion, nil, all, map[string]string{"KIP-848": noNewGroups, "admin": noNewGroups, "manual commit": noNewGroups}},
		{"confluent-kafka", pipVersion("confluent-kafka"), python, all, nil},
		{"kafka-python", pipVersion("kafka-python"), python, all, map[string]string{"KIP-848": noNewGroups}},
		{"kafkajs", npmVersion("kafkajs"), js, all, map[string]string{"KIP-848": noNewGroups}},
		{"@platformatic/kafka", npmVersion("@platformatic/kafka"), js, []string{"none", "gzip", "snappy", "lz4"}, nil},
		{"kafka-clients (Java)", javaVersion, java, all, nil},
	}
}

// driverName is the name that the driver knows the client by.
func (c *client) driverName() string {
	if c.name == "@platformatic/kafka" {
		return "platformatic"
	}
	return c.name
}

// process is a driver that runs.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	errs  bytes.Buffer
	done  chan struct{}

	mu    sync.Mutex // guards what follows
	lines []string
	times []time.Time
}

func (c *client) start(t *testing.T, mode string, args ...string) *process {
	t.Helper()
	command := append([]string{}, c.command...)
	if c.name == "kcat" {
		command = kcatCommand(mode, args)
	} else {
		command = append(command, append([]string{mode, "client=" + c.driverName()}, args...)...)
	}
	p := launch(t, command)
	if c.name == "kcat" && mode == "produce" {
		_, err := io.WriteString(p.stdin, kcatRecords(args))
		require.NoError(t, err)
		require.NoError(t, p.stdin.Close())
	}
	return p
}

// launch runs a program that prints records as drivers do.
func launch(t *testing.T, command []string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), command[0], command[1:]...), done: make(chan struct{})}
	p.cmd.Stderr = &p.errs
	stdin, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	p.stdin = stdin
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.mu.Lock()
			p.lines, p.times = append(p.lines, s.Text()), append(p.times, time.Now())
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// output is what the driver has printed.
func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.lines...)
}

// count is how many lines that is.
func (p *process) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.lines)
}

// leave asks a member of a group to go, and a producer with a rate to stop.
func (p *process) leave() {
	_ = p.stdin.Close()
	if base := filepath.Base(p.cmd.Path); base == "kcat" || base == "penstock" {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
	}
}

// wait returns what the driver printed once it has ended well.
func (p *process) wait(t *testing.T) []string {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		_ = p.cmd.Process.Kill()
		t.Fatalf("%v hangs after %d lines; it said %s", p.cmd.Args, len(p.output()), p.errs.String())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v: %v: %s", p.cmd.Args, err, p.errs.String())
	}
	return p.output()
}

func (c *client) run(t *testing.T, mode string, args ...string) []string {
	t.Helper()
	return c.start(t, mode, args...).wait(t)
}

// row is a record as drivers print it.
type row struct {
	partition, offset  int
	key, value, header string
}

func rows(t *testing.T, lines []string) []row {
	t.Helper()
	var out []row
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "record" {
			continue
		}
		require.Len(t, f, 6, line)
		partition, err := strconv.Atoi(f[1])
		require.NoError(t, err)
		offset, err := strconv.Atoi(f[2])
		require.NoError(t, err)
		out = append(out, row{partition, offset, strings.Replace(f[3], "NULL", "-", 1), f[4], strings.TrimPrefix(f[5], "n=")}) // kcat's words
	}
	return out
}

// argument of a driver's command line.
func argument(args []string, name string) string {
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
	}
	return ""
}

// kcatCommand says the same in kcat's own words.
func kcatCommand(mode string, args []string) []string {
	command := []string{"kcat", "-q", "-u", "-b", argument(args, "brokers"), "-X", "broker.address.family=v4"}
	format := []string{"-f", "record %p %o %k %s %h\n"}
	topic, count := argument(args, "topic"), argument(args, "count")
	switch mode {
	case "produce":
		command = append(command, "-P", "-t", topic, "-K", "|", "-Z", "-z", argument(args, "codec"), "-H", "n=0",
			"-X", "enable.idempotence="+argument(args, "idempotent"), "-X", "acks=all")
	case "consume":
		from := "beginning"
		if ms := argument(args, "from"); ms != "earliest" {
			from = "s@" + ms
		}
		command = append(append(command, "-C", "-Z", "-t", topic, "-o", from, "-c", count), format...)
	case "group":
		command = append(append(command, "-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=300"), format...)
		command = append(command, "-Z", "-c", count, "-G", argument(args, "group"), topic)
	}
	return command
}

// kcatRecords are the lines that it reads; -Z makes empty keys null. All have the
// header of the first record: kcat has one for all.
func kcatRecords(args []string) string {
	n, _ := strconv.Atoi(argument(args, "count"))
	var b strings.Builder
	for i := range n {
		key := ""
		if i%2 == 0 {
			key = fmt.Sprintf("k%d", i%7)
		}
		fmt.Fprintf(&b, "%s|v%d\n", key, i)
	}
	return b.String()
}
