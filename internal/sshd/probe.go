package sshd

import (
	"net"
	"time"
)

// maxProbes is the most probes that Linux allows (MAX_TCP_KEEPCNT in net/tcp.h).
const maxProbes = 127

// probeAfter returns how long the kernel waits after it has last heard from the client until
// it sends a probe. The reply to it is usually there when a keepalive is due.
func probeAfter(timing Timing) time.Duration {
	return max(time.Second, (timing.Keepalive * 4 / 5).Truncate(time.Second))
}

// probeReply is how long the reply to a probe may take on a slow network, with the
// inaccuracy of the kernel's timers. If it takes longer, keepalives are sent less often.
const probeReply = 2 * time.Second

// responds reports whether the client's host has acknowledged data or the latest probe.
func responds(conn net.Conn, timing Timing) bool {
	return sinceAcknowledged(conn) < probeAfter(timing)+probeReply
}

// probe makes the kernel send probes (TCP keepalives) to the client, and keep the connection
// for longer than Timing.Silence. Go's default is to give it up after 150 seconds.
func probe(conn net.Conn, timing Timing) {
	tcp, ok := conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	})
	if !ok {
		return
	}
	interval := max(time.Second, timing.Keepalive)
	longer := timing.Silence + 2*interval
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: probeAfter(timing), Interval: interval, Count: min(maxProbes, int(longer/interval)+1),
	})
	setUserTimeout(conn, longer)
}
