package sshd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// stage is how far the handshake of a connection is.
type stage int

const (
	stageSilent   stage = iota // the client has sent nothing
	stageSpeaking              // the client has sent something
	stageSigned                // the host key was asked to sign: the keys are exchanged
	stageProved                // the client has signed with an admitted key
)

// pendingConnection is a connection that has not authenticated yet. The connection
// table's lock guards it, except for the first three fields, which do not change, and
// preAuth.
type pendingConnection struct {
	conn net.Conn
	from netip.Addr // the client's address
	gate *exchangeGate

	number int64     // a later connection has a higher number
	since  time.Time // when it began, by the table's clock
	began  time.Time // the same, by the system's clock
	stage  stage
	ended  error // why the server has closed it; nil if it has not

	// The clock: until the host key is asked to sign, or, after that, until the client is
	// authenticated.
	timer *time.Timer
	ends  time.Time
	left  time.Duration // while the clock is stopped, what is left of it; otherwise 0

	mu      sync.Mutex
	preAuth ssh.ServerPreAuthConn // set when the authentication begins
}

// spared is how long a connection whose client has sent something keeps its place at least.
// Without it, clients that connect faster than the server computes would push out those
// that are about to log in.
const spared = time.Second

// victim returns the connection that must make room for another one: the oldest that has
// sent nothing, else the oldest whose host key was not asked to sign, else the oldest that
// has not proved a key. If the only candidates are younger than spared, it returns nil and
// how long to wait. If there is no candidate, it returns nil and 0. The caller must hold
// the lock.
func (t *connectionTable) victim(now time.Time) (victim *pendingConnection, wait time.Duration) {
	var first *pendingConnection // the victim if nobody were spared
	for p := range t.pending {
		if p.stage == stageSilent && unread(p.conn) {
			p.stage = stageSpeaking // its goroutine has not run yet
		}
		switch {
		case p.stage == stageProved:
			continue
		case p.goesBefore(first):
			first = p
		}
		if (p.stage == stageSilent || now.Sub(p.began) >= spared) && p.goesBefore(victim) {
			victim = p
		}
	}
	if victim == nil && first != nil {
		wait = spared - now.Sub(first.began)
	}
	return victim, wait
}

func (p *pendingConnection) goesBefore(q *pendingConnection) bool {
	return q == nil || p.stage < q.stage || p.stage == q.stage && p.number < q.number
}

// add adds a connection and starts its first clock. The caller must hold the lock.
func (t *connectionTable) add(p *pendingConnection) {
	t.begun++
	p.number, p.since, p.began = t.begun, t.now(), time.Now()
	t.pending[p] = struct{}{}
	t.setClock(p, t.timing.KeyExchange, stageSpeaking, fmt.Errorf("no key exchange within %s", t.timing.KeyExchange))
}

// setClock closes the connection after d, unless its stage is then beyond latest. The
// caller must hold the lock.
func (t *connectionTable) setClock(p *pendingConnection, d time.Duration, latest stage, late error) {
	p.ends = time.Now().Add(d)
	p.timer = time.AfterFunc(d, func() {
		t.mu.Lock()
		if p.stage > latest || p.left > 0 || p.ended != nil {
			t.mu.Unlock()
			return
		}
		closeIt := p.finish(late)
		t.mu.Unlock()
		closeIt()
	})
}

// stopClock stops the first clock while the connection waits for a turn. The second clock
// goes on.
func (t *connectionTable) stopClock(p *pendingConnection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.stage < stageSigned {
		p.left = max(1, time.Until(p.ends))
		p.timer.Stop()
	}
}

// startClock continues after stopClock.
func (t *connectionTable) startClock(p *pendingConnection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.left > 0 && p.ended == nil {
		p.ends = time.Now().Add(p.left)
		p.timer.Reset(p.left)
		p.left = 0
	}
}

// reach records that a connection has reached a stage. When the host key is asked to sign,
// the second clock replaces the first.
func (t *connectionTable) reach(p *pendingConnection, reached stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reached <= p.stage {
		return
	}
	p.stage = reached
	if reached == stageSigned && p.ended == nil {
		p.timer.Stop()
		t.setClock(p, t.timing.Handshake, stageProved, fmt.Errorf("not authenticated within %s", t.timing.Handshake))
	}
}

// remove removes a connection and stops its clock. The caller must hold the lock.
func (t *connectionTable) remove(p *pendingConnection) {
	delete(t.pending, p)
	if p.timer != nil {
		p.timer.Stop()
	}
	t.resumed.Broadcast()
}

// finish marks the connection as closed by the server. The caller must hold the lock, and
// call the returned function without it.
func (p *pendingConnection) finish(why error) (closeIt func()) {
	if p.ended == nil {
		p.ended = why
	}
	p.timer.Stop()
	stage := p.stage
	return func() {
		if why != errClosed {
			p.tell(stage, why)
		}
		p.gate.close()
		p.conn.Close()
	}
}

func (p *pendingConnection) setPreAuth(conn ssh.ServerPreAuthConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.preAuth = conn
}

// tellTime limits how long tell can block. The little that is sent usually fits into the
// kernel's buffer.
const tellTime = 100 * time.Millisecond

// tell tells the client why the server closes the connection: until the keys are exchanged
// with a message that is not encrypted, and during the authentication with a banner. In
// between there is no way that the library offers.
func (p *pendingConnection) tell(stage stage, why error) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(tellTime))
	if stage < stageSigned {
		_, _ = p.conn.Write(disconnect(why))
		return
	}
	p.mu.Lock()
	preAuth := p.preAuth
	p.mu.Unlock()
	if preAuth != nil {
		_ = preAuth.SendAuthBanner(fmt.Sprintf("bastion: connection closed: %v. Connect again.\n", why))
	}
}

// serverVersion is the version that the server announces.
const serverVersion = "SSH-2.0-bastiond"

// refuse tells the client of a connection without a handshake why the server closes it.
func refuse(conn net.Conn, why error) {
	_ = conn.SetWriteDeadline(time.Now().Add(tellTime))
	_, _ = conn.Write(append([]byte(serverVersion+"\r\n"), disconnect(why)...))
}

// disconnect returns the packet of a disconnect message that is not encrypted (RFC 4253,
// sections 6 and 11.1).
func disconnect(why error) []byte {
	const block, leastPadding = 8, 4
	payload := ssh.Marshal(struct {
		Reason        uint32 `sshtype:"1"`
		Text, English string
	}{12, fmt.Sprintf("bastion: %v. Connect again.", why), ""}) // SSH_DISCONNECT_TOO_MANY_CONNECTIONS
	padding := block - (5+len(payload))%block
	if padding < leastPadding {
		padding += block
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	packet = append(packet, byte(padding))
	return append(append(packet, payload...), make([]byte, padding)...)
}
