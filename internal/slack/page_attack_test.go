package slack

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMachinesThatFetchTheLinkChangeNothing(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	before := rig.table.writes
	for name, header := range map[string]http.Header{
		"a bot that expands links": {"User-Agent": {"Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"}},
		"a prefetch":               {"Sec-Purpose": {"prefetch"}, "Purpose": {"prefetch"}},
		"a prerender":              {"Sec-Purpose": {"prefetch;prerender"}},
		"a scanner of mail":        {"Accept": {"*/*"}, "Range": {"bytes=0-0"}},
		"a proxy that revalidates": {"If-Modified-Since": {"Sun, 01 Mar 2026 12:00:00 GMT"}, "If-None-Match": {"*"}},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			b := newVisitor(rig, homeV4)
			b.header = header
			b.do(method, link, "")
			if b.status != http.StatusOK || (b.body == "") != (method == "HEAD") {
				t.Errorf("%s, %s: status %d, %d bytes", name, method, b.status, len(b.body))
			}
		}
	}
	if rig.table.writes != before {
		t.Errorf("%d writes", rig.table.writes-before)
	}
	rig.mustBeUnused(link)
}

func TestOtherMethodsDoNothing(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "PREFETCH"} {
		b := newVisitor(rig, homeV4).open(link)
		if b.do(method, link, b.form().Encode()); b.status != http.StatusMethodNotAllowed || b.head.Get("Allow") != "GET, HEAD, POST" {
			t.Errorf("%s: status %d, Allow %q", method, b.status, b.head.Get("Allow"))
		}
	}
	rig.mustBeUnused(link)
}

func TestSecondPressFindsNothing(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link)
	form, cookies := b.form(), b.cookies
	again := newVisitor(rig, homeV4)
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
	if len(rig.jobs) != 1 {
		t.Errorf("%d jobs", len(rig.jobs))
	}
}

func TestOfTwoPressesAtOnceOneStarts(t *testing.T) {
	for range 20 {
		rig := newPageRig(t, nil)
		link := rig.link(nil)
		const many = 8
		tabs := make([]*visitor, many)
		for i := range tabs {
			tabs[i] = newVisitor(rig, homeV4).open(link)
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
		if started != 1 || lost != many-1 || len(rig.jobs) != 1 {
			t.Fatalf("of %d presses %d started and %d found nothing; %d jobs", many, started, lost, len(rig.jobs))
		}
		views := 0
		for key := range rig.table.values {
			if strings.HasPrefix(key, "view#") {
				views++
			}
		}
		if views != 1 {
			t.Fatalf("%d views are left, want that of the start", views)
		}
	}
}

func TestPressWithoutProof(t *testing.T) {
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
			b.cookies["bastion-claim"] = b.cookies[only(b)]
			delete(b.cookies, only(b))
		},
		"no field":          func(_ *visitor, f url.Values) { f.Del("proof") },
		"an empty field":    func(_ *visitor, f url.Values) { f.Set("proof", "") },
		"another field":     func(_ *visitor, f url.Values) { f.Set("proof", foreign) },
		"two fields":        func(_ *visitor, f url.Values) { f.Add("proof", f.Get("proof")) },
		"no address":        func(_ *visitor, f url.Values) { f.Del("address") },
		"two addresses":     func(_ *visitor, f url.Values) { f.Add("address", f.Get("address")) },
		"no address at all": func(_ *visitor, f url.Values) { f.Set("address", "home") },
		"a form too long":   func(_ *visitor, f url.Values) { f.Set("more", strings.Repeat("x", maxForm)) },
		"fields in the query": func(b *visitor, f url.Values) {
			b.path += "?" + f.Encode()
			clear(f)
		},
		"a form that is no form":  func(b *visitor, _ url.Values) { b.header.Set("Content-Type", "text/plain") },
		"another site, by fetch":  func(b *visitor, _ url.Values) { b.header.Set("Sec-Fetch-Site", "cross-site") },
		"a sister site, by fetch": func(b *visitor, _ url.Values) { b.header.Set("Sec-Fetch-Site", "same-site") },
		"another site, by origin": func(b *visitor, _ url.Values) { b.header.Set("Origin", "https://evil.example.test") },
		"a page without origin":   func(b *visitor, _ url.Values) { b.header.Set("Origin", "null") },
	} {
		t.Run(name, func(t *testing.T) {
			rig := newPageRig(t, nil)
			link := rig.link(nil)
			b := newVisitor(rig, homeV4).open(link)
			form := b.form()
			attack(b, form)
			b.do("POST", b.path, form.Encode())
			if b.status != http.StatusForbidden || !strings.Contains(b.text(), "Nothing has been started") {
				t.Errorf("status %d: %s", b.status, b.text())
			}
			rig.mustBeUnused(link)
		})
	}
}

// What the browser says when it is our own page must not be taken for an attack.
func TestPressFromOurOwnPage(t *testing.T) {
	for name, header := range map[string]http.Header{
		"a browser of today": {"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, // no-referrer hides the origin
		"an older one":       {"Origin": {"https://" + pageHost}},
		"an old one":         {},
	} {
		rig := newPageRig(t, nil)
		b := newVisitor(rig, homeV4).open(rig.link(nil))
		b.header = header
		if b.press(); b.status != http.StatusSeeOther {
			t.Errorf("%s: status %d: %s", name, b.status, b.text())
		}
	}
}

// The proof of one claim is none for another.
func TestProofIsForOneClaim(t *testing.T) {
	rig := newPageRig(t, nil)
	mine, theirs := rig.link(nil), rig.link(func(c *claim) { c.Owner = "slack:T0AB:U0OTHER" })
	b := newVisitor(rig, homeV4).open(mine)
	if b.do("POST", theirs, b.form().Encode()); b.status != http.StatusForbidden {
		t.Errorf("status %d", b.status)
	}
	if c := rig.claimOf(theirs); !c.UsedAt.IsZero() {
		t.Error("the other claim was used")
	}
}

// Unknown, altered, void, used, expired: the same page, so that guessing teaches
// nothing.
func TestLinksThatLeadNowhereLookTheSame(t *testing.T) {
	rig := newPageRig(t, nil)
	used, expired := rig.link(nil), rig.link(nil)
	b := newVisitor(rig, homeV4).open(used).press()
	view := lastOf(b.head.Get("Location"))
	rig.sleep(claimLife)
	open := rig.link(nil)
	token := lastOf(open)
	altered := "A" + token[1:]
	if altered == token {
		altered = "B" + token[1:]
	}
	paths := []string{
		used, expired, open + "A", open[:len(open)-1], "/slack/claim/" + altered,
		"/slack/claim/" + strings.ToUpper(token), "/slack/claim/" + hashOf(token), "/slack/claim/" + strings.Repeat("A", 43),
		"/slack/claim/" + view, "/slack/claim/%00", "/slack/claim/" + strings.Repeat("A", 9000),
		"/slack/view/" + token, "/slack/view/" + lastOf(used), "/slack/view/" + hashOf(view), "/slack/view/nothing",
	}
	var want string
	for i, path := range paths {
		b := newVisitor(rig, homeV4).do("GET", path, "")
		if want == "" {
			want = b.body
		}
		if b.status != http.StatusNotFound || b.body != want || b.head.Get("Set-Cookie") != "" {
			t.Errorf("path %d: status %d, the same page: %v", i, b.status, b.body == want)
		}
	}
	if !strings.Contains(want, "/bastion up") {
		t.Error("the page does not say what to do")
	}
	rig.jobs = nil
	rig.mustBeUnused(open)
}

func TestClaimIsGoodForTenMinutes(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link)
	rig.sleep(10*time.Minute - time.Second)
	b.open(link)
	rig.sleep(time.Second)
	if b.press(); b.status != http.StatusNotFound || len(rig.jobs) > 0 {
		t.Errorf("pressed after ten minutes: status %d, %d jobs", b.status, len(rig.jobs))
	}
}

// The table may show what has expired: DynamoDB deletes it days later.
func TestExpiredClaimThatIsStillThere(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4).open(link).press()
	view := b.head.Get("Location")
	other := rig.link(nil)
	for key, value := range rig.table.values {
		value.expires = time.Time{}
		rig.table.values[key] = value
	}
	rig.sleep(viewLife)
	for _, path := range []string{other, view} {
		if b.do("GET", path, ""); b.status != http.StatusNotFound {
			t.Errorf("%s…: status %d", path[:12], b.status)
		}
	}
}

func TestHeadersHaveNoSayAboutTheAddress(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	const lie = "198.51.100.66"
	b := newVisitor(rig, homeV4)
	for _, name := range []string{
		"X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "True-Client-IP", "X-Client-IP",
		"X-Cluster-Client-IP", "Fastly-Client-IP", "X-Amzn-Source-Ip", "X-Original-Forwarded-For", "X-Envoy-External-Address", "Client-IP", "From",
	} {
		b.header.Set(name, lie)
	}
	b.header.Set("Forwarded", "for="+lie+";by="+lie)
	b.open(link)
	if strings.Contains(b.body, lie) || !strings.Contains(b.text(), "203.0.113.7 IPv4") {
		t.Errorf("the page:\n%s", b.text())
	}
	form := b.form()
	form.Set("address", lie)
	if b.do("POST", link, form.Encode()); b.status != http.StatusConflict || strings.Contains(b.body, lie) {
		t.Errorf("a form that agrees with the headers: status %d", b.status)
	}
	if b.open(link).press(); b.status != http.StatusSeeOther || rig.claimOf(link).Source != pageAddress {
		t.Errorf("status %d, started for %s", b.status, rig.claimOf(link).Source)
	}
}

func TestHostileTextStaysText(t *testing.T) {
	const hostile = `</style><script>alert(1)</script><img src=x onerror=alert(1)>"'><a href="javascript:alert(1)">&lt;b&gt;` + "\u202egnp.exe\x00\r\nSet-Cookie: a=b"
	rig := newPageRig(t, nil)
	b := newVisitor(rig, homeV4).open(rig.link(func(c *claim) {
		c.Name, c.Reason, c.Owner, c.Key = hostile, hostile, "slack:"+hostile+":"+hostile, hostile+" AAAA"
	}))
	pages := map[string]string{"claim": b.body}

	problem := newPageRig(t, nil)
	b = newVisitor(problem, homeV4).open(problem.link(nil)).press()
	view := b.head.Get("Location")
	if err := problem.foundProblem(t.Context(), hashOf(lastOf(view)), hostile); err != nil {
		t.Fatal(err)
	}
	pages["problem"] = b.open(view).body

	for _, state := range []string{"starting", "ready", "failed", "closed", hostile} {
		rig, view := startedRig(t)
		found := readyBastion()
		found.State, found.Stage, found.Name, found.Reason, found.SSHConfig, found.SSH = state, hostile, hostile, hostile, hostile, hostile
		found.Keys = []string{hostile}
		setFailure(&found, hostile, hostile)
		setEnded(&found, hostile, rig.now)
		rig.answers(found)
		pages[state] = newVisitor(rig, homeV4).open(view).body
	}
	for name, page := range pages {
		for _, bad := range []string{"<script>alert", "<img", "onerror=alert(1)>", "<a ", "\u202e", "\x00"} {
			if strings.Contains(page, bad) {
				t.Errorf("%.10s: the page holds %q", name, bad)
			}
		}
		if n := strings.Count(page, "<script>"); n != 1 {
			t.Errorf("%.10s: %d scripts", name, n)
		}
	}
}

// What people paste into a file that ssh obeys, and into a shell, is shown only if
// it can do nothing else than it says.
func TestHostileConfigurationIsNotShown(t *testing.T) {
	good := readyBastion()
	for name, spoil := range map[string]func(*Bastion){
		"a ProxyCommand behind the host key": func(b *Bastion) {
			b.SSHConfig = strings.Replace(b.SSHConfig, "\n  UserKnown", "\n  ProxyCommand sh -c id\n  UserKnown", 1)
		},
		"a carriage return":     func(b *Bastion) { b.SSHConfig += "  User x\rProxyCommand id\n" },
		"Match exec":            func(b *Bastion) { b.SSHConfig += "Match exec id\n" },
		"an Include":            func(b *Bastion) { b.SSHConfig += "Include /tmp/x\n" },
		"another command":       func(b *Bastion) { b.SSHConfig += "  KnownHostsCommand /bin/sh x\n" },
		"a shell in the echo":   func(b *Bastion) { b.SSHConfig += "  KnownHostsCommand /bin/echo $(id)\n" },
		"a token of ssh's":      func(b *Bastion) { b.SSHConfig += "  User %h\n" },
		"nothing":               func(b *Bastion) { b.SSHConfig = "" },
		"a name that is a flag": func(b *Bastion) { b.Name = "x; id" },
	} {
		rig, view := startedRig(t)
		found := good
		spoil(&found)
		rig.answers(found)
		b := newVisitor(rig, homeV4).open(view)
		if strings.Contains(b.body, "<pre") || !strings.Contains(b.text(), "Do not use this bastion") {
			t.Errorf("%s: the page shows it:\n%s", name, b.text())
		}
	}
	for _, command := range []string{"ssh x; id", "ssh x && id", "ssh $(id)", "ssh `id`", "ssh x\nid", "sh -c id", "ssh x | sh", `ssh "x"`, "ssh x > f", ""} {
		rig, view := startedRig(t)
		found := good
		found.SSH = command
		rig.answers(found)
		if b := newVisitor(rig, homeV4).open(view); strings.Contains(b.body, `id="console"`) || !strings.Contains(b.body, `id="config"`) {
			t.Errorf("%q: shown as a command, or the configuration is missing", command)
		}
	}
}

func TestPagesTellNobodyAndStandAlone(t *testing.T) {
	rig, view := startedRig(t)
	rig.answers(readyBastion())
	link := rig.link(nil)
	used := rig.link(nil)
	newVisitor(rig, homeV4).open(used).press()
	for _, visit := range []struct{ method, path string }{
		{"GET", link}, {"HEAD", link}, {"POST", link}, {"PUT", link}, {"GET", used}, {"GET", view}, {"POST", view}, {"GET", "/slack/view/x"},
	} {
		b := newVisitor(rig, homeV4).do(visit.method, visit.path, "")
		for name, want := range map[string]string{
			"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"X-Content-Type-Options": "nosniff", "X-Robots-Tag": "noindex, nofollow",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
			"Content-Type": "text/html; charset=utf-8",
		} {
			if got := b.head.Get(name); got != want {
				t.Errorf("%s, status %d: %s: %q, want %q", visit.method, b.status, name, got, want)
			}
		}
		policy := b.head.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %s: %s", visit.method, part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
			t.Errorf("the policy is not strict: %s", policy)
		}
		if b.head.Get("Permissions-Policy") == "" {
			t.Error("no Permissions-Policy")
		}
		for _, part := range []string{lastOf(visit.path), " style=", " onclick=", "src=", `href="http`, "url(", "@import"} {
			if len(part) > 2 && strings.Contains(b.body, part) {
				t.Errorf("%s, status %d: the page holds %q", visit.method, b.status, part)
			}
		}
	}
}

// The policy lets run what is on the page, and nothing else.
func TestPolicyHasTheHashesOfWhatIsOnThePage(t *testing.T) {
	rig := newPageRig(t, nil)
	b := newVisitor(rig, homeV4).open(rig.link(nil))
	for _, tag := range []string{"style", "script"} {
		_, rest, _ := strings.Cut(b.body, "<"+tag+">")
		text, _, found := strings.Cut(rest, "</"+tag+">")
		if want := tag + "-src " + hashSource(text); !found || !strings.Contains(b.head.Get("Content-Security-Policy"), want) {
			t.Errorf("the %s of the page is not that of the policy", tag)
		}
	}
}

// Every request has its one line, with the pattern of the path.
func TestOneLogLineEach(t *testing.T) {
	rig := newPageRig(t, nil)
	link := rig.link(nil)
	b := newVisitor(rig, homeV4)
	b.header.Set("Referer", "https://"+pageHost+link)
	b.open(link).do("POST", link, "proof=x").open(link).press()
	view := b.head.Get("Location")
	b.do("GET", link+"?q="+lastOf(link), "").do("PUT", link, "").open(view)
	lines := strings.Split(strings.TrimSpace(rig.log.String()), "\n")
	want := []string{"GET 200", "POST 403", "GET 200", "POST 303", "GET 404", "PUT 405", "GET 200"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), rig.log)
	}
	for i, line := range lines {
		route := claimRoute
		if i == len(lines)-1 {
			route = viewRoute
		}
		method, status, _ := strings.Cut(want[i], " ")
		for _, part := range []string{`"method":"` + method + `"`, `"status":` + status, `"route":"` + route + `"`, `"source":"203.0.113.7"`, `"duration":`} {
			if !strings.Contains(line, part) {
				t.Errorf("line %d lacks %s: %s", i, part, line)
			}
		}
	}
}

// A handler that panics has an answer and a line like others: around a Lambda
// function there is nobody to catch it.
func TestPanicIsAnAnswer(t *testing.T) {
	rig := newPageRig(t, nil)
	rig.Work = nil
	b := newVisitor(rig, homeV4).open(rig.link(nil))
	if b.press(); b.status != http.StatusInternalServerError || !strings.Contains(rig.log.String(), "panic") {
		t.Errorf("status %d, log:\n%s", b.status, rig.log)
	}
}

func TestAddressThatIsNoneIsAFault(t *testing.T) {
	rig := newPageRig(t, nil)
	for _, from := range []string{"", "pipe", "203.0.113.7", "example.test:80"} {
		b := newVisitor(rig, from)
		if b.do("GET", rig.link(nil), ""); b.status != http.StatusInternalServerError {
			t.Errorf("from %q: status %d", from, b.status)
		}
	}
}
