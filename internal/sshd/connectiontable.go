package sshd

import (
	"errors"
	"sync"
	"time"
)

// roster knows who is connected and which keys are in force. It decides, under
// one lock, whether a connection may begin, whether a key that was proved may
// enter, and whether the bastion is unused, so that nobody enters between the
// last look and the end.
type connectionTable struct {
	now    func() time.Time
	limits Limits
	wake   func() // tells the keeper that something changed; does not block

	mu       sync.Mutex
	resumed  sync.Cond // signalled when paused or closed changes
	paused   bool      // new connections wait
	closed   bool      // no connection begins any more
	keys     keySet
	arriving map[*pendingConnection]struct{}
	open     map[*connection]struct{}
	lastUse  time.Time // when the last connection left
}

// arrival is a connection that has not authenticated yet. The roster's lock
// guards it.
type pendingConnection struct {
	cut    func() // ends the handshake
	since  time.Time
	proved bool // its key was proved: it is not cut to end an unused bastion
	ended  bool // it was cut: it can prove nothing any more
}

func newConnectionTable(now func() time.Time, limits Limits, wake func()) *connectionTable {
	r := &connectionTable{
		now: now, limits: limits, wake: wake,
		arriving: map[*pendingConnection]struct{}{},
		open:     map[*connection]struct{}{},
	}
	r.resumed.L = &r.mu
	return r
}

var (
	errClosed  = errors.New("the bastion has ended")
	errNoRoom  = errors.New("too many connections that have not authenticated")
	errNewKeys = errors.New("the key is not admitted any more")
	errFull    = errors.New("too many connections are open")
)

// arrive lets a connection begin its handshake; it waits while the roster is
// paused. It answers errClosed or errNoRoom.
func (r *connectionTable) arrive(a *pendingConnection) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.paused && !r.closed {
		r.resumed.Wait()
	}
	switch {
	case r.closed:
		return errClosed
	case len(r.arriving) >= r.limits.Unauthenticated:
		return errNoRoom
	}
	a.since = r.now()
	r.arriving[a] = struct{}{}
	return nil
}

// admits reports whether the key is in force.
func (r *connectionTable) admits(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.keys[key]
	return ok
}

// inForce is the set of keys in force; nobody changes it.
func (r *connectionTable) inForce() keySet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys
}

// prove notes that an arriving client has signed with a key. It answers errors
// as enter does; nil means that enter is next.
func (r *connectionTable) prove(a *pendingConnection, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mayEnter(a, key); err != nil {
		return err
	}
	a.proved = true
	return nil
}

// enter makes an arrival an open connection, unless meanwhile its key is no
// longer in force (errNewKeys), there are too many (errFull), or it was cut or
// all is over (errClosed). Either way it is no arrival any more.
func (r *connectionTable) enter(a *pendingConnection, c *connection) error {
	defer r.wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.arriving, a)
	if err := r.mayEnter(a, c.key); err != nil {
		return err
	}
	r.open[c] = struct{}{}
	return nil
}

func (r *connectionTable) mayEnter(a *pendingConnection, key string) error {
	_, admitted := r.keys[key]
	switch {
	case r.closed || a.ended:
		return errClosed
	case !admitted:
		return errNewKeys
	case len(r.open) >= r.limits.Connections:
		return errFull
	}
	return nil
}

// giveUp forgets an arrival that did not authenticate.
func (r *connectionTable) giveUp(a *pendingConnection) {
	defer r.wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.arriving, a)
}

// leave forgets an open connection.
func (r *connectionTable) leave(c *connection) {
	defer r.wake()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
	r.lastUse = r.now()
}

// rekey puts keys in force, and answers the connections of other keys.
func (r *connectionTable) rekey(keys keySet) (old []*connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = keys
	for c := range r.open {
		if _, ok := keys[c.key]; !ok {
			old = append(old, c)
		}
	}
	return old
}

// use is how many connections are open, and when one last was.
func (r *connectionTable) use() (open int, last time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) > 0 {
		return len(r.open), r.now()
	}
	return 0, r.lastUse
}

// pause makes new connections wait if nobody is left who has authenticated or
// still may, and reports whether it did.
func (r *connectionTable) pause() (empty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	empty = len(r.open) == 0 && len(r.arriving) == 0
	r.paused = r.paused || empty
	return empty
}

// drain makes new connections wait, and ends the handshakes that began by the
// time given and have proved no key. It answers when the oldest of the others
// began; zero if there are none.
func (r *connectionTable) drain(begun time.Time) (oldest time.Time) {
	r.mu.Lock()
	r.paused = true
	var cuts []func()
	for a := range r.arriving {
		switch {
		case a.proved:
		case !a.since.After(begun):
			a.ended = true
			cuts = append(cuts, a.cut)
		case oldest.IsZero() || a.since.Before(oldest):
			oldest = a.since
		}
	}
	r.mu.Unlock()
	for _, cut := range cuts {
		cut()
	}
	return oldest
}

// resume lets those who wait go on.
func (r *connectionTable) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = false
	r.resumed.Broadcast()
}

// close lets nobody in any more, and ends all handshakes.
func (r *connectionTable) close() {
	r.mu.Lock()
	r.closed = true
	r.resumed.Broadcast()
	var cuts []func()
	for a := range r.arriving {
		a.ended = true
		cuts = append(cuts, a.cut)
	}
	r.mu.Unlock()
	for _, cut := range cuts {
		cut()
	}
}

// everybody is who is connected now.
func (r *connectionTable) everybody() []*connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*connection
	for c := range r.open {
		all = append(all, c)
	}
	return all
}
