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

// role is one of IAM Identity Center's, whose sessions are people.
const role = "AWSReservedSSO_Developer_0123456789abcdef/"

// story is what TestTheWholeSystem tells, chapter by chapter.
type systemTest struct {
	*deployment
	startedAt  time.Time
	alice      *apiUser
	targetHost string // the private host
	bastionID  string // of the bastion that alice has
	tunnel     *tunnel
	robot      *apiUser
	expiringID string     // the robot's bastion, which will expire
	carol      *slackUser // who asks through Slack
}

// TestTheWholeSystem is one story, in which each chapter goes on from the one
// before.
func TestWholeSystem(t *testing.T) {
	s := &systemTest{startedAt: time.Now()}
	s.deployment = startDeployment(t)
	s.targetHost = privateHost(t)
	s.alice = &apiUser{deployment: s.deployment, user: role + "alice", sourceIP: "127.0.0.1"}
	s.robot = &apiUser{deployment: s.deployment, user: "robot", sourceIP: "127.0.0.3"}
	for _, chapter := range []struct {
		what string
		play func(*testing.T)
	}{
		{"who is nobody, and what there is not", s.unknownCallersAreRefused},
		{"request with curl, connect with ssh", s.createAndConnect},
		{"everybody else is kept out", s.otherClientsAreRefused},
		{"repeat the request", s.repeatCreate},
		{"move the address", s.changeSourceAddress},
		{"put another key in place", s.replaceKey},
		{"extend by request and by console, without the reaper", s.withoutReaper(s.extendByAPIAndConsole)},
		{"kill the task: another comes, without the reaper", s.withoutReaper(s.killTask)},
		{"ask for one that will expire, and freeze it", s.freezeExpiringBastion},
		{"close, and request at once", s.closeAndCreate},
		{"the expired one is reaped", s.frozenBastionIsReaped},
		{"the Slack function, taken over, speaks for people of Slack alone", s.slackRoleIsConfined},
		{"close by console", s.closeByConsole},
		{"Slack: a key, and a link", s.slackSendsStartLink},
		{"Slack: the link is opened, and its button pressed", s.slackUserStarts},
		{"Slack: the page says when it is ready", s.slackUserConnects},
		{"Slack: the message says so, too", s.slackReportsReady},
		{"Slack: the button extends", s.slackButtonExtends},
		{"Slack: the warning", s.slackSendsWarning},
		{"Slack: status, down and the receipt", s.slackCloses},
		{"Slack: once, and in no log", s.slackKeepsLimitsAndSecrets},
		{"nothing is left", s.everythingIsCleanedUp},
		{"no more events", s.stopAllEvents},
		{"create makes, moves and starts again", s.createAlone},
		{"create frees the name of what has expired", s.createReplacesExpired},
		{"describe lists", s.describeLists},
		{"extend notices an end", s.extendAlone},
		{"destroy ends a lease", s.destroyAlone},
		{"observer, from nothing to the end", s.observerAlone},
		{"reaper, from nothing to the end", s.reaperAlone},
		{"no role grants less than is needed, and none more", s.rolesGrantWhatIsUsed},
	} {
		s.logf(t, "%s", chapter.what)
		chapter.play(t)
	}
	s.logf(t, "done")
}

// say prints a step with the time since the beginning.
func (s *systemTest) logf(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%5.1fs  %s", time.Since(s.startedAt).Seconds(), fmt.Sprintf(format, args...))
}

// byEvents plays a chapter while the reaper's schedules wait, so that it gets on
// only by the events that the observer is told of.
func (s *systemTest) withoutReaper(play func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		s.events.schedules.Lock()
		defer s.events.schedules.Unlock()
		tasks, reports := s.events.delivered("task"), s.events.delivered("stream")
		play(t)
		s.logf(t, "  the observer was told of changes of tasks, %d, and batches of reports, %d",
			s.events.delivered("task")-tasks, s.events.delivered("stream")-reports)
	}
}

func (s *systemTest) unknownCallersAreRefused(t *testing.T) {
	unsigned := &apiUser{deployment: s.deployment, sourceIP: "127.0.0.1"}
	if status, body := unsigned.curl(t, "/bastions"); status != 403 {
		t.Fatalf("unsigned, GET answered %d %s", status, body)
	}
	s.alice.expect(t, 404, "", "/there-is-no-such-path")
	s.alice.expect(t, 405, "", "--request", "PUT", "/bastions")
	if a := s.alice.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("alice has %s", a.Body)
	}
}

func (s *systemTest) createAndConnect(t *testing.T) {
	s.alice.generateKey(t)
	asked := s.alice.expect(t, 201, "", "--data-binary", s.alice.publicKeyArgument(), "--header", "Prefer: wait=2", "/bastions")
	s.bastionID = asked.ID
	s.logf(t, "  %s is %s (%s)", s.bastionID, asked.State, asked.Stage)
	ready := s.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.bastionID)
	if ready.Source != "127.0.0.1/32" || ready.HostKey == "" || ready.Owner != "iam:"+account+":"+uniqueID("AROA", strings.TrimSuffix(role, "/"))+":alice" {
		t.Fatalf("it is %s", ready.Body)
	}
	s.logf(t, "  ready at %s; moto's group has the one rule, for %s", ready.Host, s.checkOnlyRule(t, "127.0.0.1/32"))
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, ready.Owner)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "hello from the private network")
}

func (s *systemTest) otherClientsAreRefused(t *testing.T) {
	neighbour := *s.alice
	neighbour.sourceIP = "127.0.0.2"
	neighbour.checkRefused(t)
	elsewhere := strings.Replace(s.targetHost, "127.99.", "127.98.", 1) // not among the allowed
	if said, err := s.alice.ssh(t, "-W", elsewhere, s.alice.hostAlias).CombinedOutput(); err == nil || !strings.Contains(string(said), "administratively prohibited") {
		t.Fatalf("ssh -W %s says %s: %v", elsewhere, said, err)
	}
	bob := &apiUser{deployment: s.deployment, user: role + "bob", sourceIP: "127.0.0.1"}
	bob.expect(t, 404, "", "/bastions/"+s.bastionID)
	bob.expect(t, 404, "", "--request", "DELETE", "/bastions/"+s.bastionID)
	if a := bob.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("bob sees %s", a.Body)
	}
	s.logf(t, "  from another address, to another destination, as another person")
}

func (s *systemTest) repeatCreate(t *testing.T) {
	if again := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions"); again.ID != s.bastionID {
		t.Fatalf("a repeat answered %s", again.Body)
	}
	s.logf(t, "  it is the same bastion")
}

func (s *systemTest) changeSourceAddress(t *testing.T) {
	before := *s.alice
	s.alice.sourceIP = "127.0.0.2"
	moved := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions")
	if moved.ID != s.bastionID || moved.Source != "127.0.0.2/32" {
		t.Fatalf("moved, it is %s", moved.Body)
	}
	s.alice.checkConnects(t, "127.0.0.2/32")
	before.checkRefused(t)
	s.tunnel.checkEcho(t, "what was open stays open")
	s.logf(t, "  the same bastion; moto's group has the one rule, for %s; what was open stays open", s.checkOnlyRule(t, "127.0.0.2/32"))
}

func (s *systemTest) replaceKey(t *testing.T) {
	before := *s.alice
	s.alice.generateKey(t)
	replaced := s.alice.expect(t, 200, "ready", "--data-binary", s.alice.publicKeyArgument(), "--header", waitHeader, "/bastions")
	if replaced.ID != s.bastionID || len(replaced.Keys) != 1 {
		t.Fatalf("with another key, it is %s", replaced.Body)
	}
	s.tunnel.checkCut(t)
	before.checkRefused(t)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, s.bastionID)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "with the new key")
	s.logf(t, "  the old key's session is cut, and it is kept out")
}

func (s *systemTest) extendByAPIAndConsole(t *testing.T) {
	asked := s.alice.expect(t, 200, "ready", "--request", "PATCH", "--header", "Content-Type: application/json", "--header", waitHeader, "--data", `{"ttl":"2h"}`, "/bastions/"+s.bastionID)
	if left := time.Until(asked.Deadline); left < 115*time.Minute || left > 2*time.Hour+time.Second {
		t.Fatalf("extended, it ends in %s", left)
	}
	s.logf(t, "  the answer says: until %s", asked.Deadline.Format(time.TimeOnly))
	said, err := s.alice.console(t, "extend 3h")
	if err != nil || !strings.Contains(said, "deadline") {
		t.Fatalf("the console says %q: %v", said, err)
	}
	s.logf(t, "  the console says: %s", strings.TrimSpace(said))
	asked = s.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.bastionID)
	if left := time.Until(asked.Deadline); left < 175*time.Minute {
		t.Fatalf("extended by console, it ends in %s", left)
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
	after := s.waitUntil(t, "it is ready with another host key", s.alice, s.bastionID, func(a apiResponse) bool {
		return a.State == "ready" && a.HostKey != before.HostKey
	})
	if again := s.task(t, s.bastionID); again == dead {
		t.Fatalf("the task is still %s", dead.id)
	}
	if !s.functions["observer"].Log.Contains(s.bastionID, `"attempt":2`) {
		t.Fatalf("the observer says nothing of a second attempt: %s", s.functions["observer"].Log)
	}
	s.logf(t, "  ready again at %s", after.Host)
	was.checkRefused(t)
	s.alice.saveSSHConfig(t, s.bastionID)
	s.alice.checkConnects(t, s.bastionID)
	s.tunnel = s.alice.openTunnel(t, s.targetHost)
	s.tunnel.checkEcho(t, "through the second task")
}

// freeze asks for a bastion with little time, and freezes its process, which can
// then not end itself: whoever ends it is the reaper.
func (s *systemTest) freezeExpiringBastion(t *testing.T) {
	s.robot.generateKey(t)
	public, err := os.ReadFile(s.robot.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"ttl":"25s","public_key":%q}`, strings.TrimSpace(string(public)))
	asked := s.robot.expect(t, 201, "ready", "--header", "Content-Type: application/json", "--header", waitHeader, "--data", body, "/bastions")
	s.expiringID = asked.ID
	s.robot.saveSSHConfig(t, s.expiringID)
	s.robot.checkConnects(t, s.expiringID)
	if err := s.task(t, s.expiringID).signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.logf(t, "  %s, frozen, must be gone by %s", s.expiringID, asked.Deadline.Format(time.TimeOnly))
}

func (s *systemTest) closeAndCreate(t *testing.T) {
	closing := s.bastionID
	s.alice.expect(t, 202, "closing", "--request", "DELETE", "/bastions/"+closing)
	another := s.alice.expect(t, 201, "", "--request", "POST", "--header", "Prefer: wait=2", "/bastions")
	if another.ID == closing {
		t.Fatalf("after the close, the answer was %s", another.Body)
	}
	s.bastionID = another.ID
	s.tunnel.checkCut(t)
	s.alice.checkRefused(t)
	s.logf(t, "  %s is closing, its sessions are cut; %s comes", closing, s.bastionID)
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
			t.Errorf("it should have been stopped, then killed: %+v", end)
		}
	}
	s.logf(t, "  the reaper stopped it: exit code 137")
}

func (s *systemTest) closeByConsole(t *testing.T) {
	said, err := s.alice.console(t, "close")
	if !strings.Contains(said, "clos") {
		t.Fatalf("the console says %q: %v", said, err)
	}
	s.waitClosed(t, s.alice, s.bastionID, "console")
}

// connects wants the console to be there, and its status to say something.
func (p *apiUser) checkConnects(t *testing.T, want string) {
	t.Helper()
	if said, err := p.console(t, "status"); err != nil || !strings.Contains(said, want) {
		t.Fatalf("the console says %q: %v", said, err)
	}
}

// isKeptOut wants ssh not to come in.
func (p *apiUser) checkRefused(t *testing.T) {
	t.Helper()
	if said, err := p.console(t, "status"); err == nil || !strings.Contains(said, "Connection") && !strings.Contains(said, "Permission denied") {
		t.Fatalf("ssh should be kept out; the console says %q: %v", said, err)
	}
}
