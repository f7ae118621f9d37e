package coordinator

import (
	"errors"

	"github.com/penstock/penstock/broker/api"
	"github.com/penstock/penstock/consumergroup"
)

// codeOf translates what the state machine says.
func codeOf(code consumergroup.Code) api.Code {
	switch code {
	case consumergroup.CodeNone:
		return api.CodeNone
	case consumergroup.CodeUnknownMember:
		return api.CodeUnknownMember
	case consumergroup.CodeFencedEpoch:
		return api.CodeFencedMemberEpoch
	case consumergroup.CodeStaleEpoch:
		return api.CodeStaleMemberEpoch
	case consumergroup.CodeGone:
		return api.CodeUnknownTopic
	case consumergroup.CodeFencedInstance:
		return api.CodeFencedInstanceID
	case consumergroup.CodeAway:
		return api.CodeCoordinatorLoading
	case consumergroup.CodeInvalid:
		return api.CodeInvalidArgument
	case consumergroup.CodeIllegalGeneration:
		return api.CodeIllegalGeneration
	case consumergroup.CodeRebalanceInProgress:
		return api.CodeRebalanceInProgress
	case consumergroup.CodeInconsistentProtocol:
		return api.CodeInconsistentProtocol
	case consumergroup.CodeMemberIDRequired:
		return api.CodeMemberIDRequired
	}
	return api.CodeUnknown
}

func errNotCoordinator(group string) *api.Error {
	return api.Errorf(api.CodeNotCoordinator, "this broker does not coordinate group %q", group)
}

func errLoading() *api.Error {
	return api.Errorf(api.CodeCoordinatorLoading, "the coordinator is loading its groups")
}

// errUnloaded is the cause when the shard ended before an append did.
var errUnloaded = errors.New("coordinator: unloaded")

// definite reports whether a failed append certainly left nothing in the log.
func definite(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && !e.Code.Indefinite()
}

// decisionError is what a caller hears whose request changed a group, when that is undone.
func decisionError(err error) *api.Error {
	if definite(err) {
		return commitError(err)
	}
	return errLoading()
}

// commitError is what a caller hears when the append of its record failed.
func commitError(err error) *api.Error {
	if definite(err) {
		return api.Errorf(api.CodeCoordinatorNotAvailable, "the group's log did not take the record: %w", err)
	}
	return api.Errorf(api.CodeRequestTimedOut, "the record may or may not be in the group's log: %w", err)
}
