package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const example = `
node.id: 1
data.dir: /var/lib/penstock
voters: 1@10.0.0.1:7071,2@10.0.0.2:7071,3@10.0.0.3:7071
listen.grpc: host=0.0.0.0:7070,inner=0.0.0.0:17070
listen.raft: 0.0.0.0:7071
listen.http: 0.0.0.0:7072
listen.peer: 0.0.0.0:7073
advertise.grpc: host=localhost:7070,inner=broker1:17070
tail.memory: 128MiB
disk.reserve: 1073741824
replica.lag.time.max.ms: 5000
broker.session.timeout: 4s
rack: a
`

func load(t *testing.T, text string, environ ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, environ)
}

func TestLoad(t *testing.T) {
	c, err := load(t, example, "PENSTOCK_NODE_ID=2", "PENSTOCK_RACK=b", "HOME=/root", "PENSTOCK_SERVICE_HOST=10.1.1.1", "PENSTOCK_PORT_7070_TCP_ADDR=10.1.1.1")
	if err != nil {
		t.Fatal(err)
	}
	c.complete()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.NodeID != 2 || c.Rack != "b" || c.TailMemory != 128<<20 || c.DiskReserve != 1<<30 ||
		c.ReplicaLagMax != 5*time.Second || c.SessionTimeout != 4*time.Second {
		t.Errorf("config %+v", c)
	}
	if c.AdvertisePeer != "10.0.0.2:7073" || c.AdvertiseRaft != "10.0.0.2:7071" {
		t.Errorf("an unspecified host is advertised: peer %s, raft %s", c.AdvertisePeer, c.AdvertiseRaft)
	}
	if got := formatEndpoints(c.AdvertiseGRPC); got != "host=localhost:7070,inner=broker1:17070" {
		t.Errorf("advertise.grpc %s", got)
	}
	if c.RaftDir != "/var/lib/penstock/raft" {
		t.Errorf("raft.dir %s", c.RaftDir)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, text, env string
		want            []string
	}{
		{"unknown key", "node.idd: 1", "", []string{"line 1", "node.idd", "nearest is node.id"}},
		{"unknown variable", "", "PENSTOCK_DATADIR=/x", []string{"PENSTOCK_DATADIR", "PENSTOCK_DATA_DIR"}},
		{"twice", "node.id: 1\nnode.id: 2", "", []string{"line 2", "already set in line 1"}},
		{"nested", "node:\n  id: 1", "", []string{"node", "flat"}},
		{"list", "voters: [a, b]", "", []string{"voters", "commas"}},
		{"not a map", "- a\n- b", "", []string{"flat"}},
		{"not yaml", "a: [", "", []string{"yaml"}},
		{"number", "node.id: one", "", []string{`"one"`, "whole number"}},
		{"negative", "node.id: -1", "", []string{`"-1"`, "whole number"}},
		{"empty", "data.dir:", "", []string{"data.dir", "empty"}},
		{"size", "tail.memory: 64MB", "", []string{`"64MB"`, "64MiB"}},
		{"huge size", "tail.memory: 9999999999TiB", "", []string{"size"}},
		{"duration", "broker.session.timeout: 3", "", []string{"duration"}},
		{"scrubbing all the time", "log.scrub.interval: 59s", "", []string{`"59s"`, "0 (never)", "1m0s"}},
		{"address", "listen.raft: 7071", "", []string{"host:port"}},
		{"port", "listen.raft: 0.0.0.0:70710", "", []string{"70710", "65535"}},
		{"port name", "listen.raft: 0.0.0.0:http", "", []string{`port "http"`}},
		{"two bare listeners", "listen.grpc: a:1,b:2", "", []string{"twice"}},
		{"voter", "voters: 10.0.0.1:7071", "", []string{"node.id@host:port"}},
		{"voter id", "voters: x@10.0.0.1:7071", "", []string{`"x"`}},
		{"voter twice", "voters: 1@a:1,1@b:1", "", []string{"repeats"}},
		{"bool", "http.pprof: maybe", "", []string{"true or false"}},
		{"level", "log.level: loud", "", []string{"debug, info"}},
		{"format", "log.format: xml", "", []string{"text or json"}},
		{"two faults", "node.id: x\ntail.memory: y", "", []string{"node.id", "tail.memory"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text, tt.env)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestValidateListsEveryFault(t *testing.T) {
	c := DefaultConfig()
	c.ListenGRPC = []Endpoint{{"a", "h:1"}}
	c.AdvertiseGRPC = []Endpoint{{"b", "h:1"}}
	c.Voters = []Voter{{1, "a:1"}, {2, "b:1"}}
	c.HeartbeatInterval = c.SessionTimeout
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range []string{"node.id", "data.dir", "quorum has 1, 3 or 5", `listener "a"`, `listener "b"`, "half of"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// A node that is not a voter must say where it can be reached.
func TestAdvertisedAddresses(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		faults     []string
	}{
		{"voter", "node.id: 1\nvoters: 1@h:7071", nil},
		{"no voter", "node.id: 2\nvoters: 1@h:7071", []string{"advertise.grpc", "advertise.peer", "advertise.raft"}},
		{"says it", "node.id: 2\nvoters: 1@h:7071\nadvertise.grpc: a:1\nadvertise.peer: a:2\nadvertise.raft: a:3", nil},
		{"no port", "node.id: 1\nvoters: 1@h:7071\nadvertise.peer: a:0", []string{"advertise.peer"}},
	} {
		c, err := load(t, tt.text)
		if err != nil {
			t.Fatal(err)
		}
		c.complete()
		err = c.validateAdvertised()
		if (err != nil) != (len(tt.faults) > 0) {
			t.Errorf("%s: %v", tt.name, err)
		}
		for _, key := range tt.faults {
			if !strings.Contains(err.Error(), key) {
				t.Errorf("%s: %v does not name %s", tt.name, err, key)
			}
		}
	}
}

// Every key of the table has a name of its own, an environment variable of its
// own and a documentation, and what it shows as default is what it defaults to.
func TestKeys(t *testing.T) {
	seen := make(map[string]bool)
	for _, k := range Keys() {
		if seen[k.Name] || seen[k.Env()] {
			t.Errorf("%s is there twice", k.Name)
		}
		seen[k.Name], seen[k.Env()] = true, true
		if k.Documentation == "" || k.Type == "" {
			t.Errorf("%s is not documented", k.Name)
		}
	}
	want, got := DefaultConfig(), DefaultConfig()
	for _, k := range Keys() {
		if k.Default == "" || strings.ContainsAny(k.Default, "/ ") || strings.HasPrefix(k.Default, "listen.") {
			continue
		}
		if err := got.Set(k.Name, k.Default); err != nil {
			t.Errorf("the default of %s: %v", k.Name, err)
		}
	}
	if formatEndpoints(got.ListenGRPC) != formatEndpoints(want.ListenGRPC) {
		t.Errorf("listen.grpc %v", got.ListenGRPC)
	}
	got.ListenGRPC, want.ListenGRPC = nil, nil
	if len(got.Voters)+len(got.AdvertiseGRPC) != 0 {
		t.Errorf("voters %v", got.Voters)
	}
	got.Voters, want.Voters, got.AdvertiseGRPC, want.AdvertiseGRPC = nil, nil, nil, nil
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("defaults of the table\n%s\nare not those of DefaultConfig\n%s", g, w)
	}
}
