package sshd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

// Resolver finds the addresses of a host. It is called once for each forward.
type Resolver interface {
	// LookupNetIP is called with the network "ip"; *net.Resolver has it.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Dialer connects to exactly the given address. It does not resolve names.
type Dialer interface {
	// Dial honours ctx. The connection should have CloseWrite; without it the
	// destination does not learn that the client has finished sending.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Network is the machine's own Resolver and Dialer.
type Network struct{}

// LookupNetIP uses the system's resolver.
func (Network) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

// Dial connects by TCP.
func (Network) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		return nil, err // not a nil *net.TCPConn in an interface
	}
	return conn, nil
}

// Config is what Run needs. LeaseTiming, Timing and Limits may be zero; each of
// their zero fields has the documented default.
type Config struct {
	BastionID string            // for log lines before the first lease
	Lease     bastion.TaskLease // this task's item in the table of leases

	// Listen is called once, after the first lease has been read.
	Listen   func() (net.Listener, error)
	Resolver Resolver
	Dialer   Dialer

	Own           []netip.Addr   // the bastion's own addresses: never a destination
	AllowLoopback []netip.Prefix // loopback destinations that the lease may allow; default none

	Algorithms Algorithms // default Compatible
	// RSAKey makes the RSA host key, unless Algorithms is Strict. It is called once, in a
	// goroutine of its own. The default makes a key of 3,072 bits.
	RSAKey func() (*rsa.PrivateKey, error)

	Rand io.Reader        // source of the ed25519 host key; default crypto/rand
	Now  func() time.Time // default time.Now
	Log  *slog.Logger     // operation and audit; default slog.Default

	LeaseTiming leaseloop.Timing
	Timing      Timing
	Limits      Limits
}

// Algorithms names a set of algorithms that the server offers.
type Algorithms string

// The sets of algorithms.
const (
	Compatible Algorithms = "compatible" // also for older clients and clients in FIPS mode
	Strict     Algorithms = "strict"     // AES-GCM, curve25519 (also with ML-KEM), an ed25519 host key
)

// ParseAlgorithms returns the set of that name.
func ParseAlgorithms(name string) (Algorithms, error) {
	switch a := Algorithms(name); a {
	case Compatible, Strict:
		return a, nil
	}
	return "", fmt.Errorf("%q: neither %s nor %s", name, Compatible, Strict)
}

// rsaKey returns the function that makes the RSA host key, or nil if there must be none.
func (c Config) rsaKey() func() (*rsa.PrivateKey, error) {
	if c.Algorithms == Strict {
		return nil
	}
	return c.RSAKey
}

// Timing holds the time limits of connections.
type Timing struct {
	// KeyExchange is from accept until the host key is asked to sign; 10 s. Waiting for a
	// turn (see exchangeGate) does not count.
	KeyExchange time.Duration
	// Handshake is from then until the client is authenticated; 2 min. The client asks its
	// questions about the host key and its passphrase in this time.
	Handshake time.Duration
	Keepalive time.Duration // between keepalives; 15 s
	Silence   time.Duration // how long a client may send nothing until it counts as dead; DefaultSilence
	Reply     time.Duration // how long a console waits for the reply to its request; 20 s

	Resolve time.Duration // one look-up; 5 s
	Dial    time.Duration // one connection attempt; 10 s
	Linger  time.Duration // for delivering what a client sent before it closed the forward; 30 s
	Stuck   time.Duration // how long a connection above Limits.Undelivered may be unread until forwards are cut; 3 min
	Grace   time.Duration // when a connection must end: for its channels to close, then again for the client to close it; 1 s
}

// The defaults of the limits that operators can change. template.yaml has the same ones.
const (
	DefaultHandshakes  = 400
	DefaultConnections = 250
	DefaultChannels    = 250
	DefaultSilence     = 15 * time.Minute
)

// Limits bounds what the server accepts. Each refusal by a limit is audited.
type Limits struct {
	Handshakes  int // connections that have not authenticated; DefaultHandshakes
	Connections int // authenticated connections; DefaultConnections
	Channels    int // forwards and sessions of one connection; DefaultChannels
	// AllChannels is the number of forwards and sessions of all connections; 8,000. An idle
	// forward takes about 29 KB (measured with 10,000), and a task has 512 MB.
	AllChannels int
	// Undelivered is the number of bytes that clients have sent and destinations have not
	// read, above which connections are not read any more; 64 MiB. With the share that
	// each connection has in any case, all of them can hold twice as much. The memory in
	// use is more again, by half and by what the garbage collector has not collected: the
	// default is for a task with 512 MB.
	Undelivered int64
	// AuthAttempts is the number of refused keys and other attempts after which a
	// handshake fails; 64. The SSH library has a hard limit of 128 requests.
	AuthAttempts int
}

func (c Config) withDefaults() Config {
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.RSAKey == nil {
		c.RSAKey = makeRSAKey
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
	return Timing{
		KeyExchange: cmp.Or(t.KeyExchange, 10*time.Second),
		Handshake:   cmp.Or(t.Handshake, 2*time.Minute),
		Keepalive:   cmp.Or(t.Keepalive, 15*time.Second),
		Silence:     cmp.Or(t.Silence, DefaultSilence),
		Reply:       cmp.Or(t.Reply, 20*time.Second),
		Resolve:     cmp.Or(t.Resolve, 5*time.Second),
		Dial:        cmp.Or(t.Dial, 10*time.Second),
		Linger:      cmp.Or(t.Linger, 30*time.Second),
		Stuck:       cmp.Or(t.Stuck, 3*time.Minute),
		Grace:       cmp.Or(t.Grace, time.Second),
	}
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Handshakes:   cmp.Or(l.Handshakes, DefaultHandshakes),
		Connections:  cmp.Or(l.Connections, DefaultConnections),
		Channels:     cmp.Or(l.Channels, DefaultChannels),
		AllChannels:  cmp.Or(l.AllChannels, 8000),
		Undelivered:  cmp.Or(l.Undelivered, 64<<20),
		AuthAttempts: cmp.Or(l.AuthAttempts, 64),
	}
}

// check returns one error that lists everything that is missing.
func (c Config) check() error {
	var problems []error
	if c.Lease == nil {
		problems = append(problems, errors.New("no lease"))
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
