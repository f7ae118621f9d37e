package metadata_test

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/penstock/penstock/cluster/metadata"
	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// TestScripts runs the commands of testdata/*.txt against one image a file. The
// output of each is the error, if any, and the state of the partitions.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		t.Helper()
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return w.run(t, d)
		})
	})
}

// world is an image and the commands that made it.
type world struct {
	im       *metadata.Image
	commands []*metav1.Command
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{im: metadata.Empty()}
	if _, err := w.apply(&metav1.Command{
		Version: 1, Kind: &metav1.Command_SetClusterId{SetClusterId: &metav1.SetClusterId{ClusterId: "test"}},
	}); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) apply(cmd *metav1.Command) (metadata.Result, error) {
	var (
		result metadata.Result
		err    error
	)
	w.commands = append(w.commands, cmd)
	w.im, result, err = metadata.Apply(w.im, w.im.Index()+1, cmd)
	return result, err
}

func nodeStorage(node int32) []byte {
	id := make([]byte, 16)
	id[0], id[15] = 0xaa, byte(node)
	return id
}

func topicID(name string) []byte {
	id := make([]byte, 16)
	id[0] = 0xbb
	copy(id[1:], name)
	return id
}

func (w *world) epoch(node int32) int64 {
	if b := w.im.Broker(node); b != nil {
		return b.Epoch
	}
	return 0
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	cmd := w.parse(t, d)
	if cmd == nil {
		return w.describe()
	}
	cmd.Version = metadata.CommandLevel(cmd)
	d.MaybeScanArgs(t, "version", &cmd.Version)
	var id string
	if d.MaybeScanArgs(t, "id", &id); id != "" {
		cmd.Id = topicID(id)
	}
	result, err := w.apply(cmd)
	if err := w.im.Check(); err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	var out strings.Builder
	if err != nil {
		if _, typed := errors.AsType[*metadata.Error](err); !typed {
			t.Fatalf("%s: untyped error %v", d.Pos, err)
		}
		return "error " + err.Error() + "\n"
	}
	for i, refused := range result.Refused {
		if refused != nil {
			fmt.Fprintf(&out, "change %d refused: %v\n", i, refused)
		}
	}
	if result.FirstProducerID >= 0 {
		fmt.Fprintf(&out, "producer ids from %d\n", result.FirstProducerID)
	}
	return out.String() + w.describe()
}

// describe says what the image holds, and what its snapshot does not keep of it.
func (w *world) describe() string {
	var snapshot bytes.Buffer
	if err := metadata.WriteSnapshot(w.im, &snapshot); err != nil {
		return err.Error()
	}
	read, err := metadata.ReadSnapshot(&snapshot)
	if err != nil {
		return err.Error()
	}
	out := describe(w.im)
	if kept := describe(read); kept != out {
		return out + "its snapshot holds\n" + kept
	}
	return out
}

func describe(im *metadata.Image) string {
	var out strings.Builder
	fmt.Fprintf(&out, "index %d:", im.Index())
	for b := range im.Brokers() {
		fenced := ""
		if b.Fenced {
			fenced = " fenced"
		}
		if b.Decommissioning {
			fenced += " leaves"
		}
		if b.Replaced() {
			fenced = " replaced"
		}
		if b.VotePending {
			fenced += " vote-pending"
		}
		fmt.Fprintf(&out, " %d@%d%s", b.NodeID, b.Epoch, fenced)
	}
	if im.FeatureLevel() < metadata.Version {
		fmt.Fprintf(&out, " level %d", im.FeatureLevel())
	}
	out.WriteString("\n")
	for t := range im.Topics() {
		for i, p := range t.Partitions {
			fmt.Fprintf(&out, "%s-%d leader=%d epoch=%d version=%d isr=%v", t.Name, i, p.Leader, p.LeaderEpoch, p.PartitionEpoch, p.ISR)
			if len(p.ELR) > 0 {
				fmt.Fprintf(&out, " elr=%v", p.ELR)
			}
			if len(p.LastISR) > 0 {
				fmt.Fprintf(&out, " last=%v", p.LastISR)
			}
			var failed []int32
			for _, r := range p.Replicas {
				if r.Damage == metadata.DamageFailed {
					failed = append(failed, r.NodeID)
				}
			}
			if len(failed) > 0 {
				fmt.Fprintf(&out, " failed=%v", failed)
			}
			if p.LossyEpoch > 0 {
				fmt.Fprintf(&out, " lossy=%d", p.LossyEpoch)
			}
			if p.Moving() {
				fmt.Fprintf(&out, " replicas=%v to=%v", replicas(p), p.Target)
				if len(p.Adding) > 0 {
					fmt.Fprintf(&out, " adding=%v", p.Adding)
				}
				if p.Throttle > 0 {
					fmt.Fprintf(&out, " throttle=%d", p.Throttle)
				}
			}
			if p.Lost {
				out.WriteString(" lost")
			}
			out.WriteString("\n")
		}
	}
	for d := range im.Deletions() {
		fmt.Fprintf(&out, "deleted %s at %d, not yet by %v\n", d.Name, d.Index, d.Nodes)
	}
	for r := range im.RetiredStorages() {
		fmt.Fprintf(&out, "retired %s of broker %d at %d\n", r.StorageID, r.NodeID, r.Index)
	}
	return out.String()
}

func replicas(p *metadata.Partition) []int32 {
	var out []int32
	for i := range p.Replicas {
		out = append(out, p.Replicas[i].NodeID)
	}
	return out
}

func (w *world) parse(t *testing.T, d *datadriven.TestData) *metav1.Command {
	t.Helper()
	var node int32
	d.MaybeScanArgs(t, "node", &node)
	epoch := w.epoch(node)
	d.MaybeScanArgs(t, "broker-epoch", &epoch)
	switch d.Cmd {
	case "show":
		return nil
	case "register":
		return &metav1.Command{Kind: &metav1.Command_RegisterBroker{RegisterBroker: w.parseRegister(t, d, node)}}
	case "fence":
		return &metav1.Command{Kind: &metav1.Command_FenceBroker{FenceBroker: &metav1.FenceBroker{NodeId: node, BrokerEpoch: epoch}}}
	case "unfence":
		return &metav1.Command{Kind: &metav1.Command_UnfenceBroker{UnfenceBroker: &metav1.UnfenceBroker{NodeId: node, BrokerEpoch: epoch}}}
	case "create":
		return &metav1.Command{Kind: &metav1.Command_CreateTopic{CreateTopic: parseCreate(t, d)}}
	case "delete":
		return &metav1.Command{Kind: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: d.CmdArgs[0].Key}}}
	case "alter":
		c := &metav1.AlterTopicConfig{Name: d.CmdArgs[0].Key, Set: parseConfigs(d)}
		for _, arg := range d.CmdArgs[1:] {
			if arg.Key == "unset" {
				c.Unset = arg.Vals
			}
		}
		return &metav1.Command{Kind: &metav1.Command_AlterTopicConfig{AlterTopicConfig: c}}
	case "isr":
		c := &metav1.ChangeIsr{NodeId: node, BrokerEpoch: epoch}
		for line := range strings.Lines(d.Input) {
			c.Changes = append(c.Changes, w.parseChange(t, d, line))
		}
		return &metav1.Command{Kind: &metav1.Command_ChangeIsr{ChangeIsr: c}}
	case "elect":
		return &metav1.Command{Kind: &metav1.Command_ElectLeaders{ElectLeaders: &metav1.ElectLeaders{
			Changes: []*metav1.LeaderChange{w.parseElect(t, d)},
		}}}
	case "reassign":
		c := &metav1.ReassignPartitions{}
		for line := range strings.Lines(d.Input) {
			c.Partitions = append(c.Partitions, parseReassign(t, d, line))
		}
		return &metav1.Command{Kind: &metav1.Command_ReassignPartitions{ReassignPartitions: c}}
	case "finish":
		return &metav1.Command{Kind: &metav1.Command_FinishReassignments{FinishReassignments: &metav1.FinishReassignments{
			Partitions: []*metav1.FinishedReassignment{w.parseFinish(t, d)},
		}}}
	case "decommission":
		c := &metav1.DecommissionBroker{NodeId: node, Cancel: d.HasArg("cancel")}
		d.MaybeScanArgs(t, "throttle", &c.Throttle)
		return &metav1.Command{Kind: &metav1.Command_DecommissionBroker{DecommissionBroker: c}}
	case "recover": // topic-partition last-epoch log-end [damage] in the arguments of a registration
		r := w.parseRegister(t, d, node).GetReplicas()[0]
		c := &metav1.RecoverReplica{NodeId: node, BrokerEpoch: epoch, Replica: r, Unflushed: d.HasArg("unflushed")}
		for topic := range w.im.Topics() {
			if string(topic.ID[:]) == string(r.GetTopicId()) {
				c.LeaderEpoch = topic.Partitions[r.GetPartition()].LeaderEpoch
			}
		}
		d.MaybeScanArgs(t, "leader-epoch", &c.LeaderEpoch)
		return &metav1.Command{Kind: &metav1.Command_RecoverReplica{RecoverReplica: c}}
	case "producer-ids":
		var count uint32
		d.ScanArgs(t, "count", &count)
		return &metav1.Command{Kind: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIds{
			NodeId: node, BrokerEpoch: epoch, Count: count,
		}}}
	default:
		return w.parseOperate(t, d, node, epoch)
	}
}

// parseOperate reads the commands of operators. storage=N is the id of node N's
// first disk; without it the present one is meant.
func (w *world) parseOperate(t *testing.T, d *datadriven.TestData, node int32, epoch int64) *metav1.Command {
	t.Helper()
	var storage []byte
	if b := w.im.Broker(node); b != nil && !b.Replaced() {
		storage = b.StorageID[:]
	}
	if d.HasArg("storage") {
		var n int32
		d.ScanArgs(t, "storage", &n)
		storage = nodeStorage(n)
	}
	switch d.Cmd {
	case "replace":
		return &metav1.Command{Kind: &metav1.Command_ReplaceBroker{ReplaceBroker: &metav1.ReplaceBroker{
			NodeId: node, StorageId: storage, AcceptLoss: d.HasArg("accept-loss"), Vote: d.HasArg("vote"),
		}}}
	case "remove":
		return &metav1.Command{Kind: &metav1.Command_RemoveBroker{RemoveBroker: &metav1.RemoveBroker{NodeId: node, StorageId: storage}}}
	case "settle-vote":
		return &metav1.Command{Kind: &metav1.Command_SettleVote{SettleVote: &metav1.SettleVote{NodeId: node, StorageId: storage}}}
	case "grow":
		created := parseCreate(t, d)
		c := &metav1.AddPartitions{Name: created.GetName(), TopicId: created.GetTopicId(), Partitions: created.GetPartitions()}
		if topic := w.im.Topic(c.GetName()); topic != nil {
			c.From = int32(len(topic.Partitions))
		}
		d.MaybeScanArgs(t, "from", &c.From)
		return &metav1.Command{Kind: &metav1.Command_AddPartitions{AddPartitions: c}}
	case "order":
		e := w.parseElect(t, d)
		return &metav1.Command{Kind: &metav1.Command_ElectUnclean{ElectUnclean: &metav1.ElectUnclean{
			TopicId: e.GetTopicId(), Partition: e.GetPartition(), PartitionEpoch: e.GetPartitionEpoch(), Leader: e.GetLeader(),
		}}}
	case "confirm":
		c := &metav1.ConfirmDeletions{NodeId: node, BrokerEpoch: epoch, Index: w.im.Index()}
		d.MaybeScanArgs(t, "index", &c.Index)
		return &metav1.Command{Kind: &metav1.Command_ConfirmDeletions{ConfirmDeletions: c}}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
		return nil
	}
}

func (w *world) parseRegister(t *testing.T, d *datadriven.TestData, node int32) *metav1.RegisterBroker {
	t.Helper()
	storage := node
	d.MaybeScanArgs(t, "storage", &storage)
	c := &metav1.RegisterBroker{NodeId: node, StorageId: nodeStorage(storage), FeatureLevel: metadata.Version}
	d.MaybeScanArgs(t, "level", &c.FeatureLevel)
	if d.HasArg("clean") {
		c.CleanStop, c.CleanStopEpoch = true, w.epoch(node)
		d.MaybeScanArgs(t, "clean-epoch", &c.CleanStopEpoch)
	}
	var staging string
	if d.MaybeScanArgs(t, "staging", &staging); staging != "" {
		c.StagingId = topicID(staging)
		d.MaybeScanArgs(t, "chunk", &c.Chunk)
		c.Final = d.HasArg("final")
	}
	// topic-partition last-epoch log-end [damage]
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		name, partition := splitPartition(t, f[0])
		r := &metav1.RecoveredReplica{
			TopicId: topicID(name), Partition: partition, LastEpoch: int32(number(t, f[1])), LogEndOffset: number(t, f[2]),
		}
		if len(f) > 3 {
			r.Damage = metav1.Damage(metav1.Damage_value["DAMAGE_"+strings.ToUpper(f[3])])
		}
		c.Replicas = append(c.Replicas, r)
	}
	return c
}

// parseCreate reads: create NAME, configs as key=value, one partition's replicas a line.
func parseCreate(t *testing.T, d *datadriven.TestData) *metav1.CreateTopic {
	t.Helper()
	name := d.CmdArgs[0].Key
	c := &metav1.CreateTopic{Name: name, TopicId: topicID(name), Configs: parseConfigs(d), Internal: d.HasArg("internal")}
	for line := range strings.Lines(d.Input) {
		a := &metav1.PartitionAssignment{}
		for f := range strings.FieldsSeq(line) {
			a.Replicas = append(a.Replicas, int32(number(t, f)))
		}
		c.Partitions = append(c.Partitions, a)
	}
	return c
}

func parseConfigs(d *datadriven.TestData) map[string]string {
	configs := make(map[string]string)
	for _, arg := range d.CmdArgs[1:] {
		if len(arg.Vals) == 1 && arg.Key != "unset" && arg.Key != "id" && arg.Key != "version" {
			configs[arg.Key] = arg.Vals[0]
		}
	}
	return configs
}

// parseChange reads: topic-partition isr=1,2@EPOCH [damaged=3] [failed=3] [leader-epoch=N] [version=N].
func (w *world) parseChange(t *testing.T, d *datadriven.TestData, line string) *metav1.IsrChange {
	t.Helper()
	f := strings.Fields(line)
	name, partition := splitPartition(t, f[0])
	c := &metav1.IsrChange{TopicId: topicID(name), Partition: partition}
	if topic := w.im.Topic(name); topic != nil && int(partition) < len(topic.Partitions) {
		p := topic.Partitions[partition]
		c.LeaderEpoch, c.PartitionEpoch = p.LeaderEpoch, p.PartitionEpoch
	}
	for _, arg := range f[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "isr":
			for m := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' }) {
				id, epoch, given := strings.Cut(m, "@")
				member := &metav1.IsrMember{NodeId: int32(number(t, id))}
				if member.BrokerEpoch = w.epoch(member.NodeId); given {
					member.BrokerEpoch = number(t, epoch)
				}
				c.Isr = append(c.Isr, member)
			}
		case "damaged":
			c.Damaged = append(c.Damaged, int32(number(t, value)))
		case "failed":
			c.Failed = append(c.Failed, int32(number(t, value)))
		case "leader-epoch":
			c.LeaderEpoch = int32(number(t, value))
		case "version":
			c.PartitionEpoch = int32(number(t, value))
		default:
			d.Fatalf(t, "unknown argument %s", key)
		}
	}
	return c
}

func (w *world) parseElect(t *testing.T, d *datadriven.TestData) *metav1.LeaderChange {
	t.Helper()
	name, partition := splitPartition(t, d.CmdArgs[0].Key)
	c := &metav1.LeaderChange{TopicId: topicID(name), Partition: partition, FromLastIsr: d.HasArg("last-isr")}
	if topic := w.im.Topic(name); topic != nil {
		c.PartitionEpoch = topic.Partitions[partition].PartitionEpoch
	}
	d.ScanArgs(t, "leader", &c.Leader)
	d.MaybeScanArgs(t, "at", &c.PartitionEpoch)
	return c
}

// parseReassign reads: topic-partition [cancel] [NODE...] [throttle=N] [version=N].
func parseReassign(t *testing.T, d *datadriven.TestData, line string) *metav1.PartitionReassignment {
	t.Helper()
	f := strings.Fields(line)
	name, partition := splitPartition(t, f[0])
	c := &metav1.PartitionReassignment{TopicId: topicID(name), Partition: partition}
	for _, arg := range f[1:] {
		key, value, given := strings.Cut(arg, "=")
		switch {
		case key == "cancel":
			c.Cancel = true
		case key == "throttle":
			c.Throttle = number(t, value)
		case key == "version":
			version := int32(number(t, value))
			c.PartitionEpoch = &version
		case given:
			d.Fatalf(t, "unknown argument %s", key)
		default:
			c.Replicas = append(c.Replicas, int32(number(t, key)))
		}
	}
	return c
}

func (w *world) parseFinish(t *testing.T, d *datadriven.TestData) *metav1.FinishedReassignment {
	t.Helper()
	name, partition := splitPartition(t, d.CmdArgs[0].Key)
	c := &metav1.FinishedReassignment{TopicId: topicID(name), Partition: partition}
	if topic := w.im.Topic(name); topic != nil {
		c.PartitionEpoch = topic.Partitions[partition].PartitionEpoch
		c.Leader = topic.Partitions[partition].Leader
	}
	d.MaybeScanArgs(t, "leader", &c.Leader)
	d.MaybeScanArgs(t, "at", &c.PartitionEpoch)
	return c
}

func splitPartition(t *testing.T, s string) (string, int32) {
	t.Helper()
	i := strings.LastIndexByte(s, '-')
	return s[:i], int32(number(t, s[i+1:]))
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
