//go:build conformance

package soak

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// usage is what clients have done with one bastion. The receipt must agree. A client that
// leaves early does not know whether the server has counted it; such events are in the
// second number of a pair only.
type usage struct {
	mu          sync.Mutex
	connections [2]int // at least, at most
	refusals    [2]int
	others      [2]int // forwards to the private host
	transfers   []*transfer
	killed      bool // a task was killed; what it had counted is lost
}

func (u *usage) count(what *[2]int, sure bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	what[1]++
	if sure {
		what[0]++
	}
}

func (u *usage) transfer(x *transfer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.transfers = append(u.transfers, x)
}

func (u *usage) kill() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.killed = true
}

// compare returns what is wrong with the receipt of a bastion that has ended and has no
// clients any more. strays is the number of connections that may have come to this server
// although they were meant for an earlier one at the same port.
func (u *usage) compare(r bastion.Receipt, target string, strays int) (wrong []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	check := func(what string, got, least, most int64) {
		if u.killed {
			least = 0
		}
		if got < least || got > most {
			wrong = append(wrong, fmt.Sprintf("%s: %d, the clients know of %d to %d", what, got, least, most))
		}
	}
	var forwards [2]int
	var in, out [2]int64
	for _, x := range u.transfers {
		if x.begun.Load() {
			select {
			case <-x.ended:
			case <-time.After(patience):
				return append(wrong, fmt.Sprintf("%s has not ended at the target", x))
			}
		}
		forwards[1]++
		if x.opened {
			forwards[0]++
		}
		in[0] += x.read.Load()
		in[1] += x.sent
		out[0] += x.received
		out[1] += x.written.Load()
	}
	check("connections", int64(r.Connections), int64(u.connections[0]), int64(u.connections[1]))
	check("refusals", int64(r.Refusals), int64(u.refusals[0]), int64(u.refusals[1]+strays))
	check("forwards", int64(r.Forwards), int64(forwards[0]+u.others[0]), int64(forwards[1]+u.others[1]))
	var sum, atTarget bastion.Destination
	for _, d := range r.Destinations {
		sum.Forwards, sum.BytesIn, sum.BytesOut = sum.Forwards+d.Forwards, sum.BytesIn+d.BytesIn, sum.BytesOut+d.BytesOut
		if d.Name == target {
			atTarget = d
		} else if host, _, _ := net.SplitHostPort(d.Name); host != privateHost {
			wrong = append(wrong, fmt.Sprintf("a forward to %q, which is not allowed", d.Name))
		}
	}
	if r.Unnamed != 0 || sum.Forwards != r.Forwards || sum.BytesIn != r.BytesIn || sum.BytesOut != r.BytesOut {
		wrong = append(wrong, fmt.Sprintf("the destinations have %+v together, and %d are unnamed", sum, r.Unnamed))
	}
	check("forwards to the target", int64(atTarget.Forwards), int64(forwards[0]), int64(forwards[1]))
	check("bytes to the target", atTarget.BytesIn, in[0], in[1])
	check("bytes from the target", atTarget.BytesOut, out[0], out[1])
	return wrong
}
