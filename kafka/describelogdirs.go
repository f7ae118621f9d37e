package kafka

import (
	"cmp"
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

// describeLogDirs lists what lies on this broker. There is one data directory.
func describeLogDirs(_ context.Context, d *Door, _ *call, req *kmsg.DescribeLogDirsRequest) (*kmsg.DescribeLogDirsResponse, error) {
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir, dir.TotalBytes, dir.UsableBytes = d.opts.DataDir, -1, -1 // not known
	if total, free, err := d.services.Replicas.Volume(); err == nil {
		dir.TotalBytes, dir.UsableBytes = total, free
	}
	logs := d.services.Replicas.Logs()
	slices.SortFunc(logs, func(a, b api.LogInfo) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	asked := make(map[api.TopicPartition]bool)
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			asked[api.TopicPartition{Topic: req.Topics[i].Topic, Partition: p}] = true
		}
	}
	for _, l := range logs {
		if req.Topics != nil && !asked[l.TopicPartition] {
			continue
		}
		p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		p.Partition, p.Size, p.OffsetLag = l.Partition, l.Bytes, l.Lag
		if n := len(dir.Topics); n == 0 || dir.Topics[n-1].Topic != l.Topic {
			t := kmsg.NewDescribeLogDirsResponseDirTopic()
			t.Topic = l.Topic
			dir.Topics = append(dir.Topics, t)
		}
		t := &dir.Topics[len(dir.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Dirs = append(resp.Dirs, dir)
	return resp, nil
}
