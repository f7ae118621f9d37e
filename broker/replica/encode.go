package replica

import (
	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/log/record"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

func keyOf(topic []byte, partition int32) Key {
	return Key{Topic: api.TopicIDFrom(topic), Partition: partition}
}

func handshakeToWire(k Key, h Handshake) *pb.ReplicaHandshake {
	return &pb.ReplicaHandshake{
		TopicId: k.Topic[:], Partition: k.Partition, LeaderEpoch: int32(h.Epoch), SessionId: h.Session,
		LastEpoch: int32(h.LastEpoch), LogEndOffset: int64(h.End), LogStartOffset: int64(h.Start),
		FlushedOffset: int64(h.Flushed), RefusedBelow: int64(h.RefusedBelow),
	}
}

func handshakeFromWire(m *pb.ReplicaHandshake) Handshake {
	return Handshake{
		Epoch: record.Epoch(m.GetLeaderEpoch()), Session: m.GetSessionId(), LastEpoch: record.Epoch(m.GetLastEpoch()),
		End: record.Offset(m.GetLogEndOffset()), Start: record.Offset(m.GetLogStartOffset()),
		Flushed: record.Offset(m.GetFlushedOffset()), RefusedBelow: record.Offset(m.GetRefusedBelow()),
	}
}

func replyToWire(k Key, r HandshakeReply) *pb.ReplicaHandshakeReply {
	m := &pb.ReplicaHandshakeReply{
		TopicId: k.Topic[:], Partition: k.Partition, LeaderEpoch: int32(r.Epoch), SessionId: r.Session,
		Epoch: int32(r.AnswerEpoch), EpochEndOffset: int64(r.AnswerEnd), LogStartOffset: int64(r.LogStart),
		HighWatermark: int64(r.HighWatermark), Matched: r.Matched, BeginAtLogStart: r.Begin,
		ProducerState: r.Producers,
	}
	if e := r.Err; e != nil {
		m.Matched = false
		m.Error = &pb.Error{
			Code: pb.ErrorCode(e.Code), Message: e.Message, Topic: e.Topic, Partition: k.Partition,
			Retriable: e.Code.Retriable(), Indefinite: e.Code.Indefinite(),
		}
	}
	return m
}

func replyFromWire(m *pb.ReplicaHandshakeReply) HandshakeReply {
	r := HandshakeReply{
		Epoch: record.Epoch(m.GetLeaderEpoch()), Session: m.GetSessionId(),
		AnswerEpoch: record.Epoch(m.GetEpoch()), AnswerEnd: record.Offset(m.GetEpochEndOffset()),
		LogStart: record.Offset(m.GetLogStartOffset()), HighWatermark: record.Offset(m.GetHighWatermark()),
		Matched: m.GetMatched(), Begin: m.GetBeginAtLogStart(),
		Producers: m.GetProducerState(),
	}
	if e := m.GetError(); e != nil {
		r.Err = &api.Error{
			Code: api.Code(e.GetCode()), Message: e.GetMessage(), Topic: e.GetTopic(), Partition: e.GetPartition(),
		}
		r.Matched = false
	}
	return r
}

func pushFromWire(m *pb.ReplicaPush) Push {
	return Push{
		Epoch: record.Epoch(m.GetLeaderEpoch()), Session: m.GetSessionId(),
		From: record.Offset(m.GetFrom()), To: record.Offset(m.GetTo()),
		HighWatermark: record.Offset(m.GetHighWatermark()), LogStart: record.Offset(m.GetLogStartOffset()),
		Cleaned: record.Offset(m.GetCleanedOffset()),
	}
}

func ackFromWire(m *pb.ReplicaAck) Ack {
	return Ack{
		Epoch: record.Epoch(m.GetLeaderEpoch()), Session: m.GetSessionId(),
		Appended: record.Offset(m.GetAppended()), Flushed: record.Offset(m.GetFlushed()),
		LogStart: record.Offset(m.GetLogStartOffset()), Written: record.UnknownOffset,
	}
}
