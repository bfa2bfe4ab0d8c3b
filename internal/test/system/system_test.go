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
type story struct {
	*world
	began  time.Time
	alice  *person
	target string // the private host
	id     string // of the bastion that alice has
	old    *tunnel
	robot  *person
	doomed string  // the robot's bastion, which will expire
	carol  *member // who asks through Slack
}

// TestTheWholeSystem is one story, in which each chapter goes on from the one
// before.
func TestTheWholeSystem(t *testing.T) {
	s := &story{began: time.Now()}
	s.world = begin(t)
	s.target = privateHost(t)
	s.alice = &person{w: s.world, user: role + "alice", from: "127.0.0.1"}
	s.robot = &person{w: s.world, user: "robot", from: "127.0.0.3"}
	for _, chapter := range []struct {
		what string
		play func(*testing.T)
	}{
		{"who is nobody, and what there is not", s.nobody},
		{"request with curl, connect with ssh", s.request},
		{"everybody else is kept out", s.others},
		{"repeat the request", s.repeat},
		{"move the address", s.move},
		{"put another key in place", s.replaceKey},
		{"extend by request and by console, without the reaper", s.byEvents(s.extend)},
		{"kill the task: another comes, without the reaper", s.byEvents(s.kill)},
		{"ask for one that will expire, and freeze it", s.freeze},
		{"close, and request at once", s.closeAndRequest},
		{"the expired one is reaped", s.reaped},
		{"the Slack function, taken over, speaks for people of Slack alone", s.takenOver},
		{"close by console", s.closeByConsole},
		{"Slack: a key, and a link", s.slackAsks},
		{"Slack: the link is opened, and its button pressed", s.slackStarts},
		{"Slack: the page says when it is ready", s.slackConnects},
		{"Slack: the message says so, too", s.slackIsTold},
		{"Slack: the button extends", s.slackExtends},
		{"Slack: the warning", s.slackWarns},
		{"Slack: status, down and the receipt", s.slackCloses},
		{"Slack: once, and in no log", s.slackHeld},
		{"nothing is left", s.nothingLeft},
		{"no more events", s.quiet},
		{"create makes, moves and starts again", s.createAlone},
		{"create frees the name of what has expired", s.expired},
		{"describe lists", s.listed},
		{"extend notices an end", s.extendAlone},
		{"destroy ends a lease", s.destroyAlone},
		{"observer, from nothing to the end", s.observerAlone},
		{"reaper, from nothing to the end", s.reaperAlone},
		{"no role grants less than is needed, and none more", s.leastPrivilege},
	} {
		s.say(t, "%s", chapter.what)
		chapter.play(t)
	}
	s.say(t, "done")
}

// say prints a step with the time since the beginning.
func (s *story) say(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%5.1fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// byEvents plays a chapter while the reaper's schedules wait, so that it gets on
// only by the events that the observer is told of.
func (s *story) byEvents(play func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		s.bridge.schedules.Lock()
		defer s.bridge.schedules.Unlock()
		tasks, reports := s.bridge.delivered("task"), s.bridge.delivered("stream")
		play(t)
		s.say(t, "  the observer was told of changes of tasks, %d, and batches of reports, %d",
			s.bridge.delivered("task")-tasks, s.bridge.delivered("stream")-reports)
	}
}

func (s *story) nobody(t *testing.T) {
	unsigned := &person{w: s.world, from: "127.0.0.1"}
	if status, body := unsigned.curl(t, "/bastions"); status != 403 {
		t.Fatalf("unsigned, GET answered %d %s", status, body)
	}
	s.alice.expect(t, 404, "", "/there-is-no-such-path")
	s.alice.expect(t, 405, "", "--request", "PUT", "/bastions")
	if a := s.alice.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("alice has %s", a.Body)
	}
}

func (s *story) request(t *testing.T) {
	s.alice.newKey(t)
	asked := s.alice.expect(t, 201, "", "--data-binary", s.alice.publicKey(), "--header", "Prefer: wait=2", "/bastions")
	s.id = asked.ID
	s.say(t, "  %s is %s (%s)", s.id, asked.State, asked.Stage)
	ready := s.alice.expect(t, 200, "ready", "--header", wait, "/bastions/"+s.id)
	if ready.Source != "127.0.0.1/32" || ready.HostKey == "" || ready.Owner != "iam:"+account+":"+unique("AROA", strings.TrimSuffix(role, "/"))+":alice" {
		t.Fatalf("it is %s", ready.Body)
	}
	s.say(t, "  ready at %s; moto's group has the one rule, for %s", ready.Host, s.onlyAdmits(t, "127.0.0.1/32"))
	s.alice.paste(t, s.id)
	s.alice.connects(t, ready.Owner)
	s.old = s.alice.open(t, s.target)
	s.old.echoes(t, "hello from the private network")
}

func (s *story) others(t *testing.T) {
	neighbour := *s.alice
	neighbour.from = "127.0.0.2"
	neighbour.isKeptOut(t)
	elsewhere := strings.Replace(s.target, "127.99.", "127.98.", 1) // not among the allowed
	if said, err := s.alice.ssh(t, "-W", elsewhere, s.alice.alias).CombinedOutput(); err == nil || !strings.Contains(string(said), "administratively prohibited") {
		t.Fatalf("ssh -W %s says %s: %v", elsewhere, said, err)
	}
	bob := &person{w: s.world, user: role + "bob", from: "127.0.0.1"}
	bob.expect(t, 404, "", "/bastions/"+s.id)
	bob.expect(t, 404, "", "--request", "DELETE", "/bastions/"+s.id)
	if a := bob.expect(t, 200, "", "/bastions"); len(a.Bastions) != 0 {
		t.Fatalf("bob sees %s", a.Body)
	}
	s.say(t, "  from another address, to another destination, as another person")
}

func (s *story) repeat(t *testing.T) {
	if again := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", wait, "/bastions"); again.ID != s.id {
		t.Fatalf("a repeat answered %s", again.Body)
	}
	s.say(t, "  it is the same bastion")
}

func (s *story) move(t *testing.T) {
	before := *s.alice
	s.alice.from = "127.0.0.2"
	moved := s.alice.expect(t, 200, "ready", "--request", "POST", "--header", wait, "/bastions")
	if moved.ID != s.id || moved.Source != "127.0.0.2/32" {
		t.Fatalf("moved, it is %s", moved.Body)
	}
	s.alice.connects(t, "127.0.0.2/32")
	before.isKeptOut(t)
	s.old.echoes(t, "what was open stays open")
	s.say(t, "  the same bastion; moto's group has the one rule, for %s; what was open stays open", s.onlyAdmits(t, "127.0.0.2/32"))
}

func (s *story) replaceKey(t *testing.T) {
	before := *s.alice
	s.alice.newKey(t)
	replaced := s.alice.expect(t, 200, "ready", "--data-binary", s.alice.publicKey(), "--header", wait, "/bastions")
	if replaced.ID != s.id || len(replaced.Keys) != 1 {
		t.Fatalf("with another key, it is %s", replaced.Body)
	}
	s.old.cut(t)
	before.isKeptOut(t)
	s.alice.paste(t, s.id)
	s.alice.connects(t, s.id)
	s.old = s.alice.open(t, s.target)
	s.old.echoes(t, "with the new key")
	s.say(t, "  the old key's session is cut, and it is kept out")
}

func (s *story) extend(t *testing.T) {
	asked := s.alice.expect(t, 200, "ready", "--request", "PATCH", "--header", "Content-Type: application/json", "--header", wait, "--data", `{"ttl":"2h"}`, "/bastions/"+s.id)
	if left := time.Until(asked.Deadline); left < 115*time.Minute || left > 2*time.Hour+time.Second {
		t.Fatalf("extended, it ends in %s", left)
	}
	s.say(t, "  the answer says: until %s", asked.Deadline.Format(time.TimeOnly))
	said, err := s.alice.console(t, "extend 3h")
	if err != nil || !strings.Contains(said, "deadline") {
		t.Fatalf("the console says %q: %v", said, err)
	}
	s.say(t, "  the console says: %s", strings.TrimSpace(said))
	asked = s.alice.expect(t, 200, "ready", "--header", wait, "/bastions/"+s.id)
	if left := time.Until(asked.Deadline); left < 175*time.Minute {
		t.Fatalf("extended by console, it ends in %s", left)
	}
	s.alice.expect(t, 422, "", "--request", "PATCH", "--header", "Content-Type: application/json", "--data", `{"ttl":"200h"}`, "/bastions/"+s.id)
}

func (s *story) kill(t *testing.T) {
	before := s.alice.expect(t, 200, "ready", "/bastions/"+s.id)
	was := *s.alice
	dead := s.task(t, s.id)
	if err := dead.signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	s.old.cut(t)
	after := s.until(t, "it is ready with another host key", s.alice, s.id, func(a answered) bool {
		return a.State == "ready" && a.HostKey != before.HostKey
	})
	if again := s.task(t, s.id); again == dead {
		t.Fatalf("the task is still %s", dead.id)
	}
	if !s.functions["observer"].Log.Contains(s.id, `"attempt":2`) {
		t.Fatalf("the observer says nothing of a second attempt: %s", s.functions["observer"].Log)
	}
	s.say(t, "  ready again at %s", after.Host)
	was.isKeptOut(t)
	s.alice.paste(t, s.id)
	s.alice.connects(t, s.id)
	s.old = s.alice.open(t, s.target)
	s.old.echoes(t, "through the second task")
}

// freeze asks for a bastion with little time, and freezes its process, which can
// then not end itself: whoever ends it is the reaper.
func (s *story) freeze(t *testing.T) {
	s.robot.newKey(t)
	public, err := os.ReadFile(s.robot.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"ttl":"25s","public_key":%q}`, strings.TrimSpace(string(public)))
	asked := s.robot.expect(t, 201, "ready", "--header", "Content-Type: application/json", "--header", wait, "--data", body, "/bastions")
	s.doomed = asked.ID
	s.robot.paste(t, s.doomed)
	s.robot.connects(t, s.doomed)
	if err := s.task(t, s.doomed).signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.say(t, "  %s, frozen, must be gone by %s", s.doomed, asked.Deadline.Format(time.TimeOnly))
}

func (s *story) closeAndRequest(t *testing.T) {
	closing := s.id
	s.alice.expect(t, 202, "closing", "--request", "DELETE", "/bastions/"+closing)
	another := s.alice.expect(t, 201, "", "--request", "POST", "--header", "Prefer: wait=2", "/bastions")
	if another.ID == closing {
		t.Fatalf("after the close, the answer was %s", another.Body)
	}
	s.id = another.ID
	s.old.cut(t)
	s.alice.isKeptOut(t)
	s.say(t, "  %s is closing, its sessions are cut; %s comes", closing, s.id)
	s.alice.expect(t, 200, "ready", "--header", wait, "/bastions/"+s.id)
	s.alice.paste(t, s.id)
	s.alice.connects(t, s.id)
	s.closed(t, s.alice, closing, "closed")
	rec, err := s.ports.Store.Fetch(t.Context(), closing)
	used := slices.ContainsFunc(rec.Receipt.Destinations, func(d bastion.Destination) bool { return d.Name == s.target })
	if err != nil || !used {
		t.Errorf("the receipt does not name %s: %+v, %v", s.target, rec.Receipt, err)
	}
}

func (s *story) reaped(t *testing.T) {
	s.closed(t, s.robot, s.doomed, "deadline")
	for _, task := range s.fargate.tasks() {
		if end := task.now(); task.startedBy == "bastion/"+s.doomed && (end.stopCode != "UserInitiated" || end.exit == nil || *end.exit != 137) {
			t.Errorf("it should have been stopped, then killed: %+v", end)
		}
	}
	s.say(t, "  the reaper stopped it: exit code 137")
}

func (s *story) closeByConsole(t *testing.T) {
	said, err := s.alice.console(t, "close")
	if !strings.Contains(said, "clos") {
		t.Fatalf("the console says %q: %v", said, err)
	}
	s.closed(t, s.alice, s.id, "console")
}

// connects wants the console to be there, and its status to say something.
func (p *person) connects(t *testing.T, want string) {
	t.Helper()
	if said, err := p.console(t, "status"); err != nil || !strings.Contains(said, want) {
		t.Fatalf("the console says %q: %v", said, err)
	}
}

// isKeptOut wants ssh not to come in.
func (p *person) isKeptOut(t *testing.T) {
	t.Helper()
	if said, err := p.console(t, "status"); err == nil || !strings.Contains(said, "Connection") && !strings.Contains(said, "Permission denied") {
		t.Fatalf("ssh should be kept out; the console says %q: %v", said, err)
	}
}
