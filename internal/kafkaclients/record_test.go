package kafkaclients

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorded is where the requests of clients are kept, one a line: client id, API key,
// version, and the whole of it in hexadecimal, each test's in a file of its own. Package
// kafka fuzzes with them.
func recorded(test string) string {
	return "../../kafka/testdata/requests" + map[string]string{"TestClients": "", "TestAdmin": "-admin"}[test] + ".txt"
}

// recorder stands between the clients and the nodes and writes down what they ask.
type recorder struct {
	into  string
	mu    sync.Mutex // guards what follows
	lines map[request][]byte
}

// request tells those apart that are worth keeping.
type request struct {
	client       string
	key, version int16
}

const maxRecorded = 2 << 10

var numbers = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+`)

// note keeps the longest request of a kind that is short enough.
func (r *recorder) note(frame []byte) {
	if len(frame) < 10 || len(frame) > maxRecorded {
		return
	}
	q := request{key: int16(binary.BigEndian.Uint16(frame)), version: int16(binary.BigEndian.Uint16(frame[2:]))}
	if n := int(int16(binary.BigEndian.Uint16(frame[8:]))); n > 0 && n <= len(frame)-10 {
		q.client = numbers.ReplaceAllString(string(frame[10:10+n]), "N")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.lines[q]; len(frame) > len(old) {
		r.lines[q] = slices.Clone(frame)
	}
}

// between forwards connections, each request as a whole.
func (r *recorder) between(t *testing.T, listen, target string) {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", listen)
	require.NoError(t, err)
	t.Cleanup(func() { _ = lis.Close() })
	go func() { // Ends with the listener; its connections with their clients.
		for {
			client, err := lis.Accept()
			if err != nil {
				return
			}
			broker, err := new(net.Dialer).DialContext(t.Context(), "tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(client, broker)
				_ = client.Close()
			}()
			go func() {
				_ = r.forward(broker, client)
				_ = broker.Close()
			}()
		}
	}()
}

func (r *recorder) forward(broker io.Writer, client io.Reader) error {
	in := bufio.NewReader(client)
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return err
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		r.note(frame)
		if _, err := broker.Write(append(size[:], frame...)); err != nil {
			return err
		}
	}
}

// save writes them in an order that does not change.
func (r *recorder) save(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var kinds []request
	for q := range r.lines {
		kinds = append(kinds, q)
	}
	slices.SortFunc(kinds, func(a, b request) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.version, b.version), cmp.Compare(a.client, b.client))
	})
	var b strings.Builder
	for _, q := range kinds {
		fmt.Fprintf(&b, "%q %d %d %s\n", q.client, q.key, q.version, hex.EncodeToString(r.lines[q]))
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(r.into), 0o755))
	require.NoError(t, os.WriteFile(r.into, []byte(b.String()), 0o644))
}
