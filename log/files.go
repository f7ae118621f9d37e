package log

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/penstock/penstock/internal/vfs"
	"github.com/penstock/penstock/log/record"
)

// Names in a data directory and in a partition's folder.
const (
	lockName     = "lock"
	markerName   = "clean-stop"
	metadataName = "partition.metadata"
	epochsName   = "leader-epoch-checkpoint"
	resetName    = "reset"

	logExt      = ".log"
	indexExt    = ".index"
	timeExt     = ".timeindex"
	snapshotExt = ".snapshot"
	tornExt     = ".torn"
	temporary   = ".tmp"
	deletedExt  = ".deleted"
	strayExt    = ".stray"
	damagedExt  = ".damaged"

	markerMagic = "PSCS"
	markerSize  = 20
)

// offsetName is how Kafka names files after offsets: 20 digits.
func offsetName(off record.Offset) string { return fmt.Sprintf("%020d", off) }

// parseOffsetName is its reverse; ok is false for other names.
func parseOffsetName(name, ext string) (off record.Offset, ok bool) {
	digits, found := strings.CutSuffix(name, ext)
	if !found || len(digits) != 20 || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return record.Offset(n), err == nil
}

func folderName(topic string, partition int32) string {
	return topic + "-" + strconv.Itoa(int(partition))
}

// parseFolderName splits at the last dash: topics may hold dashes.
func parseFolderName(name string) (topic string, partition int32, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || folderName(name[:i], int32(n)) != name {
		return "", 0, false
	}
	return name[:i], int32(n), true
}

// encodeMetadata is Kafka's partition.metadata, which ends without a newline; the
// id in base64url as Kafka prints ids.
func encodeMetadata(id [16]byte) []byte {
	return []byte("version: 0\ntopic_id: " + base64.RawURLEncoding.EncodeToString(id[:]))
}

func decodeMetadata(b []byte) (id [16]byte, err error) {
	version, rest, _ := strings.Cut(string(b), "\n")
	if version != "version: 0" {
		return id, fmt.Errorf("first line is %q, want \"version: 0\"", clip(version))
	}
	line, _, _ := strings.Cut(rest, "\n")
	text, ok := strings.CutPrefix(line, "topic_id: ")
	if !ok {
		return id, fmt.Errorf("second line is %q, want topic_id", clip(line))
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("topic id %q is not 16 bytes in base64url", clip(text))
	}
	return [16]byte(raw), nil
}

func parseOffset(text string) (record.Offset, error) {
	off, err := strconv.ParseInt(text, 10, 64)
	if err != nil || off < 0 {
		return 0, fmt.Errorf("%q is not an offset", clip(text))
	}
	return record.Offset(off), nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

func encodeMarker(brokerEpoch int64) []byte {
	b := append([]byte(markerMagic), 0, 1, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(brokerEpoch))
	return binary.BigEndian.AppendUint32(b, castagnoli(b))
}

func decodeMarker(b []byte) (brokerEpoch int64, err error) {
	if len(b) != markerSize || string(b[:4]) != markerMagic || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0, errors.New("not a clean-stop marker")
	}
	if castagnoli(b[:16]) != binary.BigEndian.Uint32(b[16:]) {
		return 0, errors.New("clean-stop marker has a wrong CRC")
	}
	return int64(binary.BigEndian.Uint64(b[8:])), nil
}

// makeFolders makes a data directory and the folders above it that are missing,
// durably. Which of them an earlier process made, and died before it had synced
// them, cannot be told: all above are synced, until there is a lock file in the
// directory, which comes next.
func makeFolders(fsys vfs.FS, path string) error {
	f, err := fsys.Open(filepath.Join(path, lockName))
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fsys.Mkdir(path); err != nil {
		return err
	}
	for at := filepath.Clean(path); at != filepath.Dir(at); at = filepath.Dir(at) {
		// Folders that we may not read are not ours, and were there before.
		if err := fsys.SyncFolder(filepath.Dir(at)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

// readFile reads a whole file; bounded by what is there.
func readFile(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := readAll(f)
	return b, errors.Join(err, f.Close())
}

func readAll(f vfs.File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// overwrite writes b at the beginning of an existing file, which keeps its
// length if it is longer, and syncs it.
func overwrite(fsys vfs.FS, name string, b []byte) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Datasync()
	}
	return errors.Join(err, f.Close())
}

// refill gives a file, which may exist, the content b and syncs it, not its
// folder. Bytes that do not change are never missing meanwhile; the first same are
// known to be there.
func refill(fsys vfs.FS, name string, b []byte, same int) error {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return create(fsys, name, b)
	}
	if err != nil {
		return err
	}
	if len(b) > same {
		_, err = f.WriteAt(b[same:], int64(same))
	}
	if err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil {
		err = f.Datasync()
	}
	return errors.Join(err, f.Close())
}

// create writes a new file and syncs it, not its folder.
func create(fsys vfs.FS, name string, b []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Datasync()
	}
	return errors.Join(err, f.Close())
}

// replace puts b under a name in one step: the old content or the new one
// survives, never a mixture.
func replace(fsys vfs.FS, name string, b []byte) error {
	if err := create(fsys, name+temporary, b); err != nil {
		return err
	}
	if err := fsys.Rename(name+temporary, name); err != nil {
		return err
	}
	return fsys.SyncFolder(filepath.Dir(name))
}
