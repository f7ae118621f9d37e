package kafkaclients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tool is a command of one of Kafka's own tools, as an operator types it.
type tool struct {
	script string // without kafka- and .sh
	args   string // separated by blanks
	says   []string
	fails  bool
}

// toolClasses are what Kafka's scripts start.
func toolClasses() map[string]string {
	return map[string]string{
		"topics": "TopicCommand", "configs": "ConfigCommand", "console-producer": "ConsoleProducer", "console-consumer": "consumer.ConsoleConsumer",
		"consumer-groups": "consumer.group.ConsumerGroupCommand", "groups": "GroupsCommand", "get-offsets": "GetOffsetShell", "delete-records": "DeleteRecordsCommand",
		"reassign-partitions": "reassign.ReassignPartitionsCommand", "leader-election": "LeaderElectionCommand", "log-dirs": "LogDirsCommand",
		"cluster": "ClusterTool", "broker-api-versions": "BrokerApiVersionsCommand", "transactions": "TransactionsCommand",
	}
}

// What docs/KAFKA.md says of the tools that come with Kafka: the everyday commands do what
// they do there, one after the other on one cluster. What cannot be done is said so that
// an operator knows what to do instead.
func TestTools(t *testing.T) {
	s := newSuite(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	move := file("move.json", `{"version":1,"partitions":[{"topic":"orders","partition":0,"replicas":[2,3]}]}`)
	trim := file("trim.json", `{"version":1,"partitions":[{"topic":"orders","partition":0,"offset":-1}]}`)
	topics := file("topics.json", `{"version":1,"topics":[{"topic":"orders"}]}`)
	for _, c := range []tool{
		{script: "topics", args: "--create --topic orders --partitions 2 --replication-factor 2 --config retention.ms=86400000", says: []string{"Created topic orders"}},
		{script: "topics", args: "--create --topic orders", says: []string{"topic orders exists"}, fails: true},
		{script: "topics", args: "--alter --topic orders --partitions 3"},
		{script: "topics", args: "--describe --topic orders", says: []string{"PartitionCount: 3", "ReplicationFactor: 2", "retention.ms=86400000"}},
		{script: "configs", args: "--alter --entity-type topics --entity-name orders --add-config retention.ms=3600000,cleanup.policy=[compact,delete]", says: []string{"Completed updating"}},
		{script: "configs", args: "--alter --entity-type topics --entity-name orders --delete-config cleanup.policy", says: []string{"Completed updating"}},
		{script: "configs", args: "--describe --entity-type topics --entity-name orders", says: []string{"retention.ms=3600000"}},
		{script: "configs", args: "--describe --entity-type brokers --entity-name 2 --all", says: []string{"default.replication.factor"}},
		{script: "configs", args: "--alter --entity-type brokers --entity-name 1 --add-config num.io.threads=9", says: []string{"a broker's configs are in its file"}, fails: true},
		{script: "console-producer", args: "--topic orders"},
		{script: "console-consumer", args: "--topic orders --from-beginning --max-messages 100 --group classic", says: []string{"\n7\n", "100 messages"}},
		{script: "console-consumer", args: "--topic orders --from-beginning --max-messages 100 --group new --command-property group.protocol=consumer", says: []string{"\n7\n", "100 messages"}},
		{script: "get-offsets", args: "--topic orders --time earliest", says: []string{"orders:0:0", "orders:2:0"}},
		{script: "get-offsets", args: "--topic orders --time max-timestamp", says: []string{"orders:"}},
		{script: "consumer-groups", args: "--list --type", says: []string{"Classic", "Consumer"}},
		{script: "groups", args: "--list", says: []string{"classic", "new"}},
		{script: "consumer-groups", args: "--describe --all-groups --offsets --verbose", says: []string{"LAG", "orders"}},
		{script: "consumer-groups", args: "--describe --group new --state --verbose", says: []string{"uniform", "Empty"}},
		{script: "consumer-groups", args: "--reset-offsets --group classic --topic orders --to-earliest --execute", says: []string{"NEW-OFFSET"}},
		{script: "consumer-groups", args: "--delete-offsets --group classic --topic orders:1", says: []string{"Successful"}},
		{script: "consumer-groups", args: "--delete --group classic --group new", says: []string{"successful"}},
		{script: "reassign-partitions", args: "--generate --topics-to-move-json-file " + topics + " --broker-list 1,2,3", says: []string{"Proposed partition"}},
		{script: "reassign-partitions", args: "--execute --throttle 1000000 --reassignment-json-file " + move, says: []string{"penstock topic reassign --throttle"}, fails: true},
		{script: "reassign-partitions", args: "--execute --reassignment-json-file " + move, says: []string{"Successfully started"}},
		{script: "reassign-partitions", args: "--verify --reassignment-json-file " + move, says: []string{"orders-0 is completed"}},
		{script: "leader-election", args: "--election-type preferred --all-topic-partitions"},
		{script: "leader-election", args: "--election-type unclean --topic orders --partition 0", says: []string{"penstock topic elect --unclean"}, fails: true},
		{script: "log-dirs", args: "--describe --topic-list orders", says: []string{`"partition":"orders-0"`}},
		{script: "delete-records", args: "--offset-json-file " + trim, says: []string{"orders-0"}},
		{script: "transactions", args: "describe-producers --topic orders --partition 0", says: []string{"ProducerId"}},
		{script: "transactions", args: "find-hanging --broker-id 1", says: []string{"ProducerId"}},
		{script: "cluster", args: "list-endpoints", says: []string{"9092", "9093", "9094"}},
		{script: "broker-api-versions", says: []string{"OffsetDelete(47): 0 [usable: 0]"}},
		{script: "topics", args: "--delete --topic orders"},
	} {
		ok := t.Run(strings.ReplaceAll(c.script+" "+c.args, dir+"/", ""), func(t *testing.T) { c.run(t, s) })
		require.True(t, ok, "what comes next is of what this made")
	}
}

// run runs the command. One that waits for what happens meanwhile is asked again.
func (c *tool) run(t *testing.T, s *suite) {
	t.Helper()
	args := []string{"-XX:TieredStopAtLevel=1", "-cp", bin(t, "java", "target", "dependency") + "/*", "org.apache.kafka.tools." + toolClasses()[c.script]}
	if words := strings.Fields(c.args); c.script == "cluster" { // the verb first
		args = append(append(args, words[0], "--bootstrap-server", s.brokers()), words[1:]...)
	} else {
		args = append(append(args, "--bootstrap-server", s.brokers()), words...)
	}
	until := time.Now().Add(20 * time.Second)
	for {
		cmd := exec.CommandContext(t.Context(), "java", args...)
		cmd.Stdin = strings.NewReader(lines(100))
		out, err := cmd.CombinedOutput()
		text := "\n" + string(out)
		missing := ""
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				missing = want
			}
		}
		if failed := err != nil; failed == c.fails && missing == "" {
			return
		}
		require.True(t, strings.Contains(c.args, "--verify") && time.Now().Before(until), "error: %v; does not say %q:\n%s", err, missing, text)
	}
}

// lines are records for a producer that reads its standard input.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}
