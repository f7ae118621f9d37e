package coordinator

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/consumergroup"
	"github.com/penstock/penstock/log/record"
)

// classicValueVersion is the GroupMetadataValue version that is written.
const classicValueVersion = 3

// consumerProtocolType is the protocol type of consumers' groups.
const consumerProtocolType = "consumer"

func classicKey(group string) []byte {
	key := kmsg.GroupMetadataKey{Version: keyClassic, Group: group}
	return key.AppendTo(nil)
}

// classicValue is GroupMetadataValue: of each member only what it said under the
// group's protocol.
func classicValue(c *consumergroup.StoredClassic) []byte {
	value := kmsg.GroupMetadataValue{
		Version: classicValueVersion, ProtocolType: c.ProtocolType, Generation: c.Generation,
		Protocol: nullable(c.Protocol), Leader: nullable(c.Leader), CurrentStateTimestamp: c.Since.UnixMilli(),
	}
	for i := range c.Members {
		m := &c.Members[i]
		out := kmsg.GroupMetadataValueMember{
			MemberID: m.ID, InstanceID: nullable(m.InstanceID), ClientID: m.ClientID, ClientHost: m.Host,
			RebalanceTimeoutMillis: int32(milliseconds(m.RebalanceTimeout)), SessionTimeoutMillis: int32(milliseconds(m.SessionTimeout)),
			Assignment: m.Assignment,
		}
		if len(m.Protocols) > 0 {
			out.Subscription = m.Protocols[0].Metadata
		}
		value.Members = append(value.Members, out)
	}
	return value.AppendTo(nil)
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (e *entry) decodeClassic(rec *record.Record) error {
	var key kmsg.GroupMetadataKey
	if err := key.ReadFrom(rec.Key); err != nil {
		return fmt.Errorf("%w: group metadata key: %w", errMalformed, err)
	}
	e.group = key.Group
	if e.tombstone {
		return nil
	}
	var value kmsg.GroupMetadataValue
	if err := value.ReadFrom(rec.Value); err != nil {
		return fmt.Errorf("%w: group metadata value of group %q: %w", errMalformed, e.group, err)
	}
	if value.Version < 0 || value.Version > 4 {
		return fmt.Errorf("%w: group metadata value of group %q: version %d, known are 0 to 4", errMalformed, e.group, value.Version)
	}
	c := &consumergroup.StoredClassic{
		Generation: value.Generation, ProtocolType: value.ProtocolType, Protocol: valueOf(value.Protocol), Leader: valueOf(value.Leader),
		Since: time.UnixMilli(value.CurrentStateTimestamp),
	}
	for i := range value.Members {
		m := &value.Members[i]
		c.Members = append(c.Members, consumergroup.ClassicMember{
			ID: m.MemberID, InstanceID: valueOf(m.InstanceID), ClientID: m.ClientID, Host: m.ClientHost,
			SessionTimeout: time.Duration(m.SessionTimeoutMillis) * time.Millisecond, RebalanceTimeout: time.Duration(m.RebalanceTimeoutMillis) * time.Millisecond,
			Protocols:  []consumergroup.ClassicProtocol{{Name: c.Protocol, Metadata: m.Subscription}},
			Assignment: m.Assignment,
		})
	}
	e.classic = c
	return nil
}
