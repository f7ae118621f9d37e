package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

func newTopic(s *shared) *cobra.Command {
	return s.prints(s.connects(group("topic", "Create, list, describe, alter, trim, reassign and delete topics, elect leaders", "",
		newTopicCreate(s), newTopicList(s), newTopicDescribe(s), newTopicAlter(s), newTopicTrim(s), newTopicReassign(s), newTopicDelete(s),
		newTopicElect(s), newTopicMend(s))))
}

// parseConfigs reads name=value pairs.
func parseConfigs(pairs []string) (map[string]string, error) {
	configs := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--config is %q, want name=value", p)
		}
		configs[name] = value
	}
	return configs, nil
}

func newTopicCreate(s *shared) *cobra.Command {
	spec := client.TopicSpec{}
	var configs []string
	cmd := &cobra.Command{
		Use: "create TOPIC", Short: "Create a topic", Args: exactArgs("TOPIC"),
		Example: "  penstock topic create orders -p 6 -r 3\n" +
			"  penstock topic create logs -p 3 --config retention.ms=3600000 --config durability=replicated",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if spec.Configs, err = parseConfigs(configs); err != nil {
				return err
			}
			spec.Name = args[0]
			if spec.Partitions < 1 {
				return usagef("--partitions is %d, want at least 1", spec.Partitions)
			}
			return s.withAdmin(func(a *client.Admin) error {
				created, err := a.CreateTopic(cmd.Context(), spec)
				if err != nil {
					return err
				}
				out := map[string]any{
					"name": spec.Name, "topic_id": fmt.Sprintf("%x", created.ID), "partitions": created.Partitions,
					"replication_factor": created.ReplicationFactor, "validate_only": spec.ValidateOnly,
				}
				return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
					verb := "created"
					if spec.ValidateOnly {
						verb = "could create"
					}
					_, err := fmt.Fprintf(w, "%s %s: %d partitions, %d replicas\n", verb, spec.Name, created.Partitions, created.ReplicationFactor)
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&spec.Partitions, "partitions", "p", 1, "partitions")
	f.Int32VarP(&spec.ReplicationFactor, "replicas", "r", 0, "replicas; 0: 3 or as many as there are brokers")
	f.StringArrayVar(&configs, "config", nil, "name=value, e.g. retention.ms=86400000; may be repeated")
	f.BoolVar(&spec.ValidateOnly, "validate-only", false, "check, create nothing")
	return cmd
}

func newTopicList(s *shared) *cobra.Command {
	var internal, ailing bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the topics, or the partitions that are not healthy", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				topics, err := a.ListTopics(cmd.Context(), internal || ailing)
				if err != nil {
					return err
				}
				if ailing {
					rows := unhealthy(topics)
					return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error { return printUnhealthy(w, rows) })
				}
				rows := make([]topicRow, 0, len(topics))
				for i := range topics {
					rows = append(rows, topicRow{topics[i].Name, len(topics[i].Partitions), topics[i].ReplicationFactor, topics[i].Durability})
				}
				return s.show(cmd.OutOrStdout(), rows, func(w io.Writer) error {
					return table(w, func(row func(...any)) {
						row("TOPIC", "PARTITIONS", "REPLICAS", "DURABILITY")
						for _, t := range rows {
							row(t.Name, t.Partitions, t.Replicas, t.Durability)
						}
					})
				})
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "with the internal topics")
	cmd.Flags().BoolVar(&ailing, "unhealthy", false, "instead, each partition of any topic that has no leader, or a replica out of sync")
	return cmd
}

type topicRow struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	Replicas   int32  `json:"replication_factor"`
	Durability string `json:"durability"`
}

// topicJSON is the output of `topic describe -o json`.
type topicJSON struct {
	Name       string          `json:"name"`
	TopicID    string          `json:"topic_id"`
	Internal   bool            `json:"internal"`
	Durability string          `json:"durability"`
	Replicas   int32           `json:"replication_factor"`
	Partitions []partitionJSON `json:"partitions"`
	Configs    []configJSON    `json:"configs"`
}

type partitionJSON struct {
	Partition      int32   `json:"partition"`
	Leader         int32   `json:"leader"`
	LeaderEpoch    int32   `json:"leader_epoch"`
	PartitionEpoch int32   `json:"partition_epoch"`
	Replicas       []int32 `json:"replicas"`
	ISR            []int32 `json:"isr"`
	ELR            []int32 `json:"elr"`
	Adding         []int32 `json:"adding,omitempty"`
	Removing       []int32 `json:"removing,omitempty"`
	LastISR        []int32 `json:"last_isr"`
	Lost           bool    `json:"lost"`
}

type configJSON struct {
	Name          string `json:"name"`
	Value         string `json:"value"`
	IsDefault     bool   `json:"is_default"`
	Type          string `json:"type"`
	Documentation string `json:"documentation"`
}

func newTopicDescribe(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "describe TOPIC", Short: "Show where a topic's partitions live and what its configuration is", Args: exactArgs("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				t, err := a.DescribeTopic(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), describedTopic(t), func(w io.Writer) error { return printTopic(w, t) })
			})
		},
	}
}

func describedTopic(t *client.Topic) topicJSON {
	out := topicJSON{Name: t.Name, TopicID: fmt.Sprintf("%x", t.ID), Internal: t.Internal, Durability: t.Durability, Replicas: t.ReplicationFactor}
	for _, p := range t.Partitions {
		p.Replicas, p.ISR, p.ELR, p.LastISR = list(p.Replicas), list(p.ISR), list(p.ELR), list(p.LastISR)
		out.Partitions = append(out.Partitions, partitionJSON(p))
	}
	for _, c := range t.Configs {
		out.Configs = append(out.Configs, configJSON(c))
	}
	return out
}

func printTopic(w io.Writer, t *client.Topic) error {
	fmt.Fprintf(w, "%s: %d partitions, %d replicas, %s\n\n", t.Name, len(t.Partitions), t.ReplicationFactor, t.Durability)
	err := table(w, func(row func(...any)) {
		row("PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "ELIGIBLE")
		for _, p := range t.Partitions {
			row(p.Partition, nodeName(p.Leader), p.LeaderEpoch, replicas(p), ids(p.ISR), ids(p.ELR))
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	return table(w, func(row func(...any)) {
		row("CONFIG", "VALUE", "SET", "")
		for _, c := range t.Configs {
			set := "topic"
			if c.IsDefault {
				set = "default"
			}
			row(c.Name, c.Value, set, c.Documentation)
		}
	})
}

func newTopicAlter(s *shared) *cobra.Command {
	var set, unset []string
	var partitions int32
	cmd := &cobra.Command{
		Use: "alter TOPIC", Short: "Change a topic's configuration, give it more partitions", Args: exactArgs("TOPIC"),
		Long: "Change a topic's configuration, or give it more partitions. Records that are there\n" +
			"stay where they are, so a key's next records may go to another partition than its\n" +
			"earlier ones. The number of partitions never falls.",
		Example: "  penstock topic alter orders --config retention.ms=86400000 --unset segment.ms\n" +
			"  penstock topic alter orders --partitions 12",
		RunE: func(cmd *cobra.Command, args []string) error {
			configs, err := parseConfigs(set)
			if err != nil {
				return err
			}
			grow := cmd.Flags().Changed("partitions")
			switch {
			case len(configs) == 0 && len(unset) == 0 && !grow:
				return usagef("nothing to change: give --config, --unset or --partitions")
			case grow && partitions < 1:
				return usagef("--partitions is %d, want more than the topic has", partitions)
			}
			return s.withAdmin(func(a *client.Admin) error {
				out := map[string]any{"name": args[0], "set": configs, "unset": list(unset)}
				if grow {
					if err := a.AddPartitions(cmd.Context(), args[0], partitions, false); err != nil {
						return err
					}
					out["partitions"] = partitions
				}
				if len(configs) > 0 || len(unset) > 0 {
					if err := a.AlterTopic(cmd.Context(), args[0], configs, unset...); err != nil {
						return err
					}
				}
				return s.show(cmd.OutOrStdout(), out, func(w io.Writer) error {
					if grow {
						fmt.Fprintf(w, "%s: %d partitions\n", args[0], partitions)
					}
					for _, name := range slices.Sorted(maps.Keys(configs)) {
						fmt.Fprintf(w, "%s: %s=%s\n", args[0], name, configs[name])
					}
					for _, name := range unset {
						fmt.Fprintf(w, "%s: %s back to its default\n", args[0], name)
					}
					return nil
				})
			})
		},
	}
	cmd.Flags().StringArrayVar(&set, "config", nil, "name=value; may be repeated")
	cmd.Flags().Int32VarP(&partitions, "partitions", "p", 0, "how many partitions it is to have")
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "name of a value to set back to its default; may be repeated")
	return cmd
}

func newTopicDelete(s *shared) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOPIC", Short: "Delete a topic and its records", Args: exactArgs("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.withAdmin(func(a *client.Admin) error {
				if err := a.DeleteTopic(cmd.Context(), args[0]); err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), map[string]any{"deleted": args[0]}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "deleted %s\n", args[0])
					return err
				})
			})
		},
	}
}
