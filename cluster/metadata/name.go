package metadata

import "unicode/utf8"

// MaxTopicName is the greatest length of a topic's name in bytes. With a dash
// and a partition number it still is a file name.
const MaxTopicName = 249

// ConsumerOffsetsTopic is the internal topic of committed offsets.
const ConsumerOffsetsTopic = "__consumer_offsets"

// ValidateTopicName checks Kafka's rules for names. The error is an *Error with
// CodeInvalidTopic.
func ValidateTopicName(name string) error {
	if err := checkTopicName(name); err != nil {
		return err
	}
	return nil
}

func checkTopicName(name string) *Error {
	const right = "a name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
	switch {
	case name == "":
		return Errorf(CodeInvalidTopic, "the topic name is empty; %s", right)
	case len(name) > MaxTopicName:
		return Errorf(CodeInvalidTopic, "the topic name %q has %d characters; %s", clip(name), len(name), right)
	case name == "." || name == "..":
		return Errorf(CodeInvalidTopic, "the topic name %q is a folder's; %s, and is not '.' or '..'", name, right)
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			r, _ := utf8.DecodeRuneInString(name[i:])
			return Errorf(CodeInvalidTopic, "the topic name %q has the character %q at %d; %s", name, r, i, right)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
