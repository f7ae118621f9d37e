package chaos

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// BuildSkewed builds the server with a wall clock that can be moved while it runs:
// the same sources, but for package time of the standard library, whose Now adds
// what a file says. Nothing of Penstock is changed, every call of time.Now is
// reached, and the monotonic clock is left alone, as by an administrator who sets the
// clock of one machine. A process names its file in the environment, see SkewEnv.
//
// Rejected: a clock in the configuration of a debug build, which would be one more
// way to run a server; LD_PRELOAD, which a static binary does not have; time
// namespaces, which do not move the wall clock; setting the machine's own clock,
// which moves the harness too.
func BuildSkewed(ctx context.Context, out string) error {
	return buildSkewed(ctx, "github.com/penstock/penstock/cmd/penstock", out)
}

func buildSkewed(ctx context.Context, program, out string) error {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("chaos: go env: %w", err)
	}
	dir, err := os.MkdirTemp("", mountMark+"clock-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	pkg := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time")
	source, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return err
	}
	const call = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), call) != 1 {
		return errors.New("chaos: time.Now of this Go is not the one that is known")
	}
	replace := map[string]string{}
	for name, text := range map[string]string{
		"time.go":       strings.Replace(string(source), call, call+"\tsec += chaosSkew()\n", 1),
		"chaos_skew.go": skewSource,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		replace[filepath.Join(pkg, name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-overlay", file, "-o", out, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("chaos: build with a clock that moves: %w: %s", err, said)
	}
	return nil
}

// SkewEnv names the file with the skew of a process, eight bytes: seconds.
const SkewEnv = "CHAOS_CLOCK_SKEW"

const skewSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var chaosSkewAt *int64

func init() {
	path, ok := syscall.Getenv("` + SkewEnv + `")
	if !ok {
		return
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		panic("chaos: clock skew: " + err.Error())
	}
	page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("chaos: clock skew: " + err.Error())
	}
	chaosSkewAt = (*int64)(unsafe.Pointer(&page[0]))
}

func chaosSkew() int64 {
	if chaosSkewAt == nil {
		return 0
	}
	return atomic.LoadInt64(chaosSkewAt)
}
`

// SetSkew moves the wall clock of a process whose skew is in a file, at once.
func SetSkew(path string, by time.Duration) error {
	// Written in place: the process has the file mapped.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	b := binary.NativeEndian.AppendUint64(nil, uint64(int64(by/time.Second)))
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("chaos: move the clock: %w", err)
	}
	return f.Close()
}
