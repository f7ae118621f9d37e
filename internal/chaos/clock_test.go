package chaos

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// It prints its wall clock, and how much of it its monotonic clock has seen pass, for
// every line that it reads.
const clockProgram = `package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	began := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().Unix(), int64(time.Since(began).Seconds()))
	}
}
`

// The wall clock of a running process moves there and back, the monotonic one does not.
func TestSkewedBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the standard library anew")
	}
	dir := t.TempDir()
	source, binary, skew := filepath.Join(dir, "main.go"), filepath.Join(dir, "clock"), filepath.Join(dir, "skew")
	require.NoError(t, os.WriteFile(source, []byte(clockProgram), 0o600))
	require.NoError(t, buildSkewed(t.Context(), source, binary))
	require.NoError(t, SetSkew(skew, 0))

	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = []string{SkewEnv + "=" + skew}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for _, by := range []time.Duration{0, -48 * time.Hour, 48 * time.Hour, 0} {
		require.NoError(t, SetSkew(skew, by))
		_, err := in.Write([]byte("now\n"))
		require.NoError(t, err)
		require.True(t, lines.Scan())
		wall, monotonic, _ := strings.Cut(lines.Text(), " ")
		unix, err := strconv.ParseInt(wall, 10, 64)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(by), time.Unix(unix, 0), time.Hour)
		passed, err := strconv.ParseInt(monotonic, 10, 64)
		require.NoError(t, err)
		require.Less(t, passed, int64(3600))
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}
