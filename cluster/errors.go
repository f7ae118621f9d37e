package cluster

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/cluster/metadata"
	pb "github.com/penstock/penstock/proto/penstock/v1"
)

var (
	// ErrClosed answers calls on a node that is closed or closing.
	ErrClosed = errors.New("cluster: node is closed")
	// ErrNoController says that nobody is known to be the controller, or it does not answer.
	ErrNoController = errors.New("cluster: no controller")
	// ErrOutcomeUnknown says that the time was up after a proposal had been sent. It may
	// be applied later; repeating it with the same command id is harmless.
	ErrOutcomeUnknown = errors.New("cluster: outcome unknown")
	// ErrUnknownNode says that the metadata image has no broker of that id.
	ErrUnknownNode = errors.New("cluster: unknown node")
	// ErrCannotAsk says that the controller is of an earlier release, which does not answer.
	ErrCannotAsk = errors.New("cluster: the controller is of an earlier release")
	// ErrDataLost says that the directory holds Raft state but no identity, or the
	// reverse of what the identity promises.
	ErrDataLost = errors.New("cluster: raft directory is incomplete")
	// ErrStoreStalled says that a write of the Raft log took longer than Config.StoreStall.
	ErrStoreStalled = errors.New("cluster: write of the raft log is stuck")
	// ErrProtocol says that the other side of a connection does not speak this protocol.
	ErrProtocol = errors.New("cluster: protocol error")
)

// NodeIDMismatchError says that the directory was made by a node of another id.
type NodeIDMismatchError struct {
	Dir                  string
	Recorded, Configured int32
}

func (e *NodeIDMismatchError) Error() string {
	return fmt.Sprintf("cluster: directory %s belongs to node %d, but node.id is %d: set node.id to %d, or give this node data.dir and raft.dir of its own",
		e.Dir, e.Recorded, e.Configured, e.Recorded)
}

// DamagedLogError says that the Raft log of a node is not what was written: bytes have
// changed, or are missing, that had been synced. Such a node must not start. With a vote
// or an entry forgotten it would help to elect a controller that lacks what was
// confirmed; with an entry changed its image would differ from all others.
type DamagedLogError struct {
	Path   string
	NodeID int32
	Err    error
}

func (e *DamagedLogError) Error() string {
	return fmt.Sprintf("cluster: the metadata log %s is damaged: %v; this node must not go on with it. The other nodes have what is in it: keep the file, "+
		"run `penstock cluster replace %d` against one of them, and start this node with an empty data.dir and raft.dir (docs/OPERATIONS.md, \"A disk is gone\")",
		e.Path, e.Err, e.NodeID)
}

// Unwrap returns what was found.
func (e *DamagedLogError) Unwrap() error { return e.Err }

// ClusterIDMismatchError says that two nodes, or a node and its directory, belong to
// different clusters.
type ClusterIDMismatchError struct {
	Ours, Theirs string
	Peer         string // who belongs to Theirs, an address
}

func (e *ClusterIDMismatchError) Error() string {
	return fmt.Sprintf("cluster: this node belongs to cluster %s, but %s to cluster %s: see that data.dir, raft.dir and voters are those of one cluster",
		e.Ours, e.Peer, e.Theirs)
}

// IdentityConflictError says that a node id is known with another storage id. The node
// comes with an empty or foreign directory in the place of one that the cluster
// relies on; `penstock cluster replace` is the way to say that this is meant. When
// Known is zero, it was said of the directory that the node comes with.
type IdentityConflictError struct {
	NodeID       int32
	Known, Found metadata.ID
}

func (e *IdentityConflictError) Error() string {
	if e.Known.IsZero() {
		return fmt.Sprintf("cluster: the storage id %x of node %d was given up, by replacing or removing the node: "+
			"start it with an empty directory", e.Found[:], e.NodeID)
	}
	return fmt.Sprintf("cluster: node %d is known with storage id %x, but came with %x, that of another data directory or of an empty one: "+
		"give it the directory back (data.dir, raft.dir), or another node.id; if its disk is gone, run `penstock cluster replace %d` "+
		"against another node, then start it with an empty directory (docs/OPERATIONS.md, \"A disk is gone\")",
		e.NodeID, e.Known[:], e.Found[:], e.NodeID)
}

// OutdatedError says that the metadata log holds a command that this build does not
// know: the cluster was upgraded to a feature level beyond it.
type OutdatedError struct {
	Index      uint64 // of the command; 0: of a snapshot
	Needs, Has uint32 // feature levels
}

func (e *OutdatedError) Error() string {
	return fmt.Sprintf("cluster: the metadata log needs feature level %d at index %d, this build knows %d: run the release that the cluster was upgraded to",
		e.Needs, e.Index, e.Has)
}

// refusalError is a refusal of the other side of a hello, with its reason.
type refusalError struct {
	address string
	code    refusal
	reason  string
}

func (e *refusalError) Error() string {
	return fmt.Sprintf("cluster: %s refused the connection: %s", e.address, e.reason)
}

// Status returns err as a gRPC status with an Error detail, the form in which
// ClusterService answers. It returns nil for nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	me, ok := errors.AsType[*metadata.Error](err)
	if !ok {
		if _, isStatus := status.FromError(err); isStatus {
			return err
		}
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, err.Error())
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, err.Error())
		}
		me = &metadata.Error{Code: codeOf(err), Message: err.Error()}
	}
	detail := &pb.Error{
		Code: pb.ErrorCode(me.Code), Message: me.Message, Partition: -1,
		Retriable: retriable(me.Code), Indefinite: indefinite(me.Code),
	}
	st, detailErr := status.New(grpcCode(me.Code), err.Error()).WithDetails(detail)
	if detailErr != nil {
		return status.Error(grpcCode(me.Code), err.Error())
	}
	return st.Err()
}

// FromStatus is the inverse of Status: a *metadata.Error when err carries an
// Error detail, else err itself.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if e, ok := d.(*pb.Error); ok {
			return &metadata.Error{Code: metadata.Code(e.GetCode()), Message: e.GetMessage()}
		}
	}
	return err
}

func newError(code pb.ErrorCode, format string, args ...any) *metadata.Error {
	return &metadata.Error{Code: metadata.Code(code), Message: fmt.Sprintf(format, args...)}
}

// errorCode is the code of a typed error.
func errorCode(err error) (code pb.ErrorCode, typed bool) {
	e, ok := errors.AsType[*metadata.Error](err)
	if !ok {
		return 0, false
	}
	return pb.ErrorCode(e.Code), true
}

// identityConflict reports whether err says that this node is known with another
// storage id, whoever says so.
func identityConflict(err error) bool {
	_, conflict := errors.AsType[*IdentityConflictError](err)
	code, _ := errorCode(err)
	return conflict || code == pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT
}

func codeOf(err error) metadata.Code {
	_, conflict := errors.AsType[*IdentityConflictError](err)
	switch {
	case conflict:
		return metadata.Code(pb.ErrorCode_ERROR_CODE_IDENTITY_CONFLICT)
	case errors.Is(err, ErrNoController):
		return metadata.Code(pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER)
	case errors.Is(err, ErrClosed):
		return metadata.Code(pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN)
	case errors.Is(err, ErrOutcomeUnknown):
		return metadata.Code(pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT)
	default:
		return metadata.Code(pb.ErrorCode_ERROR_CODE_UNKNOWN)
	}
}

// retriable reports whether the same proposal may succeed later, unchanged.
func retriable(code metadata.Code) bool {
	switch pb.ErrorCode(code) {
	case pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT,
		pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN, pb.ErrorCode_ERROR_CODE_INVALID_UPDATE_VERSION:
		return true
	default:
		return false
	}
}

func indefinite(code metadata.Code) bool {
	switch pb.ErrorCode(code) {
	case pb.ErrorCode_ERROR_CODE_UNKNOWN, pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT:
		return true
	default:
		return false
	}
}

func grpcCode(code metadata.Code) codes.Code {
	switch pb.ErrorCode(code) {
	case pb.ErrorCode_ERROR_CODE_UNKNOWN_TOPIC, pb.ErrorCode_ERROR_CODE_UNKNOWN_PARTITION:
		return codes.NotFound
	case pb.ErrorCode_ERROR_CODE_TOPIC_EXISTS:
		return codes.AlreadyExists
	case pb.ErrorCode_ERROR_CODE_INVALID_TOPIC, pb.ErrorCode_ERROR_CODE_INVALID_PARTITIONS,
		pb.ErrorCode_ERROR_CODE_INVALID_REPLICATION_FACTOR, pb.ErrorCode_ERROR_CODE_INVALID_CONFIG,
		pb.ErrorCode_ERROR_CODE_INVALID_ARGUMENT, pb.ErrorCode_ERROR_CODE_REQUEST_TOO_LARGE:
		return codes.InvalidArgument
	case pb.ErrorCode_ERROR_CODE_NOT_CONTROLLER, pb.ErrorCode_ERROR_CODE_SHUTTING_DOWN:
		return codes.Unavailable
	case pb.ErrorCode_ERROR_CODE_REQUEST_TIMED_OUT:
		return codes.DeadlineExceeded
	case pb.ErrorCode_ERROR_CODE_UNKNOWN:
		return codes.Unknown
	case pb.ErrorCode_ERROR_CODE_UNSUPPORTED:
		return codes.Unimplemented
	default:
		return codes.FailedPrecondition
	}
}
