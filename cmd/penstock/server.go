package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/node"
)

func newServer() *cobra.Command {
	var file string
	var set []string
	cmd := &cobra.Command{
		Use: "server", Short: "Run one node", Args: exactArgs(),
		Long: "Run one node of a cluster until SIGINT or SIGTERM. Keys come from the file, from\n" +
			"the environment (PENSTOCK_NODE_ID for node.id) and from --set, the last one wins.\n\n" + configKeys(),
		Example: "  penstock server -c node1.yaml\n" +
			"  PENSTOCK_NODE_ID=1 PENSTOCK_DATA_DIR=/data PENSTOCK_VOTERS=1@127.0.0.1:7071 penstock server",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := node.Load(file, os.Environ())
			if err != nil {
				return err
			}
			for _, kv := range set {
				name, value, ok := strings.Cut(kv, "=")
				if !ok {
					return usagef("--set is %q, want key=value", kv)
				}
				if err := cfg.Set(name, value); err != nil {
					return usagef("--set: %w", err)
				}
			}
			return serve(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file, YAML")
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value, over file and environment; may be repeated")
	return cmd
}

func configKeys() string {
	var b strings.Builder
	b.WriteString("Keys:\n")
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, k := range node.Keys() {
		def := ""
		if k.Default != "" {
			def = " (" + k.Default + ")"
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s%s\n", k.Name, k.Type, k.Documentation, def)
	}
	_ = tw.Flush() // into memory
	return strings.TrimRight(b.String(), "\n")
}

// newLogger makes the logger that log.level and log.format ask for.
func newLogger(w io.Writer, level slog.Level, json bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// lateStart is when a start is worth a word: a quorum that is up answers within a second.
const lateStart = 10 * time.Second

// listening are the addresses of a node by the keys of its configuration.
func listening(at node.Addresses) []any {
	join := func(list []node.Endpoint) string {
		var out []string
		for _, e := range list {
			out = append(out, e.Address)
		}
		return strings.Join(out, ",")
	}
	var attrs []any
	for _, l := range []struct{ key, address string }{
		{"listen.grpc", join(at.GRPC)},
		{"listen.kafka", join(at.Kafka)},
		{"listen.raft", at.Raft},
		{"listen.peer", at.Peer},
		{"listen.http", at.HTTP},
	} {
		if l.address != "" {
			attrs = append(attrs, l.key, l.address)
		}
	}
	return attrs
}

// serve runs a node until ctx ends or the node fails for good.
func serve(ctx context.Context, cfg node.Config) error {
	logger := newLogger(os.Stderr, cfg.LogLevel, cfg.LogJSON)
	logger.Info("starting", "node", cfg.NodeID, "version", version, "data.dir", cfg.DataDir)
	late := time.AfterFunc(lateStart, func() {
		logger.Warn("still starting: this node recovers its data, or waits for most of the voters", "node", cfg.NodeID, "voters_configured", len(cfg.Voters))
	})
	n, err := node.Start(ctx, cfg, node.Options{Version: version, Logger: logger})
	late.Stop()
	if err != nil {
		return err
	}
	logger.Info("serving", append([]any{"node", cfg.NodeID}, listening(n.Addresses())...)...)
	select {
	case <-ctx.Done():
	case <-n.Done():
	}
	var failure error // why it ended by itself, which matters more than how the stop went
	select {
	case <-n.Done():
		failure = n.Err()
	default:
	}
	if err := n.Stop(context.WithoutCancel(ctx)); err != nil && failure == nil {
		return err
	}
	return failure
}
