package kafkaclients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// notServed are the tests of franz-go that this broker cannot pass, or that need
// what this cluster has not, each with the reason. Whatever else skips itself, or is
// not there any more, fails the run.
func notServed() map[string]string {
	const (
		transactions = "transactions are not in this version"
		shareGroups  = "share groups are not in this version"
		sasl         = "authentication is not in this version"
		internal     = "a pattern matches no internal topic: nobody wants the offsets of all groups for `.*`"
	)
	return map[string]string{
		"TestTxnEtl":                               transactions,
		"TestShareGroup":                           shareGroups,
		"TestShareGroupETL":                        shareGroups,
		"TestShareGroupAckOnClose":                 shareGroups,
		"TestShareGroupOffsetsAdmin":               shareGroups,
		"TestConsumeRegexShareSkipsInternal":       shareGroups,
		"TestSCRAMAuth":                            sasl,
		"TestSCRAMAuthBadCredentials":              sasl,
		"Test848RegexBrokerResolves":               internal,
		"TestOAuthAuth":                            sasl,
		"TestIssueProduceBrokerTooOldFailsRecords": "Produce 0 to 2 are listed for the sake of old librdkafka, and refused",
	}
}

// tryFranzGo runs franz-go's own tests of package kgo, of the version in go.mod,
// against the cluster, as they are.
func tryFranzGo(t *testing.T, s *suite) {
	t.Helper()
	skipped := notServed()
	program := bin(t, "kgo.test")
	listed := strings.Fields(output(t, program, "-test.list", "."))
	var names []string
	for name, why := range skipped {
		require.Contains(t, listed, name, "it is to be skipped: %s", why)
		names = append(names, name)
	}
	slices.Sort(names)
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.timeout=170s", "-test.parallel=4", "-test.skip=^("+strings.Join(names, "|")+")$")
	cmd.Dir = filepath.Join(output(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/twmb/franz-go"), "pkg", "kgo") // one reads a file there
	cmd.Env = append(os.Environ(), "KGO_SEEDS="+s.brokers(), "KGO_TEST_RF=3", "KGO_TEST_RECORDS=4000", "KGO_TEST_MAX_TOPIC_PARTS=7", "KGO_LOG_LEVEL=none")
	out, err := cmd.CombinedOutput()
	text := string(out)
	result := func(word string) (found []string) {
		for _, m := range regexp.MustCompile(`(?m)^ *--- `+word+`: (\S+)`).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		return found
	}
	if failed := result("FAIL"); err != nil || len(failed) > 0 {
		require.NoError(t, os.WriteFile(bin(t, "kgo.log"), out, 0o644))
		t.Fatalf("franz-go's own tests: %v; failed: %v; all that they said is in %s\n%s", err, failed, bin(t, "kgo.log"), text[max(0, len(text)-3000):])
	}
	require.Empty(t, result("SKIP"), "skipped, and not said why")
	t.Logf("franz-go's own tests in pkg/kgo: %d passed; left out: %s", len(result("PASS")), reasons(skipped))
}

func reasons(skipped map[string]string) string {
	var lines []string
	for name, why := range skipped {
		lines = append(lines, fmt.Sprintf("%s (%s)", name, why))
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}
