package metadata

import (
	"slices"
	"strconv"
)

// edit gathers changes of single partitions, so that a command with many
// changes copies the partition list of each topic once. Its image is a fresh
// copy that nobody else has seen.
type edit struct {
	im    *Image
	lists map[string][]*Partition // own copies, by topic name
	names []string                // keys of lists, in the order of the changes
}

func (im *Image) edit() *edit { return &edit{im: im, lists: make(map[string][]*Partition)} }

// find returns a partition as changed so far.
func (e *edit) find(topicID []byte, partition int32) (*Topic, *Partition, *Error) {
	id, _ := ParseID(topicID)
	t := e.im.TopicByID(id)
	if t == nil {
		return nil, nil, Errorf(CodeUnknownTopic, "there is no topic with id %.16x", topicID)
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		return nil, nil, Errorf(CodeUnknownPartition, "topic %s has partitions 0 to %d, not %d", t.Name, len(t.Partitions)-1, partition)
	}
	if list, ok := e.lists[t.Name]; ok {
		return t, list[partition], nil
	}
	return t, t.Partitions[partition], nil
}

func (e *edit) put(t *Topic, partition int32, p *Partition) {
	list, ok := e.lists[t.Name]
	if !ok {
		list = slices.Clone(t.Partitions)
		e.lists[t.Name] = list
		e.names = append(e.names, t.Name)
	}
	list[partition] = p
}

// done puts the changed topics into the image.
func (e *edit) done() {
	for _, name := range e.names {
		e.im.setTopic(e.im.Topic(name).withPartitions(e.lists[name]))
	}
}

func partitionName(t *Topic, partition int32) string {
	return t.Name + "-" + strconv.Itoa(int(partition))
}
