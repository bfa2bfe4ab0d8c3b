package sshd

import (
	"errors"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// asks are what consoles ask of the control plane: one at a time, numbered,
// sent in the report and answered in the lease.
type asks struct {
	nudge func() // tells the keeper that there is something to report

	mu      sync.Mutex
	latest  bastion.Request
	waiting chan bastion.Answer // nil: nobody waits
}

var errAsking = errors.New("another console's request is being answered; try again in a moment")

// ask makes a request. The answer comes on the channel, if one does; giveUp
// must follow.
func (a *asks) ask(verb bastion.Verb, ttl time.Duration) (<-chan bastion.Answer, error) {
	defer a.nudge()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting != nil {
		return nil, errAsking
	}
	a.latest = bastion.Request{Number: a.latest.Number + 1, Verb: verb, TTL: ttl}
	a.waiting = make(chan bastion.Answer, 1)
	return a.waiting, nil
}

// giveUp makes room for the next request.
func (a *asks) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = nil
}

// answer passes the lease's answer on, if it is to the latest request.
func (a *asks) answer(answer bastion.Answer) {
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
func (a *asks) request() bastion.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.latest
}
