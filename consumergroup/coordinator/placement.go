package coordinator

import (
	"unicode/utf16"
	"unicode/utf8"

	"github.com/penstock/penstock/broker/api"
)

// MaxGroupIDLength bounds the name of a group, in bytes.
const MaxGroupIDLength = 249

// PartitionFor returns the partition of __consumer_offsets that a group hashes
// to, as Kafka does: Java's String.hashCode over UTF-16 units, sign bit
// cleared, modulo. partitions must be above 0.
func PartitionFor(group string, partitions int32) int32 {
	var hash uint32
	for _, r := range group {
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			hash = (hash*31+uint32(high))*31 + uint32(low)
			continue
		}
		hash = hash*31 + uint32(r)
	}
	return int32(hash&0x7fffffff) % partitions
}

// ValidateGroupID checks a group's name: 1 to MaxGroupIDLength bytes of UTF-8.
// The error is an *api.Error with CodeInvalidGroupID.
func ValidateGroupID(group string) error {
	switch {
	case group == "":
		return api.Errorf(api.CodeInvalidGroupID, "the group id is empty")
	case len(group) > MaxGroupIDLength:
		return api.Errorf(api.CodeInvalidGroupID, "the group id has %d bytes, at most %d are allowed", len(group), MaxGroupIDLength)
	case !utf8.ValidString(group):
		return api.Errorf(api.CodeInvalidGroupID, "the group id %q is not UTF-8", group)
	}
	return nil
}
