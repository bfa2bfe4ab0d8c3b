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
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// server is what all connections share.
type server struct {
	ctx         context.Context // ends when all connections are to end; its cause is a *cause
	end         context.CancelCauseFunc
	cfg         Config
	log         *slog.Logger
	host        ssh.Signer
	connections *connectionTable
	asks        *consoleRequests
	audit       *audit
	lease       atomic.Pointer[bastion.Lease] // in force; the keeper alone changes it

	wake  chan struct{} // tells the keeper that something changed
	wg    sync.WaitGroup
	count int64 // of accepted connections; the accepting goroutine's own
}

func newServer(cfg Config, log *slog.Logger, host ssh.Signer) *server {
	s := &server{cfg: cfg, log: log, host: host, wake: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.connections = newConnectionTable(cfg.Now, cfg.Limits, s.nudge)
	s.asks = &consoleRequests{nudge: s.nudge}
	s.audit = newAudit(log, cfg.Now)
	return s
}

// nudge wakes the keeper.
func (s *server) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it will wake anyway
	}
}

func (s *server) policy() Policy {
	return Policy{Allowed: s.lease.Load().AllowedDestinations, Own: s.cfg.Own, AllowLoopback: s.cfg.AllowLoopback}
}

// maxAcceptErrors is how many times in a row Accept may fail before the
// listener counts as lost.
const maxAcceptErrors = 20

// accept takes connections until the roster is closed, when it answers nil, or
// the listener has failed.
func (s *server) accept(listener net.Listener) error {
	for failures := 0; ; {
		conn, err := listener.Accept()
		if err != nil {
			failures++
			if errors.Is(err, net.ErrClosed) || failures == maxAcceptErrors {
				return fmt.Errorf("accept on %s: %w", listener.Addr(), err)
			}
			s.log.Warn("accept failed", "error", err, "failures", failures)
			time.Sleep(50 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		failures = 0
		if errors.Is(s.begin(conn), errClosed) {
			return nil
		}
	}
}

// begin starts serving a connection, unless there is no room for it.
func (s *server) begin(conn net.Conn) error {
	s.count++
	w := actor{connection: s.count, source: sourceOf(conn)}
	a := &pendingConnection{cut: func() { conn.Close() }}
	if err := s.connections.arrive(a); err != nil {
		conn.Close()
		if errors.Is(err, errNoRoom) {
			s.audit.refusal(w, kindConnection, err.Error(), slog.Int("limit", s.cfg.Limits.Unauthenticated))
		}
		return err
	}
	s.wg.Go(func() { s.serve(conn, a, w) })
	return nil
}

// serve does a connection's handshake and, if that ends well, all the rest.
func (s *server) serve(conn net.Conn, a *pendingConnection, w actor) {
	defer conn.Close()
	wire := newWire(conn, s.cfg.Now)
	h := &handshake{roster: s.connections, arrival: a}
	var late atomic.Bool
	timer := time.AfterFunc(s.cfg.Timing.Handshake, func() {
		late.Store(true)
		conn.Close()
	})
	sshConn, channels, requests, err := ssh.NewServerConn(wire, h.config(s.host, s.cfg.Limits))
	timer.Stop()
	w.user = h.user
	if err != nil {
		s.connections.giveUp(a)
		reason := h.failure(err, s.cfg.Limits)
		if late.Load() {
			reason = fmt.Sprintf("not authenticated within %s", s.cfg.Timing.Handshake)
		}
		s.audit.refusal(w, kindAuthentication, reason, h.attrs(err)...)
		return
	}
	wire.settled()
	c := newConnection(s, w, wire, sshConn)
	if err := s.connections.enter(a, c); err != nil {
		sshConn.Close()
		s.audit.refusal(w, kindAuthentication, err.Error(), h.attrs(err)...)
		discardAll(channels, requests)
		return
	}
	s.audit.authenticated()
	c.run(channels, requests)
	s.connections.leave(c)
	s.audit.connection(c.who, c.since, c.wait())
}

// discardAll takes what a closed connection still had to say, so that the
// library's goroutine can end.
func discardAll(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	gone := discard(requests)
	for channel := range channels {
		_ = channel.Reject(ssh.Prohibited, "")
	}
	<-gone
}

// sourceOf is the address that a connection comes from, without the port.
func sourceOf(conn net.Conn) string {
	addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	return addr.Addr().Unmap().String()
}
