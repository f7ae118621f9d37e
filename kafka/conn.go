package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/penstock/penstock/broker/api"
)

const (
	// maxFrame is Kafka's socket.request.max.bytes. A produce request is never in
	// memory as a whole.
	maxFrame = 100 << 20
	// maxBody bounds every other request.
	maxBody = 8 << 20
	// receiveGrace and receiveRate say how long a request may take to arrive.
	receiveGrace = 30 * time.Second
	receiveRate  = 64 << 10 // bytes a second
	// sendGrace is how long a client may take nothing of an answer at all.
	sendGrace = 2 * time.Minute
	// writeStep is how much is handed to the kernel at once: what it takes counts
	// as progress.
	writeStep = 256 << 10
)

// conn is one connection. Its goroutine reads request after request and works on
// one at a time, in order, as Kafka does. Only produce requests overlap: once
// appended they wait for their acknowledgements in answers, and the next request
// is read. Every other request waits until those before it are answered.
type conn struct {
	door     *Door
	net      net.Conn
	tcp      *net.TCPConn // the same; nil: something between it and TCP
	host     string       // of the client
	listener string
	source   source
	answers  answers
	cancel   context.CancelFunc
	records  bool              // Produce or Fetch was asked for
	names    map[string]string // topics written to, so that each request need not make the string again

	clientID atomic.Pointer[string]
	// Times in Unix nanoseconds, for the watcher. 0: not at that.
	due     atomic.Int64 // when what is being read must be there
	began   atomic.Int64 // when the request that is being read began to arrive
	sending atomic.Int64 // last progress of the answer that is being sent
	idle    atomic.Bool  // due is about the next request, not about the rest of one
}

// call is what a handler may know of a request beside its fields. Codes that go into
// an answer are counted on the way: c.code(e).
type call struct {
	*stats

	version  int16
	listener string
	clientID string
	host     string
	// patient: the connection has carried neither Produce nor Fetch, so that an answer
	// which comes late holds up nothing behind it.
	patient bool
}

func newConn(d *Door, nc net.Conn, listener string) *conn {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		host = nc.RemoteAddr().String()
	}
	c := &conn{door: d, net: nc, host: host, listener: listener, source: source{conn: nc, buffers: &d.buffers, intake: &d.intake}}
	c.tcp, _ = nc.(*net.TCPConn)
	c.answers.init(c)
	empty := ""
	c.clientID.Store(&empty)
	return c
}

// cut ends the connection from outside; its goroutines find out.
func (c *conn) cut() { _ = c.net.Close() }

// overdue says why the connection should be cut, if it should.
func (c *conn) overdue(now time.Time, memoryShort bool) cut {
	t := now.UnixNano()
	if due := c.due.Load(); due != 0 && t > due {
		switch {
		case !c.idle.Load():
			return cutSlow
		case !c.answers.waiting() && c.sending.Load() == 0:
			return cutIdle
		}
	}
	since := c.sending.Load()
	switch stalled := time.Duration(t - since); {
	case since == 0:
	case memoryShort && stalled > c.door.opts.StallTimeout:
		return cutStalledShort
	case stalled > sendGrace:
		return cutStalled
	}
	return notCut
}

func (c *conn) run() {
	ctx, cancel := context.WithCancel(c.door.ctx)
	c.cancel = cancel
	err := c.serve(ctx)
	_ = c.net.Close() // what the writer of answers waits for fails now
	cancel()
	c.answers.close()
	c.source.drop()
	c.source.release()
	c.door.forget(c)
	if errors.Is(err, errMalformed) {
		c.door.metrics.cut[cutMalformed].Add(1)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
		c.door.logger.Debug("a Kafka connection ended", "client", c.host, "client_id", *c.clientID.Load(), "error", err)
	}
}

// serve answers requests until one fails; the error is never nil.
func (c *conn) serve(ctx context.Context) error {
	for {
		if err := c.answers.room(); err != nil {
			return err
		}
		if c.source.buffered() {
			// The beginning of a request came together with the one before.
			c.due.Store(time.Now().Add(receiveGrace).UnixNano())
		} else {
			c.idle.Store(true)
			c.due.Store(time.Now().Add(c.door.opts.IdleTimeout).UnixNano())
		}
		if err := c.source.next(maxFrame); err != nil {
			return err
		}
		now := time.Now()
		c.idle.Store(false)
		c.began.Store(now.UnixNano())
		c.due.Store(now.Add(receiveGrace + time.Duration(c.source.left)*time.Second/receiveRate).UnixNano())
		if err := c.request(ctx); err != nil {
			return err
		}
	}
}

// received ends the watch over a request that has arrived.
func (c *conn) received(h *header) {
	c.due.Store(0)
	c.began.Store(0)
	c.source.release()
	h.arrived = time.Now()
}

// header is what precedes every request.
type header struct {
	key, version int16
	correlation  int32
	entry        *entry
	arrived      time.Time // as a whole
}

// request reads a request and answers it, or leaves its answer to answers.
func (c *conn) request(ctx context.Context) error {
	h, err := c.header()
	if err != nil {
		return err
	}
	c.records = c.records || h.key == keyProduce || h.key == keyFetch
	if h.key == keyProduce && h.version >= h.entry.min {
		return c.produce(ctx, &h)
	}
	if h.version > h.entry.max || h.version < h.entry.min {
		if h.key != keyApiVersions {
			return malformed("%s version %d; versions %d to %d are served", h.entry.name, h.version, h.entry.min, h.entry.max)
		}
		// Whatever the version, this request is answered (KIP-511).
		if err := c.source.skip(c.source.left); err != nil {
			return err
		}
		c.received(&h)
		resp := listVersions(c.door.listed)
		resp.ErrorCode = h.entry.stats.fail(kerr.UnsupportedVersion)
		return c.reply(&h, resp) // in version 0, which every client reads
	}
	req := h.entry.request()
	req.SetVersion(h.version)
	if err := c.decode(&h, req); err != nil {
		return err
	}
	c.received(&h)
	if err := c.answers.drain(); err != nil {
		return err
	}
	if h.key == keyFetch {
		return c.fetch(ctx, &h, req)
	}
	call := &call{stats: h.entry.stats, version: h.version, listener: c.listener, clientID: *c.clientID.Load(), host: c.host, patient: !c.records}
	if h.key != keyJoinGroup && h.key != keySyncGroup { // these wait for other members
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, adminTimeout)
		defer cancel()
	}
	resp, err := h.entry.handle(ctx, c.door, call, req)
	if err != nil {
		return err
	}
	resp.SetVersion(h.version)
	return c.reply(&h, resp)
}

// header reads the request's header. Its version decides whether there are
// tagged fields in it; the client's id is never compact.
func (c *conn) header() (h header, err error) {
	size := len(c.source.size) + c.source.left
	b, err := c.source.take(8)
	if err != nil {
		return h, err
	}
	h.key, h.version = int16(binary.BigEndian.Uint16(b)), int16(binary.BigEndian.Uint16(b[2:]))
	h.correlation = int32(binary.BigEndian.Uint32(b[4:]))
	if h.entry = c.door.apis[h.key]; h.entry == nil {
		return h, malformed("API key %d is not served", h.key)
	}
	h.entry.stats.began(size)
	if h.version > h.entry.max {
		return h, nil // its header may be another one
	}
	id, null, err := c.source.text(false)
	if err != nil {
		return h, err
	}
	if old := c.clientID.Load(); !null && string(id) != *old {
		text := string(id)
		c.clientID.Store(&text)
	}
	if h.entry.flexible(h.version) {
		_, err = c.source.tags(maxItems)
	}
	return h, err
}

// decode reads the body of a request that is not the hot path.
func (c *conn) decode(h *header, req kmsg.Request) error {
	if c.source.left > maxBody {
		return malformed("a request of %d bytes; at most %d are accepted", c.source.left, maxBody)
	}
	body, err := c.source.body()
	if err != nil {
		return err
	}
	if err := h.entry.shape.check(body, h.version, h.entry.flexible(h.version)); err != nil {
		return err
	}
	if err := req.ReadFrom(body); err != nil {
		return malformed("%w", err)
	}
	return nil
}

// reply sends an answer of the goroutine that reads: nothing else is being sent.
func (c *conn) reply(h *header, resp kmsg.Response) error {
	b := endFrame(resp.AppendTo(beginFrame(make([]byte, 0, 256), h)), 0)
	if err := c.write(b); err != nil {
		return err
	}
	h.entry.stats.answered(h.arrived, len(b))
	return nil
}

// beginFrame appends the header of an answer, its length left open. The header of
// an ApiVersions answer never has tagged fields: clients read it before they know
// what the broker speaks.
func beginFrame(b []byte, h *header) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.correlation))
	if h.key != keyApiVersions && h.entry.flexible(h.version) {
		b = append(b, 0)
	}
	return b
}

// endFrame fills in the length of the frame that begins at from.
func endFrame(b []byte, from int) []byte {
	binary.BigEndian.PutUint32(b[from:], uint32(len(b)-from-4))
	return b
}

// write sends bytes, noting progress.
func (c *conn) write(b []byte) error {
	defer c.sending.Store(0)
	for len(b) > 0 {
		c.sending.Store(time.Now().UnixNano())
		n, err := c.net.Write(b[:min(len(b), writeStep)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// writeVector sends buffers that lie apart with as few calls as there may be: no
// little piece goes alone because the next one is large. It takes v apart.
func (c *conn) writeVector(v net.Buffers) error {
	defer c.sending.Store(0)
	pieces := make(net.Buffers, 0, len(v))
	for len(v) > 0 {
		pieces = pieces[:0]
		for room := writeStep; room > 0 && len(v) > 0; {
			n := min(room, len(v[0]))
			pieces = append(pieces, v[0][:n])
			room -= n
			if v[0] = v[0][n:]; len(v[0]) == 0 {
				v = v[1:]
			}
		}
		c.sending.Store(time.Now().UnixNano())
		step := pieces
		if _, err := step.WriteTo(c.net); err != nil {
			return err
		}
	}
	return nil
}

// writeAnswer sends buffers as writeVector does, and in place of each nil among them the
// next of files.
func (c *conn) writeAnswer(v net.Buffers, files []api.FileRange) error {
	for _, file := range files {
		at := slices.IndexFunc(v, func(b []byte) bool { return b == nil })
		if err := c.writeVector(v[:at]); err != nil {
			return err
		}
		if err := c.writeFile(file); err != nil {
			return err
		}
		v = v[at+1:]
	}
	return c.writeVector(v)
}

// writeFile sends a range of a file, noting progress.
func (c *conn) writeFile(file api.FileRange) error {
	defer c.sending.Store(0)
	for at, size := 0, file.Len(); at < size; {
		c.sending.Store(time.Now().UnixNano())
		n, err := file.SendTo(c.tcp, at, min(size-at, writeStep))
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}
