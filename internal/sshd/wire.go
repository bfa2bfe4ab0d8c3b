package sshd

import (
	"net"
	"sync/atomic"
	"time"
)

// wire is the network connection under an SSH connection. It knows when the
// client was last heard of, and keeps the handshake fast.
type wire struct {
	net.Conn
	now     func() time.Time
	heard   atomic.Int64 // when bytes last came, in Unix nanoseconds
	shaking atomic.Bool  // the handshake is on
}

func newWire(conn net.Conn, now func() time.Time) *wire {
	w := &wire{Conn: conn, now: now}
	w.heard.Store(now().UnixNano())
	w.shaking.Store(true)
	quickAck(conn)
	return w
}

// settled says that the handshake is over.
func (w *wire) settled() { w.shaking.Store(false) }

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.heard.Store(w.now().UnixNano())
	}
	if w.shaking.Load() {
		// The kernel goes back to delaying acknowledgements by itself, which costs
		// a handshake 40 ms wherever the client waits for one.
		quickAck(w.Conn)
	}
	return n, err
}

// silence is for how long nothing came.
func (w *wire) silence() time.Duration {
	return time.Duration(w.now().UnixNano() - w.heard.Load())
}

// halfClose tells the client that nothing more comes.
func halfClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}
