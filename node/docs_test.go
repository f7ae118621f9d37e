package node

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
)

// The table of the user guide is the table of the code: rewrite it with
// go test ./node -run TestConfigPage -rewrite.
func TestConfigPage(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# Configuration of a node\n\n" +
		"One flat YAML file, `penstock server -c FILE`; every key is also an environment variable, which goes before the file. " +
		"An unknown key is an error that names the nearest known one. Sizes are bytes or have a unit (KiB, MiB, GiB, TiB); " +
		"durations are written as 500ms, 3s or 2m, a bare number is milliseconds.\n\n" +
		"| key | variable | type | default | meaning |\n|---|---|---|---|---|\n")
	for _, k := range Keys() {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", k.Name, k.Env(), escape(k.Type), k.Default, k.Documentation)
	}
	const path = "../docs/CONFIG.md"
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what the table of keys says; rewrite it", path)
	}
}

func escape(s string) string { return string(bytes.ReplaceAll([]byte(s), []byte("|"), []byte(" or "))) }
