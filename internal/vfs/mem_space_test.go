package vfs

import (
	"path"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemFillsUp(t *testing.T) {
	mem := NewMem()
	require.NoError(t, mem.Mkdir("/a"))
	mem.SetCapacity(4 * 4096)
	f, err := mem.Create(path.Join("/a", "f"))
	require.NoError(t, err)
	n, err := f.WriteVecAt([][]byte{make([]byte, 5000), make([]byte, 20_000)}, 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, int64(4*4096), n)
	n2, err := f.WriteAt(make([]byte, 4096), 100)
	require.NoError(t, err, "over what is there")
	require.Equal(t, 4096, n2)
	require.NoError(t, f.Truncate(1))
	free, total, err := mem.Space("/a")
	require.NoError(t, err)
	require.Equal(t, []int64{3 * 4096, 4 * 4096}, []int64{free, total})
	require.NoError(t, mem.Remove("/a/f"))
	require.NoError(t, f.Close())
	free, _, err = mem.Space("/a")
	require.NoError(t, err)
	require.Equal(t, int64(4*4096), free)
}
