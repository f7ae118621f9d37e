package cluster

import (
	"context"
	"io"
	stdlog "log" //nolint:depguard // hclog's interface names it.
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter is how long the same message of Raft is kept back: a peer that is
// down is an error several times a second.
const repeatAfter = 30 * time.Second

// raftLogger passes the library's messages to slog. Raft calls much a warning
// or an error that is an ordinary part of an election or of a peer's restart,
// so all but its errors are for debugging, errors are warnings, and repetitions
// are held back; what people must know is logged by this package.
type raftLogger struct {
	logger *slog.Logger
	name   string
	last   *repetitions
}

// repetitions knows when each message was last let through. The messages are
// literals of the library, so there are few.
type repetitions struct {
	mu    sync.Mutex // guards what follows
	seen  map[string]time.Time
	quiet bool // hold all: what breaks while a node stops was meant to
}

func newRaftLogger(logger *slog.Logger) *raftLogger {
	return &raftLogger{
		logger: logger.With("component", "raft"), name: "raft",
		last: &repetitions{seen: make(map[string]time.Time)},
	}
}

func (r *repetitions) hold(msg string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.seen[msg]; r.quiet || ok && now.Sub(at) < repeatAfter {
		return true
	}
	r.seen[msg] = now
	return false
}

// hush holds back what Raft has to say about its own end.
func (l *raftLogger) hush() {
	l.last.mu.Lock()
	defer l.last.mu.Unlock()
	l.last.quiet = true
}

func sunk(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.NoLevel, hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Off:
		return slog.LevelDebug
	}
	return slog.LevelDebug
}

func (l *raftLogger) enabled(level hclog.Level) bool {
	return l.logger.Enabled(context.Background(), sunk(level))
}

// Log is part of hclog.Logger, as are all methods below.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	if !l.enabled(level) || level >= hclog.Warn && l.last.hold(msg, time.Now()) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = f[1:]
		}
	}
	l.logger.Log(context.Background(), sunk(level), msg, args...)
}

func (l *raftLogger) Trace(string, ...any)           {}
func (l *raftLogger) Debug(msg string, args ...any)  { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)   { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)   { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any)  { l.Log(hclog.Error, msg, args...) }
func (l *raftLogger) IsTrace() bool                  { return false }
func (l *raftLogger) IsDebug() bool                  { return l.enabled(hclog.Debug) }
func (l *raftLogger) IsInfo() bool                   { return l.enabled(hclog.Info) }
func (l *raftLogger) IsWarn() bool                   { return l.enabled(hclog.Warn) }
func (l *raftLogger) IsError() bool                  { return l.enabled(hclog.Error) }
func (l *raftLogger) ImpliedArgs() []any             { return nil }
func (l *raftLogger) Name() string                   { return l.name }
func (l *raftLogger) Named(string) hclog.Logger      { return l }
func (l *raftLogger) ResetNamed(string) hclog.Logger { return l }
func (l *raftLogger) SetLevel(hclog.Level)           {}
func (l *raftLogger) GetLevel() hclog.Level          { return hclog.Debug }

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{logger: l.logger.With(args...), name: l.name, last: l.last}
}

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *stdlog.Logger {
	return slog.NewLogLogger(l.logger.Handler(), slog.LevelDebug)
}

func (l *raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(o).Writer()
}
