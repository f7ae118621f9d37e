package chaos

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRulesOfCuts(t *testing.T) {
	for _, c := range []struct {
		name string
		cut  Cut
		want []string
	}{
		{"it hears nothing of one peer", Cut{Node: 1, Peers: []int{2}, Direction: In}, []string{"-w -A INPUT -s 10.213.77.2 -j DROP"}},
		{"it is not heard", Cut{Node: 1, Peers: []int{2}, Direction: Out}, []string{"-w -A OUTPUT -d 10.213.77.2 -j DROP"}},
		{"both ways, from a peer and the clients", Cut{Node: 1, Peers: []int{3, 0}, Direction: Both}, []string{
			"-w -A INPUT -s 10.213.77.3 -j DROP", "-w -A OUTPUT -d 10.213.77.3 -j DROP",
			"-w -A INPUT -s 10.213.77.254 -j DROP", "-w -A OUTPUT -d 10.213.77.254 -j DROP",
		}},
		{"one port, whoever dialled", Cut{Node: 2, Peers: []int{1}, Direction: In, Port: PortRaft}, []string{
			"-w -A INPUT -s 10.213.77.1 -p tcp --dport 7071 -j DROP", "-w -A INPUT -s 10.213.77.1 -p tcp --sport 7071 -j DROP",
		}},
		{"with resets", Cut{Node: 2, Peers: []int{1}, Direction: Out, Reset: true}, []string{
			"-w -A OUTPUT -d 10.213.77.1 -p tcp -j REJECT --reject-with tcp-reset",
		}},
		{"with resets on a port", Cut{Node: 2, Peers: []int{1}, Direction: In, Reset: true, Port: PortPeer}, []string{
			"-w -A INPUT -s 10.213.77.1 -p tcp --dport 7073 -j REJECT --reject-with tcp-reset",
			"-w -A INPUT -s 10.213.77.1 -p tcp --sport 7073 -j REJECT --reject-with tcp-reset",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, rule := range c.cut.rules() {
				got = append(got, strings.Join(rule, " "))
			}
			require.Equal(t, c.want, got)
		})
	}
}
