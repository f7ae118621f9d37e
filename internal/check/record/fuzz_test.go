package record_test

import (
	"bytes"
	"testing"

	"github.com/penstock/penstock/internal/check"
	"github.com/penstock/penstock/internal/check/record"
)

// Whatever stands in a file, reading and checking it ends in an error or a report.
func FuzzCheck(f *testing.F) {
	f.Add(history(3))
	f.Add([]byte(`{"p":1,"type":"ok","f":"assigned","group":"g","member":"a","epoch":1,"keys":[{"topic":"t","part":0,"o":-1}]}
{"p":1,"type":"invoke","f":"commit","group":"g","member":"a","epoch":1,"keys":[{"topic":"t","part":0,"o":3}]}
{"p":1,"type":"ok","f":"commit","group":"g","member":"a","epoch":1,"keys":[{"topic":"t","part":0,"o":3}]}
{"p":1,"type":"ok","f":"revoked","group":"g","member":"a","epoch":1,"keys":[{"topic":"t","part":0,"o":-1}]}
{"p":1,"type":"info","f":"crash"}
`))
	f.Add([]byte(`{"p":2,"type":"invoke","f":"poll"}
{"p":2,"type":"ok","f":"poll","parts":[{"topic":"t","part":0,"reads":[{"o":-9,"v":1},{"o":4,"v":1},{"o":4,"v":2}],"bounds":{"start":3,"high":1,"epoch":2}}]}
{"p":2,"type":"ok","f":"assign","final":true,"keys":[{"topic":"t","part":0,"o":0}]}
`))
	f.Fuzz(func(_ *testing.T, file []byte) {
		c := check.New(check.Options{})
		for op, err := range record.Read(bytes.NewReader(file)) {
			if err != nil {
				return
			}
			c.Add(op)
		}
		_ = c.Report().Text()
	})
}
