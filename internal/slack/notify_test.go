package slack

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// stageOf returns a bastion at a stage of its start.
func stageOf(stage string) *Bastion {
	b := aBastion("web")
	b.State, b.Stage, b.Host, b.Port, b.SSHConfig = "starting", stage, "", 0, ""
	return b
}

func closingBastion() *Bastion {
	b := aBastion("web")
	b.State = "closing"
	return b
}

func endOf(version int64) Notice {
	return Notice{Bastion: *closedBastion(), Version: version, Receipt: aReceipt()}
}

func warningOf(version int64, deadline time.Time) Notice {
	b := aBastion("web")
	b.Deadline = deadline
	return Notice{Bastion: *b, Version: version, Warning: true}
}

func (d *fixture) notify(n Notice) {
	d.t.Helper()
	if err := d.Notify(d.t.Context(), n); err != nil {
		d.t.Fatal(err)
	}
}

func (d *fixture) conversation() (c conversation) {
	d.t.Helper()
	if _, err := d.fetch(d.t.Context(), conversationKey(aBastion("web").ID), &c); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// wantShown fails the test unless there is one direct message for each text, in this
// order, and each message contains its text.
func (d *fixture) wantShown(name string, texts ...string) {
	d.t.Helper()
	shown := d.slack.shown()
	if len(shown) != len(texts) {
		d.t.Errorf("%s: %d direct messages, want %d:\n%s", name, len(shown), len(texts), strings.Join(shown, "\n--\n"))
		return
	}
	for i, text := range texts {
		if !strings.Contains(shown[i], text) {
			d.t.Errorf("%s: message %d is\n%s\nwant %q in it", name, i+1, shown[i], text)
		}
	}
}

// One message is edited at each change of a bastion. Ready, warning and receipt are new
// messages, because Slack sends no notification for an edit.
func TestOneStatusMessageFollowsABastion(t *testing.T) {
	d := newFixture(t)
	version := int64(0)
	notify := func(b *Bastion) {
		version++
		d.clock = d.clock.Add(2 * time.Second)
		d.notify(noticeOf(version, b))
	}
	for _, stage := range []string{"security group", "capacity", "image", "network", "host key"} {
		notify(stageOf(stage))
	}
	d.wantShown("starting", "waiting for the host key")
	notify(aBastion("web"))
	d.wantShown("ready", "Bastion web is ready", "ssh -F bastion-web.conf -J bastion-web TARGET")
	extended := aBastion("web")
	extended.Deadline = extended.Deadline.Add(time.Hour)
	notify(extended)
	version++
	d.notify(warningOf(version, extended.Deadline))
	d.wantShown("warned", "12:30 UTC", "is ready for", "closes in")
	closing := closingBastion()
	notify(closing)
	d.wantShown("closing", "You'll get a receipt here", "is ready for", "closes in")
	version++
	d.notify(endOf(version))
	d.wantShown("closed", "Bastion web is closed", "is ready for", "closes in", "It was closed because it was idle")
	wantContains(t, d.slack.shown()[3], "1 hour 30 minutes", "db.internal:5432", "$0.0223")
	if n := len(d.slack.at(postMessage)); n != 4 {
		t.Errorf("%d messages were posted, want 4", n)
	}
	for _, m := range d.slack.direct[1:] {
		if m.edits != 0 {
			t.Errorf("a message that is not the status message was edited: %s", m.body)
		}
	}
}

func TestNextMessageIsTheMostUrgent(t *testing.T) {
	now := start.Add(time.Hour)
	status := func(b *Bastion) string { return newOutgoing(kindStatus, statusMessage(*b)).digest }
	ready := newOutgoing(kindReady, readyMessage(*aBastion("web"))).digest
	warning := warningOf(1, now.Add(time.Minute))
	withStatus := func(c conversation) conversation {
		c.Channel, c.TS = "D0ANN", "1.0"
		if c.Keys == nil {
			c.Keys = aBastion("web").Keys
		}
		return c
	}
	twoKeys := withKeys(aBastion("web"), "SHA256:two")
	starting, delayed, refused, closed := withKeys(stageOf("lease"), "SHA256:two"), withKeys(stageOf("delayed"), "SHA256:two"), withKeys(stageOf("address"), "SHA256:two"), withKeys(closingBastion(), "SHA256:two")
	refused.Failure = failedBastion().Failure
	moved := withKeys(aBastion("web"), "SHA256:two")
	moved.Source = "198.51.100.77/32"
	for _, test := range []struct {
		name string
		c    conversation
		want string
	}{
		{"starting", conversation{Notice: noticeOf(1, stageOf("image"))}, "status"},
		{"the same stage", withStatus(conversation{Notice: noticeOf(1, stageOf("image")), Status: status(stageOf("image"))}), ""},
		{"another stage", withStatus(conversation{Notice: noticeOf(1, stageOf("image")), Status: status(stageOf("network"))}), "status edit"},
		{"ready before status", withStatus(conversation{Notice: noticeOf(1, aBastion("web"))}), "ready"},
		{"ready was sent", withStatus(conversation{Notice: noticeOf(1, aBastion("web")), Ready: ready}), "status edit"},
		{"a key was added", withStatus(conversation{Notice: noticeOf(1, twoKeys), Ready: ready}), "key"},
		{"a key was added, and the address has moved", withStatus(conversation{Notice: noticeOf(1, moved), Ready: ready}), "ready"},
		{"a key was added, and the bastion is not ready yet", withStatus(conversation{Notice: noticeOf(1, starting), Ready: ready}), "status edit"},
		{"a key was added, and the bastion is delayed", withStatus(conversation{Notice: noticeOf(1, delayed), Ready: ready}), "key"},
		{"a key was added, and its address is refused", withStatus(conversation{Notice: noticeOf(1, refused), Ready: ready}), "key"},
		{"a key was added, and the bastion is closing", withStatus(conversation{Notice: noticeOf(1, closed), Ready: ready}), "status edit"},
		{"the owner knows of the key", withStatus(conversation{Notice: noticeOf(1, twoKeys), Ready: ready, Keys: twoKeys.Keys}), "status edit"},
		{"a key was removed", withStatus(conversation{Notice: noticeOf(1, aBastion("web")), Ready: ready, Keys: twoKeys.Keys}), "status edit"},
		{"warning before ready", conversation{Notice: warning}, "warning"},
		{"warned of this deadline", conversation{Notice: warning, Warned: warning.Bastion.Deadline}, "ready"},
		{"warned of an earlier deadline", conversation{Notice: warning, Warned: now}, "warning"},
		{"the deadline has passed", withStatus(conversation{Notice: warningOf(1, now), Ready: ready}), "status edit"},
		{"closing", withStatus(conversation{Notice: noticeOf(1, closingBastion())}), "status edit"},
		{"closing without a status message", conversation{Notice: noticeOf(1, closingBastion())}, ""},
		{"closed", withStatus(conversation{Notice: endOf(1)}), "receipt"},
		{"closed, and the receipt was sent", withStatus(conversation{Notice: endOf(1), Ended: true}), "status edit"},
		{"closed, without a status message", conversation{Notice: endOf(1), Ended: true}, ""},
		{"failed", conversation{Notice: noticeOf(1, failedBastion())}, "receipt"},
		{"edits are refused", withStatus(conversation{Notice: noticeOf(1, stageOf("image")), Uneditable: true}), "status"},
		{"edits are refused, closed", withStatus(conversation{Notice: endOf(1), Ended: true, Uneditable: true}), ""},
	} {
		got := ""
		if m := test.c.next(now); m != nil {
			got = string(m.kind)
			if m.edit {
				got += " edit"
			}
		}
		if got != test.want {
			t.Errorf("%s: next is %q, want %q", test.name, got, test.want)
		}
	}
}

func TestRepeatedAndOldNoticesChangeNothing(t *testing.T) {
	d := newFixture(t)
	d.notify(noticeOf(3, stageOf("image")))
	d.notify(noticeOf(7, aBastion("web")))
	for _, old := range []Notice{noticeOf(7, aBastion("web")), noticeOf(3, stageOf("image")), noticeOf(5, stageOf("network"))} {
		d.notify(old)
	}
	d.notify(noticeOf(8, aBastion("web"))) // newer, with the same content
	if n := len(d.slack.posts); n != 3 {
		t.Errorf("%d requests, want the status message, ready and one edit", n)
	}
	for range 2 {
		d.notify(endOf(9))
	}
	d.notify(endOf(10))
	d.notify(noticeOf(8, aBastion("web")))
	d.wantShown("closed", "is closed", "is ready", "It was closed because it was idle")
}

// The ready message is sent again if its content has changed. A new deadline does not
// change it.
func TestReadyIsSentAgainAfterAMove(t *testing.T) {
	d := newFixture(t)
	d.notify(noticeOf(1, aBastion("web")))
	later := aBastion("web")
	later.Deadline = later.Deadline.Add(time.Hour)
	d.notify(noticeOf(2, later))
	if n := d.slack.count("is ready for"); n != 1 {
		t.Errorf("%d ready messages after an extension, want 1", n)
	}
	moved := aBastion("web")
	moved.Source = "198.51.100.77/32"
	moving := *moved
	moving.State, moving.Stage = "starting", "address"
	d.notify(noticeOf(3, &moving))
	d.notify(noticeOf(4, moved))
	if n := d.slack.count("is ready for 198.51.100.77"); n != 1 {
		t.Errorf("%d ready messages for the new address, want 1", n)
	}
}

// withKeys returns the bastion with further keys.
func withKeys(b *Bastion, keys ...string) *Bastion {
	b.Keys = append(slices.Clone(b.Keys), keys...)
	return b
}

func TestAddedKeyIsAnnouncedOnce(t *testing.T) {
	d := newFixture(t)
	d.notify(noticeOf(1, aBastion("web")))
	added := func(key string) int { return d.slack.count("The key " + key + " was added.") }
	if n := added(aBastion("web").Keys[0]); n != 0 {
		t.Errorf("the first key was announced %d times", n)
	}
	for version := range int64(3) {
		d.notify(noticeOf(2+version, withKeys(aBastion("web"), "SHA256:two")))
	}
	if n := added("SHA256:two"); n != 1 {
		t.Errorf("the second key was announced %d times, want once", n)
	}
	if n := d.slack.count("is ready for"); n != 1 {
		t.Errorf("%d ready messages, want 1", n)
	}

	// A start from another address adds a key: one new message says both.
	both := withKeys(aBastion("web"), "SHA256:two", "SHA256:three")
	both.Source = "198.51.100.77/32"
	before := len(d.slack.direct)
	d.notify(noticeOf(6, both))
	if n := len(d.slack.direct) - before; n != 1 || added("SHA256:three") != 1 {
		t.Errorf("%d new messages, which announce the key %d times; want one message", n, added("SHA256:three"))
	}

	// A key that was removed and is added again is announced again, even if the bastion then
	// has no other key.
	only := aBastion("web")
	only.Keys, only.Source = []string{"SHA256:two"}, both.Source
	d.notify(noticeOf(7, only))
	first := aBastion("web")
	first.Source = both.Source
	d.notify(noticeOf(8, first))
	if n := added(first.Keys[0]); n != 1 {
		t.Errorf("the key that came back was announced %d times, want once", n)
	}
	if n := added("SHA256:two"); n != 1 {
		t.Errorf("the second key was announced %d times, want once", n)
	}
}

// A conversation that an earlier version stored has no keys. The keys of the first notice
// after the upgrade are not announced, but keys that are added later are.
func TestUpgradeDoesNotAnnounceKeys(t *testing.T) {
	d := newFixture(t)
	d.notify(noticeOf(1, aBastion("web")))
	if _, err := edit(t.Context(), d.App, conversationKey(aBastion("web").ID), func(c *conversation) (time.Time, error) {
		c.Keys = nil
		return start.Add(24 * time.Hour), nil
	}); err != nil {
		t.Fatal(err)
	}
	d.notify(noticeOf(2, withKeys(aBastion("web"), "SHA256:two")))
	d.notify(noticeOf(3, withKeys(aBastion("web"), "SHA256:two", "SHA256:three")))
	if two, three := d.slack.count("The key SHA256:two was added."), d.slack.count("The key SHA256:three was added."); two != 0 || three != 1 {
		t.Errorf("announced %d and %d times, want 0 and 1", two, three)
	}
}

// Two deliveries for one bastion run at the same time: the second begins while a request
// of the first is on its way. In the end the messages show the newer notice, and no
// message is sent twice.
func TestCrossingDeliveriesShowTheNewest(t *testing.T) {
	older, newer := noticeOf(3, stageOf("image")), noticeOf(7, aBastion("web"))
	for name, order := range map[string][2]Notice{"the older is on its way": {older, newer}, "the newer is on its way": {newer, older}} {
		for _, known := range []bool{false, true} {
			d := newFixture(t)
			if known {
				d.notify(noticeOf(1, stageOf("capacity")))
			}
			accept := d.slack.RoundTrip
			d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				d.Transport = d.slack
				d.notify(order[1])
				return accept(r)
			})
			d.notify(order[0])
			status := slices.IndexFunc(d.slack.shown(), func(text string) bool { return !strings.Contains(text, "is ready for") })
			if d.slack.count("is ready for") != 1 || len(d.slack.direct) != 2 || !strings.Contains(d.slack.shown()[status], "Bastion web is ready\n") {
				t.Errorf("%s, with a status message %t: shown are\n%s", name, known, strings.Join(d.slack.shown(), "\n--\n"))
			}
		}
	}
}

// The request of one delivery takes longer than senderTimeout, so the delivery of a newer
// notice sends its requests, and Slack gets the older request last. Then the first
// delivery edits the status message again.
func TestLateEditIsCorrected(t *testing.T) {
	d := newFixture(t)
	d.notify(noticeOf(1, stageOf("capacity")))
	d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		d.Transport = d.slack
		d.clock = d.clock.Add(senderTimeout)
		d.notify(noticeOf(7, aBastion("web")))
		return d.slack.RoundTrip(r)
	})
	d.notify(noticeOf(3, stageOf("image")))
	d.wantShown("in the end", "Bastion web is ready", "is ready for")
}

// Each call of a port in turn fails before or after its effect, with an error or with a
// crash of the function. Then the notice is sent again, as in Lambda. The owner gets
// every message, and at most one of them twice.
func TestNoticesSurviveTheLossOfAnyCall(t *testing.T) {
	for _, test := range []struct {
		notice Notice
		texts  []string // each in a direct message of its own
	}{
		{noticeOf(9, stageOf("image")), []string{"pulling the image"}},
		{noticeOf(9, aBastion("web")), []string{"Bastion web is ready\n", "is ready for"}},
		{noticeOf(9, failedBastion()), []string{"capacity_unavailable", "Bastion web failed"}},
		{endOf(9), []string{"It was closed because it was idle", "Bastion web is closed"}},
	} {
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				for at := 1; ; at++ {
					d := newFixture(t)
					d.notify(noticeOf(1, stageOf("capacity")))
					d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, at, after, crash
					err := untilCrash(func() error { return d.Notify(t.Context(), test.notice) })
					if d.faults.failedPort == "" {
						break // Notify makes fewer calls than at, so no call failed
					}
					name := fmt.Sprintf("%s, call %d (%s), after %t, crash %t", test.texts[0], at, d.faults.failedPort, after, crash)
					if err == nil && d.faults.failedPort != "slack" {
						t.Errorf("%s: there is no error, so the notice is not sent again", name)
					}
					d.clock = d.clock.Add(time.Minute)
					d.notify(test.notice)
					d.runJobs()
					for _, text := range test.texts {
						if d.slack.count(text) == 0 {
							t.Errorf("%s: no message says %q:\n%s", name, text, strings.Join(d.slack.shown(), "\n--\n"))
						}
					}
					if n := len(d.slack.direct); n > len(test.texts)+1 {
						t.Errorf("%s: %d messages", name, n)
					}
				}
			}
		}
	}
}

// While the delivery of an older notice is sending, a newer notice arrives, and its
// delivery sends nothing. Then the older delivery fails or crashes. When the older notice
// is repeated, its delivery sends the message that the newer notice requires.
func TestRepeatedNoticeSendsTheMessageOfADeadDelivery(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for at := 1; ; at++ {
			d := newFixture(t)
			d.notify(noticeOf(1, stageOf("capacity")))
			older := noticeOf(2, stageOf("image"))
			d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, at, true, crash
			_ = untilCrash(func() error { return d.Notify(t.Context(), older) })
			if d.faults.failedPort == "" {
				break // Notify makes fewer calls than at, so no call failed
			}
			d.notify(endOf(3))
			d.clock = d.clock.Add(time.Minute)
			d.notify(older)
			d.runJobs()
			if n := d.slack.count("It was closed because it was idle"); n != 1 {
				t.Errorf("call %d (%s), crash %t: %d receipts, want 1", at, d.faults.failedPort, crash, n)
			}
		}
	}
}

// runJobs runs the jobs that were enqueued, and those that they enqueue.
func (d *fixture) runJobs() {
	d.t.Helper()
	for len(d.queue.jobs) > 0 {
		job := d.queue.jobs[0]
		d.queue.jobs = d.queue.jobs[1:]
		d.clock = d.clock.Add(maxRetryAfter)
		if err := d.RunJob(d.t.Context(), job); err != nil {
			d.t.Fatal(err)
		}
	}
}

// The function crashes after it has posted the status message and before it has stored
// the message's channel and timestamp. Later changes edit the second status message only.
// The first is stale, but its buttons still work, because they contain the bastion's ID.
func TestStatusMessageThatWasNotStoredIsPostedAgain(t *testing.T) {
	d := newFixture(t)
	for at := 1; len(d.slack.direct) == 0; at++ {
		d = newFixture(t)
		d.faults.at, d.faults.after, d.faults.crash = at, true, true
		_ = untilCrash(func() error { return d.Notify(t.Context(), noticeOf(1, stageOf("image"))) })
	}
	d.faults.at = 0
	d.notify(noticeOf(2, stageOf("network"))) // sends nothing: SendingUntil of the crashed delivery has not passed
	d.clock = d.clock.Add(time.Minute)
	d.notify(noticeOf(2, stageOf("network")))
	d.notify(noticeOf(3, aBastion("web")))
	d.wantShown("in the end", "pulling the image", "Bastion web is ready\n", "is ready for")
	if c := d.conversation(); c.TS != d.slack.direct[1].TS {
		t.Errorf("the status message is %s, want the second", c.TS)
	}
}

func TestRefusedEditIsPostedAsANewMessage(t *testing.T) {
	for code, test := range map[string]struct {
		uneditable bool
		posts      int // new messages after the first status message
	}{
		// The new messages are the status message without a stage, the ready message, and the
		// status message that says that the bastion is ready.
		"edit_window_closed":  {true, 3},
		"cant_update_message": {true, 3},
		// The new messages are the status message, which is then edited, and the ready message.
		"message_not_found": {false, 2},
		"channel_not_found": {false, 2},
	} {
		d := newFixture(t)
		d.notify(noticeOf(1, stageOf("capacity")))
		refused := map[string]bool{}
		d.slack.refuse = func(s sent) string {
			if s.url == updateMessage && (test.uneditable || len(refused) == 0) {
				refused[string(s.body)] = true
				return code
			}
			return ""
		}
		for i, b := range []*Bastion{stageOf("image"), stageOf("network"), stageOf("host key"), aBastion("web")} {
			d.notify(noticeOf(int64(i+2), b))
		}
		if n := len(d.slack.direct) - 1; n != test.posts {
			t.Errorf("%s: %d new messages, want %d:\n%s", code, n, test.posts, strings.Join(d.slack.shown(), "\n--\n"))
		}
		if c := d.conversation(); c.Uneditable != test.uneditable || d.slack.count("Bastion web is ready\n") != 1 {
			t.Errorf("%s: uneditable %t:\n%s", code, c.Uneditable, strings.Join(d.slack.shown(), "\n--\n"))
		}
	}
}

// If Slack refuses a message for good, the notice succeeds, so that it is not sent again.
func TestRefusedMessagesAreGivenUp(t *testing.T) {
	d := newFixture(t)
	d.slack.refuse = func(sent) string { return "user_disabled" }
	d.notify(noticeOf(1, aBastion("web")))
	d.notify(endOf(2))
	requests := len(d.slack.posts)
	d.notify(endOf(2))
	if len(d.slack.posts) != requests || len(d.queue.jobs) != 0 {
		t.Errorf("%d requests, then %d; %d jobs", requests, len(d.slack.posts), len(d.queue.jobs))
	}
	wantContains(t, d.log.String(), "user_disabled", `"kind":"receipt"`)
}

// If Slack does not accept the token, only the operator can help. The notice fails, so
// that it is sent again, and it becomes a dead letter if the token stays wrong.
func TestTokenErrorsAreReturned(t *testing.T) {
	for _, code := range []string{"invalid_auth", "token_revoked", "missing_scope"} {
		d := newFixture(t)
		d.slack.refuse = func(sent) string { return code }
		if err := d.Notify(t.Context(), endOf(1)); err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", code, err)
		}
		d.slack.refuse = nil
		d.notify(endOf(1))
		d.wantShown(code, "It was closed because it was idle")
	}
}

func TestOneWarningForEachDeadline(t *testing.T) {
	d := newFixture(t)
	first, second := start.Add(10*time.Minute), start.Add(40*time.Minute)
	for version, deadline := range []time.Time{first, first, first, second, second} {
		d.notify(warningOf(int64(version+1), deadline))
	}
	if n := d.slack.count("closes in"); n != 2 {
		t.Errorf("%d warnings for two deadlines", n)
	}
	for _, text := range d.slack.shown() {
		if strings.Contains(text, "closes in") {
			wantContains(t, text, "Extend to 1 hour from now", "Close bastion")
		}
	}
}

// No fault causes two warnings of one deadline. A warning is sent again only if Slack has
// certainly not accepted it.
func TestWarningsUnderFaults(t *testing.T) {
	warning := warningOf(9, start.Add(10*time.Minute))
	for _, after := range []bool{false, true} {
		for _, crash := range []bool{false, true} {
			for at := 1; ; at++ {
				d := newFixture(t)
				d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, at, after, crash
				_ = untilCrash(func() error { return d.Notify(t.Context(), warning) })
				if d.faults.failedPort == "" {
					break
				}
				d.clock = d.clock.Add(time.Minute)
				d.notify(warning)
				if n := d.slack.count("closes in"); n > 1 {
					t.Errorf("call %d (%s), after %t, crash %t: %d warnings", at, d.faults.failedPort, after, crash, n)
				}
			}
		}
	}
	for name, test := range map[string]struct {
		set  func(*fakeSlack)
		want int
	}{
		"certainly not accepted": {func(s *fakeSlack) { s.status = 503 }, 1},
		"perhaps accepted":       {func(s *fakeSlack) { s.err = &net.OpError{Op: "read", Err: errors.New("reset")} }, 0},
	} {
		d := newFixture(t)
		test.set(d.slack)
		d.notify(warning)
		d.slack.status, d.slack.err = 0, nil
		d.clock = d.clock.Add(time.Minute)
		d.notify(warning)
		if n := d.slack.count("closes in"); n != test.want {
			t.Errorf("%s: %d warnings, want %d", name, n, test.want)
		}
	}
}

func TestNoticesWithoutAnAllowedOwnerAreDropped(t *testing.T) {
	d := newFixture(t)
	for _, owner := range []string{"iam:1:x", "", "slack:T0ANN", "slack:T0BOB:U0BOB"} {
		b := aBastion("web")
		b.Owner = owner
		d.notify(noticeOf(1, b))
	}
	if len(d.slack.posts) != 0 || d.table.writes != 0 {
		t.Errorf("%d requests, %d writes", len(d.slack.posts), d.table.writes)
	}
}

func TestReceiptCountsUnnamedDestinations(t *testing.T) {
	r := Receipt{Destinations: strings.Fields(strings.Repeat("db:5432 ", 12)), Unnamed: 3}
	if got := destinations(r); !strings.HasSuffix(got, " and 5 more") || strings.Count(got, "db:5432") != maxDestinations {
		t.Errorf("destinations %q", got)
	}
	if got := destinations(Receipt{Unnamed: 3}); got != "3 more" {
		t.Errorf("destinations %q", got)
	}
}

func TestReceiptNamesAllSources(t *testing.T) {
	b := closedBastion()
	b.Source, b.Sources = "192.0.2.7/32", []string{"192.0.2.7/32", "198.51.100.0/28", "2001:db8::7/128"}
	if lines, want := receiptLines(*aReceipt(), *b), "From: 192.0.2.7, 198.51.100.0/28, 2001:db8::7"; !slices.Contains(lines, want) {
		t.Errorf("receipt %q, want the line %q", lines, want)
	}
}
