package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// AddressesChangedError says that most voters have other addresses now than
// those under which the quorum knows them. One voter may move, for the others
// elect a leader that takes the new address in; when most have moved at once
// they cannot find each other to agree on anything.
type AddressesChangedError struct {
	Known      []string // in the Raft configuration
	Configured []string // in Config.Voters
}

func (e *AddressesChangedError) Error() string {
	return fmt.Sprintf("cluster: the quorum knows its voters as %s, but they are configured as %s: "+
		"start most of them under the old addresses, and move one at a time",
		strings.Join(e.Known, ", "), strings.Join(e.Configured, ", "))
}

// move brings the Raft configuration up to date for a voter that comes back
// under another address.
type move struct {
	began time.Time // zero: nothing has moved
}

// step asks the controller to take the new address in, if there is one, and
// reports whether the configuration is still behind. It is called again and
// again; an error is final.
func (m *move) step(ctx context.Context, n *Node) (moved bool, err error) {
	from := n.knownAddress()
	if from == "" || from == n.cfg.AdvertiseRaft {
		return false, nil
	}
	if m.began.IsZero() {
		m.began = time.Now()
		n.logger.Info("this voter has another address than the quorum knows: asking the controller to take it in",
			"known", from, "address", n.cfg.AdvertiseRaft)
	}
	if err := n.tryJoin(ctx); err == nil || finalJoin(err) {
		return true, err
	}
	// A leader may still be on its way: old addresses can lead to the same nodes.
	if time.Since(m.began) > 3*n.cfg.SessionTimeout {
		return true, n.mostMoved()
	}
	return true, nil
}

// knownAddress is this node's address in the Raft configuration, "" when it is
// not in it.
func (n *Node) knownAddress() string {
	for _, s := range n.configuration() {
		if s.ID == serverID(n.storageID) {
			return string(s.Address)
		}
	}
	return ""
}

// mostMoved returns an *AddressesChangedError when no majority of the voters has
// kept its address and none of them leads.
func (n *Node) mostMoved() error {
	if _, leader := n.raftLeader(); leader != "" {
		return nil
	}
	configured := make(map[string]bool, len(n.cfg.Voters))
	e := &AddressesChangedError{}
	for _, v := range n.cfg.Voters {
		configured[v.Address] = true
		e.Configured = append(e.Configured, v.Address)
	}
	stayed := 0
	for _, s := range n.configuration() {
		if s.Suffrage != raft.Voter {
			continue
		}
		e.Known = append(e.Known, string(s.Address))
		if configured[string(s.Address)] {
			stayed++
		}
	}
	if stayed > len(e.Known)/2 {
		return nil
	}
	return e
}
