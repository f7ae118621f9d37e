package kafkaclients

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// What no driver asks for and franz-go's admin client does is answered: the rare calls of
// administration. RECORD=1 keeps these requests for the fuzzer of package kafka.
func TestAdmin(t *testing.T) {
	s := newSuite(t)
	t.Run("topics", func(t *testing.T) { adminTopics(t, s) })
	t.Run("groups", func(t *testing.T) { adminGroups(t, s) })
	t.Run("placement", func(t *testing.T) { kadmPlacement(t, s) })
	t.Run("authentication", func(t *testing.T) { adminAuthentication(t, s) })
}

func adminTopics(t *testing.T, s *suite) {
	t.Helper()
	topic := s.newTopic(t, 1)
	grown, err := s.admin.CreatePartitions(t.Context(), 2, topic)
	require.NoError(t, err)
	require.NoError(t, grown[topic].Err)
	s.produce(t, topic, 0, 9, time.Now())
	var before kadm.Offsets
	before.AddOffset(topic, 0, 1, -1)
	deleted, err := s.admin.DeleteRecords(t.Context(), before)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
}

func adminGroups(t *testing.T, s *suite) {
	t.Helper()
	ctx := t.Context()
	topic := s.newTopic(t, 1)
	group := "administered-" + topic
	s.produce(t, topic, 0, 9, time.Now())
	member, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers(), ",")...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	fs := member.PollFetches(ctx)
	require.NoError(t, fs.Err())
	described, err := s.admin.DescribeConsumerGroups(ctx, group)
	require.NoError(t, err)
	require.NoError(t, described.Error())
	require.Len(t, described[group].Members, 1)
	require.Equal(t, described[group].Epoch, described[group].AssignmentEpoch)
	require.NoError(t, member.CommitUncommittedOffsets(ctx))

	// From outside nobody commits while there are members.
	outside := kadm.Offsets{}
	outside.AddOffset(topic, 0, 3, -1)
	refused, err := s.admin.CommitOffsets(ctx, group, outside)
	require.NoError(t, err)
	require.ErrorIs(t, refused.Error(), kerr.UnknownMemberID)
	member.Close()
	var all kadm.TopicsSet
	all.Add(topic, 0)
	require.Eventually(t, func() bool {
		outcome, err := s.admin.DeleteOffsets(ctx, group, all)
		return err == nil && outcome[topic][0] == nil
	}, 10*time.Second, 50*time.Millisecond, "the member has left")
	left, err := s.admin.CommitOffsets(ctx, group, outside)
	require.NoError(t, err)
	require.NoError(t, left.Error())
	gone, err := s.admin.DeleteGroup(ctx, group)
	require.NoError(t, err)
	require.NoError(t, gone.Err)
}

// adminAuthentication finds that there is none. franz-go asks for a mechanism and goes
// no further when it hears so; SaslAuthenticate, which no client sends then, is sent by
// hand.
func adminAuthentication(t *testing.T, s *suite) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(s.brokers(), ",")...), kgo.SASL(plain.Auth{User: "somebody", Pass: "secret"}.AsMechanism()))
	require.NoError(t, err)
	defer cl.Close()
	require.ErrorIs(t, cl.Ping(t.Context()), kerr.UnsupportedSaslMechanism)
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = []byte("\x00somebody\x00secret")
	resp, err := req.RequestWith(t.Context(), s.own.Broker(1))
	require.NoError(t, err)
	require.ErrorIs(t, kerr.ErrorForCode(resp.ErrorCode), kerr.IllegalSaslState)
}
