package chaos

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// packetQueue takes the packets that the packet filter sends to a queue (NFQUEUE), holds
// each back, and lets it go. Only their numbers come here; the packets stay in
// the kernel. The messages are those of linux/netfilter/nfnetlink_queue.h.
type packetQueue struct {
	number  uint16
	delay   Delay
	socket  *os.File // a netlink socket of the namespace in which it was opened
	delayed atomic.Int64

	mu      sync.Mutex // guards waiting and ended
	waiting packets
	ended   bool
	wake    chan struct{} // something new waits; of capacity one
	done    sync.WaitGroup
}

// packet is one that waits.
type packet struct {
	id  uint32
	due time.Time
}

// packets is a heap, the first that is due on top.
type packets []packet

func (p packets) Len() int           { return len(p) }
func (p packets) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p packets) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// Push is part of heap.Interface.
func (p *packets) Push(x any) { *p = append(*p, x.(packet)) } //nolint:forcetypeassert // only packets are pushed

// Pop is part of heap.Interface.
func (p *packets) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

const (
	nfqPacket  = unix.NFNL_SUBSYS_QUEUE << 8
	nfqVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	nfqConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	// Attributes of a packet and of a verdict.
	nfqaPacketHeader  = 1
	nfqaVerdictHeader = 2
	// Attributes of a configuration.
	nfqaCommand   = 1
	nfqaParams    = 2
	nfqaMaxLength = 3
	nfqaMask      = 4
	nfqaFlags     = 5

	nfqBind     = 1
	nfqCopyMeta = 1
	nfqFlagGSO  = 4 // large packets come as they are
	nfAccept    = 1

	// longestQueue is how many packets may wait; more are dropped.
	longestQueue = 1 << 16
	netlinkBytes = 4 << 20
	headerBytes  = unix.NLMSG_HDRLEN + 4 // of a netlink message and of nfnetlink
)

// openPacketQueue serves a queue of the network namespace that the calling thread is in.
func openPacketQueue(number uint16, d Delay) (*packetQueue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	q := &packetQueue{number: number, delay: d, wake: make(chan struct{}, 1)}
	if err := q.configure(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Close wakes who reads
		return nil, errors.Join(err, unix.Close(fd))
	}
	q.socket = os.NewFile(uintptr(fd), "nfqueue")
	q.done.Go(q.receive)
	q.done.Go(q.release)
	return q, nil
}

func (q *packetQueue) configure(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, netlinkBytes},
		{unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1}, // a packet too many is dropped, and that is all
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	be := binary.BigEndian
	for _, attributes := range [][]byte{
		attribute(nfqaCommand, []byte{nfqBind, 0, 0, 0}),
		attribute(nfqaParams, append(be.AppendUint32(nil, 0), nfqCopyMeta)),
		attribute(nfqaMaxLength, be.AppendUint32(nil, longestQueue)),
		append(attribute(nfqaFlags, be.AppendUint32(nil, nfqFlagGSO)), attribute(nfqaMask, be.AppendUint32(nil, nfqFlagGSO))...),
	} {
		if _, err := unix.Write(fd, q.message(nfqConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, attributes)); err != nil {
			return err
		}
		answer := make([]byte, os.Getpagesize())
		n, err := unix.Read(fd, answer)
		if err != nil {
			return err
		}
		if err := acknowledged(answer[:n]); err != nil {
			return fmt.Errorf("configure queue %d: %w", q.number, err)
		}
	}
	return nil
}

// acknowledged takes the error out of an answer.
func acknowledged(message []byte) error {
	ne := binary.NativeEndian
	if len(message) < unix.NLMSG_HDRLEN+4 || ne.Uint16(message[4:]) != unix.NLMSG_ERROR {
		return errors.New("no acknowledgement")
	}
	if code := int32(ne.Uint32(message[unix.NLMSG_HDRLEN:])); code != 0 { //nolint:gosec // a negative number on purpose
		return unix.Errno(-code)
	}
	return nil
}

// attribute is a value with its type and length, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// message is a netlink message to the queue.
func (q *packetQueue) message(kind, flags uint16, attributes []byte) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(nil, uint32(headerBytes+len(attributes)))
	b = ne.AppendUint16(b, kind)
	b = ne.AppendUint16(b, flags)
	b = ne.AppendUint32(b, 0) // sequence
	b = ne.AppendUint32(b, 0) // to the kernel
	b = append(b, unix.AF_UNSPEC, 0)
	b = binary.BigEndian.AppendUint16(b, q.number)
	return append(b, attributes...)
}

// receive takes what the kernel queued, until the socket is closed.
func (q *packetQueue) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, err := q.socket.Read(buf)
		if err != nil {
			return // closed; the kernel lets everything go then
		}
		for ids := buf[:n]; ; {
			id, rest, ok := nextPacket(ids)
			if !ok {
				break
			}
			ids = rest
			q.hold(id)
		}
	}
}

// nextPacket finds the number of the first packet in what the kernel sent.
func nextPacket(b []byte) (id uint32, rest []byte, ok bool) {
	ne := binary.NativeEndian
	for len(b) >= headerBytes {
		size := int(ne.Uint32(b))
		if size < headerBytes || size > len(b) {
			return 0, nil, false
		}
		message := b[headerBytes:size]
		kind := ne.Uint16(b[4:])
		b = b[min(len(b), (size+3)&^3):]
		for kind == nfqPacket && len(message) >= 4 {
			length := int(ne.Uint16(message))
			if length < 4 || length > len(message) {
				break
			}
			if ne.Uint16(message[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == nfqaPacketHeader && length >= 8 {
				return binary.BigEndian.Uint32(message[4:]), b, true
			}
			message = message[min(len(message), (length+3)&^3):]
		}
	}
	return 0, nil, false
}

// hold lets a packet wait.
func (q *packetQueue) hold(id uint32) {
	due := time.Now().Add(q.delay.Least)
	if spread := q.delay.Most - q.delay.Least; spread > 0 {
		due = due.Add(rand.N(spread)) //nolint:gosec // how long a packet takes
	}
	q.delayed.Add(1)
	q.mu.Lock()
	heap.Push(&q.waiting, packet{id, due})
	first := q.waiting[0].id == id
	q.mu.Unlock()
	if first {
		q.notify()
	}
}

func (q *packetQueue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// release lets packets go when they are due, until the queue is closed.
func (q *packetQueue) release() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		q.mu.Lock()
		if q.ended {
			q.mu.Unlock()
			return
		}
		next := time.Hour
		var due []uint32
		for len(q.waiting) > 0 {
			if next = time.Until(q.waiting[0].due); next > 0 {
				break
			}
			due = append(due, heap.Pop(&q.waiting).(packet).id) //nolint:forcetypeassert // only packets are pushed
			next = time.Hour
		}
		q.mu.Unlock()
		for _, id := range due {
			verdict := binary.BigEndian.AppendUint32(nil, nfAccept)
			verdict = binary.BigEndian.AppendUint32(verdict, id)
			// An error means that it is gone with its namespace.
			_, _ = q.socket.Write(q.message(nfqVerdict, unix.NLM_F_REQUEST, attribute(nfqaVerdictHeader, verdict)))
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-q.wake:
		}
	}
}

// close ends the queue; the kernel drops what waits in it, and TCP sends it again.
func (q *packetQueue) close() error {
	q.mu.Lock()
	q.ended = true
	left := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	for _, p := range left {
		verdict := binary.BigEndian.AppendUint32(nil, nfAccept)
		_, _ = q.socket.Write(q.message(nfqVerdict, unix.NLM_F_REQUEST, attribute(nfqaVerdictHeader, binary.BigEndian.AppendUint32(verdict, p.id)))) // as in release
	}
	q.notify()
	err := q.socket.Close()
	q.done.Wait()
	return err
}
