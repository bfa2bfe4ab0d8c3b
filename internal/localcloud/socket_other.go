//go:build !unix

package localcloud

import (
	"net"
	"net/netip"
)

// reservation is a port that was free when bind checked it. On this system, package
// net cannot listen on a socket that was bound before.
type reservation struct{ addr string }

// bind finds a free port of the host.
func bind(host netip.Addr) (reservation, uint16, error) {
	probe, err := net.Listen("tcp", net.JoinHostPort(host.String(), "0"))
	if err != nil {
		return reservation{}, 0, err
	}
	port := probe.Addr().(*net.TCPAddr).AddrPort().Port()
	return reservation{probe.Addr().String()}, port, probe.Close()
}

func (r reservation) listen() (net.Listener, error) { return net.Listen("tcp", r.addr) }

func (r reservation) close() {}
