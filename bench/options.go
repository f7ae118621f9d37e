package bench

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/penstock/penstock/client"
)

// Options describe one run. The zero value of a field means its default.
type Options struct {
	Brokers     []string
	Topic       string        // created when it does not exist
	Partitions  int           // of a topic that is created; default 6
	Replicas    int           // likewise; 0: min(3, brokers)
	Records     int64         // how many, after the warm-up; 0: Duration decides
	Duration    time.Duration // default 60 s when Records is 0
	Warmup      time.Duration // not counted, first
	RecordSize  int           // bytes of a value; default 100
	Payloads    int           // distinct values; default and least 10,000
	Payload     string        // what they are of: random letters (default), or orders in JSON
	Newest      int64         // bytes of values at the end of the topic that Consume reads; 0: all
	Readers     int           // consumers that each read everything; 0: Producers share the partitions
	Acks        string        // all, 1 or 0
	Durability  string        // of a topic that is created: synced or replicated
	Spread      bool          // each record to the next partition, instead of where the client puts it
	Producers   int           // producers, or consumers of Consume; default 1
	Compression string        // none, gzip, snappy, lz4 or zstd
	BatchSize   int           // bytes; 0: the client's default
	Linger      time.Duration
	Rate        int // records/s; Latency needs it, 0 is as fast as it goes elsewhere

	ClientOptions []client.Opt // for every connection, such as TLS

	BrokerPids  []int    // whose processor time is counted
	MetricsURLs []string // likewise, of brokers whose /metrics is read instead
	DataDir     string   // of a broker, for the file system's type and the bytes on disk
	GitRev      string
	Progress    io.Writer // nil: none
}

const minPayloads = 10_000

// ErrOptions is what every error about options wraps.
var ErrOptions = errors.New("bench: bad options")

func (o *Options) fill(workload string) error {
	if o.Topic == "" {
		o.Topic = "bench"
	}
	setDefault(&o.Partitions, 6)
	setDefault(&o.RecordSize, 100)
	setDefault(&o.Payloads, minPayloads)
	setDefault(&o.Producers, 1)
	setDefault(&o.BatchSize, client.DefaultBatchBytes)
	if o.Acks == "" {
		o.Acks = "all"
	}
	if o.Compression == "" {
		o.Compression = "none"
	}
	if o.Durability == "" {
		o.Durability = "synced"
	}
	if o.Payload == "" {
		o.Payload = randomPayload
	}
	if o.Records == 0 && o.Duration == 0 {
		o.Duration = 60 * time.Second
	}
	if workload == "latency" && o.Rate == 0 {
		o.Rate = 1000
	}
	return o.validate(workload)
}

func setDefault(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func (o *Options) validate(workload string) error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...))
		}
	}
	bad(len(o.Brokers) > 0, "no broker address")
	bad(o.Partitions > 0, "partitions is %d, want at least 1", o.Partitions)
	bad(o.Replicas >= 0, "replicas is %d, want at least 1", o.Replicas)
	bad(o.Records >= 0, "records is %d, want at least 1", o.Records)
	bad(o.Duration >= 0 && o.Warmup >= 0 && o.Linger >= 0, "durations cannot be negative")
	least := 8
	if workload == endToEnd {
		least = stampBytes
	}
	bad(o.RecordSize >= least, "record-size is %d, want at least %d bytes", o.RecordSize, least)
	bad(o.Payloads >= minPayloads, "payloads is %d, want at least %d", o.Payloads, minPayloads)
	bad(o.Payload == randomPayload || o.Payload == ordersPayload, "payload is %q, want %s or %s", o.Payload, randomPayload, ordersPayload)
	bad(o.Newest >= 0, "newest is %d, want at least 1 byte", o.Newest)
	bad(o.Readers >= 0, "readers is %d, want at least 1", o.Readers)
	bad(o.Producers > 0, "producers is %d, want at least 1", o.Producers)
	bad(o.Rate >= 0, "rate is %d, want at least 1 record/s", o.Rate)
	bad(o.Acks == "all" || o.Acks == "1" || o.Acks == "0", "acks is %q, want all, 1 or 0", o.Acks)
	bad(o.Durability == "synced" || o.Durability == "replicated", "durability is %q, want synced or replicated", o.Durability)
	bad(FileSystem(o.DataDir) != "tmpfs", "data-dir %s is on tmpfs, which syncs nothing", o.DataDir)
	return errors.Join(errs...)
}
