package sshd

import (
	"context"
	"net"
	"net/netip"
)

// Network is the machine's own resolver and dialer.
type Network struct{}

// LookupNetIP asks the system's resolver.
func (Network) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

// Dial connects by TCP.
func (Network) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	conn, err := new(net.Dialer).DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		return nil, err // and no typed nil
	}
	return conn, nil
}
