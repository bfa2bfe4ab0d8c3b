package slack

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// untilCrash calls a function and returns an error if a fault has crashed it.
func untilCrash(do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if v != (crashed{}) {
				panic(v)
			}
			err = errors.New("crashed")
		}
	}()
	return do()
}

// jobTest is a job, and the result that it must have.
type jobTest struct {
	name  string
	setUp func(*fixture) Job
	text  string // contained in the last reply at the job's URL
	check func(*fixture) error
}

var jobTests = []jobTest{
	{
		"start", func(d *fixture) Job { return d.storeUsedLink(startLink{Name: "web"}) },
		"Your link was used from " + annsHome,
		func(d *fixture) error {
			if n := len(d.api.bastions); n != 1 {
				return fmt.Errorf("%d bastions", n)
			}
			var v statusPage
			_, err := d.fetch(d.t.Context(), statusPageKey("the-pages-hash"), &v)
			if v.ID != d.api.bastions[0].ID {
				return fmt.Errorf("the status page has the bastion %q: %v", v.ID, err)
			}
			return nil
		},
	},
	{
		"down", func(d *fixture) Job {
			d.api.bastions = []*Bastion{aBastion("web")}
			return Job{Action: JobDown, Owner: ann, ResponseURL: hookA, At: d.clock}
		},
		"Bastion web is closing",
		func(d *fixture) error { return d.wantState("closing") },
	},
	{
		"down by button", func(d *fixture) Job {
			d.api.bastions = []*Bastion{aBastion("web")}
			return Job{Action: JobDown, Owner: ann, ResponseURL: hookB, ID: "aaaaaaaaaaaaaaa2", At: d.clock}
		},
		"Bastion web is closing",
		func(d *fixture) error { return d.wantState("closing") },
	},
	{
		"extend", func(d *fixture) Job {
			d.api.bastions = []*Bastion{aBastion("web")}
			return Job{Action: JobExtend, Owner: ann, ResponseURL: hookA, TTL: 3 * time.Hour, At: d.clock}
		},
		"Bastion web extended",
		func(d *fixture) error {
			if b := d.api.bastions[0]; !b.Deadline.Equal(start.Add(3 * time.Hour)) {
				return fmt.Errorf("the deadline is %s", b.Deadline)
			}
			return nil
		},
	},
	{
		"status", func(d *fixture) Job {
			d.api.bastions = []*Bastion{aBastion("web")}
			return Job{Action: JobStatus, Owner: ann, ResponseURL: hookA, At: d.clock}
		},
		"Bastion web is ready",
		func(d *fixture) error { return d.wantState("ready") },
	},
}

func (d *fixture) wantState(state bastion.State) error {
	if b := d.api.bastions[0]; b.State != state {
		return fmt.Errorf("the bastion is %s, want %s", b.State, state)
	}
	return nil
}

// Each call of a port in turn fails before or after its effect, with an error or with a
// crash of the function. Then the job runs again, as in Lambda. In the end there is one
// bastion in the right state, and the last reply says so.
func TestJobsSurviveTheLossOfAnyCall(t *testing.T) {
	for _, test := range jobTests {
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				hits := map[string]int{}
				for at := 1; ; at++ {
					d := newFixture(t)
					job := test.setUp(d)
					d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, at, after, crash
					err := untilCrash(func() error { return d.RunJob(t.Context(), job) })
					if d.faults.failedPort == "" {
						break // the job makes fewer calls than at, so no call failed
					}
					hits[d.faults.failedPort]++
					name := fmt.Sprintf("%s, fault in call %d (%s), after %t, crash %t", test.name, at, d.faults.failedPort, after, crash)
					replied := err == nil // then Lambda does not run the job again
					for range 2 {
						d.clock = d.clock.Add(time.Second)
						if err := d.RunJob(t.Context(), job); err != nil {
							t.Errorf("%s: again: %v", name, err)
						}
					}
					if replied && d.faults.failedPort == "functions" && test.name == "start" {
						wantContains(t, d.slack.last(job.ResponseURL), "We don't know whether the bastion was started", "isn't responding")
						continue // the person has a reply, and can run the command again
					}
					wantContains(t, d.slack.last(job.ResponseURL), test.text)
					if err := test.check(d); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if n := len(d.slack.at(job.ResponseURL)); n > 3 {
						t.Errorf("%s: the response_url was used %d times", name, n)
					}
					if t.Failed() {
						t.Fatal(name)
					}
				}
				if hits["functions"] == 0 || hits["slack"] != 1 {
					t.Errorf("%s: faults hit %v", test.name, hits)
				}
			}
		}
	}
}

// While the API is down, a job replies in its first run that the service isn't responding.
func TestRepliesSayThatTheAPIIsDown(t *testing.T) {
	for _, test := range jobTests {
		d := newFixture(t)
		job := test.setUp(d)
		d.api.down = errors.New("throttled")
		if err := d.RunJob(t.Context(), job); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		wantContains(t, d.slack.last(job.ResponseURL), "isn't responding", "tell your operator")
		if test.name != "start" {
			continue
		}
		var v statusPage
		if _, err := d.fetch(t.Context(), statusPageKey("the-pages-hash"), &v); err != nil || !strings.Contains(v.Problem, "isn't responding") {
			t.Errorf("the page says %q: %v", v.Problem, err)
		}
	}
}

// A job that runs late does not undo a later request.
func TestLateJobsDoNotUndoNewerRequests(t *testing.T) {
	d := newFixture(t)
	d.api.bastions = []*Bastion{aBastion("web")}
	d.clock = start.Add(time.Minute)
	down := Job{Action: JobDown, Owner: ann, ResponseURL: hookA, Name: "web", At: d.clock}
	if err := d.RunJob(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	newer := aBastion("web")
	newer.ID, newer.CreatedAt = "bbbbbbbbbbbbbbb2", d.clock.Add(time.Second)
	d.api.bastions[0].State = "closed"
	d.api.bastions = append(d.api.bastions, newer)
	d.clock = d.clock.Add(2 * time.Minute)
	if err := d.RunJob(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	if newer.State != "ready" {
		t.Errorf("the newer bastion is %s", newer.State)
	}

	extend := Job{Action: JobExtend, Owner: ann, ResponseURL: hookA, ID: newer.ID, TTL: 5 * time.Hour, At: d.clock}
	d.clock = d.clock.Add(10 * time.Minute)
	if err := d.RunJob(t.Context(), extend); err != nil {
		t.Fatal(err)
	}
	if want := extend.At.Add(5 * time.Hour); !newer.Deadline.Equal(want) {
		t.Errorf("the deadline is %s, want five hours after the request, %s", newer.Deadline, want)
	}
}

// A start job that runs again after its bastion was closed starts no second one.
func TestStartIsNotRepeatedAfterAClose(t *testing.T) {
	d := newFixture(t)
	job := d.storeUsedLink(startLink{Name: "web"})
	for range 2 {
		if err := d.RunJob(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		d.api.bastions[0].State = "closed"
	}
	if len(d.api.bastions) != 1 {
		t.Errorf("%d bastions, want 1", len(d.api.bastions))
	}
}

// The owner sees which address has used the link even if Slack no longer accepts a reply:
// the status message shows the address that the bastion accepts.
func TestRefusedRepliesAreGivenUp(t *testing.T) {
	d := newFixture(t)
	d.slack.refuse = func(s sent) string {
		if s.url == hookA {
			return "used_url"
		}
		return ""
	}
	job := d.storeUsedLink(startLink{Name: "web"})
	for range 2 {
		if err := d.RunJob(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	d.notify(noticeOf(1, d.api.bastions[0]))
	d.wantShown("after a start", " from "+annsHome+".")
	wantContains(t, d.log.String(), "used_url")
}

// A job sends its reply to its response_url while Slack accepts replies there. The reply
// to a button does not replace the message with the button.
func TestRepliesUseTheJobsURL(t *testing.T) {
	for _, test := range []struct {
		name    string
		job     Job
		after   time.Duration
		replies int
	}{
		{"a command", Job{Action: JobStatus, ResponseURL: hookA}, 0, 1},
		{"a button", Job{Action: JobDown, ResponseURL: hookB, ID: aBastion("web").ID}, 0, 1},
		{"a late command", Job{Action: JobStatus, ResponseURL: hookA}, responseURLLife + time.Second, 0},
	} {
		d := newFixture(t)
		d.api.bastions = []*Bastion{aBastion("web")}
		test.job.Owner, test.job.At = ann, d.clock
		d.clock = d.clock.Add(test.after)
		if err := d.RunJob(t.Context(), test.job); err != nil {
			t.Error(err)
		}
		replies := d.slack.at(test.job.ResponseURL)
		if len(replies) != test.replies || len(d.slack.posts) != test.replies {
			t.Errorf("%s: %d replies of %d requests", test.name, len(replies), len(d.slack.posts))
			continue
		}
		if len(replies) > 0 && strings.Contains(string(replies[0]), `"replace_original":true`) != (test.job.ID == "") {
			t.Errorf("%s: the reply is %s", test.name, replies[0])
		}
	}
}

func TestJobsWithoutASlackOwnerAreDropped(t *testing.T) {
	for _, owner := range []string{"", "iam:123:AROA", "slack:T0ANN", "slack:T0ANN:U0ANN:x", "slack:t0ann:u0ann", "slack:T0ANN:U0ANN\n"} {
		d := newFixture(t)
		if err := d.RunJob(t.Context(), Job{Action: JobDown, Owner: owner, ResponseURL: hookA, At: start}); err != nil {
			t.Error(err)
		}
		if len(d.api.calls)+len(d.slack.posts) != 0 {
			t.Errorf("%q: %d calls, %d posts", owner, len(d.api.calls), len(d.slack.posts))
		}
	}
	d := newFixture(t)
	stolen := d.storeUsedLink(startLink{Name: "web"})
	stolen.Owner = "slack:T0ANN:U0EVE"
	if err := d.RunJob(t.Context(), stolen); err != nil || len(d.api.calls) != 0 {
		t.Errorf("another owner's link: %v, %d calls", err, len(d.api.calls))
	}
}

// A start job creates a bastion and crashes before it stores the ID. The bastion is
// closed, and a notice of that arrives. When the job runs again, it must not create a
// second bastion.
func TestRepeatedStartDoesNotReplaceAClosedBastion(t *testing.T) {
	for calls := 1; ; calls++ {
		d := newFixture(t)
		job := d.storeUsedLink(startLink{Name: "web"})
		d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, calls, true, true
		_ = untilCrash(func() error { return d.RunJob(t.Context(), job) })
		if d.faults.failedPort == "" {
			return // the job makes fewer calls, so no call failed
		}
		if len(d.api.bastions) == 0 {
			continue // it crashed before it created a bastion
		}
		b := d.api.bastions[0]
		b.State = "closed"
		if err := d.Notify(t.Context(), Notice{Bastion: *b, Version: 9, Receipt: &Receipt{}}); err != nil {
			t.Fatal(err)
		}
		if err := d.RunJob(t.Context(), job); err != nil {
			t.Errorf("crash after call %d: again: %v", calls, err)
		}
		if n := len(d.api.bastions); n != 1 {
			t.Errorf("crash after call %d: %d bastions", calls, n)
		}
	}
}
