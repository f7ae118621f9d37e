package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Opt configures a Client. Options are made by the With functions of this
// package only.
type Opt interface{ apply(*config) }

type opt func(*config)

func (o opt) apply(c *config) { o(c) }

// config is what the options of a Client set.
type config struct {
	clientID       string
	rack           string
	tls            *tls.Config
	dialer         func(context.Context, string) (net.Conn, error)
	logger         *slog.Logger
	hooks          hooks
	unknownHooks   []string
	requestTimeout time.Duration
	dialTimeout    time.Duration
	backoffMin     time.Duration
	backoffMax     time.Duration
	metadataMaxAge time.Duration
	unknownWait    time.Duration
	arenaBytes     int64
}

func defaultConfig() config {
	return config{
		clientID:       "penstock-go",
		logger:         slog.New(slog.DiscardHandler),
		requestTimeout: 10 * time.Second,
		dialTimeout:    3 * time.Second,
		backoffMin:     25 * time.Millisecond,
		backoffMax:     time.Second,
		metadataMaxAge: time.Minute,
		unknownWait:    3 * time.Second,
		arenaBytes:     64 << 20,
	}
}

// WithClientID names the application in the brokers' descriptions of groups and
// in their logs. Default "penstock-go".
func WithClientID(id string) Opt { return opt(func(c *config) { c.clientID = id }) }

// WithRack says where the client runs; assignors may use it.
func WithRack(rack string) Opt { return opt(func(c *config) { c.rack = rack }) }

// WithTLS encrypts all connections. Default: plain text.
func WithTLS(t *tls.Config) Opt { return opt(func(c *config) { c.tls = t }) }

// WithDialer replaces the way connections are made. The address is host:port.
func WithDialer(dial func(ctx context.Context, address string) (net.Conn, error)) Opt {
	return opt(func(c *config) { c.dialer = dial })
}

// WithLogger lets the client tell what it recovers from: lost streams,
// rebalances, retries. Default: silence.
func WithLogger(logger *slog.Logger) Opt { return opt(func(c *config) { c.logger = logger }) }

// WithHooks adds hooks; see Hook.
func WithHooks(hooks ...Hook) Opt {
	return opt(func(c *config) {
		for _, h := range hooks {
			if !c.hooks.add(h) {
				c.unknownHooks = append(c.unknownHooks, fmt.Sprintf("%T", h))
			}
		}
	})
}

// WithRequestTimeout bounds one call to one broker, and how long a broker may wait
// for its replicas. Default 10 s.
func WithRequestTimeout(d time.Duration) Opt {
	return opt(func(c *config) { c.requestTimeout = d })
}

// WithDialTimeout bounds one attempt at a connection. Default 3 s.
func WithDialTimeout(d time.Duration) Opt { return opt(func(c *config) { c.dialTimeout = d }) }

// WithRetryBackoff sets the pause before a retry: minimum, doubled with every
// failure in a row up to maximum, each drawn from the upper half of its interval.
// Default 25 ms to 1 s.
func WithRetryBackoff(minimum, maximum time.Duration) Opt {
	return opt(func(c *config) { c.backoffMin, c.backoffMax = minimum, maximum })
}

// WithMetadataMaxAge sets how old the client's view of the cluster may become
// when nothing goes wrong. Default 1 min.
func WithMetadataMaxAge(d time.Duration) Opt {
	return opt(func(c *config) { c.metadataMaxAge = d })
}

// WithUnknownTopicWait sets for how long a topic that the brokers do not know is
// looked for: it may just have been created elsewhere. Default 3 s.
func WithUnknownTopicWait(d time.Duration) Opt {
	return opt(func(c *config) { c.unknownWait = d })
}

func (c *config) validate(brokers []string) error {
	var f faults
	f.check(len(brokers) > 0, "no broker address given; at least one host:port is needed")
	for _, b := range brokers {
		if _, port, err := net.SplitHostPort(b); err != nil || port == "" {
			f.add("broker address %q is not host:port", b)
		}
	}
	for _, h := range c.unknownHooks {
		f.add("hook %s implements no Hook interface", h)
	}
	f.check(c.logger != nil, "logger is nil")
	f.positive("request timeout", c.requestTimeout)
	f.positive("dial timeout", c.dialTimeout)
	f.positive("minimum retry backoff", c.backoffMin)
	f.check(c.backoffMax >= c.backoffMin, "maximum retry backoff %s is below the minimum %s", c.backoffMax, c.backoffMin)
	f.positive("metadata max age", c.metadataMaxAge)
	f.check(c.unknownWait >= 0, "unknown topic wait %s is negative", c.unknownWait)
	return f.err()
}

// faults collects what is wrong with a set of options.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f *faults) check(ok bool, format string, args ...any) {
	if !ok {
		f.add(format, args...)
	}
}

func (f *faults) positive(name string, d time.Duration) {
	f.check(d > 0, "%s %s is not positive", name, d)
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &ConfigError{Faults: f}
}
