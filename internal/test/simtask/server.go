package simtask

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

// Server is a [leaseloop.Server] in memory. A test opens and closes its connections with
// Begin, Enter and Leave. Handshakes wait, are drained and enter as in package sshd. A
// connection has all keys of the lease in force when it enters, and no address. Admits
// tells which key is admitted from which address.
type Server struct {
	ListenError error // what Listen returns

	changed chan struct{}
	failed  chan error

	mu        sync.Mutex
	resumed   sync.Cond
	hostKeys  []bastion.Key
	making    bool // another host key will follow
	lease     bastion.Lease
	leasedAt  time.Time
	listening bool
	paused    bool
	closed    bool
	cause     leaseloop.Cause
	pending   map[*Conn]struct{}
	open      []*Conn
	lastUse   time.Time
	request   bastion.ConsoleRequest
	reply     bastion.ConsoleReply
	warnings  []time.Duration
	receipt   bastion.Receipt
}

// Conn is a client's connection.
type Conn struct {
	server *Server
	since  time.Time
	keys   []bastion.Key // admitted when the connection entered
	proved bool
	ended  bool
}

// NewServer returns a server with a host key. The receipt starts now. The server is still
// making another host key until SetHostKeys is called.
func NewServer(hostKey bastion.Key) *Server {
	s := &Server{hostKeys: []bastion.Key{hostKey}, making: true, changed: make(chan struct{}, 1), failed: make(chan error, 1), pending: map[*Conn]struct{}{}}
	s.resumed.L = &s.mu
	s.receipt.StartedAt = time.Now().UTC()
	return s
}

func (s *Server) notifyChanged() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Begin begins a handshake. It blocks while new connections must wait, and returns nil
// if the server does not listen.
func (s *Server) Begin() *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.paused && !s.closed {
		s.resumed.Wait()
	}
	if s.closed || !s.listening {
		return nil
	}
	c := &Conn{server: s, since: time.Now()}
	s.pending[c] = struct{}{}
	return c
}

// Prove marks the key as proved: draining does not close the connection any more. It
// reports false if the connection was closed.
func (c *Conn) Prove() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.proved = !c.ended
	return c.proved
}

// Enter finishes the handshake, and reports whether the connection is open.
func (c *Conn) Enter() bool {
	s := c.server
	defer s.notifyChanged()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, c)
	if s.closed || c.ended {
		return false
	}
	c.keys = s.lease.Keys
	s.open = append(s.open, c)
	s.receipt.Connections++
	return true
}

// Leave closes the connection from the client's side.
func (c *Conn) Leave() {
	s := c.server
	defer s.notifyChanged()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, c)
	s.drop(func(open *Conn) bool { return open == c })
}

// Ended reports whether the server has closed the connection.
func (c *Conn) Ended() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.ended
}

// drop removes open connections, and returns how many. s.mu is held.
func (s *Server) drop(match func(*Conn) bool) (dropped int) {
	before := len(s.open)
	s.open = slices.DeleteFunc(s.open, func(c *Conn) bool {
		c.ended = match(c)
		return c.ended
	})
	if before > len(s.open) {
		s.lastUse = time.Now()
	}
	return before - len(s.open)
}

// Admits reports whether a client with this key can log in from this address: the server
// listens, and the lease in force admits the key from there.
func (s *Server) Admits(key bastion.Key, from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listening && !s.closed && slices.ContainsFunc(s.lease.Admissions(), func(a bastion.Admission) bool {
		return a.Key == key && slices.ContainsFunc(a.Sources, func(p netip.Prefix) bool { return p.Contains(from) })
	})
}

// Use makes the server have n open connections. It reports whether it has.
func (s *Server) Use(n int) bool {
	for s.count() < n {
		if c := s.Begin(); c == nil || !c.Enter() {
			return false
		}
	}
	defer s.notifyChanged()
	s.mu.Lock()
	defer s.mu.Unlock()
	excess := len(s.open) - n
	s.drop(func(*Conn) bool { excess--; return excess >= 0 })
	return s.listening && !s.closed
}

func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Request makes a console request, and reports whether the server accepted it.
func (s *Server) Request(verb bastion.Verb, ttl time.Duration) bool {
	defer s.notifyChanged()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.request = bastion.ConsoleRequest{Number: s.request.Number + 1, Verb: verb, TTL: ttl}
	return true
}

// Lease returns the lease in force.
func (s *Server) Lease() bastion.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// LeasedAt returns when the lease in force was put in force.
func (s *Server) LeasedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leasedAt
}

// LastReply returns the last reply that the loop passed on.
func (s *Server) LastReply() bastion.ConsoleReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reply
}

// Warned returns the warnings so far.
func (s *Server) Warned() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}

// EndCause returns why the loop closed the server; empty while it has not.
func (s *Server) EndCause() leaseloop.Cause {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Fail makes the listener fail.
func (s *Server) Fail(err error) { s.failed <- err }

// SetHostKeys sets the host keys. No further ones follow, unless SetHostKeys is called
// again.
func (s *Server) SetHostKeys(keys ...bastion.Key) {
	defer s.notifyChanged()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostKeys, s.making = keys, false
}

func (s *Server) HostKeys() (keys []bastion.Key, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hostKeys), !s.making
}

func (s *Server) Failed() <-chan error     { return s.failed }
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening = s.ListenError == nil
	return s.ListenError
}

func (s *Server) SetLease(lease bastion.Lease) (closed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease, s.leasedAt = lease, time.Now()
	closed = s.drop(func(c *Conn) bool {
		return !slices.ContainsFunc(c.keys, func(key bastion.Key) bool { return slices.Contains(lease.Keys, key) })
	})
	if closed > 0 {
		s.notifyChanged()
	}
	return closed
}

func (s *Server) Warn(before time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnings = append(s.warnings, before)
}

func (s *Server) ConsoleRequest() bastion.ConsoleRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.request
}

func (s *Server) Reply(reply bastion.ConsoleReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = reply
}

func (s *Server) Connections() (open int, lastUse time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) > 0 {
		return len(s.open), time.Now()
	}
	return 0, s.lastUse
}

func (s *Server) Pause() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := len(s.open) == 0 && len(s.pending) == 0
	s.paused = s.paused || empty
	return empty
}

func (s *Server) Drain(begun time.Time) (oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = true
	for c := range s.pending {
		switch {
		case c.proved:
		case !c.since.After(begun):
			c.ended = true
			delete(s.pending, c)
			s.notifyChanged()
		case oldest.IsZero() || c.since.Before(oldest):
			oldest = c.since
		}
	}
	return oldest
}

func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = false
	s.resumed.Broadcast()
}

func (s *Server) Close(cause leaseloop.Cause) bastion.Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.cause = true, cause
	s.resumed.Broadcast()
	for c := range s.pending {
		c.ended = true
	}
	s.drop(func(*Conn) bool { return true })
	s.receipt.EndedAt = time.Now().UTC()
	return s.receipt
}
