// Command penstock is the one binary of Penstock: the server, a whole cluster
// for development, and the tools to work with either.
//
// Exit status: 0 done; 1 failed, or refused by the state that the cluster is in; 2 the
// command line was wrong, or lacks the --yes that what it would do asks for.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/penstock/penstock/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// usageError is a fault in the command line itself.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// isUsage tells a faulty command line: by our own checks or by the client's, of
// options that came from flags.
func isUsage(err error) bool {
	if _, ok := errors.AsType[*client.ConfigError](err); ok {
		return true
	}
	_, ok := errors.AsType[*usageError](err)
	return ok
}

// unsureError is what a command would cost that is not done without --yes. The help
// would say nothing beyond it.
type unsureError struct{ cost, purpose string }

func (e *unsureError) Error() string { return e.cost + "; give --yes to " + e.purpose }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	// The client's errors begin with that word already.
	fmt.Fprintf(os.Stderr, "penstock: %s\n", strings.TrimPrefix(err.Error(), "penstock: "))
	if _, ok := errors.AsType[*unsureError](err); ok {
		return 2
	}
	if isUsage(err) {
		fmt.Fprintf(os.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return 2
	}
	return 1
}
