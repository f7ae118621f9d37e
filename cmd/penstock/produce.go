package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/client"
)

// maxLine is the longest line that produce accepts; a broker refuses records far
// smaller than that by default.
const maxLine = 64 << 20

type produceFlags struct {
	file, separator   string
	acks, compression string
	partition         int32
}

func newProduce(s *shared) *cobra.Command {
	var flags produceFlags
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "Produce records, one a line", Args: exactArgs("TOPIC"),
		Long: "Produce the lines of standard input, or of a file, as records. With -K the text\n" +
			"before the separator is the key.",
		Example: "  echo hello | penstock produce greetings\n" +
			"  penstock produce orders -f orders.txt -K : --compression zstd",
		RunE: func(cmd *cobra.Command, args []string) error {
			return produceLines(cmd.Context(), s, cmd.InOrStdin(), cmd.ErrOrStderr(), args[0], flags)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&flags.file, "file", "f", "", "read this file instead of standard input")
	f.StringVarP(&flags.separator, "key-separator", "K", "", "what separates key from value")
	f.StringVar(&flags.acks, "acks", "all", "all, 1 or 0")
	f.StringVar(&flags.compression, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	f.Int32Var(&flags.partition, "partition", -1, "partition for every record; -1: by key, or any")
	return s.connects(cmd)
}

func (f *produceFlags) options() ([]client.ProducerOpt, error) {
	acks, err := client.ParseAcks(f.acks)
	if err != nil {
		return nil, &usageError{err: err}
	}
	opts := []client.ProducerOpt{client.WithAcks(acks), client.WithCompression(f.compression)}
	if f.partition >= 0 {
		opts = append(opts, client.WithPartitioner(client.ManualPartitioner()))
	}
	return opts, nil
}

func produceLines(ctx context.Context, s *shared, stdin io.Reader, progress io.Writer, topic string, flags produceFlags) (err error) {
	opts, err := flags.options()
	if err != nil {
		return err
	}
	in := stdin
	if flags.file != "" {
		f, err := os.Open(flags.file)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // read only
		in = f
	}
	report := newProduceReport(progress, time.Now())
	c, err := s.connect(client.WithHooks(report))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	p, err := c.NewProducer(opts...)
	if err != nil {
		return err
	}
	defer report.watch()()
	err = report.send(ctx, p, in, topic, flags)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if ctx.Err() == nil {
		closing = ctx
	}
	return report.end(err, p.Close(closing))
}

func (r *produceReport) send(ctx context.Context, p *client.Producer, in io.Reader, topic string, flags produceFlags) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		rec := &client.Record{Topic: topic, Partition: max(flags.partition, 0), Value: bytes.Clone(lines.Bytes())}
		if rec.Value == nil {
			rec.Value = []byte{}
		}
		if flags.separator != "" {
			key, value, ok := bytes.Cut(rec.Value, []byte(flags.separator))
			if !ok {
				return fmt.Errorf("line %d has no separator %q (--key-separator)", n, flags.separator)
			}
			rec.Key, rec.Value = key, value
		}
		if r.gaveUp() {
			return nil // end says why
		}
		r.took()
		p.Produce(ctx, rec, r.settle)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading lines of at most %d bytes: %w", maxLine, err)
	}
	return nil
}
