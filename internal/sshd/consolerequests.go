package sshd

import (
	"errors"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// asks are what consoles ask of the control plane: one at a time, numbered,
// sent in the report and answered in the lease.
type consoleRequests struct {
	nudge func() // tells the keeper that there is something to report

	mu      sync.Mutex
	latest  bastion.ConsoleRequest
	waiting chan bastion.ConsoleReply // nil: nobody waits
}

var errRequestPending = errors.New("another console's request is being answered; try again in a moment")

// ask makes a request. The answer comes on the channel, if one does; giveUp
// must follow.
func (a *consoleRequests) submit(verb bastion.Verb, ttl time.Duration) (<-chan bastion.ConsoleReply, error) {
	defer a.nudge()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting != nil {
		return nil, errRequestPending
	}
	a.latest = bastion.ConsoleRequest{Number: a.latest.Number + 1, Verb: verb, TTL: ttl}
	a.waiting = make(chan bastion.ConsoleReply, 1)
	return a.waiting, nil
}

// giveUp makes room for the next request.
func (a *consoleRequests) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = nil
}

// answer passes the lease's answer on, if it is to the latest request.
func (a *consoleRequests) deliver(answer bastion.ConsoleReply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil || answer.Number != a.latest.Number {
		return
	}
	select {
	case a.waiting <- answer:
	default: // it was answered before
	}
}

// request is what the report says of requests.
func (a *consoleRequests) request() bastion.ConsoleRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.latest
}
