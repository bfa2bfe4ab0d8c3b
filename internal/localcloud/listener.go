package localcloud

import (
	"net"
	"net/netip"
)

// listener enforces the security group on every accept.
type listener struct {
	net.Listener
	process *process
	admits  func(netip.Addr) bool
}

// Accept answers the next connection that the group admits. Others are closed
// without a byte; what is open already is never looked at again.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp := inner.(*net.TCPConn)
		c := &conn{TCPConn: tcp, process: l.process}
		peer := tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if l.admits(peer) && l.process.keep(c) {
			return c, nil
		}
		tcp.Close()
	}
}

// conn is a connection that is cut when its process dies.
type conn struct {
	*net.TCPConn
	process *process
}

// Close closes the connection.
func (c *conn) Close() error {
	c.process.drop(c)
	return c.TCPConn.Close()
}

// socket is an address that a task has, whether or not it listens there.
type socket struct {
	addr     netip.AddrPort
	reserved reservation
}

// reserve gives a task its address; nil if the cloud has no sockets.
func (c *Cloud) reserve() (*socket, error) {
	if !c.cfg.Host.IsValid() {
		return nil, nil
	}
	reserved, port, err := bind(c.cfg.Host)
	if err != nil {
		return nil, err
	}
	return &socket{addr: netip.AddrPortFrom(c.cfg.Host, port), reserved: reserved}, nil
}

func (s *socket) listen() (net.Listener, error) { return s.reserved.listen() }

func (s *socket) close() { s.reserved.close() }
