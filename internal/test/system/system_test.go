//go:build conformance

package system

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// role is a role of IAM Identity Center, with a slash. Its session name is the user.
const role = "AWSReservedSSO_Developer_0123456789abcdef/"

// systemTest is the state that the steps of TestWholeSystem share.
type systemTest struct {
	*deployment
	startedAt  time.Time
	alice      *apiUser
	targetHost string  // the address and port of the private host
	bastionID  string  // alice's bastion
	tunnel     *tunnel // alice's
	robot      *apiUser
	expiringID string // robot's bastion
	carol      *slackUser
}

// TestWholeSystem runs its steps in order. Each step continues from the state that the
// step before has left.
func TestWholeSystem(t *testing.T) {
	s := &systemTest{startedAt: time.Now(), targetHost: privateHost(t)}
	s.deployment = startDeployment(t, thisVersion(t, programs()...), "ResourceTags", operatorTag,
		"AllowedDestinations", privateNetwork+":"+portOf(s.targetHost)+","+privateNetwork+":9-10")
	s.alice = &apiUser{deployment: s.deployment, user: role + "alice", sourceIP: "127.0.0.1"}
	s.robot = &apiUser{deployment: s.deployment, user: "robot", sourceIP: "127.0.0.3"}
	s.runSteps(t, []step{
		{"refuse unsigned requests and unknown paths", s.unknownCallersAreRefused},
		{"create with curl, connect with ssh", s.createAndConnect},
		{"refuse other addresses, destinations and users", s.otherClientsAreRefused},
		{"repeat the create request", s.repeatCreate},
		{"change the source address", s.changeSourceAddress},
		{"replace the public key", s.replaceKey},
		{"extend by API and by console, without the reaper", s.withoutReaper(s.extendByAPIAndConsole)},
		{"kill the task; another task starts, without the reaper", s.withoutReaper(s.killTask)},
		{"create a bastion with a short time to live, freeze its process", s.freezeExpiringBastion},
		{"close and create again at once", s.closeAndCreate},
		{"the reaper stops the frozen task", s.frozenBastionIsReaped},
		{"the Slack function's role acts only for owners of Slack", s.slackRoleIsConfined},
		{"close by console", s.closeByConsole},
		{"Slack: save a key, get a start link", s.slackSendsStartLink},
		{"Slack: open the start link, press its button", s.slackUserStarts},
		{"Slack: connect with the status page's configuration", s.slackUserConnects},
		{"Slack: direct messages report that the bastion is ready", s.slackReportsReady},
		{"Slack: extend with the button", s.slackButtonExtends},
		{"Slack: warn of the deadline", s.slackSendsWarning},
		{"Slack: status, down and the receipt", s.slackCloses},
		{"Slack: one status message, one warning, no secret in a log", s.slackKeepsLimitsAndSecrets},
		{"everything is cleaned up", s.everythingIsCleanedUp},
		{"stop events and schedules", s.stopAllEvents},
		{"create alone: create, change the source, replace a dead task", s.createAlone},
		{"create alone: replace an expired bastion", s.createReplacesExpired},
		{"describe lists bastions", s.describeLists},
		{"extend alone: close on the console's request", s.extendAlone},
		{"destroy alone: end the lease", s.destroyAlone},
		{"observer alone: from the intent to the end", s.observerAlone},
		{"reaper alone: from the intent to the end", s.reaperAlone},
		{"each role grants exactly the recorded calls", s.rolesGrantWhatIsUsed},
	})
}

// step is a part of a test. It continues from the state that the step before has left.
type step struct {
	title string
	run   func(*testing.T)
}

// runSteps runs the steps in order.
func (s *systemTest) runSteps(t *testing.T, steps []step) {
	t.Helper()
	for _, step := range steps {
		s.logf(t, "%s", step.title)
		step.run(t)
	}
	s.logf(t, "done")
}

// logf logs a line with the seconds since the start of the test.
func (s *systemTest) logf(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%5.1fs  %s", time.Since(s.startedAt).Seconds(), fmt.Sprintf(format, args...))
}

// withoutReaper returns a step that runs while the reaper's schedules wait, so that only
// requests and the observer's events make progress.
func (s *systemTest) withoutReaper(run func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		s.events.schedules.Lock()
		defer s.events.schedules.Unlock()
		tasks, reports := s.events.delivered("task"), s.events.delivered("stream")
		run(t)
		s.logf(t, "  the observer received %d task events and %d batches of lease records",
			s.events.delivered("task")-tasks, s.events.delivered("stream")-reports)
	}
}

func (s *systemTest) unknownCallersAreRefused(t *testing.T) {
	unsigned := &apiUser{deployment: s.deployment, sourceIP: "127.0.0.1"}
	if status, body := unsigned.curl(t, "/bastions"); status != 403 {
		t.Fatalf("an unsigned GET returned %d %s", status, body)
	}
	s.alice.expect(t, 404, "", "/there-is-no-such-path")
	s.alice.expect(t, 405, "", "--request", "PUT", "/bastions")
	if a := s.alice.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("alice has %s", a.Body)
	}
}

func (s *systemTest) createAndConnect(t *testing.T) {
	s.alice.generateKey(t)
	created := s.alice.expect(t, 201, "", "--data-binary", s.alice.publicKeyArgument(), "--header", "Prefer: wait=2", "/bastions")
	s.bastionID = created.ID
	s.logf(t, "  %s is %s (%s)", s.bastionID, created.State, created.Stage)
	ready := s.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.bastionID)
	if ready.Source != "127.0.0.1/32" || ready.HostKey == "" || ready.Owner != "iam:"+account+":"+uniqueID("AROA", strings.TrimSuffix(role, "/"))+":alice" {
		t.Fatalf("it is %s", ready.Body)
	}
	s.logf(t, "  ready at %s; the group in moto has one rule, for %s", ready.Host, s.checkOnlyRule(t, "127.0.0.1/32"))
	s.checkTags(t)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, ready.Owner)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "hello from the private network")
}

// portOf returns the port of host:port.
func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func (s *systemTest) otherClientsAreRefused(t *testing.T) {
	neighbour := *s.alice
	neighbour.sourceIP = "127.0.0.2"
	neighbour.checkRefused(t)
	elsewhere := strings.Replace(s.targetHost, "127.99.", "127.98.", 1) // not an allowed destination
	if reply, err := s.alice.ssh(t, "-W", elsewhere, s.alice.hostAlias).CombinedOutput(); err == nil || !strings.Contains(string(reply), "administratively prohibited") {
		t.Fatalf("ssh -W %s printed %s: %v", elsewhere, reply, err)
	}
	host := strings.TrimSuffix(s.targetHost, portOf(s.targetHost))
	sentence := "127.99.0.1 is allowed on ports 9-10 and " + portOf(s.targetHost) + " only."
	if reply, err := s.alice.ssh(t, "-W", host+"11", s.alice.hostAlias).CombinedOutput(); err == nil || !strings.Contains(string(reply), sentence) {
		t.Fatalf("ssh -W %s11 printed %s: %v, want %s", host, reply, err, sentence)
	}
	bob := &apiUser{deployment: s.deployment, user: role + "bob", sourceIP: "127.0.0.1"}
	bob.expect(t, 404, "", "/bastions/"+s.bastionID)
	bob.expect(t, 404, "", "--request", "DELETE", "/bastions/"+s.bastionID)
	if a := bob.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("bob sees %s", a.Body)
	}
	s.logf(t, "  refused: another source address, another destination, another port, another user")
}

func (s *systemTest) repeatCreate(t *testing.T) {
	if again := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions"); again.ID != s.bastionID {
		t.Fatalf("the repeated request returned %s", again.Body)
	}
	s.logf(t, "  it is the same bastion")
}

func (s *systemTest) changeSourceAddress(t *testing.T) {
	before := *s.alice
	s.alice.sourceIP = "127.0.0.2"
	moved := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions")
	if moved.ID != s.bastionID || moved.Source != "127.0.0.2/32" {
		t.Fatalf("the request from another address returned %s", moved.Body)
	}
	s.alice.checkConnects(t, "from 127.0.0.2")
	before.checkRefused(t)
	s.tunnel.checkEcho(t, "the open tunnel stays open")
	s.logf(t, "  the same bastion; the group in moto has one rule, for %s; the open tunnel stays open", s.checkOnlyRule(t, "127.0.0.2/32"))
}

func (s *systemTest) replaceKey(t *testing.T) {
	before := *s.alice
	s.alice.generateKey(t)
	replaced := s.alice.expect(t, 200, "ready", "--data-binary", s.alice.onlyKeyArgument(t), "--header", waitHeader, "/bastions")
	if replaced.ID != s.bastionID || len(replaced.Keys) != 1 {
		t.Fatalf("the request with another key returned %s", replaced.Body)
	}
	s.tunnel.checkCut(t)
	before.checkRefused(t)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, s.bastionID)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "with the new key")
	s.logf(t, "  the old key's session is closed and the key is refused")
}

func (s *systemTest) extendByAPIAndConsole(t *testing.T) {
	extended := s.alice.expect(t, 200, "ready", "--request", "PATCH", "--header", "Content-Type: application/json", "--header", waitHeader, "--data", `{"ttl":"2h"}`, "/bastions/"+s.bastionID)
	if left := time.Until(extended.Deadline); left < 115*time.Minute || left > 2*time.Hour+time.Second {
		t.Fatalf("after the extension, the bastion ends in %s", left)
	}
	s.logf(t, "  the response's deadline: %s", extended.Deadline.Format(time.TimeOnly))
	reply, err := s.alice.console(t, "extend 3h")
	if err != nil || !strings.Contains(reply, "deadline") {
		t.Fatalf("the console replied %q: %v", reply, err)
	}
	s.logf(t, "  the console replied: %s", strings.TrimSpace(reply))
	extended = s.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.bastionID)
	if left := time.Until(extended.Deadline); left < 175*time.Minute {
		t.Fatalf("after the extension by console, the bastion ends in %s", left)
	}
	s.alice.expect(t, 422, "", "--request", "PATCH", "--header", "Content-Type: application/json", "--data", `{"ttl":"200h"}`, "/bastions/"+s.bastionID)
}

func (s *systemTest) killTask(t *testing.T) {
	before := s.alice.expect(t, 200, "ready", "/bastions/"+s.bastionID)
	was := *s.alice
	dead := s.task(t, s.bastionID)
	if err := dead.signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	s.tunnel.checkCut(t)
	after := s.waitUntil(t, "the bastion is ready with another host key", s.alice, s.bastionID, func(a apiResponse) bool {
		return a.State == "ready" && a.HostKey != before.HostKey
	})
	if again := s.task(t, s.bastionID); again == dead {
		t.Fatalf("the task is still %s", dead.id)
	}
	if !s.functions["observer"].Log.Contains(s.bastionID, `"attempt":2`) {
		t.Fatalf("the observer's log has no second attempt: %s", s.functions["observer"].Log)
	}
	s.logf(t, "  ready again at %s", after.Host)
	was.checkRefused(t)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, s.bastionID)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "through the second task")
}

// freezeExpiringBastion creates a bastion with a short time to live and freezes its
// process. The process cannot exit by itself, so the reaper must stop the task.
func (s *systemTest) freezeExpiringBastion(t *testing.T) {
	s.robot.generateKey(t)
	public, err := os.ReadFile(s.robot.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"ttl":"45s","public_key":%q}`, strings.TrimSpace(string(public)))
	created := s.robot.expect(t, 201, "ready", "--header", "Content-Type: application/json", "--header", waitHeader, "--data", body, "/bastions")
	s.expiringID = created.ID
	s.robot.saveSSHConfig(t, s.expiringID)
	s.robot.checkConnects(t, s.expiringID)
	if err := s.task(t, s.expiringID).signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.logf(t, "  %s is frozen; its deadline is %s", s.expiringID, created.Deadline.Format(time.TimeOnly))
}

func (s *systemTest) closeAndCreate(t *testing.T) {
	closing := s.bastionID
	s.alice.expect(t, 202, "closing", "--request", "DELETE", "/bastions/"+closing)
	another := s.alice.expect(t, 201, "", "--request", "POST", "--header", "Prefer: wait=2", "/bastions")
	if another.ID == closing {
		t.Fatalf("create after the close returned %s", another.Body)
	}
	s.bastionID = another.ID
	s.tunnel.checkCut(t)
	s.alice.checkRefused(t)
	s.logf(t, "  %s is closing, its sessions are closed; %s starts", closing, s.bastionID)
	s.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.bastionID)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, s.bastionID)
	s.waitClosed(t, s.alice, closing, "closed")
	rec, err := s.ports.Store.Fetch(t.Context(), closing)
	used := slices.ContainsFunc(rec.Receipt.Destinations, func(d bastion.Destination) bool { return d.Name == s.targetHost })
	if err != nil || !used {
		t.Errorf("the receipt does not name %s: %+v, %v", s.targetHost, rec.Receipt, err)
	}
}

func (s *systemTest) frozenBastionIsReaped(t *testing.T) {
	s.waitClosed(t, s.robot, s.expiringID, "deadline")
	for _, task := range s.fargate.tasks() {
		if end := task.currentState(); task.startedBy == "bastion/"+s.expiringID && (end.stopCode != "UserInitiated" || end.exit == nil || *end.exit != 137) {
			t.Errorf("the task ended with %+v; want StopTask, then SIGKILL", end)
		}
	}
	// Another bastion, which is open, is in the count.
	if !s.functions["reaper"].Log.Contains(`"OpenBastions":`, `"_aws":`) {
		t.Errorf("the reaper wrote no count of open bastions: %s", s.functions["reaper"].Log)
	}
	s.logf(t, "  the reaper stopped the task: exit code 137")
}

func (s *systemTest) closeByConsole(t *testing.T) {
	reply, err := s.alice.console(t, "close")
	if !strings.Contains(reply, "clos") {
		t.Fatalf("the console replied %q: %v", reply, err)
	}
	s.waitClosed(t, s.alice, s.bastionID, "console")
}

// checkConnects checks that ssh connects and that the console's status contains want.
func (u *apiUser) checkConnects(t *testing.T, want string) {
	t.Helper()
	if reply, err := u.console(t, "status"); err != nil || !strings.Contains(reply, want) {
		t.Fatalf("the console replied %q: %v", reply, err)
	}
}

// checkRefused checks that ssh cannot connect.
func (u *apiUser) checkRefused(t *testing.T) {
	t.Helper()
	if reply, err := u.console(t, "status"); err == nil || !strings.Contains(reply, "Connection") && !strings.Contains(reply, "Permission denied") {
		t.Fatalf("ssh printed %q: %v; want a refusal", reply, err)
	}
}
