// Package loopback gives tests addresses that stay theirs.
//
// A test that stops a server and starts it again at the same address cannot use
// port 0 of 127.0.0.1: while the server is down, any outgoing connection of any
// process may be given the port as its own end, and the second listen fails. On
// Linux all of 127.0.0.0/8 is this machine, and outgoing connections begin at
// 127.0.0.1, so each process takes an address of its own and counts its ports.
package loopback

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// Addresses hands out addresses of this process. The zero value is ready.
type Addresses struct{ used atomic.Int32 }

const (
	firstPort = 10_000
	ports     = 50_000
)

// Next returns an address that nothing else on this machine uses, and that no
// earlier call on a returned.
func (a *Addresses) Next() (string, error) {
	host := hostOf(os.Getpid())
	var last error
	for range 100 {
		port := firstPort + (a.used.Add(1)-1)%ports
		address := fmt.Sprintf("%s:%d", host, port)
		l, err := net.Listen("tcp", address) //nolint:noctx // it is closed at once
		if err == nil {
			return address, l.Close()
		}
		last = err
	}
	return "", fmt.Errorf("loopback: no free address at %s: %w", host, last)
}

// hostOf maps process ids, which Linux keeps below 2^22, to loopback addresses
// outside of 127.0.0.0/9, which people use by hand.
func hostOf(pid int) string {
	return fmt.Sprintf("127.%d.%d.%d", 128|pid>>16&0x3f, pid>>8&0xff, pid&0xff)
}
