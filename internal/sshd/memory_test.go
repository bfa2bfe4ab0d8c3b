package sshd

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memoryListener accepts connections that are not sockets, so that a whole server can
// run in a testing/synctest bubble.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2222}
}

// dial passes one end of a new connection to Accept, and returns the other end.
func (l *memoryListener) dial() (net.Conn, error) {
	up, down := newMemoryStream(), newMemoryStream()
	server, client := memoryConn{up, down}, memoryConn{down, up}
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// memoryStream is one direction of a connection. Its buffer has no limit.
type memoryStream struct {
	mu     sync.Mutex
	ready  sync.Cond
	buffer bytes.Buffer
	ended  bool // the writer has closed it
	gone   bool // the reader has closed it
}

func newMemoryStream() *memoryStream {
	s := &memoryStream{}
	s.ready.L = &s.mu
	return s
}

func (s *memoryStream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.buffer.Len() == 0 && !s.ended && !s.gone {
		s.ready.Wait()
	}
	if s.gone {
		return 0, net.ErrClosed
	}
	if s.buffer.Len() == 0 {
		return 0, io.EOF
	}
	return s.buffer.Read(b)
}

func (s *memoryStream) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.gone {
		return 0, io.ErrClosedPipe
	}
	s.ready.Broadcast()
	return s.buffer.Write(b)
}

func (s *memoryStream) end(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.gone = s.gone || gone
	s.ready.Broadcast()
}

type memoryConn struct{ in, out *memoryStream }

func (c memoryConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c memoryConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c memoryConn) CloseWrite() error           { c.out.end(false); return nil }
func (c memoryConn) Close() error                { c.out.end(false); c.in.end(true); return nil }
func (c memoryConn) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2222} }
func (c memoryConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000}
}
func (c memoryConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c memoryConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c memoryConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
