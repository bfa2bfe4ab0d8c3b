package sshd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
)

// host puts a host on the rig's network; serve gets each connection to it, and
// closes it.
func (r *rig) host(address string, serve func(net.Conn)) {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	r.t.Cleanup(func() {
		listener.Close()
		r.stop() // which closes what serve waits for
		serving.Wait()
	})
	r.network.add(address, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	})
}

// memoryHost is host without sockets.
func (r *rig) memoryHost(address string, serve func(net.Conn)) {
	r.network.add(address, func(context.Context) (net.Conn, error) {
		up, down := newMemoryStream(), newMemoryStream()
		go serve(memoryConn{up, down})
		return memoryConn{down, up}, nil
	})
}

func (n *network) add(address string, dial func(context.Context) (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[netip.MustParseAddrPort(address)] = dial
}

// echo is a host that sends back what it gets.
func (r *rig) echo(address string) { r.host(address, echo) }

func echo(conn net.Conn) {
	defer conn.Close()
	// Between sockets io.Copy would splice, and keep the pipes for the next time,
	// which leakcheck would find.
	_, _ = io.Copy(struct{ io.Writer }{conn}, conn)
}
