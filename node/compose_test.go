package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.yaml.in/yaml/v3"
)

// compose is what docker-compose.yml says.
type compose struct {
	Services map[string]composeService
	Volumes  map[string]any
}

type composeService struct {
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Healthcheck struct{ Test []string }
}

func readCompose(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile("../docker-compose.yml")
	require.NoError(t, err)
	var c compose
	require.NoError(t, yaml.Unmarshal(text, &c))
	require.Len(t, c.Services, 3)
	return c
}

// published are the ports of the host: service and container port of each.
func (c *compose) published(t *testing.T) map[string][2]string {
	t.Helper()
	out := make(map[string][2]string)
	for name, s := range c.Services {
		for _, p := range s.Ports {
			host, inside, ok := strings.Cut(p, ":")
			require.True(t, ok, p)
			require.NotContains(t, out, host, "a port of the host is published twice")
			out[host] = [2]string{name, inside}
		}
	}
	return out
}

// load reads a service's environment as the node does, changed on the way.
func (s *composeService) load(t *testing.T, change func(string) string) Config {
	t.Helper()
	var environ []string
	for k, v := range s.Environment {
		environ = append(environ, k+"="+change(v))
	}
	cfg, err := Load("", environ)
	require.NoError(t, err)
	require.NoError(t, cfg.Validate())
	return cfg
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	return port
}

// Every node of docker-compose.yml opens the Kafka port to the host, says so to who
// asks there, and listens on whatever is published or used.
func TestComposeOpensItsPorts(t *testing.T) {
	c := readCompose(t)
	published := c.published(t)
	for name, s := range c.Services {
		require.Equal(t, []string{"server"}, s.Command)
		cfg := s.load(t, func(v string) string { return v })
		require.Equal(t, "broker"+fmt.Sprint(cfg.NodeID), name)
		listens := map[string]bool{portOf(t, cfg.ListenHTTP): true}
		for _, l := range append(cfg.ListenGRPC, cfg.ListenKafka...) {
			host, port, err := net.SplitHostPort(l.Address)
			require.NoError(t, err)
			require.Equal(t, "0.0.0.0", host, "a container listens on its network")
			listens[port] = true
		}
		for _, p := range s.Ports {
			_, inside, _ := strings.Cut(p, ":")
			require.True(t, listens[inside], "%s publishes %s and does not listen there", name, p)
		}
		for _, door := range []struct {
			listen, advertise []Endpoint
		}{{cfg.ListenKafka, cfg.AdvertiseKafka}, {cfg.ListenGRPC, cfg.AdvertiseGRPC}} {
			require.Len(t, door.listen, 2)
			require.Len(t, door.advertise, 2)
			for i, e := range door.advertise {
				require.Equal(t, door.listen[i].Listener, e.Listener)
				inside := portOf(t, door.listen[i].Address)
				if e.Listener == "host" {
					require.Equal(t, [2]string{name, inside}, published[portOf(t, e.Address)], "the host does not get to %s at %s", name, e.Address)
				} else {
					require.Equal(t, name+":"+inside, e.Address)
				}
			}
		}
		require.Equal(t, "0.0.0.0:9092", cfg.ListenKafka[0].Address)
		require.Equal(t, [2]string{name, "9092"}, published[fmt.Sprint(9091+cfg.NodeID)], "Kafka's port of every node")
		require.Equal(t, name+":"+portOf(t, cfg.ListenRaft), cfg.Voters[cfg.NodeID-1].Address)
		health := s.Healthcheck.Test
		require.True(t, listens[portOf(t, health[len(health)-1])])
		require.Len(t, s.Volumes, 1)
		volume, dir, _ := strings.Cut(s.Volumes[0], ":")
		require.Contains(t, c.Volumes, volume)
		require.Equal(t, dir, cfg.DataDir)
	}
}

// The same three nodes, with loopback ports for those of the containers, serve a Kafka
// client of the host and one of the network, each at the addresses that it can reach.
func TestComposeServesKafkaClients(t *testing.T) {
	c := readCompose(t)
	published := c.published(t)
	local := make(map[[2]string]string)
	var open []net.Listener
	at := func(service, port string) string {
		if address, ok := local[[2]string{service, port}]; ok {
			return address
		}
		lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		open = append(open, lis)
		local[[2]string{service, port}] = lis.Addr().String()
		return lis.Addr().String()
	}
	address := regexp.MustCompile(`(0\.0\.0\.0|127\.0\.0\.1|localhost|broker\d):(\d+)`)
	translate := func(service string) func(string) string {
		return func(v string) string {
			return address.ReplaceAllStringFunc(v, func(a string) string {
				host, port, _ := net.SplitHostPort(a)
				switch host {
				case "0.0.0.0":
					return at(service, port)
				case "127.0.0.1", "localhost":
					return at(published[port][0], published[port][1])
				default:
					return at(host, port)
				}
			})
		}
	}
	var configs []Config
	var host, inner []string
	for i := range len(c.Services) {
		name := fmt.Sprintf("broker%d", i+1)
		s := c.Services[name]
		cfg := s.load(t, translate(name))
		cfg.DataDir, cfg.DiskReserve = t.TempDir(), 64<<20
		configs = append(configs, cfg)
		host, inner = append(host, cfg.AdvertiseKafka[0].Address), append(inner, cfg.AdvertiseKafka[1].Address)
	}
	for _, lis := range open {
		require.NoError(t, lis.Close())
	}
	ctx := within(t, time.Minute)
	started := make(chan error, len(configs))
	for _, cfg := range configs {
		go func() {
			n, err := Start(ctx, cfg, Options{Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				t.Cleanup(func() { _ = n.Stop(context.WithoutCancel(ctx)) })
			}
			started <- err
		}()
	}
	for range configs {
		require.NoError(t, <-started)
	}
	for i, seeds := range [][]string{host, inner} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(seeds[0]))
		require.NoError(t, err)
		t.Cleanup(cl.Close)
		var got []string
		require.Eventually(t, func() bool {
			resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
			if err != nil || len(resp.Brokers) < len(configs) {
				return false
			}
			for _, b := range resp.Brokers {
				got = append(got, fmt.Sprintf("%s:%d", b.Host, b.Port))
			}
			return true
		}, 30*time.Second, 20*time.Millisecond)
		require.ElementsMatch(t, seeds, got)
		topic := fmt.Sprintf("t%d", i)
		createKafkaTopic(ctx, t, cl, topic, 6)
		require.NoError(t, cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr())
		cl.AddConsumeTopics(topic)
		fs := cl.PollFetches(ctx)
		require.NoError(t, fs.Err())
		require.Equal(t, 1, fs.NumRecords())
	}
}
