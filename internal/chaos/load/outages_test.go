package load

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutages(t *testing.T) {
	o := newOutages(2)
	at := func(ms int) time.Time { return o.began.Add(time.Duration(ms) * time.Millisecond) }
	o.acked(0, 0, at(10))
	o.acked(1, 0, at(20))
	o.acked(0, 1, at(100)) // too short to count
	o.acked(1, 1, at(1500))
	o.acked(0, 7, at(2000))
	o.acked(0, 5, at(2010)) // answers of two producers come as they like
	require.Equal(t, []Outage{{1, at(20), at(1500)}, {0, at(100), at(2000)}}, o.Between(at(0), at(1600)))
	require.Equal(t, []Outage{{0, at(100), at(2000)}}, o.Between(at(1550), at(1600)))
	require.Equal(t, []Outage{{0, at(2010), at(2500)}, {1, at(1500), at(2500)}}, o.Between(at(2005), at(2500)), "what goes on is cut at the end")
	require.EqualValues(t, 6, o.Acked())
	require.EqualValues(t, 8, o.logEnd(0))
	every, anyOf, _ := o.Writable()
	require.Equal(t, 1, every, "in the first second alone both took writes")
	require.Equal(t, 3, anyOf)
}
