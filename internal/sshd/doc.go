// Package sshd is the SSH server that runs in a bastion's task. It obeys a
// lease and nothing else: which key it admits, where it connects to, when it
// ends. It forwards (direct-tcpip) and has a status console; it does nothing
// else that SSH servers do.
//
// # Who owns what
//
// [Run] is called by one goroutine, the keeper. The keeper alone reads the
// lease, writes the report, and decides to end. One goroutine accepts. Each
// connection has one goroutine that does the handshake and then takes its
// channels, with a few beside it: one for global requests, one for keepalives,
// one that closes the connection when it is told to, and one for each channel.
// A connection's goroutine waits for the others, and Run waits for all
// connections, so nothing outlives Run.
//
// What they share is in three places, each with a lock of its own: the roster
// (who is connected, which keys are in force, whether new connections wait),
// the asks (what consoles asked of the control plane), and the audit (what the
// receipt will say). A connection has a lock of its own too, for the set of its
// open consoles. No lock is held while another is taken, and none across a call
// that can block.
//
// Nobody ends a connection by closing it from outside. They give it a cause;
// its consoles print it, its forwards close, then the connection closes, and
// the cause stands in its audit line.
package sshd
