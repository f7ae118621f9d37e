package node

import (
	"context"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// boundPort is a TCP port that is this node's and refuses connections until listen:
// a Kafka client that is refused turns to another broker at once, one whose
// connection is accepted waits for its answer, or gives up.
type boundPort struct {
	file    *os.File // nil: listened on, or closed
	address *net.TCPAddr
}

// bindPort takes a port. An address of all interfaces stands for both families.
func bindPort(_ context.Context, address string) (*boundPort, error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	var families []int
	switch {
	case tcp.IP == nil || tcp.IP.IsUnspecified():
		families = []int{unix.AF_INET6, unix.AF_INET} // the second where there is no IPv6
	case tcp.IP.To4() != nil:
		families = []int{unix.AF_INET}
	default:
		families = []int{unix.AF_INET6}
	}
	for _, family := range families {
		var p *boundPort
		if p, err = bindFamily(family, tcp); err == nil || err == unix.EADDRINUSE {
			return p, err
		}
	}
	return nil, err
}

func bindFamily(family int, tcp *net.TCPAddr) (*boundPort, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "tcp:"+tcp.String())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, closing(file, os.NewSyscallError("setsockopt", err))
	}
	var where unix.Sockaddr = &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(orZero(tcp.IP.To4(), net.IPv4len))}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return nil, closing(file, os.NewSyscallError("setsockopt", err))
		}
		ip := tcp.IP.To16()
		if tcp.IP.IsUnspecified() {
			ip = nil
		}
		where = &unix.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(orZero(ip, net.IPv6len))}
	}
	if err := unix.Bind(fd, where); err != nil {
		return nil, closing(file, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, closing(file, os.NewSyscallError("getsockname", err))
	}
	p := &boundPort{file: file, address: &net.TCPAddr{IP: tcp.IP, Port: tcp.Port}}
	switch at := bound.(type) {
	case *unix.SockaddrInet4:
		p.address.Port = at.Port
	case *unix.SockaddrInet6:
		p.address.Port = at.Port
	}
	return p, nil
}

func closing(file *os.File, err error) error {
	_ = file.Close()
	return err
}

func orZero(ip net.IP, n int) []byte {
	if len(ip) != n {
		return make([]byte, n)
	}
	return ip
}

// listen begins to accept connections.
func (p *boundPort) listen(context.Context) (net.Listener, error) {
	if err := unix.Listen(int(p.file.Fd()), unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	lis, err := net.FileListener(p.file) // a duplicate: the file is closed with the port
	if err != nil {
		return nil, err
	}
	p.close()
	return lis, nil
}

func (p *boundPort) close() {
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
