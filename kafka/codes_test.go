package kafka

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// Each code of the broker has one of Kafka's, and a new one has to be given one here.
func TestEveryCodeIsKafkas(t *testing.T) {
	want := map[api.Code]*kerr.Error{
		api.CodeUnknown:                      kerr.UnknownServerError,
		api.CodeUnknownTopic:                 kerr.UnknownTopicOrPartition,
		api.CodeUnknownPartition:             kerr.UnknownTopicOrPartition,
		api.CodeInvalidTopic:                 kerr.InvalidTopicException,
		api.CodeTopicExists:                  kerr.TopicAlreadyExists,
		api.CodeInvalidPartitions:            kerr.InvalidPartitions,
		api.CodeInvalidReplicationFactor:     kerr.InvalidReplicationFactor,
		api.CodeInvalidConfig:                kerr.InvalidConfig,
		api.CodeInvalidArgument:              kerr.InvalidRequest,
		api.CodeCorruptBatch:                 kerr.CorruptMessage,
		api.CodeRecordTooLarge:               kerr.MessageTooLarge,
		api.CodeUnsupportedCodec:             kerr.UnsupportedCompressionType,
		api.CodeInvalidTimestamp:             kerr.InvalidTimestamp,
		api.CodeOffsetOutOfRange:             kerr.OffsetOutOfRange,
		api.CodeOffsetNotAvailable:           kerr.OffsetNotAvailable,
		api.CodeNotLeader:                    kerr.NotLeaderForPartition,
		api.CodeLeaderNotAvailable:           kerr.NotLeaderForPartition,
		api.CodeFencedLeaderEpoch:            kerr.FencedLeaderEpoch,
		api.CodeUnknownLeaderEpoch:           kerr.UnknownLeaderEpoch,
		api.CodeNotEnoughReplicas:            kerr.NotEnoughReplicas,
		api.CodeNotEnoughReplicasAfterAppend: kerr.NotEnoughReplicasAfterAppend,
		api.CodeRequestTimedOut:              kerr.RequestTimedOut,
		api.CodeStorageFailed:                kerr.KafkaStorageError,
		api.CodeDiskFull:                     kerr.KafkaStorageError,
		api.CodeNotController:                kerr.NotController,
		api.CodeStaleBrokerEpoch:             kerr.StaleBrokerEpoch,
		api.CodeInvalidUpdateVersion:         kerr.InvalidUpdateVersion,
		api.CodeCoordinatorNotAvailable:      kerr.CoordinatorNotAvailable,
		api.CodeCoordinatorLoading:           kerr.CoordinatorLoadInProgress,
		api.CodeNotCoordinator:               kerr.NotCoordinator,
		api.CodeInvalidGroupID:               kerr.InvalidGroupID,
		api.CodeUnknownMember:                kerr.UnknownMemberID,
		api.CodeFencedMemberEpoch:            kerr.FencedMemberEpoch,
		api.CodeStaleMemberEpoch:             kerr.StaleMemberEpoch,
		api.CodeGroupNotEmpty:                kerr.NonEmptyGroup,
		api.CodeUnknownGroup:                 kerr.GroupIDNotFound,
		api.CodeOutOfOrderSequence:           kerr.OutOfOrderSequenceNumber,
		api.CodeInvalidProducerEpoch:         kerr.InvalidProducerEpoch,
		api.CodeUnknownProducerID:            kerr.UnknownProducerID,
		api.CodeRequestTooLarge:              kerr.MessageTooLarge,
		api.CodeShuttingDown:                 kerr.NotCoordinator,
		api.CodeInvalidCommitOffset:          kerr.InvalidCommitOffsetSize,
		api.CodeIdentityConflict:             kerr.InvalidRequest,
		api.CodeFencedInstanceID:             kerr.FencedInstanceID,
		api.CodeUnsupported:                  kerr.UnsupportedVersion,
		api.CodeOverloaded:                   kerr.NotEnoughReplicas,
		api.CodeInvalidRecord:                kerr.InvalidRecord,
		api.CodePolicyViolation:              kerr.PolicyViolation,
		api.CodeIllegalGeneration:            kerr.IllegalGeneration,
		api.CodeRebalanceInProgress:          kerr.RebalanceInProgress,
		api.CodeInconsistentProtocol:         kerr.InconsistentGroupProtocol,
		api.CodeMemberIDRequired:             kerr.MemberIDRequired,
		api.CodeInvalidSessionTimeout:        kerr.InvalidSessionTimeout,
		api.CodeInvalidPattern:               kerr.InvalidRegularExpression,
		api.CodeTooManySubscriptions:         kerr.InvalidRequest,
		api.CodeUnknownAssignor:              kerr.UnsupportedAssignor,
		api.CodeGroupFull:                    kerr.GroupMaxSizeReached,
		api.CodeInvalidReplicaAssignment:     kerr.InvalidReplicaAssignment,
		api.CodeNoReassignmentInProgress:     kerr.NoReassignmentInProgress,
		api.CodeElectionNotNeeded:            kerr.ElectionNotNeeded,
		api.CodePreferredLeaderNotAvailable:  kerr.PreferredLeaderNotAvailable,
		api.CodeUnknownBroker:                kerr.UnknownServerError, // of administration that Kafka clients have not
		api.CodeInvalidState:                 kerr.UnknownServerError, // likewise
		api.CodeOffsetMetadataTooLarge:       kerr.OffsetMetadataTooLarge,
	}
	last := api.CodeNone
	for c := api.CodeNone + 1; !strings.HasPrefix(c.String(), "code "); c++ {
		require.Contains(t, want, c, "%s has no code of Kafka's", c)
		require.Equal(t, want[c].Message, kafkaCode(c).Message, "%s", c)
		last = c
	}
	require.Len(t, want, int(last))
}

// refusing fails all calls with err and all partitions with each. Its one topic is t,
// of id 1 and with three partitions.
type refusing struct {
	stub

	err, each *api.Error
	group     api.GroupDescription
	nowhere   bool // no broker has a Kafka door
}

// fails is the call's error; nil when there is none.
func (r *refusing) fails() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

func (r *refusing) all(n int) ([]*api.Error, error) {
	errs := make([]*api.Error, n)
	for i := range errs {
		errs[i] = r.each
	}
	return errs, r.fails()
}

func (r *refusing) Produce(_ context.Context, req *api.ProduceRequest) *api.Pending {
	p := api.NewPending(req, time.Now().Add(time.Minute))
	for i := range req.Partitions {
		releaseBatches(req.Partitions[i].Batches)
		p.Appended(i, api.ProduceResult{PartitionRef: req.Partitions[i].PartitionRef, BaseOffset: 7, LogAppendTime: -1, LogStartOffset: 5})
		p.Settle(i, r.each)
	}
	return p
}

func releaseBatches(bufs []*record.Buf) {
	for _, b := range bufs {
		b.Release()
	}
}

func (r *refusing) InitProducer(context.Context) (int64, int16, error) { return 1, 0, r.fails() }

func (r *refusing) Fetch(_ context.Context, req *api.FetchRequest) ([]api.FetchResult, error) {
	out := make([]api.FetchResult, len(req.Partitions))
	for i := range out {
		out[i] = api.FetchResult{PartitionRef: req.Partitions[i].PartitionRef, Err: r.each}
	}
	return out, nil
}

func (r *refusing) ListOffsets(_ context.Context, queries []api.ListOffset) ([]api.ListOffsetResult, error) {
	out := make([]api.ListOffsetResult, len(queries))
	for i := range out {
		out[i] = api.ListOffsetResult{Err: r.each, Offset: 3}
	}
	return out, nil
}

func (r *refusing) EpochEnds(_ context.Context, queries []api.EpochQuery) ([]api.EpochEnd, error) {
	out := make([]api.EpochEnd, len(queries))
	for i := range out {
		out[i].Err = r.each
	}
	return out, nil
}

func (r *refusing) CreateTopic(context.Context, *api.CreateTopic) (api.CreatedTopic, error) {
	return api.CreatedTopic{}, r.fails()
}
func (r *refusing) DeleteTopic(context.Context, string) error { return r.fails() }
func (r *refusing) DescribeTopic(context.Context, string) (*api.Topic, error) {
	return &api.Topic{Name: "t"}, r.fails()
}

func (r *refusing) DeleteRecords(_ context.Context, req *api.DeleteRecords) ([]api.DeletedRecords, error) {
	out := make([]api.DeletedRecords, len(req.Partitions))
	for i := range out {
		out[i].Err = r.each
	}
	return out, nil
}

func (r *refusing) Metadata(_ context.Context, names []string, _ bool, _ string) (*api.Metadata, error) {
	md := &api.Metadata{ClusterID: "c", Controller: 1, Brokers: []api.Broker{{NodeID: 1}}}
	for _, name := range append([]string{"t"}, names...)[min(len(names), 1):] {
		if name == "t" {
			md.Topics = []api.Topic{{Name: "t", ID: api.TopicID{1}, Partitions: []api.Partition{{Partition: 0, Leader: 1}, {Partition: 1, Leader: -1}, {Partition: 2, Leader: 1}}}}
		}
	}
	return md, nil
}

func (r *refusing) KafkaAddress(int32, string) string {
	if r.nowhere {
		return ""
	}
	return "localhost:9092"
}
func (r *refusing) TopicName(id api.TopicID) (string, bool) { return "t", id == api.TopicID{1} }
func (r *refusing) Producers(api.PartitionRef) ([]api.ProducerState, *api.Error) {
	return nil, r.each
}
func (r *refusing) FindCoordinator(context.Context, string) (int32, error) { return 1, r.fails() }
func (r *refusing) FetchOffsets(_ context.Context, req *api.FetchOffsets) ([]api.CommittedOffset, error) {
	out := make([]api.CommittedOffset, len(req.Partitions))
	for i := range out {
		out[i] = api.CommittedOffset{TopicPartition: req.Partitions[i], Err: r.each}
	}
	return out, r.fails()
}

func (r *refusing) JoinClassic(context.Context, *api.ClassicJoin) (*api.ClassicJoined, error) {
	return &api.ClassicJoined{MemberID: "given"}, r.fails()
}

func (r *refusing) SyncClassic(context.Context, *api.ClassicSync) (*api.ClassicSynced, error) {
	return &api.ClassicSynced{}, r.fails()
}

func (r *refusing) HeartbeatClassic(context.Context, *api.ClassicHeartbeat) error { return r.fails() }

func (r *refusing) LeaveClassic(_ context.Context, _ string, members []api.ClassicLeave) ([]*api.Error, error) {
	return r.all(len(members))
}

func (r *refusing) ConsumerHeartbeat(context.Context, *api.ConsumerHeartbeat) (*api.ConsumerHeartbeatResult, error) {
	return &api.ConsumerHeartbeatResult{}, r.fails()
}
func (r *refusing) ListGroups(context.Context) ([]api.GroupListing, error) { return nil, r.fails() }
func (r *refusing) DescribeGroup(context.Context, string) (*api.GroupDescription, error) {
	return &r.group, r.fails()
}
func (r *refusing) DeleteGroup(context.Context, string) error { return r.fails() }
func (r *refusing) DeleteOffsets(_ context.Context, _ string, p []api.TopicPartition) ([]*api.Error, error) {
	return r.all(len(p))
}

func (r *refusing) Reassign(_ context.Context, req *api.Reassign) ([]*api.Error, error) {
	return r.all(len(req.Partitions))
}

func (r *refusing) Reassignments(context.Context, []api.PartitionRef) ([]api.Reassignment, error) {
	return nil, r.fails()
}

func (r *refusing) ElectPreferred(_ context.Context, of []api.PartitionRef) ([]*api.Error, error) {
	return r.all(len(of))
}

func (r *refusing) AddPartitions(context.Context, *api.AddPartitions) (int32, error) {
	return 4, r.fails()
}

// refusingDoor serves it.
func refusingDoor(t *testing.T, r *refusing) *Door {
	t.Helper()
	d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler)}, Services{
		Producer: r, Fetcher: r, Topics: r, Cluster: r, Replicas: r, Offsets: r, Groups: r, GroupAdmin: r, Placement: r, Growth: r,
	})
	t.Cleanup(d.Close)
	return d
}

// asked is a request of a version, with what set does to it.
func asked[T any, P interface {
	*T
	kmsg.Request
	Default()
}](version int16, set func(P),
) kmsg.Request {
	p := P(new(T))
	p.Default()
	p.SetVersion(version)
	set(p)
	return p
}

// codesIn are the error codes of an answer in the order in which they stand in it, by
// name; ok for none. Of the topmost one, which many answers have beside others, ok is left
// out when there are others.
func codesIn(resp kmsg.Response) string {
	var codes []string
	top := ""
	var walk func(v reflect.Value, depth int)
	walk = func(v reflect.Value, depth int) {
		switch v.Kind() { //nolint:exhaustive // of what messages are made of
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem(), depth)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), depth+1)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).Name != "ErrorCode" {
					walk(v.Field(i), depth)
					continue
				}
				code := "ok"
				if e, ok := kerr.ErrorForCode(int16(v.Field(i).Int())).(*kerr.Error); ok { //nolint:errorlint // it is bare
					code = e.Message
				}
				if depth == 0 {
					top = code
				} else {
					codes = append(codes, code)
				}
			}
		}
	}
	walk(reflect.ValueOf(resp), 0)
	if top != "" && (top != "ok" || len(codes) == 0) {
		codes = append([]string{top}, codes...)
	}
	return strings.Join(codes, " ")
}

// codeCase is a request, what the broker refuses, and the codes of the answer.
type codeCase struct {
	name      string
	req       kmsg.Request
	err, each api.Code // of the call, of each partition or member
	want      string
}

func checkCodes(t *testing.T, cases []codeCase, change func(*refusing)) {
	t.Helper()
	refusal := func(c api.Code) *api.Error {
		if c == api.CodeNone {
			return nil
		}
		return api.Errorf(c, "refused")
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			r := &refusing{err: refusal(tt.err), each: refusal(tt.each)}
			if change != nil {
				change(r)
			}
			client, _ := observed(t, refusingDoor(t, r))
			require.Equal(t, tt.want, codesIn(ask(t, client, tt.req)))
		})
	}
}

// The codes by which members of groups act are Kafka's.
func TestGroupCodes(t *testing.T) {
	join := func(version int16) kmsg.Request {
		return asked(version, func(r *kmsg.JoinGroupRequest) { r.Group = "g" })
	}
	sync := asked(5, func(r *kmsg.SyncGroupRequest) { r.Group = "g" })
	beat := asked(4, func(r *kmsg.HeartbeatRequest) { r.Group = "g" })
	leave := func(version int16) kmsg.Request {
		return asked(version, func(r *kmsg.LeaveGroupRequest) {
			r.Group = "g"
			r.Members = []kmsg.LeaveGroupRequestMember{{MemberID: "a"}, {MemberID: "b"}}
		})
	}
	consumer := asked(1, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group, r.MemberID, r.MemberEpoch = "g", "m", 1 })
	find := func(version int16, kind int8) kmsg.Request {
		return asked(version, func(r *kmsg.FindCoordinatorRequest) {
			r.CoordinatorKey, r.CoordinatorKeys, r.CoordinatorType = "g", []string{"g", "h"}, kind
		})
	}
	offsets := func(version int16) kmsg.Request {
		return asked(version, func(r *kmsg.OffsetFetchRequest) {
			r.Group, r.Topics = "g", []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
			r.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "g", MemberEpoch: -1, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}}}
		})
	}
	remove := asked(0, func(r *kmsg.OffsetDeleteRequest) {
		r.Group, r.Topics = "g", []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 1}}}}
	})
	drop := asked(2, func(r *kmsg.DeleteGroupsRequest) { r.Groups = []string{"g"} })
	checkCodes(t, []codeCase{
		{"a coordinator", find(3, 0), 0, 0, "ok"},
		{"a coordinator that is not there yet", find(3, 0), api.CodeCoordinatorNotAvailable, 0, "COORDINATOR_NOT_AVAILABLE"},
		{"of a transaction", find(3, 1), 0, 0, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"},
		{"of a share group", find(3, 2), 0, 0, "INVALID_REQUEST"},
		{"several coordinators", find(4, 0), 0, 0, "ok ok"},
		{"several that are not there yet", find(4, 0), api.CodeCoordinatorNotAvailable, 0, "COORDINATOR_NOT_AVAILABLE COORDINATOR_NOT_AVAILABLE"},
		{"of several transactions", find(6, 1), 0, 0, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED TRANSACTIONAL_ID_AUTHORIZATION_FAILED"},
		{"of several share groups", find(6, 2), 0, 0, "INVALID_REQUEST INVALID_REQUEST"},
		{"join: the member id first", join(9), api.CodeMemberIDRequired, 0, "MEMBER_ID_REQUIRED"},
		{"join: nobody of that id", join(5), api.CodeUnknownMember, 0, "UNKNOWN_MEMBER_ID"},
		{"join: another has the instance", join(5), api.CodeFencedInstanceID, 0, "FENCED_INSTANCE_ID"},
		{"join: no protocol in common", join(9), api.CodeInconsistentProtocol, 0, "INCONSISTENT_GROUP_PROTOCOL"},
		{"join: session timeout", join(0), api.CodeInvalidSessionTimeout, 0, "INVALID_SESSION_TIMEOUT"},
		{"join: full", join(9), api.CodeGroupFull, 0, "GROUP_MAX_SIZE_REACHED"},
		{"join: no group has that id", join(9), api.CodeInvalidGroupID, 0, "INVALID_GROUP_ID"},
		{"join: loading", join(9), api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"join: not here", join(9), api.CodeNotCoordinator, 0, "NOT_COORDINATOR"},
		{"join: not known whether written", join(9), api.CodeRequestTimedOut, 0, "COORDINATOR_NOT_AVAILABLE"},
		{"sync: an old generation", sync, api.CodeIllegalGeneration, 0, "ILLEGAL_GENERATION"},
		{"sync: the group joins anew", sync, api.CodeRebalanceInProgress, 0, "REBALANCE_IN_PROGRESS"},
		{"sync: nobody of that id", sync, api.CodeUnknownMember, 0, "UNKNOWN_MEMBER_ID"},
		{"sync: another has the instance", sync, api.CodeFencedInstanceID, 0, "FENCED_INSTANCE_ID"},
		{"sync: another protocol", sync, api.CodeInconsistentProtocol, 0, "INCONSISTENT_GROUP_PROTOCOL"},
		{"sync: not known whether written", sync, api.CodeRequestTimedOut, 0, "COORDINATOR_NOT_AVAILABLE"},
		{"heartbeat", beat, 0, 0, "ok"},
		{"heartbeat: an old generation", beat, api.CodeIllegalGeneration, 0, "ILLEGAL_GENERATION"},
		{"heartbeat: the group joins anew", beat, api.CodeRebalanceInProgress, 0, "REBALANCE_IN_PROGRESS"},
		{"heartbeat: nobody of that id", beat, api.CodeUnknownMember, 0, "UNKNOWN_MEMBER_ID"},
		{"heartbeat: another has the instance", beat, api.CodeFencedInstanceID, 0, "FENCED_INSTANCE_ID"},
		{"heartbeat: loading, of which the member need not know", beat, api.CodeCoordinatorLoading, 0, "ok"},
		{"heartbeat: not here", beat, api.CodeNotCoordinator, 0, "NOT_COORDINATOR"},
		{"leave: one, before there were more", leave(2), 0, api.CodeUnknownMember, "UNKNOWN_MEMBER_ID"},
		{"leave: two", leave(3), 0, 0, "ok ok"},
		{"leave: nobody of these ids", leave(3), 0, api.CodeUnknownMember, "UNKNOWN_MEMBER_ID UNKNOWN_MEMBER_ID"},
		{"leave: not here", leave(5), api.CodeNotCoordinator, 0, "NOT_COORDINATOR"},
		{"consumer heartbeat", consumer, 0, 0, "ok"},
		{"consumer heartbeat: fenced", consumer, api.CodeFencedMemberEpoch, 0, "FENCED_MEMBER_EPOCH"},
		{"consumer heartbeat: nobody of that id", consumer, api.CodeUnknownMember, 0, "UNKNOWN_MEMBER_ID"},
		{"consumer heartbeat: another has the instance", consumer, api.CodeFencedInstanceID, 0, "FENCED_INSTANCE_ID"},
		{"consumer heartbeat: no such assignor", consumer, api.CodeUnknownAssignor, 0, "UNSUPPORTED_ASSIGNOR"},
		{"consumer heartbeat: no such pattern", consumer, api.CodeInvalidPattern, 0, "INVALID_REGULAR_EXPRESSION"},
		{"consumer heartbeat: full", consumer, api.CodeGroupFull, 0, "GROUP_MAX_SIZE_REACHED"},
		{"consumer heartbeat: loading", consumer, api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"consumer heartbeat: not known whether written", consumer, api.CodeRequestTimedOut, 0, "COORDINATOR_NOT_AVAILABLE"},
		{"offsets: loading, where only partitions have codes", offsets(1), api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"offsets: loading", offsets(7), api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"offsets: no coordinator, in a word that ends no client", offsets(7), api.CodeCoordinatorNotAvailable, 0, "NOT_COORDINATOR"},
		{"offsets: nobody answers, in that word", offsets(8), api.CodeRequestTimedOut, 0, "NOT_COORDINATOR"},
		{"offsets: an older member epoch", offsets(9), api.CodeStaleMemberEpoch, 0, "STALE_MEMBER_EPOCH"},
		{"offsets: of a partition", offsets(8), 0, api.CodeUnknownPartition, "UNKNOWN_TOPIC_OR_PARTITION ok"},
		{"delete offsets: not here", remove, api.CodeNotCoordinator, 0, "NOT_COORDINATOR"},
		{"delete offsets: no such group", remove, api.CodeUnknownGroup, 0, "GROUP_ID_NOT_FOUND"},
		{"delete offsets: somebody reads them", remove, 0, api.CodeGroupNotEmpty, "GROUP_SUBSCRIBED_TO_TOPIC GROUP_SUBSCRIBED_TO_TOPIC"},
		{"delete offsets: not known whether written", remove, 0, api.CodeRequestTimedOut, "COORDINATOR_NOT_AVAILABLE COORDINATOR_NOT_AVAILABLE"},
		{"delete a group: with members", drop, api.CodeGroupNotEmpty, 0, "NON_EMPTY_GROUP"},
		{"delete a group: none", drop, api.CodeUnknownGroup, 0, "GROUP_ID_NOT_FOUND"},
		{"list: loading", asked(5, func(*kmsg.ListGroupsRequest) {}), api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
	}, nil)
	checkCodes(t, []codeCase{
		{"a coordinator without a Kafka door", find(3, 0), 0, 0, "COORDINATOR_NOT_AVAILABLE"},
	}, func(r *refusing) { r.nowhere = true })
}

// Joining answers with the member id that the member is to join with.
func TestJoinGivesTheMemberID(t *testing.T) {
	client, _ := observed(t, refusingDoor(t, &refusing{err: api.Errorf(api.CodeMemberIDRequired, "")}))
	resp, ok := ask(t, client, asked(5, func(r *kmsg.JoinGroupRequest) { r.Group = "g" })).(*kmsg.JoinGroupResponse)
	require.True(t, ok)
	require.Equal(t, "given", resp.MemberID)
}

// A group is shown by the API of its protocol. What DescribeGroups does not find was
// dead, without an error, until version 6 (KIP-1043).
func TestDescribeGroupCodes(t *testing.T) {
	classic := func(version int16) kmsg.Request {
		return asked(version, func(r *kmsg.DescribeGroupsRequest) { r.Groups = []string{"g"} })
	}
	consumer := asked(1, func(r *kmsg.ConsumerGroupDescribeRequest) { r.Groups = []string{"g"} })
	checkCodes(t, []codeCase{
		{"none, before 6", classic(5), api.CodeUnknownGroup, 0, "ok"},
		{"none, from 6 on", classic(6), api.CodeUnknownGroup, 0, "GROUP_ID_NOT_FOUND"},
		{"not here", classic(5), api.CodeNotCoordinator, 0, "NOT_COORDINATOR"},
		{"no consumer group", consumer, api.CodeUnknownGroup, 0, "GROUP_ID_NOT_FOUND"},
		{"loading", consumer, api.CodeCoordinatorLoading, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
	}, nil)
	checkCodes(t, []codeCase{
		{"classic as classic", classic(6), 0, 0, "ok"},
		{"classic as consumer", consumer, 0, 0, "GROUP_ID_NOT_FOUND"},
	}, func(r *refusing) { r.group.Type = api.GroupTypeClassic })
	checkCodes(t, []codeCase{
		{"consumer as classic, before 6", classic(5), 0, 0, "ok"},
		{"consumer as classic, from 6 on", classic(6), 0, 0, "GROUP_ID_NOT_FOUND"},
		{"consumer as consumer", consumer, 0, 0, "ok"},
	}, func(r *refusing) { r.group.Type = api.GroupTypeConsumer })
	for _, version := range []int16{5, 6} {
		client, _ := observed(t, refusingDoor(t, &refusing{err: api.Errorf(api.CodeUnknownGroup, "")}))
		resp, ok := ask(t, client, classic(version)).(*kmsg.DescribeGroupsResponse)
		require.True(t, ok)
		require.Equal(t, "Dead", resp.Groups[0].State)
	}
}

// So are those of records and of where they are.
func TestRecordCodes(t *testing.T) {
	batch := testBatch(t, 100)
	fetch := func(version int16, session int32, id byte) kmsg.Request {
		req := fetchRequest(version, 1)
		req.SessionID, req.Topics[0].TopicID = session, [16]byte{id}
		return req
	}
	replica := func(version int16, id int32) kmsg.Request {
		req := fetchRequest(version, 2)
		req.ReplicaID, req.ReplicaState.ID = id, id
		return req
	}
	list := func(version int16, timestamp int64) kmsg.Request {
		return asked(version, func(r *kmsg.ListOffsetsRequest) {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Timestamp = timestamp
			r.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		})
	}
	epoch := asked(4, func(r *kmsg.OffsetForLeaderEpochRequest) {
		r.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: make([]kmsg.OffsetForLeaderEpochRequestTopicPartition, 1)}}
	})
	initProducer := func(transaction *string) kmsg.Request {
		return asked(4, func(r *kmsg.InitProducerIDRequest) { r.TransactionalID = transaction })
	}
	producers := asked(0, func(r *kmsg.DescribeProducersRequest) {
		r.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	})
	transaction := produceRequest(9, -1, 2, batch)
	transaction.TransactionID = new("x")
	checkCodes(t, []codeCase{
		{"produce", produceRequest(9, -1, 2, batch), 0, 0, "ok ok"},
		{"produce: moved", produceRequest(9, -1, 2, batch), 0, api.CodeNotLeader, "NOT_LEADER_FOR_PARTITION NOT_LEADER_FOR_PARTITION"},
		{"produce: in a transaction", transaction, 0, 0, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED TRANSACTIONAL_ID_AUTHORIZATION_FAILED"},
		{"fetch", fetch(12, 0, 1), 0, 0, "ok"},
		{"fetch: out of range", fetch(12, 0, 1), 0, api.CodeOffsetOutOfRange, "OFFSET_OUT_OF_RANGE"},
		{"fetch: an old epoch", fetch(12, 0, 1), 0, api.CodeFencedLeaderEpoch, "FENCED_LEADER_EPOCH"},
		{"fetch: a later epoch", fetch(12, 0, 1), 0, api.CodeUnknownLeaderEpoch, "UNKNOWN_LEADER_EPOCH"},
		{"fetch: a session that was never given", fetch(12, 5, 1), 0, 0, "FETCH_SESSION_ID_NOT_FOUND"},
		{"fetch: a topic by its id", fetch(13, 0, 1), 0, 0, "ok"},
		{"fetch: an id that no topic has", fetch(13, 0, 2), 0, 0, "UNKNOWN_TOPIC_ID"},
		{"fetch: as a follower", replica(12, 1), 0, 0, "TOPIC_AUTHORIZATION_FAILED TOPIC_AUTHORIZATION_FAILED"},
		{"fetch: as a follower of id 0", replica(4, 0), 0, 0, "TOPIC_AUTHORIZATION_FAILED TOPIC_AUTHORIZATION_FAILED"},
		{"fetch: as a follower that has an epoch", replica(16, 2), 0, 0, "TOPIC_AUTHORIZATION_FAILED TOPIC_AUTHORIZATION_FAILED"},
		{"fetch: to look for faults, which is a consumer's", replica(16, -2), 0, 0, "ok ok"},
		{"list: latest", list(9, -1), 0, 0, "ok"},
		{"list: last tiered", list(9, -5), 0, 0, "ok"},
		{"list: without a meaning", list(9, -6), 0, 0, "UNSUPPORTED_VERSION"},
		{"list: as little", list(9, -1<<63), 0, 0, "UNSUPPORTED_VERSION"},
		{"list: moved", list(9, -6), 0, api.CodeNotLeader, "NOT_LEADER_FOR_PARTITION"},
		{"list: not known yet", list(5, -1), 0, api.CodeOffsetNotAvailable, "OFFSET_NOT_AVAILABLE"},
		{"epoch: moved", epoch, 0, api.CodeNotLeader, "NOT_LEADER_FOR_PARTITION"},
		{"epoch: an old one", epoch, 0, api.CodeFencedLeaderEpoch, "FENCED_LEADER_EPOCH"},
		{"a producer id", initProducer(nil), 0, 0, "ok"},
		{"a producer id: no controller", initProducer(nil), api.CodeNotController, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"a producer id: no answer", initProducer(nil), api.CodeRequestTimedOut, 0, "COORDINATOR_LOAD_IN_PROGRESS"},
		{"a producer id: of a transaction", initProducer(new("x")), 0, 0, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"},
		{"producers: moved", producers, 0, api.CodeNotLeader, "NOT_LEADER_FOR_PARTITION"},
	}, nil)
	client, _ := observed(t, refusingDoor(t, &refusing{}))
	resp, ok := ask(t, client, list(9, -5)).(*kmsg.ListOffsetsResponse)
	require.True(t, ok)
	require.Equal(t, int64(-1), resp.Topics[0].Partitions[0].Offset, "nothing is tiered")
}

// A producer that the broker does not know any more hears where the log begins. Java's
// takes a new epoch then; told -1 it sends the same again until its delivery times out.
func TestUnknownProducersHearWhereTheLogBegins(t *testing.T) {
	client, _ := observed(t, refusingDoor(t, &refusing{each: api.Errorf(api.CodeUnknownProducerID, "")}))
	resp, ok := ask(t, client, produceRequest(9, -1, 1, testBatch(t, 100))).(*kmsg.ProduceResponse)
	require.True(t, ok)
	p := resp.Topics[0].Partitions[0]
	require.Equal(t, kerr.UnknownProducerID.Code, p.ErrorCode)
	require.Equal(t, int64(5), p.LogStartOffset)
	require.Equal(t, int64(-1), p.BaseOffset)
}

// With acks 0 nothing is answered, and what went wrong ends the connection.
func TestAcksNoneEndsTheConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		each  *api.Error
		batch []byte
		ends  bool
	}{
		"taken":               {nil, testBatch(t, 100), false},
		"refused":             {api.Errorf(api.CodeNotLeader, ""), testBatch(t, 100), true},
		"refused at the door": {nil, []byte("short"), true},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := observed(t, refusingDoor(t, &refusing{each: tt.each}))
			_, err := client.Write(frame(produceRequest(9, 0, 1, tt.batch), 1))
			require.NoError(t, err)
			if !tt.ends {
				requireAnswers(t, client)
				return
			}
			require.NoError(t, client.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, err = client.Read(make([]byte, 1))
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection goes on")
		})
	}
}

// And those of administration.
func TestAdminCodes(t *testing.T) {
	create := func(change func(*kmsg.CreateTopicsRequestTopic)) kmsg.Request {
		return asked(7, func(r *kmsg.CreateTopicsRequest) {
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 1
			change(&topic)
			r.Topics = []kmsg.CreateTopicsRequestTopic{topic}
		})
	}
	plain := create(func(*kmsg.CreateTopicsRequestTopic) {})
	twice := asked(7, func(r *kmsg.CreateTopicsRequest) {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 1
		r.Topics = []kmsg.CreateTopicsRequestTopic{topic, topic}
	})
	remove := func(name *string, id byte) kmsg.Request {
		return asked(6, func(r *kmsg.DeleteTopicsRequest) {
			r.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: name, TopicID: [16]byte{id}}}
		})
	}
	grow := func(assigned bool) kmsg.Request {
		return asked(3, func(r *kmsg.CreatePartitionsRequest) {
			topic := kmsg.CreatePartitionsRequestTopic{Topic: "t", Count: 4}
			if assigned {
				topic.Assignment = []kmsg.CreatePartitionsRequestTopicAssignment{{Replicas: []int32{1}}}
			}
			r.Topics = []kmsg.CreatePartitionsRequestTopic{topic}
		})
	}
	trim := asked(2, func(r *kmsg.DeleteRecordsRequest) {
		r.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0}}}}
	})
	elect := func(kind int8) kmsg.Request {
		return asked(2, func(r *kmsg.ElectLeadersRequest) {
			r.ElectionType, r.Topics = kind, []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
		})
	}
	reassign := asked(1, func(r *kmsg.AlterPartitionAssignmentsRequest) {
		r.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Partition: 0, Replicas: []int32{1}}}}}
	})
	moves := asked(0, func(*kmsg.ListPartitionReassignmentsRequest) {})
	configs := func(kind kmsg.ConfigResourceType, name string) kmsg.Request {
		return asked(4, func(r *kmsg.DescribeConfigsRequest) {
			r.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name}}
		})
	}
	cluster := func(version int16, kind int8) kmsg.Request {
		return asked(version, func(r *kmsg.DescribeClusterRequest) { r.EndpointType = kind })
	}
	checkCodes(t, []codeCase{
		{"create", plain, 0, 0, "ok"},
		{"create: it is there", plain, api.CodeTopicExists, 0, "TOPIC_ALREADY_EXISTS"},
		{"create: no such name", plain, api.CodeInvalidTopic, 0, "INVALID_TOPIC_EXCEPTION"},
		{"create: too few brokers", plain, api.CodeInvalidReplicationFactor, 0, "INVALID_REPLICATION_FACTOR"},
		{"create: a config", plain, api.CodeInvalidConfig, 0, "INVALID_CONFIG"},
		{"create: no controller", plain, api.CodeNotController, 0, "NOT_CONTROLLER"},
		{"create: no answer in time", plain, api.CodeRequestTimedOut, 0, "REQUEST_TIMED_OUT"},
		{"create: twice", twice, 0, 0, "INVALID_REQUEST"},
		{"create: no partitions", create(func(t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions = 0 }), 0, 0, "INVALID_PARTITIONS"},
		{"create: no replicas", create(func(t *kmsg.CreateTopicsRequestTopic) { t.ReplicationFactor = 0 }), 0, 0, "INVALID_REPLICATION_FACTOR"},
		{"create: by default", create(func(t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions, t.ReplicationFactor = -1, -1 }), 0, 0, "ok"},
		{"create: assigned", create(func(t *kmsg.CreateTopicsRequestTopic) {
			t.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Replicas: []int32{1}}}
		}), 0, 0, "INVALID_REPLICA_ASSIGNMENT"},
		{"create: a config without a value", create(func(t *kmsg.CreateTopicsRequestTopic) {
			t.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms"}}
		}), 0, 0, "INVALID_CONFIG"},
		{"delete", remove(new("t"), 0), 0, 0, "ok"},
		{"delete: none of that name", remove(new("t"), 0), api.CodeUnknownTopic, 0, "UNKNOWN_TOPIC_OR_PARTITION"},
		{"delete: by id", remove(nil, 1), 0, 0, "ok"},
		{"delete: none of that id", remove(nil, 2), 0, 0, "UNKNOWN_TOPIC_ID"},
		{"delete: by both", remove(new("t"), 1), 0, 0, "INVALID_REQUEST"},
		{"grow", grow(false), 0, 0, "ok"},
		{"grow: fewer", grow(false), api.CodeInvalidPartitions, 0, "INVALID_PARTITIONS"},
		{"grow: assigned", grow(true), 0, 0, "INVALID_REPLICA_ASSIGNMENT"},
		{"delete records: out of range", trim, 0, api.CodeOffsetOutOfRange, "OFFSET_OUT_OF_RANGE"},
		{"delete records: moved", trim, 0, api.CodeNotLeader, "NOT_LEADER_FOR_PARTITION"},
		{"elect: not needed", elect(0), 0, api.CodeElectionNotNeeded, "ELECTION_NOT_NEEDED"},
		{"elect: it is not there", elect(0), 0, api.CodePreferredLeaderNotAvailable, "PREFERRED_LEADER_NOT_AVAILABLE"},
		{"elect: no controller", elect(0), api.CodeNotController, 0, "NOT_CONTROLLER"},
		{"elect: with loss", elect(1), 0, 0, "INVALID_REQUEST"},
		{"reassign: no such brokers", reassign, 0, api.CodeInvalidReplicaAssignment, "INVALID_REPLICA_ASSIGNMENT"},
		{"reassign: nothing to cancel", reassign, 0, api.CodeNoReassignmentInProgress, "NO_REASSIGNMENT_IN_PROGRESS"},
		{"reassign: no controller", reassign, api.CodeNotController, 0, "NOT_CONTROLLER"},
		{"reassignments: no controller", moves, api.CodeNotController, 0, "NOT_CONTROLLER"},
		{"configs", configs(kmsg.ConfigResourceTypeTopic, "t"), 0, 0, "ok"},
		{"configs: no such topic", configs(kmsg.ConfigResourceTypeTopic, "u"), api.CodeUnknownTopic, 0, "UNKNOWN_TOPIC_OR_PARTITION"},
		{"configs: this broker", configs(kmsg.ConfigResourceTypeBroker, "1"), 0, 0, "ok"},
		{"configs: another broker", configs(kmsg.ConfigResourceTypeBroker, "2"), 0, 0, "INVALID_REQUEST"},
		{"configs: no broker", configs(kmsg.ConfigResourceTypeBroker, "x"), 0, 0, "INVALID_REQUEST"},
		{"configs: of nothing that has some", configs(77, "t"), 0, 0, "INVALID_REQUEST"},
		{"cluster", cluster(2, 1), 0, 0, "ok"},
		{"cluster: before there were types", cluster(0, 2), 0, 0, "ok"},
		{"cluster: of the controllers", cluster(1, 2), 0, 0, "MISMATCHED_ENDPOINT_TYPE"},
		{"cluster: of no such type", cluster(1, 3), 0, 0, "UNSUPPORTED_ENDPOINT_TYPE"},
		{"SASL: no mechanism", asked(1, func(*kmsg.SASLHandshakeRequest) {}), 0, 0, "UNSUPPORTED_SASL_MECHANISM"},
		{"SASL: out of place", asked(2, func(*kmsg.SASLAuthenticateRequest) {}), 0, 0, "ILLEGAL_SASL_STATE"},
	}, nil)
}

// Topics are shown a page at a time, each beginning where the one before says.
func TestDescribeTopicPartitionsPages(t *testing.T) {
	client, _ := observed(t, refusingDoor(t, &refusing{}))
	type at = kmsg.DescribeTopicPartitionsRequestCursor
	for _, tt := range []struct {
		name       string
		topics     []string
		limit      int32
		cursor     *at
		codes      string
		partitions []int32 // of t
		next       *kmsg.DescribeTopicPartitionsResponseNextCursor
	}{
		{"all of it", []string{"t"}, 2000, nil, "ok ok LEADER_NOT_AVAILABLE ok", []int32{0, 1, 2}, nil},
		{"whatever there is", nil, 2000, nil, "ok ok LEADER_NOT_AVAILABLE ok", []int32{0, 1, 2}, nil},
		{"the first page", []string{"t"}, 2, nil, "ok ok LEADER_NOT_AVAILABLE", []int32{0, 1}, &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: "t", Partition: 2}},
		{"the next page", []string{"t"}, 2, &at{Topic: "t", Partition: 2}, "ok ok", []int32{2}, nil},
		{"a page that ends with its topic", []string{"t", "u"}, 3, nil, "ok ok LEADER_NOT_AVAILABLE ok", []int32{0, 1, 2}, &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: "u"}},
		{"no such topic, and none that can be", []string{"u", "a/b"}, 10, nil, "INVALID_TOPIC_EXCEPTION UNKNOWN_TOPIC_OR_PARTITION", nil, nil},
		{"from a topic that was not asked for", []string{"t", "u"}, 10, &at{Topic: "s"}, "INVALID_REQUEST INVALID_REQUEST", nil, nil},
		{"from no partition", []string{"t"}, 10, &at{Topic: "t", Partition: -1}, "INVALID_REQUEST", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, ok := ask(t, client, asked(0, func(r *kmsg.DescribeTopicPartitionsRequest) {
				for _, name := range tt.topics {
					r.Topics = append(r.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
				}
				r.ResponsePartitionLimit, r.Cursor = tt.limit, tt.cursor
			})).(*kmsg.DescribeTopicPartitionsResponse)
			require.True(t, ok)
			require.Equal(t, tt.codes, codesIn(resp))
			var partitions []int32
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					partitions = append(partitions, p.Partition)
				}
			}
			require.Equal(t, tt.partitions, partitions)
			require.Equal(t, tt.next, resp.NextCursor)
		})
	}
}
