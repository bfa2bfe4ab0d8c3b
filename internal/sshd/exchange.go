package sshd

import (
	"crypto/rand"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

// maxExchanges is the number of Diffie-Hellman key exchanges that are computed at the same
// time. One takes about ten times as long as one with curve25519.
const maxExchanges = 2

// exponentBytes is how much randomness the library reads for the server's exponent, just
// before it computes an exchange in group 14. It reads no more than 32 bytes at once for
// anything else.
const exponentBytes = 256

// exchangeGate is the source of randomness of one connection. With it, a connection waits
// for its turn before it computes a Diffie-Hellman exchange: the library reads the secret
// exponent after it has received the client's half, then computes, then asks the host key
// to sign. The same holds when keys are exchanged again later, also for authenticated
// connections.
type exchangeGate struct {
	turns chan struct{} // of the server: has one value for each turn
	// waits is called when the connection must wait, and continues afterwards.
	waits, continues func()
	closed           chan struct{}

	mu      sync.Mutex
	hasTurn bool
	ended   bool
}

func newExchangeGate(turns chan struct{}, waits, continues func()) *exchangeGate {
	return &exchangeGate{turns: turns, waits: waits, continues: continues, closed: make(chan struct{})}
}

func (g *exchangeGate) Read(b []byte) (int, error) {
	if len(b) >= exponentBytes && !g.take() {
		return 0, net.ErrClosed
	}
	return rand.Read(b)
}

// take waits for a turn, unless the connection has it already. It returns false if the
// connection is closed.
func (g *exchangeGate) take() bool {
	g.mu.Lock()
	hasTurn := g.hasTurn
	g.mu.Unlock()
	if hasTurn {
		return true
	}
	select {
	case g.turns <- struct{}{}:
	default:
		g.waits()
		select {
		case g.turns <- struct{}{}:
		case <-g.closed:
			return false
		}
		g.continues()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		<-g.turns
		return false
	}
	g.hasTurn = true
	return true
}

// release ends the connection's turn, if it has one.
func (g *exchangeGate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hasTurn {
		g.hasTurn = false
		<-g.turns
	}
}

// close ends the connection's turn, and its waiting.
func (g *exchangeGate) close() {
	g.release()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.ended = true
		close(g.closed)
	}
}

// notingSigner calls asked each time before it signs.
type notingSigner struct {
	ssh.MultiAlgorithmSigner
	asked func()
}

func (s notingSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	s.asked()
	return s.MultiAlgorithmSigner.Sign(rand, data)
}

func (s notingSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	s.asked()
	return s.MultiAlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
}
