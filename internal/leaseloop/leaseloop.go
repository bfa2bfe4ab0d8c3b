// Package leaseloop is a task's side of its lease. Its loop reads the lease and puts it
// in force, writes the report, warns before the deadline, and decides when the bastion
// ends. It controls a [Server], which package sshd implements. The fault tests run the
// same loop with a server in memory.
package leaseloop

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Server is the interface through which the loop controls the SSH server. The loop calls
// its methods from one goroutine.
type Server interface {
	// HostKeys returns the public host keys, the one that all clients know (ed25519)
	// first. complete is false while the server still makes a key; Changed receives a
	// value when it has been made.
	HostKeys() (keys []bastion.Key, complete bool)
	// Listen opens the listener. The loop calls it once, after the first SetLease.
	Listen() error
	// Failed receives an error if the listener fails after Listen.
	Failed() <-chan error
	// Changed receives a value when a connection has come or gone, a console has made a
	// request, or a host key has been made.
	Changed() <-chan struct{}

	// SetLease puts a lease in force. It starts to close the open connections whose
	// key is not in the lease, and returns their number. It does not wait for them.
	// It prints on the other consoles which keys and sources have changed. A connection
	// stays open if its key is now admitted from other addresses only.
	SetLease(lease bastion.Lease) (closed int)
	// Warn prints on all consoles that the bastion ends in the given time.
	Warn(before time.Duration)
	// ConsoleRequest returns the latest request of a console; zero if there was none.
	ConsoleRequest() bastion.ConsoleRequest
	// Reply passes a reply to the console that made the request of the same number.
	Reply(reply bastion.ConsoleReply)

	// Connections returns the number of open authenticated connections. lastUse is
	// the current time if one is open, else the time when one was last used; zero if
	// there was none. A connection whose client does not respond is open until the server
	// gives it up. Its last use is then when the client was last heard.
	Connections() (open int, lastUse time.Time)
	// Pause makes new connections wait and returns true. If a connection is open or
	// in its handshake, Pause does nothing and returns false.
	Pause() bool
	// Drain makes new connections wait, and closes the handshakes that began at or
	// before the given time and have not proved an admitted key. It returns when the
	// oldest remaining handshake without a proved key began; zero if there is none.
	Drain(begun time.Time) (oldest time.Time)
	// Resume makes waiting connections begin their handshakes.
	Resume()

	// Close closes the listener, ends all connections with the cause, waits for them,
	// and returns the receipt. The loop calls it once, at the end.
	Close(cause Cause) bastion.Receipt
}

// Config is what Run needs.
type Config struct {
	BastionID string            // for log lines before the first lease
	Lease     bastion.TaskLease // the task's own item in the table of leases
	Now       func() time.Time
	Log       *slog.Logger
	Timing    Timing
}

// Timing holds the loop's intervals and limits. A zero field has the documented
// default.
type Timing struct {
	Poll        time.Duration   // between reads of the lease; 3 s
	FirstLease  time.Duration   // how long to wait for the first lease; 5 min
	Refusal     time.Duration   // how long the table may refuse reads before the first lease; 15 s
	Call        time.Duration   // time limit of one read or report; 5 s
	HostKeys    time.Duration   // how long the first report waits for host keys that are being made; 3 s
	Report      time.Duration   // between reports when nothing changed; 1 min
	ReportPause time.Duration   // between reports when the number of connections changes; 1 s
	Warnings    []time.Duration // before the deadline; 10 min and 1 min
	Drain       time.Duration   // for handshakes to finish before an idle end; 10 s
}

func (t Timing) withDefaults() Timing {
	if t.Warnings == nil {
		t.Warnings = []time.Duration{10 * time.Minute, time.Minute}
	}
	return Timing{
		Poll:        cmp.Or(t.Poll, 3*time.Second),
		FirstLease:  cmp.Or(t.FirstLease, 5*time.Minute),
		Refusal:     cmp.Or(t.Refusal, 15*time.Second),
		Call:        cmp.Or(t.Call, 5*time.Second),
		HostKeys:    cmp.Or(t.HostKeys, 3*time.Second),
		Report:      cmp.Or(t.Report, time.Minute),
		ReportPause: cmp.Or(t.ReportPause, time.Second),
		Warnings:    t.Warnings,
		Drain:       cmp.Or(t.Drain, 10*time.Second),
	}
}

// Run waits for the task's first lease, starts the server for it, and controls the
// server until the bastion ends. It returns the process's exit code. When ctx is
// done (SIGTERM), the bastion ends with bastion.ExitTerminated.
//
// start returns the server for a bastion's first lease. The logger has the
// attributes that name the bastion and its owner.
func Run(ctx context.Context, cfg Config, start func(first bastion.Lease, log *slog.Logger) Server) int {
	cfg.Timing = cfg.Timing.withDefaults()
	first, code := firstLease(ctx, cfg, cfg.Log.With("bastion", cfg.BastionID))
	if code != bastion.ExitOK || !first.Open {
		return code
	}
	cfg.Log = cfg.Log.With("bastion", first.BastionID, "owner", first.Owner)
	l := &loop{cfg: cfg, server: start(first, cfg.Log)}
	return l.run(ctx, first)
}
