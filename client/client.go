package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/log/record"
	"github.com/penstock/penstock/proto/wire"
)

// Client holds the connections to a cluster and what is known of it. Producers,
// consumers and the Admin made from it share both. It is safe for concurrent use.
type Client struct {
	cfg       config
	bootstrap []string
	arena     *record.Arena
	codec     *wire.Codec
	meta      *metadata

	life context.Context //nolint:containedctx // ends when Close begins; parent of every goroutine's context
	stop context.CancelFunc
	wg   sync.WaitGroup // the client's own goroutines

	mu           sync.Mutex // guards what follows
	closed       bool
	conns        map[string]*grpc.ClientConn // by address
	coordinators map[string]string           // group -> address
	users        map[closer]struct{}         // producers and consumers not closed yet
}

// closer is a producer or a consumer, which Close of the client ends.
type closer interface{ abandon() }

// New makes a client that finds the cluster through any of brokers (host:port). It
// checks the options, all of them, and connects to nothing: the first call that
// needs the cluster does, and fails with a *BootstrapError when no broker answers.
func New(brokers []string, opts ...Opt) (*Client, error) {
	cfg := defaultConfig()
	for _, o := range opts {
		o.apply(&cfg)
	}
	if err := cfg.validate(brokers); err != nil {
		return nil, err
	}
	arena := record.NewArena(cfg.arenaBytes)
	life, stop := context.WithCancel(context.Background())
	c := &Client{
		cfg:          cfg,
		bootstrap:    append([]string(nil), brokers...),
		arena:        arena,
		codec:        wire.NewCodec(arena),
		life:         life,
		stop:         stop,
		conns:        map[string]*grpc.ClientConn{},
		coordinators: map[string]string{},
		users:        map[closer]struct{}{},
	}
	c.meta = newMetadata(c)
	c.wg.Go(func() { c.meta.run(life) })
	return c, nil
}

// Close ends the client and all it made, without waiting for records that were
// not acknowledged: close producers and consumers first to settle them. It waits
// for the client's goroutines.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	users := c.users
	c.users = map[closer]struct{}{}
	c.mu.Unlock()

	for u := range users {
		u.abandon()
	}
	c.stop()
	c.wg.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	c.conns = nil
	return errors.Join(errs...)
}

// use registers u for Close; false: the client is closed.
func (c *Client) use(u closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.users[u] = struct{}{}
	return true
}

func (c *Client) unuse(u closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.users, u)
}

// conn returns the connection to an address, made when first asked for. gRPC
// connects, and connects again, by itself.
func (c *Client) conn(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil || c.life.Err() != nil {
		return nil, ErrClosed
	}
	if conn := c.conns[address]; conn != nil {
		return conn, nil
	}
	creds := insecure.NewCredentials()
	if c.cfg.tls != nil {
		creds = credentials.NewTLS(c.cfg.tls)
	}
	opts := append(wire.DialOptions(c.codec),
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent(c.cfg.clientID),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: c.cfg.backoffMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: c.cfg.backoffMax},
			MinConnectTimeout: c.cfg.dialTimeout,
		}),
	)
	if c.cfg.dialer != nil {
		opts = append(opts, grpc.WithContextDialer(c.cfg.dialer))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		return nil, err
	}
	c.conns[address] = conn
	return conn, nil
}

// call runs one unary call to one broker, bounded by the request timeout, and
// types its error.
func (c *Client) call(ctx context.Context, address string, do func(context.Context, *grpc.ClientConn) error) error {
	conn, err := c.conn(address)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, c.cfg.requestTimeout)
	defer cancel()
	if err := do(bounded, conn); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fromRPC(err, address)
	}
	return nil
}

// hedgeDelay is how long one broker is waited for before the next is asked too, so
// that a broker that hangs costs this and not a timeout.
const hedgeDelay = 200 * time.Millisecond

// ask runs a call that any broker can answer, and may see more than one of them,
// on one broker after the other until one answers. The answer may be a refusal:
// only transport failures and brokers that are not ready move on to the next.
func ask[T any](ctx context.Context, c *Client, do func(ctx context.Context, conn *grpc.ClientConn, address string) (T, error)) (T, error) {
	addresses := c.addresses()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	type outcome struct {
		address string
		value   T
		err     error
	}
	var none T
	outcomes := make(chan outcome, len(addresses))
	next := 0
	silent := map[string]bool{} // asked, no answer yet
	start := func() {
		address := addresses[next]
		next++
		silent[address] = true
		wg.Go(func() {
			o := outcome{address: address}
			o.err = c.call(ctx, address, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				o.value, err = do(ctx, conn, address)
				return err
			})
			outcomes <- o
		})
	}
	hedge := time.NewTicker(hedgeDelay)
	defer hedge.Stop()
	start()
	var failures []BrokerFailure
	for {
		select {
		case o := <-outcomes:
			if o.err == nil || ctx.Err() == nil && !moveOn(o.err) {
				return o.value, o.err
			}
			delete(silent, o.address)
			failures = append(failures, BrokerFailure{o.address, o.err})
			if len(failures) == len(addresses) {
				return none, &BootstrapError{Failures: failures}
			}
			if next < len(addresses) {
				start()
			}
		case <-hedge.C:
			if next < len(addresses) {
				start()
			}
		case <-ctx.Done():
			for address := range silent {
				failures = append(failures, BrokerFailure{address, fmt.Errorf("no answer: %w", context.Cause(ctx))})
			}
			return none, &BootstrapError{Failures: failures}
		}
	}
}

// moveOn reports whether another broker may do better.
func moveOn(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case CodeUnknown, CodeShuttingDown, CodeOverloaded:
		return e.Retriable
	default:
		return false
	}
}

// addresses lists the brokers to ask: the known ones by chance, then those the
// client was made with.
func (c *Client) addresses() []string {
	var out []string
	seen := map[string]bool{}
	add := func(address string) {
		if address != "" && !seen[address] {
			seen[address] = true
			out = append(out, address)
		}
	}
	known := c.meta.snapshot().live
	for _, i := range rand.Perm(len(known)) {
		add(known[i])
	}
	for _, i := range rand.Perm(len(c.bootstrap)) {
		add(c.bootstrap[i])
	}
	return out
}

// backoff draws the pause before the n-th retry, n from 1.
func (c *Client) backoff(n int) time.Duration {
	d := c.cfg.backoffMin << min(max(n-1, 0), 16)
	if d <= 0 || d > c.cfg.backoffMax {
		d = c.cfg.backoffMax
	}
	return d/2 + rand.N(d/2+1)
}

// sleep waits for d, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patient bounds a call that retries, when its caller did not.
func (c *Client) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, 3*c.cfg.requestTimeout)
}

// retry runs do until it succeeds, fails for good, or ctx ends; then the last
// failure is returned beside the context's error.
func (c *Client) retry(ctx context.Context, again func(error) bool, do func(context.Context) error) error {
	for n := 1; ; n++ {
		err := do(ctx)
		if err == nil || errors.Is(err, ErrClosed) || !again(err) {
			return err
		}
		if ctx.Err() != nil || sleep(ctx, c.backoff(n)) != nil {
			return gaveUp(err, ctx.Err())
		}
	}
}

// gaveUp is the last failure of a call that was tried until its context ended.
func gaveUp(err, ended error) error {
	if ended == nil || errors.Is(err, ended) {
		return err
	}
	return fmt.Errorf("%w; gave up: %w", err, ended)
}
