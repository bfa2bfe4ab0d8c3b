//go:build unix

package localcloud

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// reservation is a socket that is bound but does not listen. No other process can
// bind the port, and connections to it are refused.
type reservation struct{ file *os.File }

// bind reserves a port of the host, which the kernel chooses, and returns the port.
func bind(host netip.Addr) (reservation, uint16, error) {
	family, addr := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Addr: host.As16()})
	if host.Is4() {
		family, addr = syscall.AF_INET, &syscall.SockaddrInet4{Addr: host.As4()}
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return reservation{}, 0, fmt.Errorf("create a socket: %w", err)
	}
	r := reservation{os.NewFile(uintptr(fd), "reserved port of "+host.String())}
	if err := syscall.Bind(fd, addr); err != nil {
		r.close()
		return reservation{}, 0, fmt.Errorf("bind to %s: %w", host, err)
	}
	port, err := boundPort(fd)
	if err != nil {
		r.close()
		return reservation{}, 0, fmt.Errorf("find the port bound on %s: %w", host, err)
	}
	return r, port, nil
}

func boundPort(fd int) (uint16, error) {
	addr, err := syscall.Getsockname(fd)
	switch a := addr.(type) {
	case *syscall.SockaddrInet4:
		return uint16(a.Port), err
	case *syscall.SockaddrInet6:
		return uint16(a.Port), err
	}
	return 0, err
}

// listen starts to listen on the reserved port. After it succeeds, closing the
// listener releases the port.
func (r reservation) listen() (net.Listener, error) {
	if err := syscall.Listen(int(r.file.Fd()), syscall.SOMAXCONN); err != nil {
		return nil, err
	}
	listener, err := net.FileListener(r.file)
	if err != nil {
		return nil, err
	}
	r.file.Close()
	return listener, nil
}

func (r reservation) close() { r.file.Close() }
