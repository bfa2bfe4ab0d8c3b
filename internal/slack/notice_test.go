package slack

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stageOf is a bastion that waits for something.
func stageOf(stage string) *Bastion {
	b := aBastion("web")
	b.State, b.Stage, b.Host, b.Port, b.SSHConfig = "starting", stage, "", 0, ""
	return b
}

func (d *desk) tell(n Notice) {
	d.t.Helper()
	if err := d.Notify(d.t.Context(), n); err != nil {
		d.t.Fatal(err)
	}
}

// A whole life uses the response_url five times: for the start, two stages, ready
// and the end, however much there is to say.
func TestFiveUsesAreEnoughForALife(t *testing.T) {
	d := newDesk(t)
	if err := d.RunJob(t.Context(), d.used(startLink{Name: "web"})); err != nil {
		t.Fatal(err)
	}
	id, version := d.service.bastions[0].ID, int64(0)
	tell := func(b *Bastion, receipt *Receipt) {
		version++
		b.ID = id
		d.tell(Notice{Bastion: *b, Version: version, Receipt: receipt})
	}
	for _, stage := range []string{"security group", "capacity", "image", "network", "host key"} {
		tell(stageOf(stage), nil)
	}
	tell(aBastion("web"), nil)
	wantRead(t, d.slack.last(hookA), "Bastion web is ready", "KnownHostsCommand", "ssh -F bastion-web.conf -J bastion-web TARGET")
	for hours := range 5 { // extended again and again, which is answered elsewhere
		b := aBastion("web")
		b.Deadline = b.Deadline.Add(time.Duration(hours) * time.Hour)
		tell(b, nil)
	}
	closing := aBastion("web")
	closing.State = "closing"
	tell(closing, nil)
	tell(closedBastion(), aReceipt())
	wantRead(t, d.slack.last(hookA), "Bastion web is closed: nobody used it", "1 hour 30 minutes", "db.internal:5432", "$0.0223")
	if n := len(d.slack.at(hookA)); n != maxUses {
		t.Errorf("the response_url was used %d times, want %d", n, maxUses)
	}
}

// Repeats and old notices change nothing.
func TestRepeatsAndOldNoticesAreHarmless(t *testing.T) {
	d := newDesk(t)
	d.talkAt(aBastion("web"), hookA, start)
	d.tell(noticeOf(3, stageOf("image")))
	d.tell(noticeOf(7, aBastion("web")))
	closed := noticeOf(9, closedBastion())
	for _, old := range []Notice{noticeOf(7, aBastion("web")), noticeOf(3, stageOf("image")), noticeOf(5, stageOf("network"))} {
		d.tell(old)
	}
	if n := len(d.slack.posts); n != 2 {
		t.Errorf("%d posts, want 2", n)
	}
	d.tell(noticeOf(8, aBastion("web"))) // newer, but it says what stands there
	if n := len(d.slack.posts); n != 2 {
		t.Errorf("%d posts, want 2: the same was said twice", n)
	}
	d.tell(closed)
	d.tell(closed)
	d.tell(Notice{Bastion: *closedBastion(), Version: 10, Receipt: aReceipt()})
	if n := len(d.slack.posts); n != 3 {
		t.Errorf("%d posts, want 3: an end is told once", n)
	}
}

// A repeat does not cover what was answered since.
func TestRepeatDoesNotCoverAnAnswer(t *testing.T) {
	d := newDesk(t)
	d.service.bastions = []*Bastion{aBastion("web")}
	d.talkAt(aBastion("web"), hookB, start)
	ready := noticeOf(7, aBastion("web"))
	d.tell(ready)
	d.clock = d.clock.Add(time.Minute)
	if err := d.RunJob(t.Context(), Job{Action: JobDown, Owner: ann, ResponseURL: hookA, At: d.clock}); err != nil {
		t.Fatal(err)
	}
	d.tell(ready)
	wantRead(t, d.slack.last(hookA), "Bastion web is closing")
}

// Letters are on their way to Slack at the same time, from two functions. One that
// takes long lands on one that was written after it, and nothing that comes later
// would put that right.
func TestLetterThatTookLongDoesNotStandOverANewerOne(t *testing.T) {
	for name, slow := range map[string]func(*desk) error{
		"a start": func(d *desk) error { return d.RunJob(d.t.Context(), d.used(startLink{Name: "web"})) },
		"a stage": func(d *desk) error {
			d.service.bastions = []*Bastion{stageOf("image")}
			d.talkAt(d.service.bastions[0], hookA, start)
			return d.Notify(d.t.Context(), noticeOf(3, stageOf("image")))
		},
		"more time": func(d *desk) error {
			d.service.bastions = []*Bastion{stageOf("lease")}
			return d.RunJob(d.t.Context(), Job{Action: JobExtend, Owner: ann, ResponseURL: hookA, TTL: time.Hour, At: d.clock})
		},
	} {
		d, slack := newDesk(t), http.RoundTripper(nil)
		slack, d.Transport = d.slack, roundTripper(func(r *http.Request) (*http.Response, error) {
			d.Transport = slack // what follows is fast
			b := d.service.bastions[0]
			b.State, b.Stage = "ready", ""
			d.tell(noticeOf(7, b))
			return slack.RoundTrip(r)
		})
		if err := slow(d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantRead(t, d.slack.last(hookA), "Bastion web is ready")
		if n := len(d.slack.at(hookA)); n != 3 {
			t.Errorf("%s: %d posts, want the newer, the older, and the newer again", name, n)
		}
	}
}

// A notice of which the telling was lost comes again, and is told then.
func TestNoticesSurviveTheLossOfAnyCall(t *testing.T) {
	ends := Notice{Bastion: *closedBastion(), Version: 9, Receipt: aReceipt()}
	for _, test := range []struct {
		notice Notice
		read   string
	}{
		{noticeOf(9, stageOf("image")), "its program is being fetched"},
		{noticeOf(9, aBastion("web")), "Bastion web is ready"},
		{noticeOf(9, failedBastion()), "capacity_unavailable"},
		{ends, "Bastion web is closed"},
	} {
		for _, after := range []bool{false, true} {
			for _, death := range []bool{false, true} {
				for at := 1; ; at++ {
					d := newDesk(t)
					d.talkAt(&test.notice.Bastion, hookA, start)
					d.faults.calls, d.faults.at, d.faults.after, d.faults.death = 0, at, after, death
					err := try(func() error { return d.Notify(t.Context(), test.notice) })
					if d.faults.hit == "" {
						break
					}
					name := fmt.Sprintf("%s, call %d (%s), after %t, death %t", test.read, at, d.faults.hit, after, death)
					if err == nil {
						t.Errorf("%s: the loss is not answered as an error, so that it does not come again", name)
					}
					d.tell(test.notice)
					wantRead(t, d.slack.last(hookA), test.read)
					if n := len(d.slack.posts); n > 2 {
						t.Errorf("%s: %d posts", name, n)
					}
				}
			}
		}
	}
}

// The URL's time is over, or it is used up: the end goes to the person directly.
func TestReceiptFindsItsWay(t *testing.T) {
	receipt := Notice{Bastion: *closedBastion(), Version: 9, Receipt: aReceipt()}
	for _, test := range []struct {
		name  string
		set   func(*desk)
		where string
	}{
		{"in time", func(*desk) {}, hookA},
		{"after thirty minutes", func(d *desk) { d.clock = d.clock.Add(30 * time.Minute) }, postMessage},
		{"no conversation", func(d *desk) { delete(d.table.items, conversationKey(receipt.Bastion.ID)) }, postMessage},
		{"no bot", func(d *desk) { d.clock = d.clock.Add(30 * time.Minute); d.agreed.BotToken = "" }, ""},
	} {
		d := newDesk(t)
		d.talkAt(&receipt.Bastion, hookA, start)
		test.set(d)
		d.tell(receipt)
		d.tell(receipt)
		if test.where == "" {
			if len(d.slack.posts) != 0 || !strings.Contains(d.log.String(), "nobody could be told") {
				t.Errorf("%s: posts %v, log %s", test.name, d.slack.posts, d.log)
			}
			continue
		}
		if len(d.slack.posts) != 1 || d.slack.posts[0].url != test.where {
			t.Errorf("%s: posts %+v, want one to %s", test.name, d.slack.posts, test.where)
			continue
		}
		checkLetter(t, test.name, d.slack.posts[0].body)
	}
}

// Slack says that the URL is used up, though we have counted less.
func TestURLThatSlackRefusesIsLeft(t *testing.T) {
	d := newDesk(t)
	d.talkAt(aBastion("web"), hookA, start)
	slack := d.slack
	d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		slack.status = 404
		if r.URL.String() == postMessage {
			slack.status = 200
		}
		return slack.RoundTrip(r)
	})
	d.tell(Notice{Bastion: *closedBastion(), Version: 9})
	if n := len(d.slack.at(postMessage)); n != 1 {
		t.Errorf("%d direct messages, want 1", n)
	}
}

// The old bastion of a name, gone while a new one starts, does not speak in the new
// one's message.
func TestTwoBastionsOfOneNameInTurn(t *testing.T) {
	d := newDesk(t)
	old := closedBastion()
	old.ID, old.CreatedAt = "ooooooooooooooo2", start.Add(-time.Hour)
	if err := d.RunJob(t.Context(), d.used(startLink{Name: "web"})); err != nil {
		t.Fatal(err)
	}
	d.tell(Notice{Bastion: *old, Version: 30, Receipt: aReceipt()})
	wantRead(t, d.slack.last(hookA), "Your link was used")
	wantRead(t, d.slack.last(postMessage), "Bastion web is closed")
}

func warningOf(version int64, deadline time.Time) Notice {
	b := aBastion("web")
	b.Deadline = deadline
	return Notice{Bastion: *b, Version: version, Warning: true}
}

func TestOneWarningForEachDeadline(t *testing.T) {
	d := newDesk(t)
	first, second := start.Add(10*time.Minute), start.Add(40*time.Minute)
	for version, deadline := range []time.Time{first, first, first, second, second} {
		d.tell(warningOf(int64(version+1), deadline))
	}
	warnings := 0
	for _, body := range d.slack.at(postMessage) {
		if strings.Contains(readable(body), "closes in") {
			warnings++
			wantRead(t, readable(body), "Keep for 1 hour from now", "Close now")
		}
	}
	if warnings != 2 {
		t.Errorf("%d warnings for two deadlines", warnings)
	}
	d = newDesk(t)
	d.agreed.BotToken = ""
	d.tell(warningOf(1, first))
	if n := len(d.slack.posts); n != 0 {
		t.Errorf("%d posts without a bot", n)
	}
}

// Whatever is lost, there are never two warnings of one deadline; and if Slack has
// said that it did not take one, it comes again.
func TestWarningsUnderFaults(t *testing.T) {
	warning := warningOf(9, start.Add(10*time.Minute))
	warnings := func(d *desk) (n int) {
		for _, body := range d.slack.at(postMessage) {
			if strings.Contains(readable(body), "closes in") {
				n++
			}
		}
		return n
	}
	for _, after := range []bool{false, true} {
		for _, death := range []bool{false, true} {
			for at := 1; ; at++ {
				d := newDesk(t)
				d.talkAt(&warning.Bastion, hookA, start)
				d.faults.calls, d.faults.at, d.faults.after, d.faults.death = 0, at, after, death
				err := try(func() error { return d.Notify(t.Context(), warning) })
				if d.faults.hit == "" {
					break
				}
				if err != nil {
					d.tell(warning)
				}
				if n := warnings(d); n > 1 {
					t.Errorf("call %d (%s), after %t, death %t: %d warnings", at, d.faults.hit, after, death, n)
				}
			}
		}
	}
	d := newDesk(t)
	d.talkAt(&warning.Bastion, hookA, start)
	d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.String() == postMessage && len(d.slack.at(postMessage)) == 0 {
			d.slack.status = 503
			defer func() { d.slack.status = 0 }()
		}
		return d.slack.RoundTrip(r)
	})
	if err := d.Notify(t.Context(), warning); !errors.Is(err, errLater) {
		t.Errorf("what was not taken: %v, want that it comes again", err)
	}
	d.tell(warning)
	d.tell(warning)
	if n := warnings(d); n != 2 { // one that Slack refused, and one that it took
		t.Errorf("%d tries, want 2", n)
	}
}

// What can wait is not worth a direct message, and what is over no warning.
func TestDirectMessagesAreFew(t *testing.T) {
	d := newDesk(t)
	d.tell(noticeOf(1, stageOf("image")))
	late := warningOf(2, start.Add(-time.Second))
	late.Bastion.State, late.Bastion.Stage = "starting", "lease"
	d.tell(late)
	if n := len(d.slack.posts); n != 0 {
		t.Errorf("%d posts: %s", n, d.slack.last(postMessage))
	}
}

func TestNoticesForNobodyAreDropped(t *testing.T) {
	d := newDesk(t)
	for _, owner := range []string{"iam:1:x", "", "slack:T0ANN"} {
		b := aBastion("web")
		b.Owner = owner
		d.tell(noticeOf(1, b))
	}
	if len(d.slack.posts) != 0 || d.table.writes != 0 {
		t.Errorf("%d posts, %d writes", len(d.slack.posts), d.table.writes)
	}
}
