package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/chaos"
)

// A log that ran out of space for good, which nothing but itself counts on, is
// opened again when there is room, without a restart: it leads again, and every
// acknowledged record is there. Nobody else could have taken over.
func TestTheLastReplicaIsOpenedAgain(t *testing.T) {
	for _, durability := range []string{"synced", "replicated"} {
		t.Run(durability, func(t *testing.T) {
			w := startPrepared(t, chaos.Options{Nodes: 1, Config: []string{"disk.reserve: 1", "raft.dir: " + t.TempDir()}}, smallDisks(t, "tmpfs"))
			_, err := w.client.Admin().CreateTopic(w.ctx, client.TopicSpec{
				Name: fullTopic, Partitions: fullPartitions, ReplicationFactor: 1,
				Configs: map[string]string{"segment.bytes": "1048576", "durability": durability},
			})
			require.NoError(t, err)
			f := &filler{w: w, acked: map[place][32]byte{}}
			ballast := filepath.Join(w.nodes.DataDir(1), "ballast")
			failed := func() bool {
				printed, err := os.ReadFile(w.nodes.LogFile(1))
				require.NoError(t, err)
				return bytes.Contains(printed, []byte("the log failed"))
			}
			// Somebody else takes the space while logs write: what they count on goes.
			for deadline := time.Now().Add(testWait); !failed(); {
				require.True(t, time.Now().Before(deadline), "no log has failed")
				produced := make(chan error, 1)
				go func() { produced <- f.produce(100, time.Second) }()
				takeAll(t, ballast)
				<-produced
				if !failed() {
					require.NoError(t, os.Remove(ballast))
					_, err := w.client.Admin().DeleteRecords(w.ctx, client.Latest(), f.parts()...)
					require.NoError(t, err)
					clear(f.acked)
				}
			}
			pid := w.nodes.Pid(1)
			require.NoError(t, os.Remove(ballast))
			f.requireProduce(t, "once there is room again")
			w.waitHealthy()
			require.Zero(t, w.metric(t, 1, "penstock_offline_replicas"))
			require.Equal(t, pid, w.nodes.Pid(1))
			if durability == "synced" {
				f.verify(t)
			}
		})
	}
}

// takeAll writes a file until there is no room.
func takeAll(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	require.NoError(t, err)
	for piece := make([]byte, 256<<10); err == nil; {
		_, err = f.Write(piece)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
}
