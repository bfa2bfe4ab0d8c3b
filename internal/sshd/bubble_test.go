package sshd

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

// bubble runs a test in simulated time: the whole bastion, its clients and its
// hosts, without a socket. The idle time is ten minutes, the lease an hour.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.memory = newMemoryListener()
		r.cfg.LeaseTiming = leaseloop.Timing{} // the defaults
		r.table.Lease.Deadline = time.Now().Add(time.Hour)
		r.table.Lease.IdleTimeout = 10 * time.Minute
		test(t, r)
		r.stop()
		synctest.Wait()
	})
}

// after lets time go by and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) ended() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// endsAfter expects it to end after d, and not before.
func (r *rig) endsAfter(d time.Duration, reason bastion.EndReason) {
	r.t.Helper()
	after(d - time.Second)
	if r.ended() {
		r.t.Fatalf("it ended before %v had gone by:\n%s", d, r.journal.text())
	}
	after(4 * time.Second)
	if !r.ended() {
		r.t.Fatalf("it did not end after %v:\n%s", d, r.journal.text())
	}
	if r.code != bastion.ExitOK {
		r.t.Errorf("exit code %d, want 0", r.code)
	}
	report := r.table.LastReport()
	if want := (bastion.Ending{Reason: reason, Generation: r.table.Lease.Generation}); report.Ending != want {
		r.t.Errorf("it reports the ending %+v, want %+v", report.Ending, want)
	}
	if report.Receipt.EndedAt.IsZero() {
		r.t.Error("it reports no receipt")
	}
}

// cold is a client's connection that can be frozen, as a client that is
// stopped: what comes is not read.
type cold struct {
	net.Conn
	mu     sync.Mutex
	thawed sync.Cond
	frozen bool
}

func (c *cold) freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = on
	c.thawed.Broadcast()
}

func (c *cold) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.frozen {
		c.thawed.Wait()
	}
	return n, err
}
