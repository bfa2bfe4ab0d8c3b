// Package sshd is the SSH server that runs in a bastion's task. It supports forwards
// (direct-tcpip) and a status console, and refuses everything else. Package leaseloop
// controls it: the lease in force has the admitted keys, the allowed destinations and
// the deadline.
//
// # Goroutines and locks
//
// The goroutine that calls [Run] runs the lease loop. One goroutine accepts connections,
// and one sweeps the intake. Each connection has one goroutine that does the handshake and
// then receives channels, and starts others: for global requests, for keepalives, for
// closing the connection, and for each channel. A connection's goroutine waits for the
// others, and Run waits for all connections, so nothing outlives Run but the goroutine that
// makes the RSA host key.
//
// Shared state is in four places, each with its own lock: the connection table, the console
// requests, the audit with its receipt, and the intake, which limits how much undelivered
// data is in memory. A connection has a lock for the set of its open consoles, a
// [refusalLog] has one for its lines, and an [exchangeGate] and a [pendingConnection] have
// one for the way to end them. No lock is held while another is taken, nor during a call
// that can block; a refusalLog may wait for the log.
//
// A connection is ended with a cause, by [connection.end]. Then its own goroutines close
// it: its consoles print the cause, its forwards close, the connection closes, and its
// audit line has the cause as the result.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

// Run runs one bastion from its first lease to its end, and returns the exit code.
// When ctx is done (SIGTERM), the bastion ends with bastion.ExitTerminated. Run returns
// after its goroutines have ended, except the one that makes the RSA host key: it cannot be
// stopped, and takes seconds on a slow machine, for which an end must not wait.
//
// Run begins to make that key before it waits for the first lease, so that the key usually
// exists when the lease comes.
func Run(ctx context.Context, cfg Config) int {
	cfg = cfg.withDefaults()
	log := cfg.Log.With("bastion", cfg.BastionID)
	if err := cfg.check(); err != nil {
		log.Error("invalid configuration", "error", err)
		return bastion.ExitFailure
	}
	hosts, err := newHostKeys(cfg.Rand)
	if err != nil {
		log.Error("no host key", "error", err)
		return bastion.ExitFailure
	}
	go hosts.addRSA(cfg.rsaKey(), log)
	loop := leaseloop.Config{BastionID: cfg.BastionID, Lease: cfg.Lease, Now: cfg.Now, Log: cfg.Log, Timing: cfg.LeaseTiming}
	return leaseloop.Run(ctx, loop, func(_ bastion.Lease, log *slog.Logger) leaseloop.Server {
		return newServer(cfg, log, hosts)
	})
}

// server is the state that all connections share. It implements [leaseloop.Server].
type server struct {
	ctx         context.Context // done when all connections must end; its cause is a *cause
	end         context.CancelCauseFunc
	cfg         Config
	log         *slog.Logger
	hosts       *hostKeys
	connections *connectionTable
	requests    *consoleRequests
	audit       *audit
	intake      *intake
	exchanges   chan struct{}                 // has one value for each Diffie-Hellman exchange that is computed
	lease       atomic.Pointer[bastion.Lease] // in force; set by the lease loop only

	changed  chan struct{}
	failed   chan error
	listener net.Listener // used by the lease loop only
	channels atomic.Int64 // forwards and sessions of all connections, also forwards that linger
	wg       sync.WaitGroup
	accepted int64 // number of accepted connections; used by the accepting goroutine only
}

func newServer(cfg Config, log *slog.Logger, hosts *hostKeys) *server {
	s := &server{cfg: cfg, log: log, hosts: hosts, changed: make(chan struct{}, 1), failed: make(chan error, 1)}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.connections = newConnectionTable(cfg.Now, cfg.Limits, cfg.Timing, s.notifyChanged)
	s.exchanges = make(chan struct{}, maxExchanges)
	s.requests = &consoleRequests{changed: s.notifyChanged}
	s.audit = newAudit(log, cfg.Now)
	s.intake = newIntake(cfg.Limits, cfg.Timing)
	s.wg.Go(func() {
		select {
		case <-hosts.made:
			s.notifyChanged()
		case <-s.ctx.Done():
		}
	})
	return s
}

// notifyChanged wakes the lease loop. It does not block.
func (s *server) notifyChanged() {
	select {
	case s.changed <- struct{}{}:
	default: // the loop has not received the previous value yet
	}
}

func (s *server) Changed() <-chan struct{} { return s.changed }

func (s *server) Failed() <-chan error { return s.failed }

func (s *server) HostKeys() (keys []bastion.Key, complete bool) { return s.hosts.public() }

func (s *server) Connections() (open int, lastUse time.Time) { return s.connections.use() }

func (s *server) Pause() bool { return s.connections.pause() }

func (s *server) Drain(begun time.Time) (oldest time.Time) { return s.connections.drain(begun) }

func (s *server) Resume() { s.connections.resume() }

func (s *server) ConsoleRequest() bastion.ConsoleRequest { return s.requests.current() }

func (s *server) Reply(reply bastion.ConsoleReply) { s.requests.deliver(reply) }

// SetLease implements [leaseloop.Server].
func (s *server) SetLease(lease bastion.Lease) (closed int) {
	keys, err := parseKeys(lease.Admissions())
	if err != nil {
		s.log.Error("ignoring a key that cannot be parsed", "error", err)
	}
	s.lease.Store(&lease)
	before, old, kept := s.connections.setKeys(keys)
	for _, c := range old {
		c.end(causeKeyRemoved)
	}
	for _, notice := range before.changes(keys) {
		for _, c := range kept {
			c.notify(notice)
		}
	}
	return len(old)
}

// Warn implements [leaseloop.Server].
func (s *server) Warn(before time.Duration) {
	notice := warning(*s.lease.Load(), before)
	for _, c := range s.connections.all() {
		c.notify(notice)
	}
}

// Listen implements [leaseloop.Server].
func (s *server) Listen() error {
	listener, err := s.cfg.Listen()
	if err != nil {
		return err
	}
	s.listener = listener
	s.log.Info("listening", "address", listener.Addr().String())
	s.wg.Go(s.sweep)
	s.wg.Go(func() {
		if err := s.accept(listener); err != nil {
			s.failed <- err
		}
	})
	return nil
}

// Close implements [leaseloop.Server].
func (s *server) Close(why leaseloop.Cause) bastion.Receipt {
	s.connections.close()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	s.end(&cause{result: string(why), notice: endNotices[why]})
	s.wg.Wait()
	return s.audit.close()
}

// sweep sweeps the intake until all connections must end.
func (s *server) sweep() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.intake.sweep(s.cfg.Now())
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *server) policy() Policy {
	return Policy{Allowed: s.lease.Load().AllowedDestinations, Own: s.cfg.Own, AllowLoopback: s.cfg.AllowLoopback}
}

// maxAcceptErrors is the number of consecutive errors of Accept after which the
// listener counts as failed.
const maxAcceptErrors = 20

// lackInterval is the least time between two lines about a lack of file descriptors. The
// lack can last as long as the forwards that use them.
const lackInterval = time.Minute

// accept accepts connections. It returns nil when the connection table is closed, and an
// error when the listener has failed.
func (s *server) accept(listener net.Listener) error {
	var warned time.Time // when a lack of file descriptors was last logged
	for failures := 0; ; {
		conn, err := listener.Accept()
		if err != nil {
			lack := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
			if lack {
				failures = 0 // the listener works again when descriptors are free
			}
			failures++
			if errors.Is(err, net.ErrClosed) || failures == maxAcceptErrors {
				return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
			}
			if !lack {
				s.log.Warn("accept failed", "error", err, "failures", failures)
			} else if time.Since(warned) >= lackInterval {
				s.log.Warn("accept failed", "error", err, "next", "new connections wait until file descriptors are free")
				warned = time.Now()
			}
			time.Sleep(50 * time.Millisecond) // probably out of file descriptors
			continue
		}
		failures = 0
		if errors.Is(s.begin(conn), errClosed) {
			return nil
		}
	}
}

// begin starts to serve a connection, or refuses it if too many are unauthenticated.
func (s *server) begin(conn net.Conn) error {
	s.accepted++
	source, from := sourceOf(conn)
	client := actor{connection: s.accepted, source: source}
	p := &pendingConnection{conn: conn, from: from}
	p.gate = newExchangeGate(s.exchanges, func() { s.connections.stopClock(p) }, func() { s.connections.startClock(p) })
	if err := s.connections.begin(p); err != nil {
		if errors.Is(err, errTooManyPending) {
			refuse(conn, err)
			s.audit.refusal(client, kindConnection, err.Error(), slog.Int("limit", s.cfg.Limits.Handshakes))
		}
		conn.Close()
		return err
	}
	s.wg.Go(func() { s.serve(conn, p, client) })
	return nil
}

// serve does a connection's handshake and, if it succeeds, serves the connection.
func (s *server) serve(conn net.Conn, p *pendingConnection, client actor) {
	inflow := s.intake.open()
	defer inflow.remove()
	wire := newWire(conn, inflow, s.cfg.Now, p.gate, func() { s.connections.reach(p, stageSpeaking) })
	defer wire.Close()
	h := &handshake{connections: s.connections, pending: p, gate: p.gate}
	sshConn, channels, requests, err := ssh.NewServerConn(wire, h.config(s.hosts, s.cfg))
	client.user = h.user
	if err != nil {
		ended := s.connections.giveUp(p)
		reason := h.failure(err, s.cfg.Limits)
		if ended != nil && ended != errClosed {
			reason = ended.Error()
		}
		s.audit.refusal(client, kindAuthentication, reason, h.attrs(err)...)
		return
	}
	wire.handshakeDone()
	c := newConnection(s, client, wire, sshConn)
	if err := s.connections.enter(p, c); err != nil {
		sshConn.Close()
		s.audit.refusal(client, kindAuthentication, err.Error(), h.attrs(err)...)
		discardAll(channels, requests)
		return
	}
	s.audit.authenticated()
	c.run(channels, requests)
	s.connections.leave(c, c.lastUse())
	result := c.wait()
	c.actor.refusals.end()
	s.audit.connection(c.actor, c.since, result)
}

// discardAll drains a closed connection's channels and requests, so that the
// library's goroutine can end.
func discardAll(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	closed := discard(requests)
	for channel := range channels {
		_ = channel.Reject(ssh.Prohibited, "")
	}
	<-closed
}

// sourceOf returns a client's address without the port: as a text, and without the zone of
// an IPv6 address, because no source contains an address with a zone. If there is no
// address, the second result is not valid, and no source contains it.
func sourceOf(conn net.Conn) (string, netip.Addr) {
	remote := conn.RemoteAddr().String()
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote, netip.Addr{}
	}
	from := address.Addr().Unmap()
	return from.String(), from.WithZone("")
}
