package kafka

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// recordedRequest is what a client of another's making once sent.
type recordedRequest struct {
	client       string
	key, version int16
	bytes        []byte // without the length
}

// rest is what comes behind the client's id.
func (r *recordedRequest) rest() []byte {
	n := int(int16(binary.BigEndian.Uint16(r.bytes[8:])))
	return r.bytes[10+max(n, 0):]
}

// recordedRequests reads what `make kafka-clients RECORD=1` wrote down.
func recordedRequests(tb testing.TB) []recordedRequest {
	tb.Helper()
	var out []recordedRequest
	for _, name := range []string{"testdata/requests.txt", "testdata/requests-admin.txt"} {
		out = append(out, readRecorded(tb, name)...)
	}
	return out
}

func readRecorded(tb testing.TB, name string) (out []recordedRequest) {
	tb.Helper()
	f, err := os.Open(name)
	require.NoError(tb, err)
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		var r recordedRequest
		var text string
		_, err := fmt.Sscanf(s.Text(), "%q %d %d %s", &r.client, &r.key, &r.version, &text)
		require.NoError(tb, err)
		r.bytes, err = hex.DecodeString(text)
		require.NoError(tb, err)
		out = append(out, r)
	}
	require.NoError(tb, s.Err())
	return out
}

// What clients of every language sent passes as it is, and of every API that is served
// there is something to fuzz with.
func TestRecordedRequestsAreWellFormed(t *testing.T) {
	apis := make(map[int16]*entry)
	list := table()
	for i := range list {
		apis[list[i].key] = &list[i]
	}
	clients, keys := make(map[string]bool), make(map[int16]bool)
	for _, r := range recordedRequests(t) {
		e := apis[r.key]
		require.NotNil(t, e, "%s asked for API %d, which is not advertised", r.client, r.key)
		clients[r.client], keys[r.key] = true, true
		if r.key == keyProduce || r.version > e.max {
			require.True(t, r.key == keyProduce || r.key == keyApiVersions, "%s asked for version %d of %s", r.client, r.version, e.name)
			continue
		}
		body := r.rest()
		if e.flexible(r.version) {
			require.Zero(t, body[0])
			body = body[1:]
		}
		require.NoError(t, e.shape.check(body, r.version, e.flexible(r.version)), "%s: %s version %d", r.client, e.name, r.version)
	}
	require.GreaterOrEqual(t, len(clients), 9)
	for key, e := range apis {
		require.True(t, keys[key], "no request of %s is recorded", e.name)
	}
}
