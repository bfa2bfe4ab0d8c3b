package localmode

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// leased is the deadline that the task's lease says.
func (r *rig) leased(id string) time.Time {
	for _, item := range r.Cloud.Inventory().Leases {
		if item.BastionID == id && !item.Ended {
			return item.Lease.Deadline
		}
	}
	return time.Time{}
}

func TestExtendMovesTheDeadlineEverywhere(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	config := r.pasted(call{body: key})
	path := "/bastions/" + s.ID
	patch := func(ttl string) seen {
		return r.do(call{method: "PATCH", path: path, body: `{"ttl":"` + ttl + `"}`, header: map[string]string{"Prefer": "wait=10"}})
	}
	status := func() string {
		out, errs, err := w.run("", w.ssh(config, "bastion-default", "status"))
		if err != nil {
			t.Errorf("status: %v: %s", err, errs)
		}
		return out
	}

	longer := patch("2h")
	if longer.status != http.StatusOK || longer.State != bastion.Ready || longer.Deadline.Sub(s.Deadline) < 50*time.Minute {
		t.Errorf("extended from %s to %s: %d %s", s.Deadline, longer.Deadline, longer.status, longer.State)
	}
	if got := r.leased(s.ID); !got.Equal(longer.Deadline) {
		t.Errorf("the lease says %s, the record %s", got, longer.Deadline)
	}
	if out := status(); !strings.Contains(out, longer.Deadline.Format("15:04:05")) {
		t.Errorf("the console does not say %s:\n%s", longer.Deadline, out)
	}
	if shorter := patch("5m"); shorter.status != http.StatusOK || !shorter.Deadline.Equal(longer.Deadline) {
		t.Errorf("a shorter ttl: %d, deadline %s", shorter.status, shorter.Deadline)
	}
	if beyond := patch("9h"); beyond.status != http.StatusUnprocessableEntity || beyond.Code != bastion.CodeTTLBeyondCap {
		t.Errorf("beyond the cap: %d %s", beyond.status, beyond.Code)
	}

	out, errs, err := w.run("", w.ssh(config, "bastion-default", "extend 3h"))
	if err != nil {
		t.Errorf("extend in the console: %q, %v: %s", out, err, errs)
	}
	third := r.get(s.ID)
	if third.Deadline.Sub(longer.Deadline) < 50*time.Minute || !r.leased(s.ID).Equal(third.Deadline) {
		t.Errorf("the console moved the deadline from %s to %s, in the lease to %s", longer.Deadline, third.Deadline, r.leased(s.ID))
	}
	out, errs, err = w.run("", w.ssh(config, "bastion-default", "extend 9h"))
	if err == nil || !strings.Contains(out, "until "+s.Latest.Format(time.RFC3339)) || !strings.Contains(out, string(bastion.CodeTTLBeyondCap)) {
		t.Errorf("beyond the cap in the console: %q, %v: %s", out, err, errs)
	}
	if last := r.get(s.ID); !last.Deadline.Equal(third.Deadline) {
		t.Errorf("a refused extension moved the deadline from %s to %s", third.Deadline, last.Deadline)
	}
}

// The task keeps its own time: with no reaper that could end it, it is gone.
func TestATaskEndsItselfAtItsDeadline(t *testing.T) {
	r, w := start(t, func(o *Options) { o.ReapEvery = time.Hour }), newWallet(t)
	key := w.add("ed25519")
	config := r.pasted(call{body: `{"public_key":"` + strings.TrimSpace(key) + `","ttl":"3s"}`})
	session := w.open(config, "-N", "bastion-default")
	session.cut()
	r.eventually("the task has ended by itself", func() bool { return len(r.Cloud.Inventory().Live()) == 0 })
	for _, task := range r.Cloud.Inventory().Tasks {
		if task.ExitCode == nil || *task.ExitCode != bastion.ExitOK {
			t.Errorf("the task stopped with %s %q, exit code %v", task.StopCode, task.StopReason, task.ExitCode)
		}
	}
}

// The control plane keeps the time as well: for a task whose clock is an hour late.
func TestTheReaperEndsATaskThatDoesNot(t *testing.T) {
	r, w := start(t, func(o *Options) {
		o.task = func(c *sshd.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } }
	}), newWallet(t)
	key := strings.TrimSpace(w.add("ed25519"))
	s := r.up(call{body: `{"public_key":"` + key + `","ttl":"3s"}`})
	session := w.open(r.file("config", s.SSHConfig), "-N", "bastion-default")
	session.cut()
	r.eventually("it is closed", func() bool { return r.get(s.ID).State == bastion.Closed })
	if got := r.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndDeadline {
		t.Errorf("it ended because of %s", got)
	}
	r.nothingLeft()
}

func TestDeleteLeavesNothing(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	session := w.open(r.pasted(call{body: key}), "-N", "bastion-default")

	closing := r.do(call{method: "DELETE", path: "/bastions/" + s.ID})
	if closing.status != http.StatusAccepted || closing.State != bastion.Closing {
		t.Errorf("DELETE: %d %s", closing.status, closing.State)
	}
	next := r.do(call{method: "POST", path: "/bastions"})
	if next.status != http.StatusCreated || next.ID == s.ID {
		t.Errorf("a POST straight after it: %d %s, was %s", next.status, next.ID, s.ID)
	}
	session.cut()
	gone := r.do(call{method: "DELETE", path: "/bastions/" + s.ID, header: map[string]string{"Prefer": "wait=15"}})
	if gone.status != http.StatusOK || gone.State != bastion.Closed {
		t.Errorf("DELETE with wait: %d %s", gone.status, gone.State)
	}
	if got := r.banner("127.0.0.1", s); got != "" {
		t.Errorf("it still greets with %q", got)
	}
	all := r.do(call{method: "DELETE", path: "/bastions", header: map[string]string{"Prefer": "wait=15"}})
	if all.status != http.StatusOK || len(all.Bastions) != 1 || all.Bastions[0].ID != next.ID {
		t.Errorf("DELETE of all: %d %s", all.status, all.text)
	}
	if again := r.do(call{method: "DELETE", path: "/bastions/" + s.ID}); again.status != http.StatusOK {
		t.Errorf("DELETE again: %d %s", again.status, again.text)
	}
	r.nothingLeft()
}

func TestClosingFromTheConsole(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	out, errs, err := w.run("", w.ssh(r.pasted(call{body: key}), "bastion-default", "close"))
	if !strings.Contains(out+errs, "clos") {
		t.Errorf("the console said %q, %q, %v", out, errs, err)
	}
	r.eventually("it is closed", func() bool { return r.get(s.ID).State == bastion.Closed })
	if got := r.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndConsole {
		t.Errorf("it ended because of %s", got)
	}
	r.nothingLeft()
}

const shortIdle = 1500 * time.Millisecond

// quickIdle makes bastions end soon when nobody uses them, and notice the dead.
func quickIdle(o *Options) {
	o.Idle = shortIdle
	o.task = func(c *sshd.Config) {
		c.Timing.Keepalive, c.Timing.Missed, c.Timing.Drain = 200*time.Millisecond, 2, time.Second
	}
}

func TestAnIdleBastionEnds(t *testing.T) {
	r, w := start(t, quickIdle), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	ready := time.Now()
	if got := r.banner("127.0.0.1", s); got != "SSH-" { // not authenticated: no use
		t.Errorf("greeted with %q", got)
	}
	r.eventually("it is closed", func() bool { return r.get(s.ID).State == bastion.Closed })
	if got := r.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndIdle {
		t.Errorf("it ended because of %s", got)
	}
	if lived := time.Since(ready); lived < shortIdle {
		t.Errorf("it ended %s after it was ready, want at least %s", lived, shortIdle)
	}
	r.nothingLeft()
}

func TestAQuietTunnelKeepsABastionAliveAndAFrozenClientDoesNot(t *testing.T) {
	r, w := start(t, quickIdle), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	tun := w.open(r.pasted(call{body: key}), "-N", "bastion-default")
	quiet := time.NewTimer(3 * shortIdle)
	defer quiet.Stop()
	select {
	case <-tun.ended:
		t.Fatalf("the quiet tunnel was cut: %s", tun.errs.String())
	case <-quiet.C:
	}
	if got := r.get(s.ID); got.State != bastion.Ready {
		t.Fatalf("the bastion is %s under an open tunnel", got.State)
	}
	if err := syscall.Kill(tun.command.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is closed", func() bool { return r.get(s.ID).State == bastion.Closed })
}

func TestAKilledTaskComesBackWithANewHostKey(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	before := r.up(call{body: key})
	r.Cloud.Kill(r.Cloud.Inventory().Live()[0].ID)
	var after seen
	r.eventually("it is ready again", func() bool {
		after = r.get(before.ID)
		return after.State == bastion.Ready && after.HostKey != before.HostKey
	})
	if !after.Deadline.Equal(before.Deadline) || after.Port == before.Port && after.Host == before.Host && after.KnownHosts == before.KnownHosts {
		t.Errorf("before %+v, after %+v", before, after)
	}
	out, errs, err := w.run("", w.ssh(r.pasted(call{}), "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
	if live := r.Cloud.Inventory().Live(); len(live) != 1 {
		t.Errorf("%d tasks are alive, want 1", len(live))
	}
}

func TestWithoutCapacityItFailsAndSaysWhatToDo(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	r.Cloud.RefuseCapacity(5)
	s := r.do(call{method: "POST", path: "/bastions", body: w.add("ed25519"), header: map[string]string{"Prefer": "wait=20"}})
	if s.State != bastion.Failed || s.Failure["code"] == nil || s.Failure["message"] == nil {
		t.Errorf("%d: %s", s.status, s.text)
	}
	r.nothingLeft()
	if again := r.up(call{}); again.status != http.StatusCreated || again.ID == s.ID {
		t.Errorf("a POST after the failure: %d %s", again.status, again.ID)
	}
}
