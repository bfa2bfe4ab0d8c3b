//go:build !linux

package sshd

import (
	"net"
	"time"
)

// quickAck does nothing: only Linux has TCP_QUICKACK.
func quickAck(net.Conn) {}

// sendQueue returns 0: only Linux has SIOCOUTQ. In a task, bastiond runs on Linux. In local
// mode on another system, what the kernel has not sent yet can be lost if a client leaves
// and its destination does not end the connection within lastDiscardTime.
func sendQueue(net.Conn) int { return 0 }

// setUserTimeout does nothing: only Linux has TCP_USER_TIMEOUT.
func setUserTimeout(net.Conn, time.Duration) {}

// sinceAcknowledged returns 0: the connection then counts as acknowledged.
func sinceAcknowledged(net.Conn) time.Duration { return 0 }

// unread returns false: only Linux has SIOCINQ.
func unread(net.Conn) bool { return false }
