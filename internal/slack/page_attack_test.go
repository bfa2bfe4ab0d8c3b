package slack

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFetchingTheLinkChangesNothing(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	before := app.table.writes
	for name, header := range map[string]http.Header{
		"a bot that unfurls links": {"User-Agent": {"Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"}},
		"a prefetch":               {"Sec-Purpose": {"prefetch"}, "Purpose": {"prefetch"}},
		"a prerender":              {"Sec-Purpose": {"prefetch;prerender"}},
		"a mail scanner":           {"Accept": {"*/*"}, "Range": {"bytes=0-0"}},
		"a revalidating proxy":     {"If-Modified-Since": {"Sun, 01 Mar 2026 12:00:00 GMT"}, "If-None-Match": {"*"}},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			b := newVisitor(app, homeV4)
			b.header = header
			b.do(method, link, "")
			if b.status != http.StatusOK || (b.body == "") != (method == "HEAD") {
				t.Errorf("%s, %s: status %d, %d bytes", name, method, b.status, len(b.body))
			}
		}
	}
	if app.table.writes != before {
		t.Errorf("%d writes", app.table.writes-before)
	}
	app.mustBeUnused(link)
}

func TestOtherMethodsAreRefused(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "PREFETCH"} {
		b := newVisitor(app, homeV4).open(link)
		if b.do(method, link, b.form().Encode()); b.status != http.StatusMethodNotAllowed || b.head.Get("Allow") != "GET, HEAD, POST" {
			t.Errorf("%s: status %d, Allow %q", method, b.status, b.head.Get("Allow"))
		}
	}
	app.mustBeUnused(link)
}

func TestSecondPressIsRefused(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link)
	form, cookies := b.form(), b.cookies
	again := newVisitor(app, homeV4)
	for name, value := range cookies {
		again.cookies[name] = value
	}
	b.press()
	if again.do("POST", link, form.Encode()); again.status != http.StatusNotFound {
		t.Errorf("the same form again: status %d", again.status)
	}
	if again.do("GET", link, ""); again.status != http.StatusNotFound {
		t.Errorf("the used link: status %d", again.status)
	}
	if len(app.jobs) != 1 {
		t.Errorf("%d jobs", len(app.jobs))
	}
}

func TestConcurrentPressesStartOnce(t *testing.T) {
	for range 20 {
		app := newPageFixture(t, nil)
		link := app.link(nil)
		const many = 8
		tabs := make([]*visitor, many)
		for i := range tabs {
			tabs[i] = newVisitor(app, homeV4).open(link)
		}
		var all sync.WaitGroup
		for _, tab := range tabs {
			all.Go(func() { tab.press() })
		}
		all.Wait()
		started, lost := 0, 0
		for _, tab := range tabs {
			switch tab.status {
			case http.StatusSeeOther:
				started++
			case http.StatusNotFound:
				lost++
			}
		}
		if started != 1 || lost != many-1 || len(app.jobs) != 1 {
			t.Fatalf("of %d presses %d started and %d were refused; %d jobs", many, started, lost, len(app.jobs))
		}
		pages := 0
		for key := range app.table.items {
			if strings.HasPrefix(key, "statuspage#") {
				pages++
			}
		}
		if pages != 1 {
			t.Fatalf("%d status pages, want 1", pages)
		}
	}
}

func TestPressWithoutProofIsRefused(t *testing.T) {
	foreign := strings.Repeat("A", 43)
	only := func(b *visitor) string {
		for name := range b.cookies {
			return name
		}
		return ""
	}
	for name, attack := range map[string]func(*visitor, url.Values){
		"no cookie":              func(b *visitor, _ url.Values) { clear(b.cookies) },
		"another cookie":         func(b *visitor, _ url.Values) { b.cookies[only(b)] = foreign },
		"an empty cookie":        func(b *visitor, f url.Values) { b.cookies[only(b)] = ""; f.Set("proof", "") },
		"both made up and short": func(b *visitor, f url.Values) { b.cookies[only(b)] = "x"; f.Set("proof", "x") },
		"another cookie first": func(b *visitor, _ url.Values) {
			b.header.Set("Cookie", only(b)+"="+foreign)
		},
		"another cookie last": func(b *visitor, _ url.Values) {
			b.header.Set("Cookie", only(b)+"="+b.cookies[only(b)]+"; "+only(b)+"="+foreign)
			clear(b.cookies)
		},
		"a cookie of another name": func(b *visitor, f url.Values) {
			right := only(b)
			b.cookies[proofCookie] = b.cookies[right]
			delete(b.cookies, right)
		},
		"no field":        func(_ *visitor, f url.Values) { f.Del("proof") },
		"an empty field":  func(_ *visitor, f url.Values) { f.Set("proof", "") },
		"another field":   func(_ *visitor, f url.Values) { f.Set("proof", foreign) },
		"two fields":      func(_ *visitor, f url.Values) { f.Add("proof", f.Get("proof")) },
		"no address":      func(_ *visitor, f url.Values) { f.Del("address") },
		"two addresses":   func(_ *visitor, f url.Values) { f.Add("address", f.Get("address")) },
		"not an address":  func(_ *visitor, f url.Values) { f.Set("address", "home") },
		"a form too long": func(_ *visitor, f url.Values) { f.Set("more", strings.Repeat("x", maxForm)) },
		"fields in the query": func(b *visitor, f url.Values) {
			b.path += "?" + f.Encode()
			clear(f)
		},
		"a body that is not a form":            func(b *visitor, _ url.Values) { b.header.Set("Content-Type", "text/plain") },
		"another site, by fetch":               func(b *visitor, _ url.Values) { b.header.Set("Sec-Fetch-Site", "cross-site") },
		"another origin of the site, by fetch": func(b *visitor, _ url.Values) { b.header.Set("Sec-Fetch-Site", "same-site") },
		"another site, by origin":              func(b *visitor, _ url.Values) { b.header.Set("Origin", "https://evil.example.test") },
		"a page without origin":                func(b *visitor, _ url.Values) { b.header.Set("Origin", "null") },
	} {
		t.Run(name, func(t *testing.T) {
			app := newPageFixture(t, nil)
			link := app.link(nil)
			b := newVisitor(app, homeV4).open(link)
			form := b.form()
			attack(b, form)
			b.do("POST", b.path, form.Encode())
			if b.status != http.StatusForbidden || !strings.Contains(b.text(), "Nothing was started") {
				t.Errorf("status %d: %s", b.status, b.text())
			}
			app.mustBeUnused(link)
		})
	}
}

// The headers that browsers send with our own page's form are accepted.
func TestPressFromOurOwnPageIsAccepted(t *testing.T) {
	for name, header := range map[string]http.Header{
		"a current browser": {"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, // no-referrer hides the origin
		"an older one":      {"Origin": {"https://" + pageHost}},
		"an old one":        {},
	} {
		app := newPageFixture(t, nil)
		b := newVisitor(app, homeV4).open(app.link(nil))
		b.header = header
		if b.press(); b.status != http.StatusSeeOther {
			t.Errorf("%s: status %d: %s", name, b.status, b.text())
		}
	}
}

// The proof of one link is not accepted for another.
func TestProofIsForOneLink(t *testing.T) {
	app := newPageFixture(t, nil)
	mine, theirs := app.link(nil), app.link(func(l *startLink) { l.Owner = "slack:T0AB:U0OTHER" })
	b := newVisitor(app, homeV4).open(mine)
	if b.do("POST", theirs, b.form().Encode()); b.status != http.StatusForbidden {
		t.Errorf("status %d", b.status)
	}
	if l := app.storedLink(theirs); !l.UsedAt.IsZero() {
		t.Error("the other link was used")
	}
}

// Unknown, altered, void, used and expired links get the same page, so guessing
// reveals nothing.
func TestInvalidLinksGetTheSamePage(t *testing.T) {
	app := newPageFixture(t, nil)
	used, expired := app.link(nil), app.link(nil)
	b := newVisitor(app, homeV4).open(used).press()
	status := lastOf(b.head.Get("Location"))
	app.sleep(startLinkLife)
	open := app.link(nil)
	token := lastOf(open)
	altered := "A" + token[1:]
	if altered == token {
		altered = "B" + token[1:]
	}
	paths := []string{
		used, expired, open + "A", open[:len(open)-1], "/slack/start/" + altered,
		"/slack/start/" + strings.ToUpper(token), "/slack/start/" + hashOf(token), "/slack/start/" + strings.Repeat("A", 43),
		"/slack/start/" + status, "/slack/start/%00", "/slack/start/" + strings.Repeat("A", 9000),
		"/slack/status/" + token, "/slack/status/" + lastOf(used), "/slack/status/" + hashOf(status), "/slack/status/nothing",
	}
	var want string
	for i, path := range paths {
		b := newVisitor(app, homeV4).do("GET", path, "")
		if want == "" {
			want = b.body
		}
		if b.status != http.StatusNotFound || b.body != want || b.head.Get("Set-Cookie") != "" {
			t.Errorf("path %d: status %d, the same page: %v", i, b.status, b.body == want)
		}
	}
	if !strings.Contains(want, "/bastion up") {
		t.Error("the page does not say what to do next")
	}
	app.jobs = nil
	app.mustBeUnused(open)
}

func TestLinkExpiresAfterTenMinutes(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link)
	app.sleep(10*time.Minute - time.Second)
	b.open(link)
	app.sleep(time.Second)
	if b.press(); b.status != http.StatusNotFound || len(app.jobs) > 0 {
		t.Errorf("pressed after ten minutes: status %d, %d jobs", b.status, len(app.jobs))
	}
}

// The app checks the expiry of a link and of a status page itself. A table that returned
// an expired value would break its contract, but would not make the link valid.
func TestExpiredLinkIsRefusedEvenIfTheTableReturnsIt(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link).press()
	status := b.head.Get("Location")
	other := app.link(nil)
	for key, value := range app.table.items {
		value.expires = time.Time{}
		app.table.items[key] = value
	}
	app.sleep(statusPageLife)
	for _, path := range []string{other, status} {
		if b.do("GET", path, ""); b.status != http.StatusNotFound {
			t.Errorf("%s…: status %d", path[:13], b.status)
		}
	}
}

func TestHeadersDoNotChangeTheAddress(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	const spoofed = "198.51.100.66"
	b := newVisitor(app, homeV4)
	for _, name := range []string{
		"X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "True-Client-IP", "X-Client-IP",
		"X-Cluster-Client-IP", "Fastly-Client-IP", "X-Amzn-Source-Ip", "X-Original-Forwarded-For", "X-Envoy-External-Address", "Client-IP", "From",
	} {
		b.header.Set(name, spoofed)
	}
	b.header.Set("Forwarded", "for="+spoofed+";by="+spoofed)
	b.open(link)
	if strings.Contains(b.body, spoofed) || !strings.Contains(b.text(), "203.0.113.7 IPv4") {
		t.Errorf("the page:\n%s", b.text())
	}
	form := b.form()
	form.Set("address", spoofed)
	if b.do("POST", link, form.Encode()); b.status != http.StatusConflict || strings.Contains(b.body, spoofed) {
		t.Errorf("a form with the address of the headers: status %d", b.status)
	}
	if b.open(link).press(); b.status != http.StatusSeeOther || app.storedLink(link).Source != pageAddress {
		t.Errorf("status %d, started for %s", b.status, app.storedLink(link).Source)
	}
}
