package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	commitlog "github.com/penstock/penstock/log"
	"github.com/penstock/penstock/log/record"
)

// The lines of `log dump`. The names in JSON are stable.

const (
	batchHead    = "    base offset  last offset  epoch  records  position     size        codec   producer             time of the greatest         CRC    marks"
	producerHead = "    producer             epoch  last used                 batches: first-last sequence @ base offset"
	journalHead  = "    topic id                          partition  segment      position    bytes     folder"
	promiseHead  = "    topic id                          partition  flushed      watermark    start        cleaned      dirty"
)

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }

// moment prints milliseconds; what no calendar has stays a number.
func moment(ms int64) string {
	const year9999 = 253402300799999
	if ms < 0 || ms > year9999 {
		return strconv.FormatInt(ms, 10) + " ms"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

type dumpFile struct {
	Type      string `json:"type"`
	Kind      string `json:"kind"`
	Path      string `json:"path"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	Offset    *int64 `json:"offset,omitempty"`
	Size      *int64 `json:"size,omitempty"`
}

func (f dumpFile) columns() string {
	if f.Size == nil {
		return fmt.Sprintf("%s  %s", f.Path, f.Kind)
	}
	return fmt.Sprintf("  %s  %s, %d bytes", f.Path, f.Kind, *f.Size)
}

type dumpProblem struct {
	Type     string `json:"type"`
	Path     string `json:"path"`
	Position *int64 `json:"position,omitempty"`
	Rest     int64  `json:"unread_bytes,omitempty"`
	Problem  string `json:"problem"`
}

func (p dumpProblem) columns() string {
	s := "    !! "
	if p.Position != nil {
		s += fmt.Sprintf("byte %d: ", *p.Position)
	}
	if s += p.Problem; p.Rest > 0 {
		s += fmt.Sprintf("; %d bytes are not read", p.Rest)
	}
	return s
}

type dumpBatch struct {
	Type          string `json:"type"`
	Path          string `json:"path"`
	Position      int64  `json:"position"`
	Size          int    `json:"size"`
	BaseOffset    int64  `json:"base_offset"`
	LastOffset    int64  `json:"last_offset"`
	Epoch         int32  `json:"leader_epoch"`
	Codec         string `json:"codec"`
	TimestampType string `json:"timestamp_type"`
	BaseTimestamp int64  `json:"base_timestamp"`
	MaxTimestamp  int64  `json:"max_timestamp"`
	ProducerID    int64  `json:"producer_id"`
	ProducerEpoch int16  `json:"producer_epoch"`
	BaseSequence  int32  `json:"base_sequence"`
	Records       int32  `json:"records"`
	Transactional bool   `json:"transactional,omitempty"`
	Control       bool   `json:"control,omitempty"`
	CRC           string `json:"crc"`
	CRCOK         bool   `json:"crc_ok"`
	Problem       string `json:"problem,omitempty"`
}

func newDumpBatch(f commitlog.InspectedFile, b *commitlog.InspectedBatch) dumpBatch {
	kind := "CreateTime"
	if b.Attributes.LogAppendTime() {
		kind = "LogAppendTime"
	}
	return dumpBatch{
		Type: "batch", Path: f.Path, Position: b.Position, Size: b.Size,
		BaseOffset: int64(b.BaseOffset), LastOffset: int64(b.LastOffset()), Epoch: int32(b.Epoch),
		Codec: b.Attributes.Codec().String(), TimestampType: kind, BaseTimestamp: b.BaseTimestamp, MaxTimestamp: b.MaxTimestamp,
		ProducerID: b.ProducerID, ProducerEpoch: b.ProducerEpoch, BaseSequence: b.BaseSequence, Records: b.Count,
		Transactional: b.Attributes.Transactional(), Control: b.Attributes.Control(),
		CRC: fmt.Sprintf("%08x", b.CRC), CRCOK: b.CRCOK, Problem: b.Problem,
	}
}

func (b dumpBatch) columns() string {
	producer := "-"
	if b.ProducerID >= 0 {
		producer = fmt.Sprintf("%d/%d #%d", b.ProducerID, b.ProducerEpoch, b.BaseSequence)
	}
	crc := "ok"
	if !b.CRCOK {
		crc = "WRONG"
	}
	var marks []string
	if b.TimestampType == "LogAppendTime" {
		marks = append(marks, "append-time")
	}
	if b.Transactional {
		marks = append(marks, "transactional")
	}
	if b.Control {
		marks = append(marks, "control")
	}
	if b.Problem != "" {
		marks = append(marks, "!! "+b.Problem)
	}
	return strings.TrimRight(fmt.Sprintf("    %-11d  %-11d  %-5d  %-7d  %-11d  %-10d  %-6s  %-19s  %-27s  %-5s  %s",
		b.BaseOffset, b.LastOffset, b.Epoch, b.Records, b.Position, b.Size, b.Codec, producer, moment(b.MaxTimestamp), crc, strings.Join(marks, " ")), " ")
}

type dumpRecord struct {
	Type        string       `json:"type"`
	Path        string       `json:"path"`
	Offset      int64        `json:"offset"`
	Timestamp   int64        `json:"timestamp"`
	Key         *string      `json:"key,omitempty"`
	KeyBase64   string       `json:"key_base64,omitempty"`
	Value       *string      `json:"value,omitempty"`
	ValueBase64 string       `json:"value_base64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

func newDumpRecord(f commitlog.InspectedFile, r *record.Record) dumpRecord {
	out := dumpRecord{Type: "record", Path: f.Path, Offset: int64(r.Offset), Timestamp: r.Timestamp}
	out.Key, out.KeyBase64 = text(r.Key)
	out.Value, out.ValueBase64 = text(r.Value)
	for _, h := range r.Headers {
		jh := jsonHeader{Key: strings.ToValidUTF8(h.Key, "\uFFFD")}
		jh.Value, jh.ValueBase64 = text(h.Value)
		out.Headers = append(out.Headers, jh)
	}
	return out
}

func (r dumpRecord) columns() string {
	var s strings.Builder
	fmt.Fprintf(&s, "      %-9d  %-27s  key %s  value %s", r.Offset, moment(r.Timestamp), shown(r.Key, r.KeyBase64), shown(r.Value, r.ValueBase64))
	for _, h := range r.Headers {
		fmt.Fprintf(&s, "  %s=%s", strconv.Quote(h.Key), shown(h.Value, h.ValueBase64))
	}
	return s.String()
}

// shown prints bytes so that they stay on their line.
func shown(plain *string, encoded string) string {
	switch {
	case plain != nil:
		return strconv.Quote(*plain)
	case encoded != "":
		return "base64:" + encoded
	default:
		return "-"
	}
}

type dumpIndexEntry struct {
	Type      string `json:"type"`
	Path      string `json:"path"`
	Offset    int64  `json:"offset"`
	Position  *int64 `json:"position,omitempty"`
	Timestamp *int64 `json:"timestamp,omitempty"`
}

func (e dumpIndexEntry) columns() string {
	if e.Timestamp != nil {
		return fmt.Sprintf("    %-20d  %s", e.Offset, moment(*e.Timestamp))
	}
	return fmt.Sprintf("    %-20d  %d", e.Offset, *e.Position)
}

type dumpEpoch struct {
	Type  string `json:"type"`
	Path  string `json:"path"`
	Epoch int32  `json:"leader_epoch"`
	Start int64  `json:"start_offset"`
}

func (e dumpEpoch) columns() string { return fmt.Sprintf("    %-10d  %d", e.Epoch, e.Start) }

type dumpProducer struct {
	Type     string         `json:"type"`
	Path     string         `json:"path"`
	ID       int64          `json:"producer_id"`
	Epoch    int16          `json:"producer_epoch"`
	LastUsed int64          `json:"last_used"`
	Batches  []dumpSequence `json:"batches"`
}

type dumpSequence struct {
	First int32 `json:"first_sequence"`
	Last  int32 `json:"last_sequence"`
	Base  int64 `json:"base_offset"`
	Next  int64 `json:"next_offset"`
}

func (p dumpProducer) columns() string {
	var s strings.Builder
	fmt.Fprintf(&s, "    %-19d  %-5d  %-24s", p.ID, p.Epoch, moment(p.LastUsed))
	for _, b := range p.Batches {
		fmt.Fprintf(&s, "  %d-%d@%d", b.First, b.Last, b.Base)
	}
	return s.String()
}

type dumpCheckpoint struct {
	Type     string `json:"type"`
	Path     string `json:"path"`
	Sequence uint64 `json:"sequence"`
	Entries  int    `json:"entries"`
}

func (c dumpCheckpoint) columns() string {
	return fmt.Sprintf("    sequence %d, %d entries", c.Sequence, c.Entries)
}

type dumpPromise struct {
	Type          string `json:"type"`
	Path          string `json:"path"`
	TopicID       string `json:"topic_id"`
	Partition     int32  `json:"partition"`
	Flushed       int64  `json:"flushed_offset"`
	HighWatermark int64  `json:"high_watermark"`
	Start         int64  `json:"log_start_offset"`
	Cleaned       int64  `json:"cleaned_offset"`
	Dirty         int64  `json:"dirty_offset"`
	Damage        string `json:"damage,omitempty"`
}

func (p dumpPromise) columns() string {
	return strings.TrimRight(fmt.Sprintf("    %s  %-9d  %-11d  %-11d  %-11d  %-11d  %-11d  %s",
		p.TopicID, p.Partition, p.Flushed, p.HighWatermark, p.Start, p.Cleaned, p.Dirty, p.Damage), " ")
}

type dumpJournal struct {
	Type      string `json:"type"`
	Path      string `json:"path"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Void      bool   `json:"void,omitempty"`
	Folder    string `json:"folder,omitempty"`
	Base      int64  `json:"base_offset"`
	Position  int64  `json:"position"`
	Size      int64  `json:"size"`
	At        int64  `json:"at"`
}

func (e dumpJournal) columns() string {
	if e.Void {
		return fmt.Sprintf("    %s  %-9d  void", e.TopicID, e.Partition)
	}
	return fmt.Sprintf("    %s  %-9d  %-11d  %-10d  %-8d  %s", e.TopicID, e.Partition, e.Base, e.Position, e.Size, e.Folder)
}

type dumpTopicID struct {
	Type    string `json:"type"`
	Path    string `json:"path"`
	TopicID string `json:"topic_id"`
}

func (t dumpTopicID) columns() string { return "    topic id " + t.TopicID }

type dumpMarker struct {
	Type        string `json:"type"`
	BrokerEpoch int64  `json:"broker_epoch"`
}

func (m dumpMarker) columns() string { return fmt.Sprintf("    broker epoch %d", m.BrokerEpoch) }
