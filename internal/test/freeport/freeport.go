// Package freeport finds TCP ports for programs that tests start.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// The ports lie below Linux's range for outgoing connections and listeners without a port
// of their own, which begins at 32768 (ip_local_port_range in ip(7)). Otherwise such a
// connection could take the port before the program listens on it.
const first, last = 20000, 32000

// Port returns a port of 127.0.0.1 on which no process listens. It chooses at random, so
// that tests that run at the same time rarely get the same one.
func Port(t testing.TB) int {
	t.Helper()
	var err error
	for range 100 {
		port := first + rand.IntN(last-first)
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			listener.Close()
			return port
		}
	}
	t.Fatal(fmt.Errorf("find a free port: %w", err))
	return 0
}
