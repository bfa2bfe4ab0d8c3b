package sshd

import (
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// The kernel must not give a connection up before Timing.Silence has passed: neither because
// of probes nor of data that the client does not acknowledge.
func TestKernelKeepsAConnectionForLongerThanTheServer(t *testing.T) {
	const userTimeout = 18 // TCP_USER_TIMEOUT in linux/tcp.h
	conns := make(chan net.Conn, 1)
	r := start(t, func(r *fixture) {
		listen := r.cfg.Listen
		r.cfg.Timing.Silence = time.Hour
		r.cfg.Listen = func() (net.Listener, error) {
			listener, err := listen()
			return recordingListener{listener, conns}, err
		}
	})
	r.dial()
	conn := <-conns
	option := func(level, option int) (value int) {
		t.Helper()
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, option) })
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	// The goroutine for keepalives sets them after the login.
	for option(syscall.IPPROTO_TCP, userTimeout) == 0 && t.Context().Err() == nil {
		runtime.Gosched()
	}
	for name, o := range map[string]struct{ level, option, want int }{
		"SO_KEEPALIVE":     {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		"TCP_KEEPIDLE":     {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 12},
		"TCP_KEEPINTVL":    {syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 15},
		"TCP_KEEPCNT":      {syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 127},
		"TCP_USER_TIMEOUT": {syscall.IPPROTO_TCP, userTimeout, int((time.Hour + 30*time.Second).Milliseconds())},
	} {
		if got := option(o.level, o.option); got != o.want {
			t.Errorf("%s is %d, want %d", name, got, o.want)
		}
	}
}

// recordingListener sends the connections that it accepts to a channel, if there is room.
type recordingListener struct {
	net.Listener
	conns chan<- net.Conn
}

func (l recordingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		select {
		case l.conns <- conn:
		default:
		}
	}
	return conn, err
}
