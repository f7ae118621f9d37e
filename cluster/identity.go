package cluster

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock/penstock/cluster/metadata"
)

const (
	identityFile    = "identity"
	identityVersion = 1
	// maxIdentityFile is far above what a real one has; a longer file is not ours.
	maxIdentityFile = 4096
)

// identity is who this node is: kept in Dir/identity, one `key: value` a line.
//
//	version: 1
//	node.id: 1
//	storage.id: 8f14e45fceea167a5a36dedd4bea2543
//	cluster.id: 3q2-7wAAQACAAAAAAAAAAA
//
// node.id is written at the first start, so that a directory is never taken
// over by another node. storage.id is drawn at the first start and names the
// bytes: a node whose directory was lost comes back with another one, and is
// not mistaken for the replica it was. cluster.id is absent until the node has
// applied it from the metadata log.
type identity struct {
	nodeID    int32
	storageID metadata.ID
	clusterID string
}

// loadIdentity reads the identity in dir, or makes and stores one. hasState
// says that dir holds Raft state, which must not come without an identity.
func loadIdentity(dir string, nodeID int32, hasState bool) (identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if hasState {
			return identity{}, fmt.Errorf("%w: %s is missing beside the raft log: the directory was not copied whole", ErrDataLost, path)
		}
		id := identity{nodeID: nodeID}
		if _, err := rand.Read(id.storageID[:]); err != nil {
			return identity{}, fmt.Errorf("draw a storage id: %w", err)
		}
		return id, id.store(dir)
	}
	if err != nil {
		return identity{}, fmt.Errorf("read identity: %w", err)
	}
	id, err := parseIdentity(data)
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", path, err)
	}
	if id.nodeID != nodeID {
		return identity{}, &NodeIDMismatchError{Dir: dir, Recorded: id.nodeID, Configured: nodeID}
	}
	if id.clusterID != "" && !hasState {
		return identity{}, fmt.Errorf("%w: %s names cluster %s, but there is no raft log beside it", ErrDataLost, path, id.clusterID)
	}
	return id, nil
}

// parseIdentity decodes an identity file. Unknown keys are errors: a file of a
// later version is not half understood.
func parseIdentity(data []byte) (identity, error) {
	if len(data) > maxIdentityFile {
		return identity{}, fmt.Errorf("%d bytes is not an identity", len(data))
	}
	var id identity
	seen := make(map[string]bool)
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		key, value, ok := strings.Cut(sc.Text(), ": ")
		if !ok {
			return identity{}, fmt.Errorf("line %q is not `key: value`", sc.Text())
		}
		if seen[key] {
			return identity{}, fmt.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if err := id.set(key, value); err != nil {
			return identity{}, err
		}
	}
	if err := sc.Err(); err != nil {
		return identity{}, err
	}
	for _, key := range []string{"version", "node.id", "storage.id"} {
		if !seen[key] {
			return identity{}, fmt.Errorf("%s is missing", key)
		}
	}
	return id, nil
}

func (id *identity) set(key, value string) error {
	switch key {
	case "version":
		if value != strconv.Itoa(identityVersion) {
			return fmt.Errorf("version %s: this program knows version %d", value, identityVersion)
		}
	case "node.id":
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 1 {
			return fmt.Errorf("node.id %q: must be a number of at least 1", value)
		}
		id.nodeID = int32(n)
	case "storage.id":
		storageID, ok := parseHexID(value)
		if !ok {
			return fmt.Errorf("storage.id %q: must be %d hexadecimal digits", value, 2*len(id.storageID))
		}
		id.storageID = storageID
	case "cluster.id":
		if value == "" || len(value) > maxClusterID {
			return fmt.Errorf("cluster.id %q: must have 1 to %d characters", value, maxClusterID)
		}
		id.clusterID = value
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return nil
}

func (id *identity) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version: %d\nnode.id: %d\nstorage.id: %x\n", identityVersion, id.nodeID, id.storageID[:])
	if id.clusterID != "" {
		fmt.Fprintf(&b, "cluster.id: %s\n", id.clusterID)
	}
	return b.Bytes()
}

// store replaces the file in one step: after a power cut it is the old one or
// the new one.
func (id *identity) store(dir string) error {
	path := filepath.Join(dir, identityFile)
	tmp := path + ".tmp"
	if err := writeSynced(tmp, id.encode()); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// parseHexID takes the 32 hexadecimal digits of an id.
func parseHexID(s string) (id metadata.ID, ok bool) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(id) {
		return metadata.ID{}, false
	}
	copy(id[:], raw)
	return id, true
}
