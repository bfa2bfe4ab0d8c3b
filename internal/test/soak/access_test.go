//go:build conformance

package soak

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// access holds who may get into the bastions of one owner and name, as the requests and
// responses of the API say. While a request is under way, both the access before it and
// the access after it are possible.
type access struct {
	mu     sync.Mutex
	grants []*grant
	closed map[string]time.Time // by the bastion's ID: when a response said that it is closed
}

// grant is the access that one request asks for.
type grant struct {
	key    string // fingerprint
	source netip.Addr

	id       string    // of the bastion; empty until the response
	from     time.Time // when the request was sent
	answered time.Time // when the response arrived; zero before
	until    time.Time // when a later request is known to have replaced it; zero before
}

// ask begins a request.
func (a *access) ask(key string, source netip.Addr) *grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := &grant{key: key, source: source, from: time.Now()}
	a.grants = append(a.grants, g)
	return g
}

// answer ends a request for the bastion id.
func (a *access) answer(g *grant, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g.id, g.answered = id, time.Now()
}

// inForce is called when the bastion was seen ready after the response, with these keys.
// What earlier requests asked for is then replaced, unless their key is still admitted. A
// request that overlaps with this one may be the later one.
func (a *access) inForce(g *grant, keys []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.grants {
		earlier := !other.answered.IsZero() && other.answered.Before(g.from)
		if other.id == g.id && other.until.IsZero() && earlier && (other.key == g.key || !slices.Contains(keys, other.key)) {
			other.until = time.Now()
		}
	}
}

// close is called when a response said that the bastion is closed.
func (a *access) close(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed == nil {
		a.closed = map[string]time.Time{}
	}
	if _, known := a.closed[id]; !known {
		a.closed[id] = time.Now()
	}
}

// mayReach reports whether an address may have reached the server of the bastion at some
// time between from and to.
func (a *access) mayReach(id string, source netip.Addr, from, to time.Time) bool {
	return a.some(id, from, to, func(g *grant) bool { return g.source == source })
}

// mayEnter is mayReach with a key, for a login.
func (a *access) mayEnter(id, key string, source netip.Addr, from, to time.Time) bool {
	return a.some(id, from, to, func(g *grant) bool { return g.source == source && g.key == key })
}

func (a *access) some(id string, from, to time.Time, match func(*grant) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if closed, ok := a.closed[id]; ok && closed.Before(from) {
		return false
	}
	for _, g := range a.grants {
		if (g.id == "" || g.id == id) && match(g) && !g.from.After(to) && (g.until.IsZero() || !g.until.Before(from)) {
			return true
		}
	}
	return false
}

// changedSince reports whether a request for another key was under way after a time.
func (a *access) changedSince(key string, since time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.grants {
		if g.key != key && (g.answered.IsZero() || g.answered.After(since)) {
			return true
		}
	}
	return false
}
