// Command driver drives the Go clients; package kafkaclients has its arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// args are those of the command line.
type args struct {
	mode, client, topic, codec, group, commit, protocol, from string
	brokers                                                   []string
	count, rate                                               int
	idempotent                                                bool
	left                                                      <-chan struct{} // closed when it is to stop
}

// stopped reports whether standard input has ended.
func (a *args) stopped() bool {
	select {
	case <-a.left:
		return true
	default:
		return false
	}
}

// client is one that is driven. Records are numbered.
type client interface {
	produce(ctx context.Context, a *args, acked func(n int)) error
	consume(ctx context.Context, a *args, got func(record)) error
	// join reads in a group until got returns false or ctx ends, and commits.
	join(ctx context.Context, a *args, got func(record) bool) error
	admin(ctx context.Context, a *args) error
}

type record struct {
	partition          int32
	offset             int64
	key, value, header string
}

func main() {
	if err := run(parse(os.Args[1:])); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

func parse(list []string) *args {
	a := &args{mode: list[0], codec: "none", protocol: "classic", from: "earliest"}
	for _, arg := range list[1:] {
		name, v, _ := strings.Cut(arg, "=")
		switch name {
		case "client":
			a.client = v
		case "brokers":
			a.brokers = strings.Split(v, ",")
		case "topic":
			a.topic = v
		case "codec":
			a.codec = v
		case "group":
			a.group = v
		case "commit":
			a.commit = v
		case "protocol":
			a.protocol = v
		case "from":
			a.from = v
		case "count":
			a.count, _ = strconv.Atoi(v)
		case "rate":
			a.rate, _ = strconv.Atoi(v)
		case "idempotent":
			a.idempotent = v == "true"
		}
	}
	return a
}

func run(a *args) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	staying, leave := context.WithCancel(ctx)
	defer leave()
	a.left = staying.Done()
	if a.mode == "group" || a.rate > 0 {
		go func() { // Ends with the process.
			_, _ = os.Stdin.Read(make([]byte, 1))
			leave()
		}()
	}
	clients := map[string]client{"franz-go": franz{}, "sarama": saramaClient{}, "kafka-go": segmentio{}}
	c := clients[a.client]
	if c == nil {
		return fmt.Errorf("no client %q", a.client)
	}
	var mu sync.Mutex // guards the output
	say := func(format string, v ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", v...)
	}
	show := func(r record) { say("record %d %d %s %s %s", r.partition, r.offset, r.key, r.value, r.header) }
	switch a.mode {
	case "produce":
		return c.produce(ctx, a, func(n int) { say("acked %d", n) })
	case "consume":
		return c.consume(ctx, a, show)
	case "group":
		n := 0
		err := c.join(staying, a, func(r record) bool {
			mu.Lock()
			n++
			more := n < a.count
			mu.Unlock()
			show(r)
			return more
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	case "admin":
		return c.admin(ctx, a)
	default:
		return fmt.Errorf("no mode %q", a.mode)
	}
}

// key of record n; empty: none.
func keyOf(n int) []byte {
	if n%2 == 1 {
		return nil
	}
	return fmt.Appendf(nil, "k%d", n%7)
}

func text(b []byte) string {
	if b == nil {
		return "-"
	}
	return string(b)
}

// pace lets n records a second through; 0: all.
func pace(rate int) func() {
	if rate == 0 {
		return func() {}
	}
	start, n := time.Now(), 0
	return func() {
		n++
		time.Sleep(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))))
	}
}
