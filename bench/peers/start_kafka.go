package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/penstock/penstock/bench/peers/load"
)

//go:embed kafka/pom.xml kafka/log4j2.yaml
var kafkaFiles embed.FS

// The Java releases that Kafka 4.3 supports; it recommends the latest of them.
const javaLeast, javaMost = 17, 25

// The JVM's options are those of Kafka's own start script.
var kafkaJVM = []string{ //nolint:gochecknoglobals // a constant list
	"-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
}

// installKafka fetches the jars by Maven, and finds or installs a JDK.
func installKafka(ctx context.Context, l *lab) (err error) {
	if err := apt(ctx, "mvn", "maven"); err != nil {
		return err
	}
	if l.java, err = findJava(ctx); err != nil {
		if err := apt(ctx, "java", "openjdk-17-jdk-headless"); err != nil {
			return err
		}
		if l.java, err = findJava(ctx); err != nil {
			return err
		}
	}
	dir := filepath.Join(l.tools, "kafka")
	for _, name := range []string{"pom.xml", "log4j2.yaml"} {
		b, err := kafkaFiles.ReadFile("kafka/" + name)
		if err != nil {
			return err
		}
		if old, err := os.ReadFile(filepath.Join(dir, name)); err == nil && string(old) != string(b) { //nolint:gosec // of an earlier run
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), b, 0o644)); err != nil { //nolint:gosec // ordinary files
			return err
		}
	}
	if l.kafkaVersion() != "" {
		return nil
	}
	_, err = command(ctx, dir, nil, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory="+l.kafkaJars(), "-DincludeScope=runtime")
	return err
}

// kafkaVersion is that of the jar that is there, empty without one.
func (l *lab) kafkaVersion() string {
	const before, after = "kafka_2.13-", ".jar"
	found, _ := filepath.Glob(filepath.Join(l.kafkaJars(), before+"*"+after))
	if len(found) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), before), after)
}

func (l *lab) kafkaJars() string { return filepath.Join(l.tools, "kafka", "jars") }

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava is the newest Java that Kafka supports.
func findJava(ctx context.Context) (string, error) {
	candidates, _ := filepath.Glob("/usr/lib/jvm/*/bin/java")
	if home := os.Getenv("JAVA_HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, "bin", "java"))
	}
	if path, err := exec.LookPath("java"); err == nil {
		candidates = append(candidates, path)
	}
	best, found := 0, ""
	for _, path := range candidates {
		said, err := command(ctx, "", nil, path, "-version")
		if err != nil {
			continue
		}
		m := javaVersion.FindStringSubmatch(said)
		if m == nil {
			continue
		}
		if v, _ := strconv.Atoi(m[1]); v >= javaLeast && v <= javaMost && v > best {
			best, found = v, path
		}
	}
	if found == "" {
		return "", fmt.Errorf("no Java from %d to %d is installed", javaLeast, javaMost)
	}
	return found, nil
}

// kafkaProperties configure one of three nodes that are broker and controller at once:
// Kafka's defaults, but for where things are, how many replicas there are, and that
// what is deleted goes at once.
func kafkaProperties(id int, brokers, controllers []string, data string) string {
	voters := make([]string, 0, len(controllers))
	for i, c := range controllers {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, c))
	}
	return strings.Join([]string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", id),
		"controller.quorum.voters=" + strings.Join(voters, ","),
		"listeners=PLAINTEXT://" + brokers[id-1] + ",CONTROLLER://" + controllers[id-1],
		"advertised.listeners=PLAINTEXT://" + brokers[id-1],
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"controller.listener.names=CONTROLLER",
		"log.dirs=" + data,
		fmt.Sprintf("default.replication.factor=%d", nodes),
		"min.insync.replicas=2",
		fmt.Sprintf("offsets.topic.replication.factor=%d", nodes),
		"auto.create.topics.enable=false",
		"log.segment.delete.delay.ms=1000",
		fmt.Sprintf("log.retention.check.interval.ms=%d", retentionCheck.Milliseconds()),
		"",
	}, "\n")
}

func startKafka(ctx context.Context, l *lab, dir string, _ durability) (*cluster, error) {
	brokers, err := l.addresses(nodes)
	if err != nil {
		return nil, err
	}
	controllers, err := l.addresses(nodes)
	if err != nil {
		return nil, err
	}
	version, err := command(ctx, "", nil, l.java, "-version")
	if err != nil {
		return nil, err
	}
	java, _, _ := strings.Cut(version, "\n")
	c := &cluster{addrs: brokers, settings: fmt.Sprintf("%s from its jars, three KRaft nodes (broker and controller), min.insync.replicas=2, log.segment.delete.delay.ms=1000, log.retention.check.interval.ms=%d, else defaults; %s, %s; topics have retention.bytes, segment.bytes and, of synced, flush.messages=1",
		l.kafkaVersion(), retentionCheck.Milliseconds(), java, strings.Join(kafkaJVM, " "))}
	var processes servers
	c.stop, c.alive = func() error { return processes.stop() }, func() error { return processes.died() }
	for id := 1; id <= nodes; id++ {
		data := filepath.Join(dir, fmt.Sprintf("node%d", id))
		s, err := l.startKafkaNode(ctx, dir, id, kafkaProperties(id, brokers, controllers, data))
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
		processes = append(processes, s)
		c.dirs = append(c.dirs, data)
	}
	c.pids = processes.pids()
	if err := processes.serves(ctx, load.FranzGo, brokers, nodes); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

const kafkaClusterID = "cGVuc3RvY2stcGVlcnMtMA" // 16 bytes in base64, any will do

func (l *lab) startKafkaNode(ctx context.Context, dir string, id int, properties string) (*server, error) {
	name := fmt.Sprintf("kafka%d", id)
	file := filepath.Join(dir, name+".properties")
	if err := os.WriteFile(file, []byte(properties), 0o600); err != nil {
		return nil, err
	}
	classes := []string{"-cp", filepath.Join(l.kafkaJars(), "*")}
	if _, err := command(ctx, dir, nil, l.java, append(classes, "kafka.tools.StorageTool", "format", "-t", kafkaClusterID, "-c", file)...); err != nil {
		return nil, err
	}
	args := append(append([]string(nil), kafkaJVM...), "-Dlog4j2.configurationFile="+filepath.Join(l.tools, "kafka", "log4j2.yaml"))
	return launch(dir, name, nil, l.java, append(append(args, classes...), "kafka.Kafka", file)...)
}
