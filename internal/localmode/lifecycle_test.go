package localmode

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/sshd"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// leaseDeadline returns the deadline in the lease of the bastion's task.
func (f *fixture) leaseDeadline(id string) time.Time {
	for _, item := range f.Cloud.Inventory().Leases {
		if item.BastionID == id && !item.Ended {
			return item.Lease.Deadline
		}
	}
	return time.Time{}
}

func TestExtendMovesDeadlineInRecordLeaseAndConsole(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	config := f.sshConfig(request{body: key})
	path := "/bastions/" + s.ID
	patch := func(ttl string) response {
		return f.do(request{method: "PATCH", path: path, body: `{"ttl":"` + ttl + `"}`, header: map[string]string{"Prefer": "wait=10"}})
	}
	status := func() string {
		out, errs, err := w.Run("", w.SSH(config, "bastion-default", "status"))
		if err != nil {
			t.Errorf("status: %v: %s", err, errs)
		}
		return out
	}

	longer := patch("2h")
	if longer.status != http.StatusOK || longer.State != bastion.Ready || longer.Deadline.Sub(s.Deadline) < 50*time.Minute {
		t.Errorf("extended from %s to %s: %d %s", s.Deadline, longer.Deadline, longer.status, longer.State)
	}
	if got := f.leaseDeadline(s.ID); !got.Equal(longer.Deadline) {
		t.Errorf("deadline %s in the lease, %s in the record", got, longer.Deadline)
	}
	if out := status(); !strings.Contains(out, longer.Deadline.Format("15:04:05")) {
		t.Errorf("the console does not show %s:\n%s", longer.Deadline, out)
	}
	if shorter := patch("5m"); shorter.status != http.StatusOK || !shorter.Deadline.Equal(longer.Deadline) {
		t.Errorf("a shorter ttl: %d, deadline %s", shorter.status, shorter.Deadline)
	}
	if beyond := patch("9h"); beyond.status != http.StatusUnprocessableEntity || beyond.Code != bastion.CodeTTLBeyondCap {
		t.Errorf("beyond the cap: %d %s", beyond.status, beyond.Code)
	}

	out, errs, err := w.Run("", w.SSH(config, "bastion-default", "extend 3h"))
	if err != nil {
		t.Errorf("extend in the console: %q, %v: %s", out, err, errs)
	}
	third := f.get(s.ID)
	if third.Deadline.Sub(longer.Deadline) < 50*time.Minute || !f.leaseDeadline(s.ID).Equal(third.Deadline) {
		t.Errorf("the console moved the deadline from %s to %s, in the lease to %s", longer.Deadline, third.Deadline, f.leaseDeadline(s.ID))
	}
	out, errs, err = w.Run("", w.SSH(config, "bastion-default", "extend 9h"))
	if err == nil || !strings.Contains(out, "until "+s.Latest.Format(time.RFC3339)) || !strings.Contains(out, string(bastion.CodeTTLBeyondCap)) {
		t.Errorf("beyond the cap in the console: %q, %v: %s", out, err, errs)
	}
	if last := f.get(s.ID); !last.Deadline.Equal(third.Deadline) {
		t.Errorf("a refused extension moved the deadline from %s to %s", third.Deadline, last.Deadline)
	}
}

// The reaper does not run in this test.
func TestTaskEndsItselfAtItsDeadline(t *testing.T) {
	var clock testClock
	f, w := start(t, func(o *Options) { o.ReapEvery = time.Hour; clock.forTasks(o) }), sshclient.New(t)
	session := w.Open(f.sshConfig(request{body: w.AddKey("ed25519")}), "-N", "bastion-default")
	clock.advance(2 * time.Hour)
	session.AwaitEnd()
	f.eventually("the task has ended", func() bool { return len(f.Cloud.Inventory().Live()) == 0 })
	for _, task := range f.Cloud.Inventory().Tasks {
		if task.ExitCode == nil || *task.ExitCode != bastion.ExitOK {
			t.Errorf("the task stopped with %s %q, exit code %v", task.StopCode, task.StopReason, task.ExitCode)
		}
	}
}

// After the advance, the task's clock is two hours behind the control plane's, so the task
// does not end itself.
func TestReaperEndsTaskThatMissesItsDeadline(t *testing.T) {
	var clock testClock
	f, w := start(t, func(o *Options) { o.now = clock.now }), sshclient.New(t)
	b := f.create(request{body: w.AddKey("ed25519")})
	session := w.Open(f.file("config", b.SSHConfig), "-N", "bastion-default")
	clock.advance(2 * time.Hour)
	session.AwaitEnd()
	f.await("", b.ID, bastion.Closed)
	if got := f.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndDeadline {
		t.Errorf("end reason %s, want %s", got, bastion.EndDeadline)
	}
	f.nothingLeft()
}

func TestDeleteLeavesNothing(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	session := w.Open(f.sshConfig(request{body: key}), "-N", "bastion-default")

	closing := f.do(request{method: "DELETE", path: "/bastions/" + s.ID})
	if closing.status != http.StatusAccepted || closing.State != bastion.Closing {
		t.Errorf("DELETE: %d %s", closing.status, closing.State)
	}
	next := f.do(request{method: "POST", path: "/bastions"})
	if next.status != http.StatusCreated || next.ID == s.ID {
		t.Errorf("POST right after DELETE: %d %s, was %s", next.status, next.ID, s.ID)
	}
	session.AwaitEnd()
	if gone := f.remove("/bastions/" + s.ID); gone.status != http.StatusOK || gone.State != bastion.Closed {
		t.Errorf("DELETE with wait: %d %s", gone.status, gone.State)
	}
	if got := f.banner("127.0.0.1", s); got != "" {
		t.Errorf("after the DELETE, the server still sends %q", got)
	}
	all := f.do(request{method: "DELETE", path: "/bastions"})
	if all.status != http.StatusAccepted || len(all.Bastions) != 1 || all.Bastions[0].ID != next.ID {
		t.Errorf("DELETE of all: %d %s", all.status, all.text)
	}
	if all := f.remove("/bastions"); all.status != http.StatusOK {
		t.Errorf("DELETE of all: %d %s", all.status, all.text)
	}
	if again := f.do(request{method: "DELETE", path: "/bastions/" + s.ID}); again.status != http.StatusOK {
		t.Errorf("DELETE again: %d %s", again.status, again.text)
	}
	f.nothingLeft()
}

func TestConsoleClosesBastion(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	out, errs, err := w.Run("", w.SSH(f.sshConfig(request{body: key}), "bastion-default", "close"))
	if !strings.Contains(out+errs, "clos") {
		t.Errorf("the console printed %q, %q, %v", out, errs, err)
	}
	f.await("", s.ID, bastion.Closed)
	if got := f.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndConsole {
		t.Errorf("end reason %s", got)
	}
	f.nothingLeft()
}

func TestIdleBastionEnds(t *testing.T) {
	var clock testClock
	f, w := start(t, clock.forTasks), sshclient.New(t)
	b := f.create(request{body: w.AddKey("ed25519")})
	if got := f.banner("127.0.0.1", b); got != "SSH-" { // a connection without authentication does not count as use
		t.Errorf("banner %q", got)
	}
	clock.advance(10 * time.Minute)
	if got := f.get(b.ID); got.State != bastion.Ready {
		t.Errorf("%s before the idle timeout of 15 minutes", got.State)
	}
	clock.advance(10 * time.Minute)
	f.await("", b.ID, bastion.Closed)
	if got := f.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndIdle {
		t.Errorf("end reason %s, want %s", got, bastion.EndIdle)
	}
	f.nothingLeft()
}

func TestQuietTunnelPreventsIdleEndUntilItsClientFreezes(t *testing.T) {
	var clock testClock
	// By its clock, the server waits 50 minutes for a sign of the client, so that the advances by
	// 20 minutes end no connection, and the one by an hour ends a frozen one.
	f, w := start(t, func(o *Options) {
		o.DefaultTTL = 8 * time.Hour
		o.task = func(server *sshd.Config) {
			server.Now = clock.now
			server.Timing.Keepalive, server.Timing.Silence = 200*time.Millisecond, 50*time.Minute
		}
	}), sshclient.New(t)
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	id := f.Cloud.Inventory().Records[0].ID
	tun := w.Open(config, "-N", "bastion-default")
	clock.advance(20 * time.Minute)
	opened := 1 // SSH connections
	connections := func() string {
		opened++
		out, errs, err := w.Run("", w.SSH(config, "bastion-default", "status"))
		found := regexp.MustCompile(`connections +(\d+)`).FindStringSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("status: %q, %v: %s", out, err, errs)
		}
		return found[1]
	}
	if got := connections(); got != "2" || !tun.Alive() || f.get(id).State != bastion.Ready {
		t.Fatalf("a quiet tunnel was closed as idle, connections %s", got)
	}
	tun.Freeze()
	clock.advance(time.Hour)
	f.eventually("the frozen client is disconnected", func() bool { return connections() == "1" })
	// A connection that the server still counts would end after the advance, and start
	// the idle timeout anew.
	f.eventually("the server has closed every connection", func() bool {
		return f.log.count(`"msg":"connection"`) == opened
	})
	clock.advance(20 * time.Minute)
	f.await("", id, bastion.Closed)
	if got := f.Cloud.Inventory().Records[0].End.Reason; got != bastion.EndIdle {
		t.Errorf("end reason %s, want %s", got, bastion.EndIdle)
	}
}

func TestKilledTaskIsReplacedWithNewHostKey(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	before := f.create(request{body: key})
	f.Cloud.Kill(f.Cloud.Inventory().Live()[0].ID)
	var after response
	f.eventually("it is ready again", func() bool {
		after = f.get(before.ID)
		return after.State == bastion.Ready && after.HostKey != before.HostKey
	})
	if !after.Deadline.Equal(before.Deadline) || after.Port == before.Port && after.Host == before.Host && after.KnownHosts == before.KnownHosts {
		t.Errorf("before %+v, after %+v", before, after)
	}
	out, errs, err := w.Run("", w.SSH(f.sshConfig(request{}), "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
	if live := f.Cloud.Inventory().Live(); len(live) != 1 {
		t.Errorf("%d tasks are alive, want 1", len(live))
	}
}

func TestStartWithoutCapacityFailsWithAMessage(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	f.Cloud.RefuseCapacity(5)
	s := f.do(request{method: "POST", path: "/bastions", body: w.AddKey("ed25519"), header: map[string]string{"Prefer": "wait=25"}})
	s = f.await("", s.ID, bastion.Failed)
	if s.State != bastion.Failed || s.Failure["code"] == nil || s.Failure["message"] == nil {
		t.Errorf("%d: %s", s.status, s.text)
	}
	f.nothingLeft()
	if again := f.create(request{}); again.status != http.StatusCreated || again.ID == s.ID {
		t.Errorf("a POST after the failure: %d %s", again.status, again.ID)
	}
}
