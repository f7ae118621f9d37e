package kafka

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
)

// creating is a cluster that makes topics.
type creating struct {
	stub

	mu      sync.Mutex // guards what follows
	topics  []api.Topic
	created []api.CreateTopic
}

func (c *creating) CreateTopic(_ context.Context, req *api.CreateTopic) (api.CreatedTopic, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created = append(c.created, *req)
	if strings.HasPrefix(req.Name, "too-many") {
		return api.CreatedTopic{}, api.Errorf(api.CodeInvalidReplicationFactor, "there are 3 brokers")
	}
	c.topics = append(c.topics, api.Topic{Name: req.Name, ID: api.TopicID{byte(len(c.topics) + 1)}, Partitions: make([]api.Partition, req.Partitions)})
	return api.CreatedTopic{Partitions: req.Partitions, ReplicationFactor: req.ReplicationFactor}, nil
}

func (c *creating) Metadata(_ context.Context, names []string, _ bool, _ string) (*api.Metadata, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	md := &api.Metadata{}
	for _, t := range c.topics {
		if len(names) == 0 || slices.Contains(names, t.Name) {
			md.Topics = append(md.Topics, t)
		}
	}
	return md, nil
}

func (c *creating) TopicName(id api.TopicID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.topics {
		if t.ID == id {
			return t.Name, true
		}
	}
	return "", false
}

// waiting notes for which topics leaders were awaited.
type waiting struct {
	stub

	mu     sync.Mutex // guards topics
	topics [][]string
}

func (w *waiting) AwaitLeaders(_ context.Context, topics []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.topics = append(w.topics, topics)
}

// Metadata waits for leaders where nothing is held up behind it: on a connection that
// has carried no records.
func TestMetadataWaitsWhereNobodyIsHeldUp(t *testing.T) {
	w := &waiting{}
	d := New(Options{Arena: record.NewArena(1 << 20), Logger: slog.New(slog.DiscardHandler)}, Services{Fetcher: w, Cluster: w, Topics: w})
	t.Cleanup(d.Close)
	client, _ := observed(t, d)
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(12)
	named := kmsg.NewMetadataRequestTopic()
	named.Topic = new("t")
	req.Topics = append(req.Topics, named)
	ask(t, client, req)
	require.Equal(t, [][]string{{"t"}}, w.topics)
	req.Topics = nil // all
	ask(t, client, req)
	require.Len(t, w.topics, 2)
	require.Empty(t, w.topics[1])
	ask(t, client, fetchRequest(12, 1))
	ask(t, client, req)
	require.Len(t, w.topics, 2)
}

// A topic is made on first use when the broker does so and the client lets it, with
// the numbers of the configuration, and for no other reason.
func TestAutoCreation(t *testing.T) {
	named := func(version int16, allow bool, names ...string) *kmsg.MetadataRequest {
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(version)
		req.AllowAutoTopicCreation = allow
		for _, name := range names {
			req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
		}
		return req
	}
	everything := kmsg.NewPtrMetadataRequest()
	everything.SetVersion(12)
	everything.AllowAutoTopicCreation = true
	byID := named(12, true)
	byID.Topics = []kmsg.MetadataRequestTopic{{TopicID: [16]byte{9}}}
	for _, tt := range []struct {
		name    string
		off     bool
		req     *kmsg.MetadataRequest
		created []string
		codes   []*kerr.Error
	}{
		{"allowed", false, named(12, true, "orders"), []string{"orders"}, []*kerr.Error{nil}},
		{"before clients could say", false, named(3, false, "orders"), []string{"orders"}, []*kerr.Error{nil}},
		{"the client does not want it", false, named(12, false, "orders"), nil, []*kerr.Error{kerr.UnknownTopicOrPartition}},
		{"off", true, named(12, true, "orders"), nil, []*kerr.Error{kerr.UnknownTopicOrPartition}},
		{"off, before clients could say", true, named(1, false, "orders"), nil, []*kerr.Error{kerr.UnknownTopicOrPartition}},
		{"one is there", false, named(12, true, "there", "orders"), []string{"orders"}, []*kerr.Error{nil, nil}},
		{"twice", false, named(12, true, "orders", "orders"), []string{"orders"}, []*kerr.Error{nil}},
		{"no such name can be", false, named(12, true, "a/b", ".", strings.Repeat("x", 250), ""), nil, []*kerr.Error{
			kerr.InvalidTopicException, kerr.InvalidTopicException, kerr.InvalidTopicException, kerr.InvalidTopicException,
		}},
		{"all", false, everything, nil, []*kerr.Error{nil}},
		{"by id", false, byID, nil, []*kerr.Error{kerr.UnknownTopicID}},
		{"it fails", false, named(12, true, "too-many"), []string{"too-many"}, []*kerr.Error{kerr.UnknownTopicOrPartition}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &creating{topics: []api.Topic{{Name: "there", ID: api.TopicID{1}}}}
			s := stubServices(stub{})
			s.Topics, s.Cluster = c, c
			d := New(Options{Arena: record.NewArena(4 << 20), Logger: slog.New(slog.DiscardHandler), NumPartitions: 5, ReplicationFactor: 2, AutoCreate: !tt.off}, s)
			t.Cleanup(d.Close)
			client, _ := observed(t, d)
			resp, ok := ask(t, client, tt.req).(*kmsg.MetadataResponse)
			require.True(t, ok)
			var names []string
			for _, made := range c.created {
				names = append(names, made.Name)
				require.Equal(t, int32(5), made.Partitions)
				require.Equal(t, int32(2), made.ReplicationFactor)
			}
			require.Equal(t, tt.created, names)
			require.Len(t, resp.Topics, len(tt.codes))
			for i, code := range tt.codes {
				if code == nil {
					code = &kerr.Error{}
				}
				require.Equal(t, code.Code, resp.Topics[i].ErrorCode)
			}
		})
	}
}
