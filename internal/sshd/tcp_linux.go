package sshd

import (
	"net"
	"syscall"

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

func control(conn net.Conn, call func(fd int)) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { call(int(fd)) })
	}
}
