package partition

import (
	"flag"
	"os"
	"testing"
)

// TestMain makes model runs longer than rapid's default: short ones rarely get
// as far as a second election.
func TestMain(m *testing.M) {
	flag.Parse()
	set := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for name, value := range map[string]string{"rapid.steps": "1000", "rapid.checks": "300"} {
		if !set[name] {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}
