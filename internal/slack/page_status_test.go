package slack

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var pageConfig = api.WithoutKnownHostsCommand("bastion-default") +
	`# known_hosts: [198.51.100.20]:2222 ` + pageKey + `
# known_hosts: [198.51.100.20]:2222 ssh-rsa AAAAB3NzaC1yc2E=
# known_hosts: app.internal ` + pageKey + `
Host bastion-default
  HostName 198.51.100.20
  Port 2222
  User bastion
  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com
  KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\n" [198.51.100.20]:2222 ` + pageKey + ` [198.51.100.20]:2222 ssh-rsa AAAAB3NzaC1yc2E=
Host app.internal
  User ec2-user
  KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\n" app.internal ` + pageKey + `
Host bastion-default app.internal
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
`

const pageConsole = `ssh -p 2222 -o 'KnownHostsCommand=/usr/bin/env printf "%%s %%s %%s\n" [198.51.100.20]:2222 ` + pageKey + ` [198.51.100.20]:2222 ssh-rsa AAAAB3NzaC1yc2E=' -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes bastion@198.51.100.20`

const pageBastion = "abcdefghijklmnop"

func readyBastion() Bastion {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Bastion{
		ID: pageBastion, Name: "default", Owner: pageOwner, State: "ready", Source: "203.0.113.7/32",
		Keys: []string{pagePrint}, Host: "198.51.100.20", Port: 2222, SSHConfig: pageConfig, SSH: pageConsole,
		CreatedAt: noon, ReadyAt: noon.Add(40 * time.Second), Deadline: noon.Add(2 * time.Hour), LatestDeadline: noon.Add(8 * time.Hour),
	}
}

func setFailure(b *Bastion, code bastion.FailureCode, message string) {
	b.Failure = &api.Failure{Code: code, Message: message}
}

func setEnded(b *Bastion, reason bastion.EndReason, at time.Time) {
	b.Ended = &api.Ended{Reason: reason, At: at}
}

// startedFixture returns a fixture in which the button was pressed and the job has stored
// the bastion, and the path of the status page.
func startedFixture(t testing.TB) (app *pageFixture, path string) {
	t.Helper()
	app, path = pressedFixture(t)
	if err := app.storeBastion(t.Context(), hashOf(lastOf(path)), pageBastion); err != nil {
		t.Fatal(err)
	}
	return app, path
}

// pressedFixture returns a fixture in which the button was pressed, and the path of the
// status page.
func pressedFixture(t testing.TB) (app *pageFixture, path string) {
	t.Helper()
	app = newPageFixture(t, nil)
	b := newVisitor(app, homeV4).open(app.link(nil)).press()
	if b.status != http.StatusSeeOther {
		t.Fatalf("pressed: status %d", b.status)
	}
	return app, b.head.Get("Location")
}

// follows reports whether the page updates itself. It fails the test if the page does so
// only with JavaScript or only without.
func follows(t *testing.T, b *visitor) bool {
	t.Helper()
	script, refresh := strings.Contains(b.body, "<main id=\"main\" data-follow>"), strings.Contains(b.body, `<noscript><meta http-equiv="refresh"`)
	if script != refresh {
		t.Errorf("with JavaScript the page follows: %v, without: %v", script, refresh)
	}
	return script
}

func TestStatusPageShowsTheStagesInOrder(t *testing.T) {
	for stage, want := range map[string]string{
		"":               "Step 1 of 6: Accepting the request.",
		"security group": "Step 2 of 6: Creating a firewall rule for your address only.",
		"capacity":       "Step 3 of 6: Waiting for capacity.",
		"image":          "Step 4 of 6: Pulling the image.",
		"network":        "Step 5 of 6: Assigning a network address.",
		"host key":       "Step 6 of 6: Waiting for the host key.",
		"address":        "Step 2 of 3: Moving the firewall rule to your address.",
		"lease":          "Step 3 of 3: Updating the running bastion.",
	} {
		app, path := startedFixture(t)
		found := readyBastion()
		found.State, found.Stage, found.SSHConfig = "starting", stage, ""
		app.returns(found)
		b := newVisitor(app, homeV4).open(path)
		text := b.text()
		if !strings.Contains(text, want) || !follows(t, b) || strings.Count(b.body, `aria-current="step"`) != 1 {
			t.Errorf("stage %q:\n%s", stage, text)
		}
		_, step, _ := strings.Cut(strings.TrimSuffix(want, "."), ": ")
		before, after, _ := strings.Cut(text, step+" (now)")
		if strings.Contains(before, "(to do)") || strings.Contains(after, "(done)") {
			t.Errorf("stage %q: the steps are not in order:\n%s", stage, text)
		}
	}
}

func TestStatusPageOfDelay(t *testing.T) {
	refusal := &api.Failure{Code: "misconfigured", Message: "AWS does not allow the rule. Ask your operator."}
	for name, test := range map[string]struct {
		state   bastion.State
		stage   string
		failure *api.Failure
		want    []string
		steps   int
	}{
		"start":          {bastion.Starting, "delayed", nil, []string{"Starting your bastion", "Waiting for AWS", "Your request is stored"}, 0},
		"refused move":   {bastion.Starting, "address", refusal, []string{"Step 2 of 3", "misconfigured", "AWS refused the latest step: AWS does not allow the rule.", "previous address"}, 1},
		"close":          {bastion.Closing, "delayed", nil, []string{"Closing the bastion is delayed", "access may still be open", "The deadline is 2026-03-01 14:00 UTC."}, 0},
		"refused revoke": {bastion.Closing, "", refusal, []string{"Closing the bastion is delayed", "misconfigured", "access may still be open"}, 0},
	} {
		app, path := startedFixture(t)
		found := readyBastion()
		found.State, found.Stage, found.Failure = test.state, test.stage, test.failure
		if test.state == bastion.Closing {
			setEnded(&found, "closed", app.Now())
		}
		app.returns(found)
		b := newVisitor(app, homeV4).open(path)
		for _, words := range test.want {
			if !strings.Contains(b.text(), words) {
				t.Errorf("%s: the page lacks %q:\n%s", name, words, b.text())
			}
		}
		if !follows(t, b) || strings.Count(b.body, `aria-current="step"`) != test.steps || strings.Contains(b.text(), "no longer accepts") {
			t.Errorf("%s: the page:\n%s", name, b.text())
		}
	}
}

func TestStatusPageOfUnknownStage(t *testing.T) {
	app, path := startedFixture(t)
	found := readyBastion()
	found.State, found.Stage = "starting", "something new"
	app.returns(found)
	b := newVisitor(app, homeV4).open(path)
	if !follows(t, b) || !strings.Contains(b.text(), "Current stage: something new.") || strings.Contains(b.body, "<ol") {
		t.Errorf("the page:\n%s", b.text())
	}
}

func TestStatusPageOfReady(t *testing.T) {
	app, path := startedFixture(t)
	app.returns(readyBastion())
	b := newVisitor(app, homeV4).open(path)
	for _, words := range []string{
		"Bastion default is ready", "Host bastion-default", "ssh -F bastion-default.conf -J bastion-default app.internal",
		"Ready. You can connect now.", "If you use Windows, OpenSSH before 8.5 or an SSH library, follow the comments at the start of the file.", "Download bastion-default.conf", "cat > bastion-default.conf <<'EOF' # Skip these comments unless you use OpenSSH before 8.5", "EOF", pageConsole,
		"Open until 1 Mar 2026, 14:00 UTC", "Address 203.0.113.7 (IPv4)", "SSH key " + pagePrint,
	} {
		if !strings.Contains(b.text(), strings.Join(strings.Fields(words), " ")) {
			t.Errorf("the page lacks %q:\n%s", words, b.text())
		}
	}
	if follows(t, b) {
		t.Error("the page still updates itself")
	}
	if !strings.Contains(b.body, `data-seconds-left="7200"`) {
		t.Error("the page does not have the time left")
	}
	want := []Call{{Owner: pageOwner, Method: "GET", Path: "/bastions/" + pageBastion}}
	if !reflect.DeepEqual(app.calls, want) {
		t.Errorf("calls: %+v, want %+v", app.calls, want)
	}
}

func TestConnectViaUsesTheFirstPrivateHost(t *testing.T) {
	const bastionOnly = "Host bastion-default\n  Port 2222\n"
	for config, want := range map[string]string{
		bastionOnly: "TARGET",
		bastionOnly + "Host a.internal\nHost b.internal\nHost bastion-default a.internal\n": "a.internal",
		bastionOnly + "Host bastion-default a.internal\n":                                   "TARGET",
		bastionOnly + "Host -oProxyCommand=id\n":                                            "TARGET",
		bastionOnly + "Host a=b\n":                                                          "TARGET",
	} {
		file, target, command := connectVia(Bastion{Name: "default", SSHConfig: config})
		if file != "bastion-default.conf" || target != want || command != "ssh -F bastion-default.conf -J bastion-default "+want {
			t.Errorf("%q: file %q, target %q, command %q; want the target %q", config, file, target, command, want)
		}
	}
}

// The download link works without JavaScript, and is offered while the bastion is
// ready only.
func TestDownload(t *testing.T) {
	app, path := startedFixture(t)
	app.returns(readyBastion())
	b := newVisitor(app, homeV4).open(path)
	if !strings.Contains(b.body, `href="?download"`) {
		t.Errorf("the page has no link:\n%s", b.text())
	}
	for method, body := range map[string]string{"GET": pageConfig, "HEAD": ""} {
		b.do(method, path+"?download", "")
		if b.status != http.StatusOK || b.body != body {
			t.Errorf("%s: status %d: %q", method, b.status, b.body)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": `attachment; filename="bastion-default.conf"`,
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		} {
			if got := b.head.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", method, name, got, want)
			}
		}
	}
	closed := readyBastion()
	closed.State = bastion.Closed
	spoiled := readyBastion()
	spoiled.SSHConfig += "  ProxyCommand id\n"
	for _, found := range []Bastion{closed, spoiled} {
		app.returns(found)
		if b.open(path + "?download"); b.head.Get("Content-Disposition") != "" || b.head.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: got a file: %q", found.State, b.body)
		}
	}
}

func TestStatusPageOfEndedBastion(t *testing.T) {
	failed, closed, closing := readyBastion(), readyBastion(), readyBastion()
	failed.State = "failed"
	setFailure(&failed, "capacity_unavailable", "AWS Fargate has no capacity.")
	closed.State, closing.State = "closed", "closing"
	setEnded(&closed, "deadline", closed.Deadline)
	for words, b := range map[string]Bastion{
		"capacity_unavailable AWS Fargate has no capacity.": failed,
		"The bastion is closed":                             closed, "It no longer accepts connections. It reached its deadline.": closed,
		"It no longer accepts connections.": closing,
	} {
		app, path := startedFixture(t)
		app.returns(b)
		page := newVisitor(app, homeV4).open(path)
		if !strings.Contains(page.text(), words) || follows(t, page) || strings.Contains(page.body, "<pre") {
			t.Errorf("%s: want %q:\n%s", b.State, words, page.text())
		}
		if !strings.Contains(page.text(), "To start another, run /bastion up in Slack.") {
			t.Errorf("%s: the page does not say what to do", b.State)
		}
	}
}

// A bastion that is requested from another address moves to that address. A page that was
// opened from the first address must then no longer say that this address can connect.
func TestStatusPageOfMovedBastion(t *testing.T) {
	for _, state := range []bastion.State{bastion.Starting, bastion.Ready} {
		app, path := startedFixture(t)
		moved := readyBastion()
		moved.State, moved.Source = state, "198.51.100.99/32"
		app.returns(moved)
		b := newVisitor(app, homeV4).open(path)
		for _, words := range []string{"The bastion moved to another address", "no longer accepts 203.0.113.7", "/bastion down", "/bastion up"} {
			if !strings.Contains(b.text(), words) {
				t.Errorf("%s: the page lacks %q:\n%s", state, words, b.text())
			}
		}
		if follows(t, b) || strings.Contains(b.body, "<pre") || strings.Contains(b.text(), "198.51.100.99") {
			t.Errorf("%s: the page:\n%s", state, b.text())
		}
	}
}

func TestStatusPageOfProblem(t *testing.T) {
	app, path := pressedFixture(t)
	if err := app.storeProblem(t.Context(), hashOf(lastOf(path)), "You have the maximum number of bastions."); err != nil {
		t.Fatal(err)
	}
	b := newVisitor(app, homeV4).open(path)
	if !strings.Contains(b.text(), "You have the maximum number of bastions.") || follows(t, b) || len(app.calls) > 0 {
		t.Errorf("%d calls, and the page:\n%s", len(app.calls), b.text())
	}
}

// Jobs may run twice and in any order. A problem does not replace a bastion, and a
// bastion replaces a problem.
func TestBastionReplacesProblem(t *testing.T) {
	app, path := pressedFixture(t)
	hash := hashOf(lastOf(path))
	for _, found := range []func() error{
		func() error { return app.storeProblem(t.Context(), hash, "busy") },
		func() error { return app.storeBastion(t.Context(), hash, pageBastion) },
		func() error { return app.storeProblem(t.Context(), hash, "busy") },
	} {
		if err := found(); err != nil {
			t.Fatal(err)
		}
	}
	if page, err := app.openStatusPage(t.Context(), lastOf(path)); err != nil || page.ID != pageBastion || page.Problem != "" {
		t.Errorf("the status page: %+v, %v", page, err)
	}
}

func TestResultForExpiredStatusPageIsDropped(t *testing.T) {
	app := newPageFixture(t, nil)
	if err := app.storeBastion(t.Context(), hashOf("x"), pageBastion); err != nil {
		t.Error(err)
	}
	if err := app.storeProblem(t.Context(), hashOf("x"), "busy"); err != nil {
		t.Error(err)
	}
	if len(app.table.items) > 0 {
		t.Errorf("the table has %v", app.table.items)
	}
}

func TestStatusPageRetriesWhileTheAPIIsDown(t *testing.T) {
	app, path := startedFixture(t)
	for name, reply := range map[string]func(Call) (api.InternalReply, error){
		"down": func(Call) (api.InternalReply, error) { return api.InternalReply{}, errDownTest },
		"failing": func(Call) (api.InternalReply, error) {
			return api.InternalReply{Status: 500, Body: `{"detail":"secret"}`}, nil
		},
		"broken": func(Call) (api.InternalReply, error) { return api.InternalReply{Status: 200, Body: "<html>"}, nil },
	} {
		app.reply = reply
		b := newVisitor(app, homeV4).open(path)
		if !follows(t, b) || !strings.Contains(b.text(), "The service isn't responding. Retrying…") || strings.Contains(b.body, "secret") {
			t.Errorf("%s:\n%s", name, b.text())
		}
	}
	if n := strings.Count(app.log.String(), `"level":"WARN"`); n != 3 {
		t.Errorf("the log has %d causes, want 3:\n%s", n, app.log)
	}
}

func TestStatusPageOfAnotherOwnersBastion(t *testing.T) {
	app, path := startedFixture(t)
	theirs := readyBastion()
	theirs.Owner = "slack:T0AB:U0OTHER"
	app.returns(theirs)
	gone := newVisitor(app, homeV4).open(path)
	app.reply = func(Call) (api.InternalReply, error) {
		return api.InternalReply{Status: 404, Body: `{"code":"not_found","detail":"x"}`}, nil
	}
	unknown := newVisitor(app, homeV4).open(path)
	if gone.body != unknown.body || follows(t, gone) || strings.Contains(gone.body, "198.51.100.20") {
		t.Errorf("another owner's bastion:\n%s\nand an unknown one:\n%s", gone.text(), unknown.text())
	}
}

// A lost job is enqueued again when the page is loaded: at most once in ten seconds,
// however many browsers load it, and not after startTimeout.
func TestLostJobIsEnqueuedAgain(t *testing.T) {
	app, path := pressedFixture(t)
	look := func() { newVisitor(app, homeV4).open(path); newVisitor(app, homeV6).open(path) }
	look()
	app.sleep(enqueueAgainAfter - time.Second)
	look()
	if len(app.jobs) != 1 {
		t.Fatalf("%d jobs before ten seconds have passed", len(app.jobs))
	}
	app.sleep(time.Second)
	newVisitor(app, homeV4).do("HEAD", path, "")
	if len(app.jobs) != 1 {
		t.Fatal("HEAD enqueued the job")
	}
	look()
	if len(app.jobs) != 2 || app.jobs[1] != app.jobs[0] {
		t.Fatalf("jobs: %+v", app.jobs)
	}
	app.enqueueErr = errDownTest
	app.sleep(enqueueAgainAfter)
	look()
	app.enqueueErr = nil
	app.sleep(startTimeout)
	b := newVisitor(app, homeV4).open(path)
	if len(app.jobs) != 2 || follows(t, b) || !strings.Contains(b.text(), "/bastion status") {
		t.Errorf("%d jobs; after five minutes the page says:\n%s", len(app.jobs), b.text())
	}
}

func TestFinishedJobIsNotEnqueuedAgain(t *testing.T) {
	app, path := startedFixture(t)
	app.returns(readyBastion())
	app.sleep(time.Minute)
	newVisitor(app, homeV4).open(path)
	if len(app.jobs) != 1 {
		t.Errorf("%d jobs", len(app.jobs))
	}
}

func TestStatusPageIsReadOnly(t *testing.T) {
	app, path := startedFixture(t)
	app.returns(readyBastion())
	before := app.table.writes
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if b := newVisitor(app, homeV4).do(method, path, "a=b"); b.status != http.StatusMethodNotAllowed || b.head.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: status %d, Allow %q", method, b.status, b.head.Get("Allow"))
		}
		b := newVisitor(app, homeV4).do(method, "/slack/start/"+lastOf(path), "a=b")
		if want := map[bool]int{true: 404, false: 405}[method == "POST"]; b.status != want {
			t.Errorf("%s with the token of a start link: status %d, want %d", method, b.status, want)
		}
	}
	if len(app.jobs) != 1 || len(app.calls) > 0 || app.table.writes != before {
		t.Errorf("%d jobs, %d calls, %d writes", len(app.jobs), len(app.calls), app.table.writes-before)
	}
}

// A status page expires ten minutes after there is nothing left to follow, and at
// most an hour after the start.
func TestStatusPageExpires(t *testing.T) {
	starting, failed, old := readyBastion(), readyBastion(), readyBastion()
	starting.State, starting.ReadyAt = "starting", time.Time{}
	failed.State, failed.ReadyAt = "failed", time.Time{}
	setEnded(&failed, "failed", failed.CreatedAt.Add(5*time.Minute))
	old.CreatedAt, old.ReadyAt = old.CreatedAt.Add(-time.Hour), old.ReadyAt.Add(-time.Hour)
	for name, test := range map[string]struct {
		b    Bastion
		last time.Duration // since the button was pressed
	}{
		"ready":                   {readyBastion(), 10*time.Minute + 40*time.Second},
		"failed":                  {failed, 15 * time.Minute},
		"ready before the button": {old, 10 * time.Minute},
		"never ready":             {starting, time.Hour},
	} {
		app, path := startedFixture(t)
		app.returns(test.b)
		b := newVisitor(app, homeV4).open(path)
		app.sleep(test.last - time.Second)
		b.open(path)
		app.sleep(time.Second)
		if b.do("GET", path, ""); b.status != http.StatusNotFound {
			t.Errorf("%s: status %d after %s", name, b.status, test.last)
		}
		// A later change of the bastion does not bring the page back.
		app.returns(starting)
		if b.do("GET", path, ""); b.status != http.StatusNotFound {
			t.Errorf("%s: the page is back", name)
		}
	}
}

// A status page has expired ten minutes after its bastion was ready, even if nobody has
// loaded the page before.
func TestStatusPageOpenedTooLate(t *testing.T) {
	app, path := startedFixture(t)
	app.returns(readyBastion())
	app.sleep(20 * time.Minute)
	if b := newVisitor(app, homeV4).do("GET", path, ""); b.status != http.StatusNotFound {
		t.Errorf("status %d", b.status)
	}
}

func TestStatusPageOfProblemExpires(t *testing.T) {
	app, path := pressedFixture(t)
	app.sleep(time.Minute)
	if err := app.storeProblem(t.Context(), hashOf(lastOf(path)), "busy"); err != nil {
		t.Fatal(err)
	}
	b := newVisitor(app, homeV4)
	app.sleep(10*time.Minute - time.Second)
	b.open(path)
	app.sleep(time.Second)
	if b.do("GET", path, ""); b.status != http.StatusNotFound {
		t.Errorf("status %d", b.status)
	}
}
