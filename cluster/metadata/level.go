package metadata

import (
	"cmp"

	metav1 "github.com/penstock/penstock/proto/penstock/meta/v1"
)

// Feature levels. A level names a set of command kinds, fields and rules that a
// build applies. Nodes of two builds apply the same log while a cluster is being
// upgraded, so nothing of a level may be used before all of them know it:
//
//   - A broker tells the level of its build when it registers.
//   - The level of the image is the lowest that its registered brokers told, absent
//     ones included, and never falls. It rises by itself, in the Apply of the
//     registration that raises the lowest. From then on there is no way back to
//     an older build.
//   - A command names the level that it needs (CommandLevel). Apply refuses one
//     above the image's; a broker of a lower level cannot register.
//   - What a command means at a level never changes: the golden logs in testdata
//     hold it. A rule that changes asks for the image's level first.
//
// Level 1 is what came before levels. Level 2 adds the command kinds from 30 on, the
// resignation to eligible leaders by an empty set, and the election from LastISR of a
// member that never stopped. Level 3 keeps a replica whose log failed among the eligible
// leaders (IsrChange.failed), and where everyone in LastISR is damaged it elects the
// best copy of all. Level 4 compares in-sync members that came back with the eligible
// leaders, for a drive may have forgotten what it confirmed.
const (
	// Version is the feature level of this build: the highest Command.version
	// that it applies.
	Version = 4

	levelBase    = 1 // what Apply knew before there were levels
	levelOperate = 2 // commands for operators: kinds 30 to 49
	levelDamage  = 3 // failed logs, and the best of damaged ones
	levelCompare = 4 // in-sync and eligible members that came back are compared
)

// CommandLevel is the feature level that a command needs. Whoever puts a command
// into the log sets Command.version to it, not to the level of the own build.
func CommandLevel(cmd *metav1.Command) uint32 {
	switch k := cmd.GetKind().(type) {
	case *metav1.Command_ChangeIsr:
		for _, c := range k.ChangeIsr.GetChanges() {
			if len(c.GetFailed()) > 0 {
				return levelDamage
			}
		}
		return levelBase
	case nil, *metav1.Command_SetClusterId, *metav1.Command_RegisterBroker, *metav1.Command_FenceBroker,
		*metav1.Command_UnfenceBroker, *metav1.Command_CreateTopic, *metav1.Command_DeleteTopic,
		*metav1.Command_AlterTopicConfig, *metav1.Command_ElectLeaders,
		*metav1.Command_AllocateProducerIds:
		return levelBase
	default:
		return levelOperate
	}
}

// KeepsFailed reports whether a leader may name replicas whose logs failed
// (IsrChange.failed), which then stay eligible.
func (im *Image) KeepsFailed() bool { return im.featureLevel >= levelDamage }

// TakesReports reports whether a broker may tell what a replica holds (RecoverReplica).
func (im *Image) TakesReports() bool { return im.featureLevel >= levelOperate }

// FeatureLevel is the level that every registered broker knows; 0 before the
// first command.
func (im *Image) FeatureLevel() uint32 { return im.featureLevel }

// knownLevel is the level that a registration told; the first builds told none.
func knownLevel(told uint32) uint32 { return max(told, levelBase) }

// checkLevel refuses a command that some node could not apply.
func (im *Image) checkLevel(cmd *metav1.Command) *Error {
	switch v := cmd.GetVersion(); {
	case v < 1 || v > Version:
		return Errorf(CodeUnsupported, "command version %d: this build applies 1 to %d", v, Version)
	case v > max(im.featureLevel, levelBase):
		return Errorf(CodeUnsupported, "the command needs feature level %d; the cluster is at %d until %s runs a newer release",
			v, im.featureLevel, im.oldest())
	case v < CommandLevel(cmd):
		return Errorf(CodeUnsupported, "the command needs feature level %d, but names %d", CommandLevel(cmd), v)
	default:
		return nil
	}
}

// oldest names the broker that holds the feature level down.
func (im *Image) oldest() string {
	for b := range im.Brokers() {
		if knownLevel(b.FeatureLevel) == im.featureLevel {
			return Errorf(CodeNone, "broker %d (version %s)", b.NodeID, cmp.Or(b.Version, "unknown")).Message
		}
	}
	return "every broker"
}

// raiseLevel takes a level into use that every registered broker knows. It is
// called where a broker registers or goes for good.
func (im *Image) raiseLevel() {
	lowest := uint32(Version)
	for b := range im.Brokers() {
		lowest = min(lowest, knownLevel(b.FeatureLevel))
	}
	if im.brokers.len() > 0 {
		im.featureLevel = max(im.featureLevel, lowest)
	}
}
