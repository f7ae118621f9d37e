package storm

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/penstock/penstock/internal/chaos"
)

// Faults that leave a node too little of something: of its network, files, or memory.

// narrow narrows a node's link.
func (s *storm) narrow(ctx context.Context, a Action) (heal, error) {
	link, err := s.lab.Network.Narrow(ctx, chaos.Narrow{Node: a.Node, Rate: a.Rate})
	if err != nil {
		return nothing, err
	}
	return func(ctx context.Context) error {
		passed, err := link.Close(ctx)
		s.say("  %d bytes a second passed node %d at most, %d packets had to wait, %d waited too long", passed.Rate(), a.Node, passed.Held, passed.Dropped)
		if err == nil && (passed.Held == 0 || passed.Rate() > a.Rate+a.Rate/4) {
			s.absent(SlowLink)
		}
		return err
	}, nil
}

// limitFiles leaves a node few files to open, and takes those with connections, as clients
// do that never end theirs.
func (s *storm) limitFiles(ctx context.Context, a Action) (heal, error) {
	pid := s.lab.Pid(a.Node)
	if pid == 0 {
		return nothing, nil
	}
	limit, err := chaos.LimitFiles(pid, int(a.Leave))
	if err != nil {
		return nothing, err
	}
	held, refused := hog(ctx, s.lab.HTTPAddr(a.Node), hogMost)
	s.say("  node %d may have %d files open; of %d connections to it %d got no answer", a.Node, limit.Now, len(held), refused)
	if refused == 0 {
		s.absent(FewFiles)
	}
	return func(context.Context) error {
		errs := []error{limit.Lift()}
		for _, c := range held {
			_ = c.Close() // the node may be gone
		}
		return errors.Join(errs...)
	}, nil
}

// hogMost is more than a node can spare by closing segments that nobody reads.
const hogMost = 1000

// hogWait is how long an answer may take: a node at its limit lets connections wait.
const hogWait = time.Second

// hog makes connections to a node's HTTP address and asks something on each; refused is how
// many got no answer. All are kept. It ends with the second that got none.
func hog(ctx context.Context, addr string, most int) (held []net.Conn, refused int) {
	for len(held) < most && refused < 2 {
		conn, err := (&net.Dialer{Timeout: hogWait}).DialContext(ctx, "tcp", addr)
		if err != nil {
			refused++
			most--
			continue
		}
		held = append(held, conn)
		_ = conn.SetDeadline(time.Now().Add(hogWait)) // of a connection that is open
		if _, err = conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")); err == nil {
			_, err = conn.Read(make([]byte, 16))
		}
		if err != nil {
			refused++
		}
	}
	return held, refused
}

// reachWait is how long a limit of memory stays at most for the node to reach it.
const reachWait = 10 * time.Second

// limitMemory leaves a node little memory, until it has wanted more.
func (s *storm) limitMemory(a Action) (heal, error) {
	if s.lab.Pid(a.Node) == 0 {
		return nothing, nil
	}
	limit, err := s.lab.LimitMemory(a.Node, a.Leave)
	if err != nil {
		return nothing, err
	}
	s.say("  node %d may use %d MiB of memory", a.Node, limit.Now>>20)
	pid := s.lab.Pid(a.Node)
	return func(ctx context.Context) error {
		for deadline := time.Now().Add(reachWait); !limit.Reached() && s.lab.Pid(a.Node) == pid && time.Now().Before(deadline); {
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				break
			}
		}
		reached, killed, err := limit.Lift()
		s.say("  node %d reached the limit %d times and was killed for it %d times", a.Node, reached, killed)
		if err == nil && reached == 0 {
			s.absent(LittleMemory)
		}
		return err
	}, nil
}
