package kafka

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock/penstock/log/record"
)

// Options of a Door. What is zero takes the default that stands beside it.
type Options struct {
	Arena  *record.Arena
	Logger *slog.Logger
	// NumPartitions and ReplicationFactor are those of topics that name none; 0
	// leaves them to the broker.
	NumPartitions, ReplicationFactor int32
	// AutoCreate makes topics that clients ask for or write to.
	AutoCreate bool
	// DataDir is where the partitions lie, for DescribeLogDirs.
	DataDir string
	// Configs are what DescribeConfigs shows of the broker, beside what the door knows.
	Configs []BrokerConfig

	MaxConnections int           // 20,000
	IdleTimeout    time.Duration // connections.max.idle.ms; 10 min
	// StallTimeout cuts a client that takes nothing of its answer while others wait
	// for the memory that it holds; 10 s.
	StallTimeout time.Duration
}

// BrokerConfig is a config of a broker that means in Kafka what it means here. Type is
// boolean, int, long, double or string.
type BrokerConfig struct{ Name, Type, Value string }

func (o *Options) ensureDefaults() {
	if o.MaxConnections == 0 {
		o.MaxConnections = 20_000
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = 10 * time.Second
	}
}

// Door serves Kafka clients. Make it with New, give it listeners with Serve, and end
// it with Close. Before the broker can answer nobody should listen: a client takes a
// connection that is cut before its first answer for one that wants TLS or SASL.
type Door struct {
	opts     Options
	logger   *slog.Logger
	services Services
	apis     map[int16]*entry
	listed   []entry
	metrics  *metrics
	buffers  buffers
	intake   intake
	produced producedPool
	answers  answererPool

	//nolint:containedctx // The parent of what connections do; Close ends it.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections and the watcher

	mu        sync.Mutex // guards what follows
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool

	refused atomic.Int64 // connections above the limit since the last word about it
}

// New makes a door that calls services. Its watcher runs until Close.
func New(opts Options, services Services) *Door {
	opts.ensureDefaults()
	d := &Door{
		opts: opts, logger: opts.Logger, services: services,
		conns: make(map[*conn]struct{}), listeners: make(map[net.Listener]struct{}),
	}
	d.intake.believed, d.intake.gathered = opts.Arena.Limit()/4, opts.Arena.Limit()
	d.listed = table()
	d.apis = make(map[int16]*entry, len(d.listed))
	for i := range d.listed {
		d.apis[d.listed[i].key] = &d.listed[i]
	}
	d.metrics = newMetrics(d)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.wg.Go(d.watch)
	return d
}

// Serve accepts connections until the listener or the door is closed; the error
// is nil then. The name picks the addresses that clients of this listener are given.
func (d *Door) Serve(lis net.Listener, name string) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return lis.Close()
	}
	d.listeners[lis] = struct{}{}
	d.mu.Unlock()
	for {
		nc, err := lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of file descriptors, say: others go, and it goes on.
			d.logger.Warn("a Kafka connection could not be accepted", "error", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-d.ctx.Done():
				return nil
			}
		}
		d.admit(nc, name)
	}
}

const acceptPause = 50 * time.Millisecond

func (d *Door) admit(nc net.Conn, listener string) {
	c := newConn(d, nc, listener)
	d.mu.Lock()
	if d.closed || len(d.conns) >= d.opts.MaxConnections {
		if !d.closed {
			d.refused.Add(1)
			d.metrics.cut[cutOverLimit].Add(1)
		}
		d.mu.Unlock()
		_ = nc.Close()
		return
	}
	d.conns[c] = struct{}{}
	d.metrics.accepted.Add(1)
	d.wg.Go(c.run) // Under the lock: Close waits for it.
	d.mu.Unlock()
}

func (d *Door) forget(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// Connections is how many there are.
func (d *Door) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Close ends every connection and waits for them.
func (d *Door) Close() {
	d.mu.Lock()
	d.closed = true
	for lis := range d.listeners {
		_ = lis.Close()
	}
	for c := range d.conns {
		c.cut()
	}
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}

// watch cuts connections that are idle, that send too slowly, and that take
// nothing. One look at all of them a second is cheaper than a timer for each.
func (d *Door) watch() {
	ticker := time.NewTicker(min(time.Second, max(d.opts.StallTimeout/4, time.Millisecond)))
	defer ticker.Stop()
	for {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-d.ctx.Done():
			return
		}
		short := d.services.Fetcher.MemoryShort()
		conns := d.snapshot()
		d.relieve(now, conns)
		for _, c := range conns {
			if why := c.overdue(now, short); why != notCut {
				d.logger.Warn("a Kafka connection is cut: "+why.String(), "client", c.host, "client_id", *c.clientID.Load())
				d.metrics.cut[why].Add(1)
				c.cut()
			}
		}
		if n := d.refused.Swap(0); n > 0 {
			d.logger.Warn("Kafka connections were refused", "count", n, "limit", d.opts.MaxConnections)
		}
	}
}

func (d *Door) snapshot() []*conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*conn, 0, len(d.conns))
	for c := range d.conns {
		out = append(out, c)
	}
	return out
}

// hostPort splits an advertised address.
func hostPort(address string) (host string, port int32, ok bool) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, int32(n), err == nil
}
