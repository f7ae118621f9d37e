package metadata

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"iter"
	"maps"
	"slices"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// ID is a random 128-bit name: of a topic, of a data directory, of a command.
type ID [16]byte

// String returns the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero id, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID takes the bytes of a message. ok is false unless there are 16 of them,
// not all zero.
func ParseID(b []byte) (id ID, ok bool) {
	if len(b) != len(id) {
		return ID{}, false
	}
	copy(id[:], b)
	return id, !id.IsZero()
}

func compareIDs(a, b ID) int { return bytes.Compare(a[:], b[:]) }

// NoNode is the node id that names no node: a partition without a leader.
const NoNode int32 = -1

// Image is the state of the cluster at one index of the metadata log. It never
// changes: Apply returns a new one that shares what did not change, so an
// unchanged *Broker, *Topic or *Partition is the same pointer in both images
// and a reconciler may skip it. All methods may be called from any goroutine.
// Nothing that an Image hands out may be written to.
type Image struct {
	index          uint64
	clusterID      string
	featureLevel   uint32
	nextProducerID int64
	partitions     int
	brokers        ordered[int32, *Broker]
	topics         ordered[string, *Topic]
	topicNames     ordered[ID, string]
	memory         memory
	staged         ordered[int32, *staging]
	retired        ordered[ID, Retired]
	deletions      ordered[ID, *Deletion]
}

// Broker is one registered node.
type Broker struct {
	NodeID    int32
	StorageID ID // zero: it was given up, see Replaced
	// Epoch is the Raft index of the registration that began this session, or of
	// the command that gave its disk up.
	Epoch int64
	// Fenced: the broker leads nothing and joins no in-sync set.
	Fenced       bool
	GRPC, Kafka  []Endpoint
	PeerAddress  string
	RaftAddress  string
	Rack         string // empty: unknown
	Version      string
	FeatureLevel uint32
	// Decommissioning: no replica is placed on it, and those that it has move away,
	// DecommissionThrottle bytes a second of them; 0: as the leaders are configured.
	Decommissioning      bool
	DecommissionThrottle int64
	// VotePending: the broker's lost disk had a vote in the metadata quorum, and
	// its new one is to get it back as soon as it has caught up.
	VotePending bool
}

// Endpoint is the advertised address of a listener; Listener is empty for the
// only one.
type Endpoint struct{ Listener, Address string }

// Topic is a topic and its partitions, numbered by their place in Partitions.
type Topic struct {
	Name       string
	ID         ID
	Internal   bool
	Configs    map[string]string // what was set; defaults are not in it
	Partitions []*Partition
	// CreatedIndex is the Raft index of its CreateTopic.
	CreatedIndex uint64

	settings TopicSettings // of Configs
	pending  Pending       // of Partitions
}

// Settings returns the configuration in force, defaults filled in.
func (t *Topic) Settings() TopicSettings { return t.settings }

// ReplicationFactor is the number of replicas of the first partition. Partitions
// that were reassigned may have another.
func (t *Topic) ReplicationFactor() int { return t.Partitions[0].ReplicationFactor() }

// MinISR is the smallest in-sync set with which the watermark of p, a partition of
// t, moves: min(min.insync.replicas, replication factor). Replicas that are being
// added do not raise it before they are there.
func (t *Topic) MinISR(p *Partition) int {
	return min(t.settings.MinInSyncReplicas, p.ReplicationFactor())
}

// Partition is what the cluster agreed on about a partition. The node ids in
// ISR, ELR and LastISR ascend.
type Partition struct {
	Leader      int32 // NoNode: none
	LeaderEpoch int32 // grows with every change of the leader or its session
	// PartitionEpoch grows with every change of this partition.
	PartitionEpoch int32
	// Replicas is in the order of preference: the first should lead.
	Replicas []Replica
	ISR      []int32
	// ELR are the eligible leaders of KIP-966: members that left while the ISR
	// was below its minimum, so they hold every acknowledged record.
	ELR []int32
	// LastISR is the last set that could hold every acknowledged record; kept
	// from the moment a member came back without what it had acknowledged until
	// a leader shows that it holds the partition.
	LastISR []int32
	// LossyEpoch is the last leader epoch whose election may have lost
	// acknowledged records; 0: there was none, for epoch 0 has nothing before it.
	// Replicas whose log ends in an older epoch may hold what was lost, however many
	// epochs they miss before they are back.
	LossyEpoch int32
	// Target are the replicas of a reassignment under way, in the order of
	// preference; nil: there is none. Adding are those of Replicas that it added,
	// behind the others. Throttle is the bytes a second that they are sent; 0: what
	// the leader is configured to.
	Target, Adding []int32
	Throttle       int64
	// Lost: every replica that could hold all acknowledged records was given up.
	// The partition has no leader until an operator orders one.
	Lost bool
}

// Replica is one replica and what the last registration of its broker told, or a
// report since.
type Replica struct {
	NodeID    int32
	StorageID ID
	// RecoveredEpoch is the broker epoch at which the replica was recovered; 0:
	// not since it joined the in-sync set.
	RecoveredEpoch int64
	LastEpoch      int32 // epoch of the last batch; -1: none or unknown
	LogEndOffset   int64 // -1: unknown
	Damage         Damage
}

// Damage is what is wrong with a replica: what its broker found when it registered, or
// told since.
type Damage int32

// The kinds of damage, numbered as in penstock.meta.v1.Damage.
const (
	DamageNone      = Damage(metav1.Damage_DAMAGE_UNSPECIFIED)
	DamageMissing   = Damage(metav1.Damage_DAMAGE_MISSING)
	DamageCorrupt   = Damage(metav1.Damage_DAMAGE_CORRUPT)
	DamageLostBytes = Damage(metav1.Damage_DAMAGE_LOST_BYTES)
	// DamageFailed: the log refuses work until it is opened anew, and holds all
	// that it acknowledged.
	DamageFailed = Damage(metav1.Damage_DAMAGE_FAILED)
)

// lost reports whether acknowledged bytes are, or may be, gone.
func (d Damage) lost() bool { return d != DamageNone && d != DamageFailed }

func (d Damage) String() string {
	switch d {
	case DamageNone:
		return "none"
	case DamageMissing:
		return "missing"
	case DamageCorrupt:
		return "corrupt"
	case DamageLostBytes:
		return "lost bytes"
	case DamageFailed:
		return "failed"
	default:
		return "unknown damage"
	}
}

// Replica returns node's replica, nil when it has none.
func (p *Partition) Replica(node int32) *Replica {
	for i := range p.Replicas {
		if p.Replicas[i].NodeID == node {
			return &p.Replicas[i]
		}
	}
	return nil
}

// InISR reports whether node is in the in-sync set.
func (p *Partition) InISR(node int32) bool { return slices.Contains(p.ISR, node) }

// InELR reports whether node is an eligible leader outside the in-sync set.
func (p *Partition) InELR(node int32) bool { return slices.Contains(p.ELR, node) }

// Preferred is the replica that should lead when it can.
func (p *Partition) Preferred() int32 { return p.Replicas[0].NodeID }

// Empty returns the image before the first command.
func Empty() *Image {
	return &Image{
		brokers:    newOrdered[int32, *Broker](cmp.Compare[int32]),
		topics:     newOrdered[string, *Topic](cmp.Compare[string]),
		topicNames: newOrdered[ID, string](compareIDs),
		memory:     newMemory(),
		staged:     newOrdered[int32, *staging](cmp.Compare[int32]),
		retired:    newOrdered[ID, Retired](compareIDs),
		deletions:  newOrdered[ID, *Deletion](compareIDs),
	}
}

// Index is the Raft index of the last command applied; 0: none.
func (im *Image) Index() uint64 { return im.index }

// ClusterID is empty until the first command.
func (im *Image) ClusterID() string { return im.clusterID }

// Broker returns the broker with a node id, nil when it never registered.
func (im *Image) Broker(node int32) *Broker {
	b, _ := im.brokers.get(node)
	return b
}

// Brokers yields every registered broker, fenced ones too, by ascending node id.
func (im *Image) Brokers() iter.Seq[*Broker] { return values(im.brokers) }

// BrokerCount is the number of registered brokers, fenced ones too.
func (im *Image) BrokerCount() int { return im.brokers.len() }

// Topic returns the topic with a name, nil when there is none.
func (im *Image) Topic(name string) *Topic {
	t, _ := im.topics.get(name)
	return t
}

// TopicByID returns the topic with an id, nil when there is none.
func (im *Image) TopicByID(id ID) *Topic {
	name, ok := im.topicNames.get(id)
	if !ok {
		return nil
	}
	return im.Topic(name)
}

// Topics yields every topic by ascending name.
func (im *Image) Topics() iter.Seq[*Topic] { return values(im.topics) }

// TopicCount is the number of topics.
func (im *Image) TopicCount() int { return im.topics.len() }

// PartitionCount is the number of partitions of all topics.
func (im *Image) PartitionCount() int { return im.partitions }

// Applied returns the outcome of the command with an id, as long as it is among
// the last MemorySize ones.
func (im *Image) Applied(id ID) (Outcome, bool) { return im.memory.get(id) }

// clone returns a shallow copy that Apply may change before handing it out.
func (im *Image) clone() *Image {
	c := *im
	return &c
}

// clone returns a copy whose slices are still shared and must be replaced, not
// written to.
func (p *Partition) clone() *Partition {
	c := *p
	return &c
}

// withPartitions returns a copy of t with other partitions.
func (t *Topic) withPartitions(partitions []*Partition) *Topic {
	c := *t
	c.Partitions, c.pending = partitions, pendingOf(partitions)
	return &c
}

// withConfigs returns a copy of t with other configs, which parsed to settings.
func (t *Topic) withConfigs(configs map[string]string, settings TopicSettings) *Topic {
	c := *t
	c.Configs, c.settings = maps.Clone(configs), settings
	return &c
}

func values[K, V any](m ordered[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m.all() {
			if !yield(v) {
				return
			}
		}
	}
}
