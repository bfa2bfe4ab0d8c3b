package slack

import (
	"net/http"
	"strings"
	"testing"
)

func TestStartPageShowsTheDetails(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(func(l *startLink) {
		l.Name, l.Reason, l.UserName, l.TeamDomain = "db-work", "index rebuild", "ann", "example-team"
	})
	for from, want := range map[string][]string{
		homeV4: {"203.0.113.7 IPv4", "Only this address will be able to connect, over IPv4."},
		homeV6: {"2001:db8:7::42 IPv6", "Only this address will be able to connect, over IPv6."},
		// A socket for both families shows an IPv4 address in this form.
		"[::ffff:203.0.113.7]:5": {"203.0.113.7 IPv4"},
	} {
		b := newVisitor(app, from).open(link)
		for _, words := range append(want,
			"Slack user ann ( U0CD )", "Workspace example-team ( T0AB )", "db-work", pagePrint+" (ssh-ed25519)", "index rebuild",
			"2 hours (until 1 Mar 2026, 14:00 UTC if started now)", "Single use, expires 1 Mar 2026, 12:10 UTC",
			"On a phone? Open this on your computer. Use the machine you'll run ssh from. If you didn't request a bastion, close this page.", "Start the bastion",
		) {
			if !strings.Contains(b.text(), words) {
				t.Errorf("from %s the page lacks %q:\n%s", from, words, b.text())
			}
		}
		if n := strings.Count(b.body, "<button"); n != 1 {
			t.Errorf("%d buttons, want one", n)
		}
	}
}

func TestStartPageWithoutReasonAndNames(t *testing.T) {
	app := newPageFixture(t, nil)
	b := newVisitor(app, homeV4).open(app.link(nil))
	text := b.text()
	if strings.Contains(text, "Reason") || !strings.Contains(text, "Slack user U0CD Workspace T0AB Bastion") {
		t.Errorf("the page:\n%s", text)
	}
}

func TestPressStarts(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(func(l *startLink) { l.Name = "db" })
	b := newVisitor(app, homeV6).open(link).press()
	if b.status != http.StatusSeeOther || !strings.HasPrefix(b.head.Get("Location"), "/slack/status/") {
		t.Fatalf("status %d, to %q", b.status, b.head.Get("Location"))
	}
	if strings.Contains(b.head.Get("Location"), lastOf(link)) {
		t.Error("the status page's path contains the link's token")
	}
	want := Job{Action: JobStart, Owner: pageOwner, StartLink: hashOf(lastOf(link))}
	if len(app.jobs) != 1 || app.jobs[0] != want {
		t.Fatalf("jobs: %+v, want %+v", app.jobs, want)
	}
	used, err := app.usedStartLink(t.Context(), want.StartLink)
	if err != nil || used.Source.String() != "2001:db8:7::42" || !used.UsedAt.Equal(app.now) || used.StatusPage != hashOf(lastOf(b.head.Get("Location"))) {
		t.Errorf("the used link: %+v, %v", used, err)
	}
	if len(b.cookies) != 1 || b.cookies[app.cookieName(statusCookie, lastOf(link))] != lastOf(b.head.Get("Location")) {
		t.Errorf("cookies after the start: %v, want the status page's only", b.cookies)
	}
}

func TestCookieAttributes(t *testing.T) {
	for plain, want := range map[bool][]string{
		false: {"; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Strict", "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"},
		true:  {"; Path=/; Max-Age=600; HttpOnly; SameSite=Strict", "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"},
	} {
		app := newPageFixture(t, func(o *Options) { o.Plain = plain })
		b := newVisitor(app, homeV4).open(app.link(nil))
		proof := b.head.Get("Set-Cookie")
		status := b.press().head.Values("Set-Cookie")[1]
		for i, cookie := range []string{proof, status} {
			if !strings.HasSuffix(cookie, want[i]) || strings.HasPrefix(cookie, "__Host-") == plain {
				t.Errorf("plain %v: cookie …%s", plain, cookie[strings.Index(cookie, ";"):])
			}
		}
	}
}

// A used link that is opened again in the same browser leads to its status page, and
// in any other browser to the page of links that are not valid.
func TestUsedLinkLeadsToStatusPageInTheSameBrowser(t *testing.T) {
	app := newPageFixture(t, nil)
	link, other := app.link(nil), app.link(func(l *startLink) { l.Name = "other" })
	b := newVisitor(app, homeV4).open(link).press()
	status := b.head.Get("Location")
	for _, method := range []string{"GET", "HEAD", "POST"} {
		if b.do(method, link, ""); b.status != http.StatusSeeOther || b.head.Get("Location") != status {
			t.Errorf("%s in the same browser: status %d, to the status page: %v", method, b.status, b.head.Get("Location") == status)
		}
	}
	if b.open(other); b.head.Get("Location") != "" {
		t.Error("an unused link leads to the status page of another")
	}
	if len(app.jobs) != 1 {
		t.Errorf("%d jobs, want 1", len(app.jobs))
	}
	name := app.cookieName(statusCookie, lastOf(link))
	otherStatus := newVisitor(app, homeV4).open(other).press().head.Get("Location")
	for cookie, value := range map[string]string{
		"none": "", "unknown": strings.Repeat("A", 43), "of another link": lastOf(otherStatus), "not a token": "x", "the link's own token": lastOf(link),
	} {
		b := newVisitor(app, homeV4)
		b.cookies[name] = value
		if b.do("GET", link, ""); b.status != http.StatusNotFound || b.head.Get("Location") != "" {
			t.Errorf("cookie %s: status %d", cookie, b.status)
		}
	}
	app.sleep(statusPageLife)
	if b.do("GET", link, ""); b.status != http.StatusNotFound {
		t.Errorf("after the status page expired: status %d", b.status)
	}
}

// Two tabs of one link share a proof, and two links have one each.
func TestTwoTabsBothWork(t *testing.T) {
	app := newPageFixture(t, nil)
	one, two := app.link(nil), app.link(func(l *startLink) { l.Name = "two" })
	b := newVisitor(app, homeV4)
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

func TestChangedAddressIsShownAgain(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link)
	b.from = homeV6
	if b.press(); b.status != http.StatusConflict || !strings.Contains(b.text(), "Your address has changed") || !strings.Contains(b.text(), "2001:db8:7::42 IPv6") {
		t.Fatalf("pressed from another address: status %d: %s", b.status, b.text())
	}
	if l := app.storedLink(link); !l.UsedAt.IsZero() || len(app.jobs) > 0 {
		t.Fatal("it was started")
	}
	if b.press(); b.status != http.StatusSeeOther {
		t.Fatalf("pressed again: status %d: %s", b.status, b.text())
	}
	if l := app.storedLink(link); l.Source.String() != "2001:db8:7::42" {
		t.Errorf("started for %s", l.Source)
	}
}

// Every connection has a port of its own, so the port is not compared.
func TestOtherPortIsTheSameAddress(t *testing.T) {
	app := newPageFixture(t, nil)
	b := newVisitor(app, homeV4).open(app.link(nil))
	b.from = "203.0.113.7:1024"
	if b.press(); b.status != http.StatusSeeOther {
		t.Errorf("status %d", b.status)
	}
}

func TestFailedEnqueueLeavesTheLinkUnused(t *testing.T) {
	app := newPageFixture(t, nil)
	app.enqueueErr = errDownTest
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link)
	for range 2 {
		if b.press(); b.status != http.StatusServiceUnavailable || !strings.Contains(b.text(), "The request couldn't be submitted") {
			t.Fatalf("status %d: %s", b.status, b.text())
		}
		// If the job was enqueued in spite of the error, it starts nothing.
		if _, err := app.usedStartLink(t.Context(), hashOf(lastOf(link))); err == nil {
			t.Fatal("the link counts as used")
		}
	}
	for key := range app.table.items {
		if strings.HasPrefix(key, "statuspage#") {
			t.Error("a status page is left")
		}
	}
	if !strings.Contains(app.log.String(), errDownTest.Error()) {
		t.Error("the log does not contain the cause")
	}
	app.enqueueErr = nil
	if b.press(); b.status != http.StatusSeeOther || len(app.jobs) != 1 {
		t.Errorf("pressed again: status %d, %d jobs", b.status, len(app.jobs))
	}
}

// A write may take effect although it returns an error. If the SDK has sent the write
// twice, the error can be a conflict of the second request with the first. The link is
// then used, and the start goes on.
func TestUseIsKeptIfTheWriteReturnsAnError(t *testing.T) {
	for _, returned := range []error{errDownTest, errConflictWithItself} {
		app := newPageFixture(t, nil)
		link := app.link(nil)
		b := newVisitor(app, homeV4).open(link)
		app.table.fail = func(key string) (error, error) {
			if strings.HasPrefix(key, "startlink#") {
				return nil, returned
			}
			return nil, nil
		}
		if b.press(); b.status != http.StatusSeeOther || len(app.jobs) != 1 {
			t.Errorf("%v: status %d, %d jobs", returned, b.status, len(app.jobs))
		}
	}
}

func TestUnavailableTable(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link)
	app.table.fail = func(string) (error, error) { return errDownTest, nil }
	if b.press(); b.status != http.StatusServiceUnavailable || !strings.Contains(b.text(), "The service isn't responding") || len(app.jobs) > 0 {
		t.Errorf("the button while writes fail: status %d, %d jobs: %s", b.status, len(app.jobs), b.text())
	}
	app.table.fetchErr = errDownTest
	for _, path := range []string{link, "/slack/status/x"} {
		if b.do("GET", path, ""); b.status != http.StatusServiceUnavailable || strings.Contains(b.body, errDownTest.Error()) {
			t.Errorf("%s while reads fail: status %d: %s", path[:13], b.status, b.text())
		}
	}
	app.table.fail, app.table.fetchErr = nil, nil
	app.mustBeUnused(link)
}
