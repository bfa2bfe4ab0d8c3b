package sshd

import (
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// A stock client answers keepalives, and so keeps the bastion alive though it
// has nothing to say; stopped with SIGSTOP it does not, though its kernel still
// acknowledges all that is sent.
func TestFrozenStockClientDoesNotKeepItAlive(t *testing.T) {
	const idle = 300 * time.Millisecond
	r := start(t, func(r *rig) {
		r.table.Lease.IdleTimeout = time.Hour
		r.cfg.Timing.Keepalive, r.cfg.Timing.Missed = 100*time.Millisecond, 3
		r.cfg.LeaseTiming.Report = 50 * time.Millisecond
		r.cfg.Timing.Grace = 50 * time.Millisecond
	})
	client := r.stock().hold("-N", "bastion")
	r.connected(1)
	if err := r.table.Write(func(l *bastion.Lease) { l.IdleTimeout = idle }); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(3 * idle)
	r.awaitReport("says that it is in use long after", func(report bastion.Report) bool {
		return report.Connections == 1 && report.LastUsedAt.After(until)
	})
	if err := client.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if code := r.exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if ending := r.table.LastReport().Ending.Reason; ending != bastion.EndIdle {
		t.Errorf("it ended because of %q, want idle", ending)
	}
	if result := r.journal.await(t, msgConnection, 1).text("result"); result != causeDead.result {
		t.Errorf("the connection's result is %q, want %q", result, causeDead.result)
	}
}
