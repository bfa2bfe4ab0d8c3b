package slack

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClaimPageSaysWhatWouldBeStarted(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(func(c *startLink) { c.Name, c.Reason = "db-work", "index rebuild" })
	for from, want := range map[string][]string{
		homeV4: {"203.0.113.7 IPv4", "ssh will connect over IPv4"},
		homeV6: {"2001:db8:7::42 IPv6", "ssh will connect over IPv6"},
		// An IPv4 caller on a socket for both is an IPv4 caller.
		"[::ffff:203.0.113.7]:5": {"203.0.113.7 IPv4"},
	} {
		b := newVisitor(rig, from).open(link)
		for _, words := range append(want,
			"Slack user U0CD , workspace T0AB", "db-work", pagePrint+" (ssh-ed25519)", "index rebuild",
			"2 hours; started now, until 1 Mar 2026, 14:00 UTC", "works once, until 1 Mar 2026, 12:10 UTC",
			"Open this on the machine you will use ssh from; if you did not ask for it, close it.", "Start the bastion",
		) {
			if !strings.Contains(b.text(), words) {
				t.Errorf("from %s the page does not say %q:\n%s", from, words, b.text())
			}
		}
		if n := strings.Count(b.body, "<button"); n != 1 {
			t.Errorf("%d buttons, want one", n)
		}
	}
}

func TestClaimPageWithoutReason(t *testing.T) {
	rig := newPageRig(t, nil)
	b := newVisitor(rig, homeV4).open(rig.link(nil))
	if text := b.text(); strings.Contains(text, "Reason") {
		t.Errorf("the page of a claim that does not say why:\n%s", text)
	}
}

func TestPressStarts(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(func(c *startLink) { c.Name = "db" })
	b := newVisitor(rig, homeV6).open(link).press()
	if b.status != http.StatusSeeOther || !strings.HasPrefix(b.head.Get("Location"), "/slack/status/") {
		t.Fatalf("status %d, to %q", b.status, b.head.Get("Location"))
	}
	if strings.Contains(b.head.Get("Location"), lastOf(link)) {
		t.Error("the view's address holds the claim's token")
	}
	want := Job{Action: JobStart, Owner: pageOwner, ResponseURL: "https://hooks.slack.com/commands/x", StartLink: hashOf(lastOf(link)), Name: "db", TTL: 2 * time.Hour}
	if len(rig.jobs) != 1 || rig.jobs[0] != want {
		t.Fatalf("jobs: %+v, want %+v", rig.jobs, want)
	}
	c, err := rig.usedStartLink(t.Context(), want.StartLink)
	if err != nil || c.Source.String() != "2001:db8:7::42" || !c.UsedAt.Equal(rig.now) || c.StatusPage != hashOf(lastOf(b.head.Get("Location"))) {
		t.Errorf("the used claim: %+v, %v", c, err)
	}
	if len(b.cookies) != 0 {
		t.Errorf("cookies left: %v", b.cookies)
	}
}

func TestCookieAttributes(t *testing.T) {
	for plain, want := range map[bool]string{
		false: "; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Strict",
		true:  "; Path=/; Max-Age=600; HttpOnly; SameSite=Strict",
	} {
		rig := newPageRig(t, func(o *Options) { o.Plain = plain })
		cookie := newVisitor(rig, homeV4).open(rig.link(nil)).head.Get("Set-Cookie")
		if !strings.HasSuffix(cookie, want) || strings.HasPrefix(cookie, "__Host-") == plain {
			t.Errorf("plain %v: cookie …%s", plain, cookie[strings.Index(cookie, ";"):])
		}
	}
}

// Two tabs of one link have one proof, and two links have one each.
func TestTwoTabsBothWork(t *testing.T) {
	rig := newPageRig(t, nil)
	one, two := rig.link(nil), rig.link(func(c *startLink) { c.Name = "two" })
	b := newVisitor(rig, homeV4)
	first := b.open(one).form()
	b.open(one)
	b.open(two)
	if b.do("POST", one, first.Encode()); b.status != http.StatusSeeOther {
		t.Errorf("the first tab: status %d: %s", b.status, b.text())
	}
	if b.open(two).press(); b.status != http.StatusSeeOther {
		t.Errorf("the other link: status %d", b.status)
	}
}

func TestAddressThatChangedIsShownAgain(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link)
	b.from = homeV6
	if b.press(); b.status != http.StatusConflict || !strings.Contains(b.text(), "Your address has changed") || !strings.Contains(b.text(), "2001:db8:7::42 IPv6") {
		t.Fatalf("pressed from elsewhere: status %d: %s", b.status, b.text())
	}
	if c := rig.claimOf(link); !c.UsedAt.IsZero() || len(rig.jobs) > 0 {
		t.Fatal("it was started all the same")
	}
	if b.press(); b.status != http.StatusSeeOther {
		t.Fatalf("pressed again: status %d: %s", b.status, b.text())
	}
	if c := rig.claimOf(link); c.Source.String() != "2001:db8:7::42" {
		t.Errorf("started for %s", c.Source)
	}
}

// The port is not the address: every connection has its own.
func TestOtherPortIsTheSameAddress(t *testing.T) {
	rig := newPageRig(t, nil)
	b := newVisitor(rig, homeV4).open(rig.link(nil))
	b.from = "203.0.113.7:1024"
	if b.press(); b.status != http.StatusSeeOther {
		t.Errorf("status %d", b.status)
	}
}

func TestHandOverThatFailsLeavesTheClaim(t *testing.T) {
	rig := newPageRig(t, nil)
	rig.handOver = errPage
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link)
	for range 2 {
		if b.press(); b.status != http.StatusServiceUnavailable || !strings.Contains(b.text(), "The service did not take this up") {
			t.Fatalf("status %d: %s", b.status, b.text())
		}
		// If it was handed over all the same, it starts nothing.
		if _, err := rig.usedStartLink(t.Context(), hashOf(lastOf(link))); err == nil {
			t.Fatal("the claim counts as used")
		}
	}
	for key := range rig.table.items {
		if strings.HasPrefix(key, "statuspage#") {
			t.Error("a view is left")
		}
	}
	if !strings.Contains(rig.log.String(), errPage.Error()) {
		t.Error("the log does not hold the cause")
	}
	rig.handOver = nil
	if b.press(); b.status != http.StatusSeeOther || len(rig.jobs) != 1 {
		t.Errorf("pressed again: status %d, %d jobs", b.status, len(rig.jobs))
	}
}

// A write may have had its effect although it answered with an error, or with a
// conflict with itself.
func TestUseThatWasWrittenCounts(t *testing.T) {
	for _, answered := range []error{errPage, errConflictItself} {
		rig := newPageRig(t, nil)
		link := rig.link(nil)
		b := newVisitor(rig, homeV4).open(link)
		rig.table.fail = func(key string) (error, error) {
			if strings.HasPrefix(key, "startlink#") {
				return nil, answered
			}
			return nil, nil
		}
		if b.press(); b.status != http.StatusSeeOther || len(rig.jobs) != 1 {
			t.Errorf("%v: status %d, %d jobs", answered, b.status, len(rig.jobs))
		}
	}
}

func TestTableThatIsDownIsSaid(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link)
	rig.table.fail = func(string) (error, error) { return errPage, nil }
	if b.press(); b.status != http.StatusServiceUnavailable || !strings.Contains(b.text(), "does not answer") || len(rig.jobs) > 0 {
		t.Errorf("press while nothing can be written: status %d, %d jobs: %s", b.status, len(rig.jobs), b.text())
	}
	rig.table.down = errPage
	for _, path := range []string{link, "/slack/status/x"} {
		if b.do("GET", path, ""); b.status != http.StatusServiceUnavailable || strings.Contains(b.body, errPage.Error()) {
			t.Errorf("%s while nothing can be read: status %d: %s", path[:12], b.status, b.text())
		}
	}
	rig.table.fail, rig.table.down = nil, nil
	rig.mustBeUnused(link)
}
