package sshd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Resolver finds the addresses of a host. It is called once for each forward.
type Resolver interface {
	// LookupNetIP is called with the network "ip"; *net.Resolver has it.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer connects to exactly the address given; it resolves nothing.
type Dialer interface {
	// Dial honours ctx. The connection should have CloseWrite; without it the
	// destination is not told when the client has no more to send.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Config is what Run needs. Timing and Limits may be zero; each of their zero
// fields has the documented default.
type Config struct {
	BastionID string            // for the log, until the lease names it
	Lease     bastion.TaskLease // this task's item in the table of leases

	// Listen is called once a lease is held: no lease, no listener.
	Listen   func() (net.Listener, error)
	Resolver Resolver
	Dialer   Dialer

	Own           []netip.Addr   // the bastion's own addresses: never a destination
	AllowLoopback []netip.Prefix // exempt from the rule against loopback; local mode only

	Rand io.Reader        // the host key comes from here; default crypto/rand
	Now  func() time.Time // default time.Now
	Log  *slog.Logger     // operation and audit; default slog.Default

	Timing Timing
	Limits Limits
}

// Timing is how patient the server is.
type Timing struct {
	Poll        time.Duration   // between reads of the lease; 3 s
	FirstLease  time.Duration   // how long to wait for the first lease; 5 min
	Call        time.Duration   // one read or report at most; 5 s
	Report      time.Duration   // between reports when nothing changed; 1 min
	ReportPause time.Duration   // between reports of changed connections; 1 s
	Warnings    []time.Duration // before the deadline; 10 min and 1 min
	Answer      time.Duration   // how long a console waits for an answer; 20 s

	Handshake time.Duration // from accept to authenticated; 2 min, as typing a passphrase takes time
	Drain     time.Duration // what a handshake in flight gets when idle ends the bastion; 10 s
	Keepalive time.Duration // between keepalives; 15 s
	Missed    int           // silent for this many keepalives is dead; 3

	Resolve time.Duration // one look-up; 5 s
	Dial    time.Duration // one connection attempt; 10 s
	Linger  time.Duration // for delivering what a client sent before it left; 30 s
	Grace   time.Duration // for consoles and forwards to close at an end, and again for the client; 1 s
}

// Limits is how much the server takes on. Each is logged when it is hit.
type Limits struct {
	Unauthenticated int // connections that have not authenticated; 32
	Connections     int // authenticated connections; 64
	Channels        int // forwards and sessions of one connection; 256
	// AuthAttempts is how many keys, or other attempts, a client may have
	// refused on one connection; 64. The SSH library has a hard limit of 128
	// requests.
	AuthAttempts int
}

func (c Config) withDefaults() Config {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Timing = c.Timing.withDefaults()
	c.Limits = c.Limits.withDefaults()
	return c
}

func (t Timing) withDefaults() Timing {
	if t.Warnings == nil {
		t.Warnings = []time.Duration{10 * time.Minute, time.Minute}
	}
	return Timing{
		Poll:        cmp.Or(t.Poll, 3*time.Second),
		FirstLease:  cmp.Or(t.FirstLease, 5*time.Minute),
		Call:        cmp.Or(t.Call, 5*time.Second),
		Report:      cmp.Or(t.Report, time.Minute),
		ReportPause: cmp.Or(t.ReportPause, time.Second),
		Warnings:    t.Warnings,
		Answer:      cmp.Or(t.Answer, 20*time.Second),
		Handshake:   cmp.Or(t.Handshake, 2*time.Minute),
		Drain:       cmp.Or(t.Drain, 10*time.Second),
		Keepalive:   cmp.Or(t.Keepalive, 15*time.Second),
		Missed:      cmp.Or(t.Missed, 3),
		Resolve:     cmp.Or(t.Resolve, 5*time.Second),
		Dial:        cmp.Or(t.Dial, 10*time.Second),
		Linger:      cmp.Or(t.Linger, 30*time.Second),
		Grace:       cmp.Or(t.Grace, time.Second),
	}
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Unauthenticated: cmp.Or(l.Unauthenticated, 32),
		Connections:     cmp.Or(l.Connections, 64),
		Channels:        cmp.Or(l.Channels, 256),
		AuthAttempts:    cmp.Or(l.AuthAttempts, 64),
	}
}

// check answers all that is missing, in one error.
func (c Config) check() error {
	var problems []error
	if c.Lease == nil {
		problems = append(problems, errors.New("no lease to obey"))
	}
	if c.Listen == nil {
		problems = append(problems, errors.New("no listener"))
	}
	if c.Resolver == nil {
		problems = append(problems, errors.New("no resolver"))
	}
	if c.Dialer == nil {
		problems = append(problems, errors.New("no dialer"))
	}
	return errors.Join(problems...)
}
