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

const pageConfig = `Host bastion-default
  HostName 198.51.100.20
  Port 2222
  User bastion
  KnownHostsCommand /bin/echo [198.51.100.20]:2222 ` + pageKey + `
Host app.internal
  User ec2-user
  KnownHostsCommand /bin/echo app.internal ` + pageKey + `
Host bastion-default app.internal
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
`

const pageConsole = `ssh -p 2222 -o 'KnownHostsCommand=/bin/echo [198.51.100.20]:2222 ` + pageKey + `' -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes bastion@198.51.100.20`

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

// startedRig is one where the button was pressed, and the job has found the
// bastion; the path is the view's.
func startedRig(t testing.TB) (rig *pageRig, path string) {
	t.Helper()
	rig, path = pressedRig(t)
	if err := rig.foundBastion(t.Context(), hashOf(lastOf(path)), pageBastion); err != nil {
		t.Fatal(err)
	}
	return rig, path
}

// pressedRig is one where the button was pressed.
func pressedRig(t testing.TB) (rig *pageRig, path string) {
	t.Helper()
	rig = newPageRig(t, nil)
	b := newVisitor(rig, homeV4).open(rig.link(nil)).press()
	if b.status != http.StatusSeeOther {
		t.Fatalf("pressed: status %d", b.status)
	}
	return rig, b.head.Get("Location")
}

// follows reports whether the page looks again by itself, with JavaScript and
// without; it is an error if the two disagree.
func follows(t *testing.T, b *visitor) bool {
	t.Helper()
	script, refresh := strings.Contains(b.body, "<main id=\"main\" data-follow>"), strings.Contains(b.body, `<noscript><meta http-equiv="refresh"`)
	if script != refresh {
		t.Errorf("with JavaScript the page follows: %v, without: %v", script, refresh)
	}
	return script
}

func TestViewShowsTheStagesInOrder(t *testing.T) {
	for stage, want := range map[string]string{
		"":               "Step 1 of 6: Taking up the request.",
		"security group": "Step 2 of 6: Making a firewall rule for your address alone.",
		"capacity":       "Step 3 of 6: Finding a place to run.",
		"image":          "Step 4 of 6: Fetching the bastion's image.",
		"network":        "Step 5 of 6: Getting a network address.",
		"host key":       "Step 6 of 6: Learning its host key.",
		"address":        "Step 2 of 3: Moving the firewall rule to your address.",
		"lease":          "Step 3 of 3: Telling the running bastion.",
	} {
		rig, view := startedRig(t)
		found := readyBastion()
		found.State, found.Stage, found.SSHConfig = "starting", stage, ""
		rig.answers(found)
		b := newVisitor(rig, homeV4).open(view)
		text := b.text()
		if !strings.Contains(text, want) || !follows(t, b) || strings.Count(b.body, `aria-current="step"`) != 1 {
			t.Errorf("stage %q:\n%s", stage, text)
		}
		_, step, _ := strings.Cut(strings.TrimSuffix(want, "."), ": ")
		before, after, _ := strings.Cut(text, step+" (now)")
		if strings.Contains(before, "(to come)") || strings.Contains(after, "(done)") {
			t.Errorf("stage %q: the steps are not in order:\n%s", stage, text)
		}
	}
}

func TestViewOfAStageThatIsNotKnown(t *testing.T) {
	rig, view := startedRig(t)
	found := readyBastion()
	found.State, found.Stage = "starting", "something new"
	rig.answers(found)
	b := newVisitor(rig, homeV4).open(view)
	if !follows(t, b) || !strings.Contains(b.text(), "It is at: something new.") || strings.Contains(b.body, "<ol") {
		t.Errorf("the page:\n%s", b.text())
	}
}

func TestViewOfReady(t *testing.T) {
	rig, view := startedRig(t)
	rig.answers(readyBastion())
	b := newVisitor(rig, homeV4).open(view)
	for _, words := range []string{
		"Bastion default is ready", "Host bastion-default", "ssh -F bastion-default.conf -J bastion-default TARGET",
		"Save this as bastion-default.conf", pageConsole, "Open until 1 Mar 2026, 14:00 UTC", "203.0.113.7 (IPv4), " + pagePrint,
	} {
		if !strings.Contains(b.text(), strings.Join(strings.Fields(words), " ")) {
			t.Errorf("the page does not say %q:\n%s", words, b.text())
		}
	}
	if follows(t, b) {
		t.Error("the page goes on asking")
	}
	if !strings.Contains(b.body, `data-left="7200"`) {
		t.Error("the page does not say how much time is left")
	}
	want := []Call{{Owner: pageOwner, Method: "GET", Path: "/bastions/" + pageBastion}}
	if !reflect.DeepEqual(rig.calls, want) {
		t.Errorf("calls: %+v, want %+v", rig.calls, want)
	}
}

func TestViewOfWhatIsOver(t *testing.T) {
	failed, closed, closing := readyBastion(), readyBastion(), readyBastion()
	failed.State = "failed"
	setFailure(&failed, "capacity_unavailable", "AWS Fargate has no capacity.")
	closed.State, closing.State = "closed", "closing"
	setEnded(&closed, "deadline", closed.Deadline)
	for words, b := range map[string]Bastion{
		"capacity_unavailable AWS Fargate has no capacity.": failed,
		"The bastion is closed":                             closed, "It lets nobody in any more: its time was up. ": closed,
		"It lets nobody in any more.": closing,
	} {
		rig, view := startedRig(t)
		rig.answers(b)
		page := newVisitor(rig, homeV4).open(view)
		if !strings.Contains(page.text(), words) || follows(t, page) || strings.Contains(page.body, "<pre") {
			t.Errorf("%s: want %q:\n%s", b.State, words, page.text())
		}
		if !strings.Contains(page.text(), "To ask again, type /bastion up in Slack.") {
			t.Errorf("%s: the page does not say what to do", b.State)
		}
	}
}

// Asked for from another address, the bastion goes there: a page at the first must
// not go on saying that it lets that one in.
func TestViewOfABastionThatMovedAway(t *testing.T) {
	for _, state := range []bastion.State{bastion.Starting, bastion.Ready} {
		rig, view := startedRig(t)
		moved := readyBastion()
		moved.State, moved.Source = state, "198.51.100.99/32"
		rig.answers(moved)
		b := newVisitor(rig, homeV4).open(view)
		for _, words := range []string{"The bastion lets in another address now", "It does not let in 203.0.113.7 any more", "/bastion down", "/bastion up"} {
			if !strings.Contains(b.text(), words) {
				t.Errorf("%s: the page does not say %q:\n%s", state, words, b.text())
			}
		}
		if follows(t, b) || strings.Contains(b.body, "<pre") || strings.Contains(b.text(), "198.51.100.99") {
			t.Errorf("%s: the page:\n%s", state, b.text())
		}
	}
}

func TestViewOfAProblem(t *testing.T) {
	rig, view := pressedRig(t)
	if err := rig.foundProblem(t.Context(), hashOf(lastOf(view)), "You hold as many bastions as you may."); err != nil {
		t.Fatal(err)
	}
	b := newVisitor(rig, homeV4).open(view)
	if !strings.Contains(b.text(), "You hold as many bastions as you may.") || follows(t, b) || len(rig.calls) > 0 {
		t.Errorf("%d calls, and the page:\n%s", len(rig.calls), b.text())
	}
}

// Jobs come twice and out of order. A bastion that was found is no problem, and a
// problem ends with a bastion.
func TestABastionCountsForMoreThanAProblem(t *testing.T) {
	rig, path := pressedRig(t)
	hash := hashOf(lastOf(path))
	for _, found := range []func() error{
		func() error { return rig.foundProblem(t.Context(), hash, "busy") },
		func() error { return rig.foundBastion(t.Context(), hash, pageBastion) },
		func() error { return rig.foundProblem(t.Context(), hash, "busy") },
	} {
		if err := found(); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := rig.openStatusPage(t.Context(), lastOf(path)); err != nil || v.ID != pageBastion || v.Problem != "" {
		t.Errorf("the view: %+v, %v", v, err)
	}
}

// A view that is gone is not made by what is found for it.
func TestFoundForNoView(t *testing.T) {
	rig := newPageRig(t, nil)
	if err := rig.foundBastion(t.Context(), hashOf("x"), pageBastion); err != nil {
		t.Error(err)
	}
	if err := rig.foundProblem(t.Context(), hashOf("x"), "busy"); err != nil {
		t.Error(err)
	}
	if len(rig.table.items) > 0 {
		t.Errorf("the table holds %v", rig.table.items)
	}
}

func TestFunctionThatIsDownIsWaitedFor(t *testing.T) {
	rig, view := startedRig(t)
	for name, reply := range map[string]func(Call) (Reply, error){
		"down":            func(Call) (Reply, error) { return Reply{}, errPage },
		"failing":         func(Call) (Reply, error) { return Reply{Status: 500, Body: `{"detail":"secret"}`}, nil },
		"out of its mind": func(Call) (Reply, error) { return Reply{Status: 200, Body: "<html>"}, nil },
	} {
		rig.reply = reply
		b := newVisitor(rig, homeV4).open(view)
		if !follows(t, b) || !strings.Contains(b.text(), "does not answer just now") || strings.Contains(b.body, "secret") {
			t.Errorf("%s:\n%s", name, b.text())
		}
	}
	if n := strings.Count(rig.log.String(), `"level":"WARN"`); n != 3 {
		t.Errorf("the log holds %d causes, want 3:\n%s", n, rig.log)
	}
}

func TestViewOfABastionThatIsNotTheirs(t *testing.T) {
	rig, view := startedRig(t)
	theirs := readyBastion()
	theirs.Owner = "slack:T0AB:U0OTHER"
	rig.answers(theirs)
	gone := newVisitor(rig, homeV4).open(view)
	rig.reply = func(Call) (Reply, error) {
		return Reply{Status: 404, Body: `{"code":"not_found","detail":"x"}`}, nil
	}
	unknown := newVisitor(rig, homeV4).open(view)
	if gone.body != unknown.body || follows(t, gone) || strings.Contains(gone.body, "198.51.100.20") {
		t.Errorf("another's bastion:\n%s\nand an unknown one:\n%s", gone.text(), unknown.text())
	}
}

// Whoever was handed the job may have lost it. Looking at the page hands it over
// again, not more than once in ten seconds however many look, and not for ever.
func TestLostJobIsHandedOverAgain(t *testing.T) {
	rig, view := pressedRig(t)
	look := func() { newVisitor(rig, homeV4).open(view); newVisitor(rig, homeV6).open(view) }
	look()
	rig.sleep(enqueueAgainAfter - time.Second)
	look()
	if len(rig.jobs) != 1 {
		t.Fatalf("%d jobs before ten seconds went by", len(rig.jobs))
	}
	rig.sleep(time.Second)
	newVisitor(rig, homeV4).do("HEAD", view, "")
	if len(rig.jobs) != 1 {
		t.Fatal("HEAD handed the job over")
	}
	look()
	if len(rig.jobs) != 2 || rig.jobs[1] != rig.jobs[0] {
		t.Fatalf("jobs: %+v", rig.jobs)
	}
	rig.handOver = errPage
	rig.sleep(enqueueAgainAfter)
	look()
	rig.handOver = nil
	rig.sleep(startTimeout)
	b := newVisitor(rig, homeV4).open(view)
	if len(rig.jobs) != 2 || follows(t, b) || !strings.Contains(b.text(), "/bastion status") {
		t.Errorf("%d jobs; after five minutes the page says:\n%s", len(rig.jobs), b.text())
	}
}

func TestJobThatWasDoneIsNotHandedOverAgain(t *testing.T) {
	rig, view := startedRig(t)
	rig.answers(readyBastion())
	rig.sleep(time.Minute)
	newVisitor(rig, homeV4).open(view)
	if len(rig.jobs) != 1 {
		t.Errorf("%d jobs", len(rig.jobs))
	}
}

func TestViewActsOnNothing(t *testing.T) {
	rig, view := startedRig(t)
	rig.answers(readyBastion())
	before := rig.table.writes
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if b := newVisitor(rig, homeV4).do(method, view, "a=b"); b.status != http.StatusMethodNotAllowed || b.head.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: status %d, Allow %q", method, b.status, b.head.Get("Allow"))
		}
		b := newVisitor(rig, homeV4).do(method, "/slack/start/"+lastOf(view), "a=b")
		if want := map[bool]int{true: 404, false: 405}[method == "POST"]; b.status != want {
			t.Errorf("%s as a claim: status %d, want %d", method, b.status, want)
		}
	}
	if len(rig.jobs) != 1 || len(rig.calls) > 0 || rig.table.writes != before {
		t.Errorf("%d jobs, %d calls, %d writes", len(rig.jobs), len(rig.calls), rig.table.writes-before)
	}
}

// The view ends ten minutes after there is nothing more to follow, and after an
// hour in any case.
func TestViewEnds(t *testing.T) {
	starting, failed, old := readyBastion(), readyBastion(), readyBastion()
	starting.State, starting.ReadyAt = "starting", time.Time{}
	failed.State, failed.ReadyAt = "failed", time.Time{}
	setEnded(&failed, "failed", failed.CreatedAt.Add(5*time.Minute))
	old.CreatedAt, old.ReadyAt = old.CreatedAt.Add(-time.Hour), old.ReadyAt.Add(-time.Hour)
	for name, test := range map[string]struct {
		b    Bastion
		last time.Duration // since the button was pressed
	}{
		"ready":                      {readyBastion(), 10*time.Minute + 40*time.Second},
		"failed":                     {failed, 15 * time.Minute},
		"one that was ready already": {old, 10 * time.Minute},
		"one that never is":          {starting, time.Hour},
	} {
		rig, view := startedRig(t)
		rig.answers(test.b)
		b := newVisitor(rig, homeV4).open(view)
		rig.sleep(test.last - time.Second)
		b.open(view)
		rig.sleep(time.Second)
		if b.do("GET", view, ""); b.status != http.StatusNotFound {
			t.Errorf("%s: status %d after %s", name, b.status, test.last)
		}
		// What it followed may change its state: that does not bring it back.
		rig.answers(starting)
		if b.do("GET", view, ""); b.status != http.StatusNotFound {
			t.Errorf("%s: it is back", name)
		}
	}
}

// Nobody looked for a while: the page that is too late is not shown even once.
func TestViewThatIsOpenedTooLate(t *testing.T) {
	rig, view := startedRig(t)
	rig.answers(readyBastion())
	rig.sleep(20 * time.Minute)
	if b := newVisitor(rig, homeV4).do("GET", view, ""); b.status != http.StatusNotFound {
		t.Errorf("status %d", b.status)
	}
}

func TestProblemEndsTheViewAfterTenMinutes(t *testing.T) {
	rig, view := pressedRig(t)
	rig.sleep(time.Minute)
	if err := rig.foundProblem(t.Context(), hashOf(lastOf(view)), "busy"); err != nil {
		t.Fatal(err)
	}
	b := newVisitor(rig, homeV4)
	rig.sleep(10*time.Minute - time.Second)
	b.open(view)
	rig.sleep(time.Second)
	if b.do("GET", view, ""); b.status != http.StatusNotFound {
		t.Errorf("status %d", b.status)
	}
}
