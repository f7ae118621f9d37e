// Command mutants shows that the simulation notices when the product is broken.
//
// list.go holds deliberate faults, each an edit of a source file. They are built into
// test binaries of internal/sim, consumergroup and broker as switches, by way of go's -overlay, so that no
// switch is in the product. Each mutant then runs simulated clusters, or groups, seed
// after seed, until one breaks a promise; of a few, which take too rare a run of events,
// a test that brings it about has to fail. The table says which; a mutant that survives
// fails the command.
//
//	go run ./internal/mutants [-seeds 800] [-only TEXT]
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	seeds := flag.Int("seeds", 800, "how many seeds a mutant may survive")
	only := flag.String("only", "", "only mutants whose name contains this, or of this package")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *seeds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// verdict is how a mutant ended.
type verdict struct {
	seed, invariant string
	took            time.Duration
	err             error
}

var (
	errSurvived  = errors.New("survived")
	errNoVerdict = errors.New("the hunt said nothing")
)

func run(ctx context.Context, out io.Writer, seeds int, only string) error {
	dir, err := os.MkdirTemp("", "penstock-mutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // leftovers in the temporary folder harm nobody
	begin := time.Now()
	binaries, err := build(ctx, dir, list())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "built in %.0f s\n\n", time.Since(begin).Seconds())
	for _, m := range []mutant{{}, {inLog: true}, {inGroups: true}, {inShell: true}} {
		if v := hunt(ctx, binaries, m, 50); !errors.Is(v.err, errSurvived) {
			return fmt.Errorf("without a mutant the simulation must find nothing: seed %s: %s: %w", v.seed, v.invariant, v.err)
		}
	}
	for _, m := range list() {
		if m.state == "" {
			continue
		}
		if v := state(ctx, binaries, mutant{edits: m.edits, state: m.state}); !errors.Is(v.err, errSurvived) {
			return fmt.Errorf("without a mutant %s of %s must pass: %s: %w", m.state, m.pkg(), v.invariant, v.err)
		}
	}
	var mutants []mutant
	for _, m := range list() {
		if strings.Contains(m.name, only) || m.inGroups && only == groupPackage || m.inShell && only == shellPackage {
			mutants = append(mutants, m)
		}
	}
	survived := report(out, mutants, huntAll(ctx, binaries, mutants, seeds))
	fmt.Fprintf(out, "\n%d mutants, %d survived, %.0f s\n", len(mutants), survived, time.Since(begin).Seconds())
	if survived > 0 {
		return fmt.Errorf("%d of %d mutants survived %d seeds", survived, len(mutants), seeds)
	}
	return nil
}

// huntAll runs the mutants, as many at once as there are processors.
func huntAll(ctx context.Context, binaries map[string]string, mutants []mutant, seeds int) []verdict {
	var wg sync.WaitGroup
	verdicts := make([]verdict, len(mutants))
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				if mutants[i].state != "" {
					verdicts[i] = state(ctx, binaries, mutants[i])
				} else {
					verdicts[i] = hunt(ctx, binaries, mutants[i], seeds)
				}
			}
		})
	}
	for i := range mutants {
		next <- i
	}
	close(next)
	wg.Wait()
	return verdicts
}

// hunt runs one mutant until it is caught.
func hunt(ctx context.Context, binaries map[string]string, m mutant, seeds int) verdict {
	begin := time.Now()
	pkg, flags := m.hunt(seeds)
	cmd := exec.CommandContext(ctx, binaries[pkg], append([]string{"-test.timeout=10m"}, flags...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", variable+"="+m.name)
	b, err := cmd.CombinedOutput()
	v := judge(b, err)
	v.took = time.Since(begin)
	return v
}

// state runs the one test that is to fail with a mutant, in the folder of its package.
func state(ctx context.Context, binaries map[string]string, m mutant) verdict {
	begin := time.Now()
	root, err := moduleRoot(ctx)
	if err != nil {
		return verdict{err: err}
	}
	pattern := "^" + strings.ReplaceAll(m.state, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, binaries[m.pkg()], "-test.v", "-test.run="+pattern, "-test.timeout=1m")
	cmd.Dir = filepath.Join(root, filepath.FromSlash(m.pkg()))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", variable+"="+m.name)
	b, err := cmd.CombinedOutput()
	v := judgeState(m.state, b, err)
	v.took = time.Since(begin)
	return v
}

// judgeState reads the output of a test: what did not run says nothing.
func judgeState(test string, output []byte, err error) verdict {
	text := string(output)
	switch {
	case strings.Contains(text, "--- FAIL: "+test+" ("):
		return verdict{seed: "-", invariant: test}
	case err == nil && strings.Contains(text, "--- PASS: "+test+" ("):
		return verdict{err: errSurvived}
	default:
		return verdict{err: fmt.Errorf("%w: %s", cmp.Or(err, errNoVerdict), output)}
	}
}

// judge reads the output of a hunt, which ended with err. A mutant that makes the
// product panic is noticed: without one nothing panics.
func judge(output []byte, err error) (v verdict) {
	seed := "?"
	for lines := bufio.NewScanner(bytes.NewReader(output)); lines.Scan(); {
		line := lines.Text()
		fields := strings.Split(line, "\t")
		switch {
		case len(fields) == 2 && fields[0] == "SEED":
			seed = fields[1]
		case len(fields) == 3 && fields[0] == "CAUGHT":
			v.seed, v.invariant = fields[1], fields[2]
			return v
		case fields[0] == "SURVIVED":
			v.err = errSurvived
			return v
		case strings.HasPrefix(line, "panic: ") && !strings.HasPrefix(line, "panic: test timed out"):
			v.seed, v.invariant = seed, line
			return v
		}
	}
	v.err = fmt.Errorf("%w: %s", cmp.Or(err, errNoVerdict), output)
	return v
}

func report(out io.Writer, mutants []mutant, verdicts []verdict) (survived int) {
	fmt.Fprintf(out, "%-62s %6s %5s  %s\n", "mutant", "seed", "s", "broken promise")
	for i, v := range verdicts {
		seed, broken := v.seed, v.invariant
		switch {
		case errors.Is(v.err, errSurvived):
			survived++
			seed, broken = "-", "SURVIVED"
		case v.err != nil:
			survived++
			seed, broken = "-", "NO VERDICT: "+v.err.Error()
		}
		fmt.Fprintf(out, "%-62s %6s %5.1f  %s\n", mutants[i].name, seed, v.took.Seconds(), broken)
	}
	return survived
}

// build makes the test binaries, by package, with all mutants in them.
func build(ctx context.Context, dir string, mutants []mutant) (map[string]string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	overlay, err := writeOverlay(root, dir, mutants)
	if err != nil {
		return nil, err
	}
	binaries := map[string]string{}
	packages := []string{simPackage, groupPackage, shellPackage}
	for _, m := range mutants {
		if m.state != "" && !slices.Contains(packages, m.pkg()) {
			packages = append(packages, m.pkg())
		}
	}
	for _, pkg := range packages {
		binary := filepath.Join(dir, filepath.Base(pkg)+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlay, "-o", binary, pkg)
		cmd.Dir = root
		if b, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go test -c %s: %w\n%s", pkg, err, b)
		}
		binaries[pkg] = binary
	}
	return binaries, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	b, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
