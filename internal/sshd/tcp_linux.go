package sshd

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// quickAck turns off delayed acknowledgements for a while, if conn is a TCP connection.
func quickAck(conn net.Conn) {
	control(conn, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}

// sendQueue returns how many bytes the other side's kernel has not acknowledged. An end of
// the stream (FIN) counts as one byte. It returns 0 if conn is not a TCP connection, or is
// closed.
func sendQueue(conn net.Conn) (bytes int) {
	control(conn, func(fd int) {
		bytes, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	})
	return bytes
}

// setUserTimeout sets how long the other side's kernel may acknowledge neither data nor
// probes until the connection fails. It replaces the number of probes and the limit for
// data, which the kernel derives from net.ipv4.tcp_retries2: about 15 minutes (tcp(7)).
func setUserTimeout(conn net.Conn, timeout time.Duration) {
	control(conn, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(timeout.Milliseconds(), math.MaxInt32)))
	})
}

// sinceAcknowledged returns the time since the other side's kernel has last acknowledged
// data or a probe. It returns 0 if conn is not a TCP connection, or is closed.
func sinceAcknowledged(conn net.Conn) (since time.Duration) {
	control(conn, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			since = time.Duration(info.Last_ack_recv) * time.Millisecond
		}
	})
	return since
}

// unread reports whether the kernel has data that was not read yet.
func unread(conn net.Conn) (has bool) {
	control(conn, func(fd int) {
		bytes, _ := unix.IoctlGetInt(fd, unix.SIOCINQ)
		has = bytes > 0
	})
	return has
}

func control(conn net.Conn, call func(fd int)) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { call(int(fd)) })
	}
}
