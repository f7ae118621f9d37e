package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// shared are the flags that every command which talks to a cluster has.
type shared struct {
	brokers []string
	output  string // text or json
}

func newRoot() *cobra.Command {
	s := &shared{}
	root := &cobra.Command{
		Use:   "penstock",
		Short: "A distributed, partitioned commit log",
		Long: "Penstock is a distributed, partitioned commit log in one binary.\n\n" +
			"Start a cluster in this terminal with `penstock dev`, or one node of a real one\n" +
			"with `penstock server -c FILE`.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version + " (" + gitRev + ")",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err: err} })
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newDev(), newServer(),
		newTopic(s), newProduce(s), newConsume(s), newGroup(s), newCluster(s), newBench(s), newLog(s),
	)
	return root
}

// connects adds the shared flags to a command and to those below it.
func (s *shared) connects(cmd *cobra.Command) *cobra.Command {
	cmd.PersistentFlags().StringSliceVarP(&s.brokers, "brokers", "b", []string{"127.0.0.1:7070"}, "addresses of some brokers, host:port")
	return cmd
}

// prints adds -o to a command whose output can be text or json.
func (s *shared) prints(cmd *cobra.Command) *cobra.Command {
	cmd.PersistentFlags().StringVarP(&s.output, "output", "o", "text", "text or json")
	pre := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(c *cobra.Command, args []string) error {
		if s.output != "text" && s.output != "json" {
			return usagef("--output is %q, want text or json", s.output)
		}
		if pre != nil {
			return pre(c, args)
		}
		return nil
	}
	return cmd
}

// unknownCommand names what is meant, if anything is near.
func unknownCommand(cmd *cobra.Command, word string) error {
	if word == "version" { // what others have as a command
		return usagef("unknown command %q: penstock --version", word)
	}
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return usagef("unknown command %q, the nearest is %q", word, near[0])
	}
	return usagef("unknown command %q", word)
}

// exactArgs is cobra.ExactArgs with an error that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
		case len(names) == 0:
			return usagef("got %q, want flags alone", args[0])
		default:
			return usagef("got %d arguments, want %d: %s", len(args), len(names), strings.Join(names, " "))
		}
		return nil
	}
}

// group is a command that only holds others: called alone it shows its help,
// called with a word it does not know it says so.
func group(use, short, long string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(sub...)
	return cmd
}

// connect makes a client for the brokers of -b.
func (s *shared) connect(opts ...client.Opt) (*client.Client, error) {
	return client.New(s.brokers, append([]client.Opt{client.WithClientID("penstock-cli")}, opts...)...)
}

// withAdmin runs f with the administrative calls of a client of its own.
func (s *shared) withAdmin(f func(*client.Admin) error) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	err = f(c.Admin())
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err
}

// stopTimeout bounds the last flush and commit of a command that was interrupted.
const stopTimeout = 10 * time.Second
