package sshd

import (
	"errors"
	"sync"
	"time"
)

// connectionTable holds the connections and the admitted keys. One lock guards the
// decisions whether a connection may begin, whether it may enter, and whether the
// bastion is unused. So no connection enters between the check for an idle bastion and
// its end.
type connectionTable struct {
	now     func() time.Time
	limits  Limits
	timing  Timing
	changed func() // wakes the lease loop; does not block

	mu      sync.Mutex
	resumed sync.Cond // signalled when paused or closed changes, and when a place is free
	paused  bool      // new connections wait
	closed  bool      // new connections are refused
	keys    keySet
	begun   int64 // number of connections that have begun
	pending map[*pendingConnection]struct{}
	open    map[*connection]struct{}
	lastUse time.Time // when a connection that has left was last used
}

func newConnectionTable(now func() time.Time, limits Limits, timing Timing, changed func()) *connectionTable {
	t := &connectionTable{
		now: now, limits: limits, timing: timing, changed: changed,
		pending: map[*pendingConnection]struct{}{},
		open:    map[*connection]struct{}{},
	}
	t.resumed.L = &t.mu
	return t
}

var (
	errClosed         = errors.New("the bastion has ended")
	errTooManyPending = errors.New("too many unauthenticated connections")
	errEvicted        = errors.New("too many unauthenticated connections: this one was the oldest")
	errTooManyOpen    = errors.New("too many open connections")
)

// begin adds a connection that begins its handshake. It waits while the table is paused. If
// all places are taken, it closes another pending connection, for which it may wait, too.
// Its errors are errClosed, and errTooManyPending if all the others have proved a key.
func (t *connectionTable) begin(p *pendingConnection) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.closed:
			return errClosed
		case t.paused:
			t.resumed.Wait()
			continue
		case len(t.pending) < t.limits.Handshakes:
			t.add(p)
			return nil
		}
		victim, wait := t.victim(time.Now())
		switch {
		case victim != nil:
			delete(t.pending, victim)
			closeVictim := victim.finish(errEvicted)
			t.mu.Unlock()
			closeVictim()
			t.mu.Lock()
		case wait > 0:
			timer := time.AfterFunc(wait, t.wake)
			t.resumed.Wait()
			timer.Stop()
		default:
			return errTooManyPending
		}
	}
}

// wake makes a waiting begin look again.
func (t *connectionTable) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resumed.Broadcast()
}

// admittedKeys returns the admitted keys.
func (t *connectionTable) admittedKeys() keySet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys
}

// prove records that the client has signed with a key. It returns the same errors as
// enter. If it returns nil, the caller must call enter or giveUp.
func (t *connectionTable) prove(p *pendingConnection, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.mayEnter(p, key); err != nil {
		return err
	}
	p.stage = stageProved
	return nil
}

// enter moves a connection from pending to open. It fails if the key has been removed
// (errKeyRemoved) or is not admitted from the client's address (*elsewhereError), or too many
// connections are open (errTooManyOpen). If the server has closed the connection, the error
// is the reason, which is errClosed if the bastion has ended. Then the connection is neither
// pending nor open.
func (t *connectionTable) enter(p *pendingConnection, c *connection) error {
	defer t.changed()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(p)
	if err := t.mayEnter(p, c.key); err != nil {
		return err
	}
	t.open[c] = struct{}{}
	return nil
}

func (t *connectionTable) mayEnter(p *pendingConnection, key string) error {
	if p.ended != nil {
		return p.ended
	}
	if err := t.keys.check(key, p.from); err != nil {
		return err
	}
	if len(t.open) >= t.limits.Connections {
		return errTooManyOpen
	}
	return nil
}

// giveUp removes a pending connection that did not authenticate. It returns why the server
// closed it, and nil if it did not.
func (t *connectionTable) giveUp(p *pendingConnection) (ended error) {
	defer t.changed()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(p)
	return p.ended
}

// leave removes an open connection, which was last used at the given time.
func (t *connectionTable) leave(c *connection, used time.Time) {
	defer t.changed()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	if used.After(t.lastUse) {
		t.lastUse = used
	}
}

// setKeys replaces the admitted keys. It returns the open connections whose key is not
// admitted any more, and the others. A connection stays open if its key is not admitted
// from its address any more.
func (t *connectionTable) setKeys(keys keySet) (before keySet, old, kept []*connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, t.keys = t.keys, keys
	for c := range t.open {
		if _, ok := keys[c.key]; ok {
			kept = append(kept, c)
		} else {
			old = append(old, c)
		}
	}
	return before, old, kept
}

// use returns the number of open connections. last is the current time if one is open,
// else the time when one was last used; zero if there was none.
func (t *connectionTable) use() (open int, last time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) > 0 {
		return len(t.open), t.now()
	}
	return 0, t.lastUse
}

// keyUse returns the admitted keys with the number of open connections of each.
func (t *connectionTable) keyUse() []keyUse {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := map[string]int{}
	for c := range t.open {
		open[c.actor.key]++
	}
	var all []keyUse
	for _, admitted := range t.keys.ordered() {
		all = append(all, keyUse{admitted, open[admitted.fingerprint]})
	}
	return all
}

// keyUse is an admitted key with the number of its open connections.
type keyUse struct {
	admittedKey
	open int
}

// pause makes new connections wait and returns true. If a connection is open or pending,
// it does nothing and returns false.
func (t *connectionTable) pause() (empty bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	empty = len(t.open) == 0 && len(t.pending) == 0
	t.paused = t.paused || empty
	return empty
}

// drain makes new connections wait, and closes the pending ones that began at or before
// the given time and have not proved a key. It returns when the oldest remaining one
// without a proved key began; zero if there is none.
func (t *connectionTable) drain(begun time.Time) (oldest time.Time) {
	t.mu.Lock()
	t.paused = true
	var closes []func()
	for p := range t.pending {
		switch {
		case p.stage == stageProved:
		case !p.since.After(begun):
			closes = append(closes, p.finish(errClosed))
		case oldest.IsZero() || p.since.Before(oldest):
			oldest = p.since
		}
	}
	t.mu.Unlock()
	for _, close := range closes {
		close()
	}
	return oldest
}

// resume makes waiting connections begin.
func (t *connectionTable) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = false
	t.resumed.Broadcast()
}

// close makes begin and enter refuse all connections, and closes the pending ones.
func (t *connectionTable) close() {
	t.mu.Lock()
	t.closed = true
	t.resumed.Broadcast()
	var closes []func()
	for p := range t.pending {
		closes = append(closes, p.finish(errClosed))
	}
	t.mu.Unlock()
	for _, close := range closes {
		close()
	}
}

// all returns the open connections.
func (t *connectionTable) all() []*connection {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*connection
	for c := range t.open {
		all = append(all, c)
	}
	return all
}
