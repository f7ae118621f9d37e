package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/node"
)

func newDev() *cobra.Command {
	var opts node.DevOptions
	var verbose bool
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a whole cluster in this terminal", Args: exactArgs(),
		Long: "Run a cluster for development in one process, its nodes talking over TCP. Node i\n" +
			"has its gRPC, Raft, HTTP and peer ports 10*(i-1) above those of the first, and its\n" +
			"Kafka port i-1 above. Topics that Kafka clients ask for are created. Prints one line\n" +
			"when ready; stops on SIGINT or SIGTERM.",
		Example: "  penstock dev\n  penstock dev --nodes 3 --data-dir ./data --base-port 7070",
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelInfo
			}
			if opts.BasePort == 0 && !cmd.Flags().Changed("kafka-port") {
				opts.KafkaPort = 0
			}
			opts.Version, opts.Logger = version, newLogger(os.Stderr, level, false)
			return node.Dev(cmd.Context(), opts, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&opts.Nodes, "nodes", 1, "how many nodes")
	f.StringVar(&opts.DataDir, "data-dir", "", "where the data goes (default: a temporary folder, removed at the end)")
	f.IntVar(&opts.BasePort, "base-port", 7070, "gRPC port of the first node; 0: any free ports")
	f.IntVar(&opts.KafkaPort, "kafka-port", 9092, "Kafka port of the first node, the next nodes have the next ones; 0, and with --base-port 0: any free ports")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more than warnings")
	return cmd
}
