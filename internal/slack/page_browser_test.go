//go:build conformance

package slack

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/browser"
)

// looks are the screens and settings that every state is tested with.
var looks = map[string]browser.Look{
	"light":    {Width: 1024, Height: 768},
	"dark":     {Width: 1024, Height: 768, Dark: true},
	"narrow":   {Width: 320, Height: 640},
	"forced":   {Width: 1024, Height: 768, ForcedColors: true},
	"noscript": {Width: 390, Height: 844, Dark: true, NoScript: true},
}

// pageState brings an app to a state of its pages, and the tab to that page.
type pageState struct {
	name  string
	title string
	reach func(*browserFixture)
}

// browserFixture is a pageFixture behind an https server, with a real browser.
type browserFixture struct {
	*pageFixture
	*browser.Tab
	url  string
	from string // the address that the browser connects from
}

func (s *browserFixture) open(edit func(*startLink)) { s.Go(s.url + s.link(edit)) }

func (s *browserFixture) press() {
	s.Focus("form button")
	s.PressAndLoad("\r")
}

var pageStates = []pageState{
	{"start-ipv4", "Start a bastion for 203.0.113.7?", func(s *browserFixture) {
		s.open(func(l *startLink) {
			l.UserName, l.TeamDomain, l.Reason = "ann", "example-team", "rebuild the index of orders <before Monday>"
		})
	}},
	{"start-ipv6", "Start a bastion for 2001:db8:7:1f2e:a3b4:c5d6:e7f8:9a0b?", func(s *browserFixture) {
		s.from = "[2001:db8:7:1f2e:a3b4:c5d6:e7f8:9a0b]:50123"
		s.open(func(l *startLink) { l.Name = "a-name-of-two-and-thirty-letters"; l.TTL = 26 * time.Hour })
	}},
	{"address-changed", "Your address has changed", func(s *browserFixture) {
		s.open(nil)
		s.from = homeV6
		s.press()
	}},
	{"not-proven", "Please press the button again", func(s *browserFixture) {
		s.open(nil)
		browser.Eval[bool](s.Tab, `(document.querySelector("[name=proof]").value = "x") && true`)
		s.press()
	}},
	{"not-enqueued", "Not started: press the button again", func(s *browserFixture) {
		s.enqueueErr = errDownTest
		s.open(nil)
		s.press()
	}},
	{"accepting", "Starting… (1 of 6)", func(s *browserFixture) {
		s.open(nil)
		s.press()
	}},
	{"starting", "Starting… (4 of 6)", func(s *browserFixture) { s.showBastion(bastionAt("starting", "image")) }},
	{"moving", "Starting… (2 of 3)", func(s *browserFixture) { s.showBastion(bastionAt("starting", "address")) }},
	{"delayed", "Starting…", func(s *browserFixture) { s.showBastion(bastionAt("starting", "delayed")) }},
	{"moving-refused", "Starting… (2 of 3)", func(s *browserFixture) {
		b := bastionAt("starting", "address")
		setFailure(&b, "misconfigured", "AWS does not allow the bastion's firewall rule. Ask your operator to check the organization's service control policies.")
		s.showBastion(b)
	}},
	{"closing-delayed", "Closing is delayed", func(s *browserFixture) {
		b := bastionAt("closing", "delayed")
		setEnded(&b, "closed", b.ReadyAt)
		s.showBastion(b)
	}},
	{"unknown-stage", "Starting…", func(s *browserFixture) { s.showBastion(bastionAt("starting", "something new")) }},
	{"ready", "Ready: bastion default", func(s *browserFixture) { s.showBastion(readyBastion()) }},
	{"ready-console", "Ready: bastion default", func(s *browserFixture) {
		s.showBastion(readyBastion())
		browser.Eval[bool](s.Tab, `document.querySelector("details").open = true`)
	}},
	{"unsafe", "Do not use this bastion", func(s *browserFixture) {
		b := readyBastion()
		b.SSHConfig += "  ProxyCommand id\n"
		s.showBastion(b)
	}},
	{"moved", "Bastion moved", func(s *browserFixture) {
		b := readyBastion()
		b.Source = "198.51.100.99/32"
		s.showBastion(b)
	}},
	{"failed", "The bastion couldn't be started", func(s *browserFixture) {
		b := bastionAt("failed", "")
		setFailure(&b, "capacity_unavailable", "AWS Fargate has no capacity for the bastion in the configured subnets right now. Try again in a few minutes; if it keeps happening, ask your operator for subnets in another Availability Zone.")
		s.showBastion(b)
	}},
	{"problem", "The bastion couldn't be started", func(s *browserFixture) {
		s.open(nil)
		s.press()
		s.updateAndReload(func(hash string) error {
			return s.storeProblem(s.pageFixture.t.Context(), hash, "You have 1 bastion, the maximum per owner. Close it first, or use it.")
		})
	}},
	{"closed", "Bastion closed", func(s *browserFixture) {
		b := bastionAt("closed", "")
		setEnded(&b, "idle", b.Deadline)
		s.showBastion(b)
	}},
	{"api-down", "Starting…", func(s *browserFixture) {
		s.open(nil)
		s.press()
		s.reply = func(Call) (api.InternalReply, error) { return api.InternalReply{}, errDownTest }
		s.updateAndReload(func(hash string) error { return s.storeBastion(s.pageFixture.t.Context(), hash, pageBastion) })
	}},
	{"invalid-link", linkInvalidPage.Title, func(s *browserFixture) { s.Go(s.url + "/slack/start/unknown") }},
	{"table-down", unavailablePage.Title, func(s *browserFixture) {
		s.table.fetchErr = errDownTest
		s.Go(s.url + "/slack/start/unknown")
	}},
	{"internal-error", internalErrorPage.Title, func(s *browserFixture) {
		s.from = "nowhere"
		s.Go(s.url + "/slack/start/unknown")
	}},
	{"method-not-allowed", methodNotAllowedPage.Title, func(s *browserFixture) {
		s.showBastion(readyBastion())
		browser.Eval[bool](s.Tab, `document.body.append(Object.assign(document.createElement("form"), { method: "post" })) ?? true`)
		browser.Eval[bool](s.Tab, `document.querySelector("form").submit() ?? true`)
		s.Await("main > h1:not([id])")
	}},
}

func bastionAt(state bastion.State, stage string) Bastion {
	b := readyBastion()
	b.State, b.Stage, b.SSHConfig, b.SSH, b.Host = state, stage, "", "", ""
	return b
}

// showBastion opens a link, presses the button, and shows the status page of a
// bastion.
func (s *browserFixture) showBastion(b Bastion) {
	s.returns(b)
	s.open(nil)
	s.press()
	s.updateAndReload(func(hash string) error { return s.storeBastion(s.pageFixture.t.Context(), hash, pageBastion) })
}

// updateAndReload does to the status page what a job would, and loads it again.
func (s *browserFixture) updateAndReload(update func(hash string) error) {
	s.pageFixture.t.Helper()
	path := s.Location()
	if err := update(hashOf(lastOf(path))); err != nil {
		s.pageFixture.t.Fatal(err)
	}
	s.Go(path)
}

func newBrowserFixture(t *testing.T, b *browser.Browser, look browser.Look) *browserFixture {
	s := &browserFixture{pageFixture: newPageFixture(t, nil), from: homeV4}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = s.from
		s.pageFixture.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url, s.Tab = server.URL, b.Open(t, look)
	return s
}

// TestEveryStateInBrowser opens every state of the pages in every look: the browser
// and axe report nothing, nothing is wider than the screen, and a screen reader has
// what it needs. If the environment variable SCREENSHOTS names a folder, the test writes a
// picture of each state to it.
func TestEveryStateInBrowser(t *testing.T) {
	b := browser.Start(t)
	for _, state := range pageStates {
		for name, look := range looks {
			t.Run(state.name+"/"+name, func(t *testing.T) {
				s := newBrowserFixture(t, b, look)
				state.reach(s)
				if title := s.Title(); title != state.title {
					t.Errorf("the title is %q, want %q", title, state.title)
				}
				if folder := os.Getenv("SCREENSHOTS"); folder != "" {
					if err := os.WriteFile(filepath.Join(folder, state.name+"-"+name+".png"), s.Screenshot(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if pixels := s.Overflow(); pixels > 0 {
					t.Errorf("the page is %d pixels wider than its screen", pixels)
				}
				if faint := s.Faint(); len(faint) > 0 {
					t.Errorf("contrast below 4.5: %s", strings.Join(faint, "; "))
				}
				checkAccessibilityTree(t, s.AccessibilityTree())
				if !look.NoScript { // axe is a script
					if violations := s.Axe(); len(violations) > 0 {
						t.Errorf("axe: %s", strings.Join(violations, "\n"))
					}
				}
				if problems := s.Problems(); len(problems) > 0 {
					t.Errorf("the browser reports: %s", strings.Join(problems, "\n"))
				}
			})
		}
	}
}

// checkAccessibilityTree checks what a screen reader needs of any page: landmarks, a
// heading, and a name for everything that can be used.
func checkAccessibilityTree(t *testing.T, page []browser.Node) {
	t.Helper()
	count := map[string]int{}
	for _, node := range page {
		count[node.Role]++
		switch node.Role {
		case "RootWebArea", "button", "link", "region", "textbox", "heading":
			if node.Name == "" {
				t.Errorf("a %s without a name", node.Role)
			}
		}
	}
	if count["main"] != 1 || count["banner"] != 1 || count["RootWebArea"] != 1 || count["heading"] == 0 {
		t.Errorf("landmarks: %v", count)
	}
}

// On the smallest screen the button is visible without scrolling, and the line for
// phones is shown on narrow screens only.
func TestButtonIsVisibleOnSmallScreenInBrowser(t *testing.T) {
	b := browser.Start(t)
	for look, phone := range map[string]bool{"narrow": true, "light": false} {
		s := newBrowserFixture(t, b, looks[look])
		s.open(func(l *startLink) { l.Reason = "index rebuild" })
		if bottom := browser.Eval[float64](s.Tab, `document.querySelector("form button").getBoundingClientRect().bottom`); bottom > float64(looks[look].Height) {
			t.Errorf("%s: the button ends at %.0f pixels, below the screen of %d", look, bottom, looks[look].Height)
		}
		if got := browser.Eval[bool](s.Tab, `document.querySelector(".phone").checkVisibility()`); got != phone {
			t.Errorf("%s: the line for phones is visible: %v", look, got)
		}
	}
}

// TestAxeFindsViolationsInBrowser checks that the other tests' axe finds something.
func TestAxeFindsViolationsInBrowser(t *testing.T) {
	s := newBrowserFixture(t, browser.Start(t), looks["light"])
	s.open(nil)
	browser.Eval[bool](s.Tab, `document.documentElement.removeAttribute("lang") ?? true`)
	if violations := s.Axe(); len(violations) != 1 || !strings.HasPrefix(violations[0], "html-has-lang: ") {
		t.Errorf("axe on a page without a language: %q", violations)
	}
}

// blockingQueue enqueues a job when the test allows it.
type blockingQueue struct {
	Queue
	entered, proceed chan struct{}
}

func (q blockingQueue) Enqueue(ctx context.Context, job Job) error {
	q.entered <- struct{}{}
	<-q.proceed
	return q.Queue.Enqueue(ctx, job)
}

// If a double click sent the form twice, the browser would show only the second response,
// which says that the link is no longer valid. So the page must send the form once.
func TestDoubleClickIsOnePressInBrowser(t *testing.T) {
	s := newBrowserFixture(t, browser.Start(t), looks["light"])
	queue := blockingQueue{s.Queue, make(chan struct{}, 2), make(chan struct{})}
	s.Queue = queue
	s.open(nil)
	browser.Eval[bool](s.Tab, `setTimeout(() => document.querySelector("form button").click(), 100), document.querySelector("form button").click() ?? true`)
	<-queue.entered
	time.AfterFunc(time.Second, func() { close(queue.proceed) }) // well after the second click
	s.Await("main:not(:has(form))")
	if title := s.Title(); title != "Starting… (1 of 6)" {
		t.Errorf("after two clicks the title is %q", title)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) != 1 {
		t.Errorf("%d jobs, want 1", len(s.jobs))
	}
}

// TestScreenReaderOrderInBrowser checks roles and names of the pages that matter most,
// in reading order.
func TestScreenReaderOrderInBrowser(t *testing.T) {
	b := browser.Start(t)
	for name, want := range map[string][]browser.Node{
		"start-ipv4": {
			{Role: "heading", Name: "Start a bastion for your current address?"},
			{Role: "region", Name: "Your IP address, as this server sees it"},
			{Role: "button", Name: "Start the bastion"},
			{Role: "heading", Name: "Details"},
		},
		"address-changed": {{Role: "alert"}, {Role: "heading", Name: "Your address has changed"}, {Role: "button", Name: "Start the bastion"}},
		"starting": {
			{Role: "heading", Name: "Starting your bastion"}, {Role: "status"},
			{Role: "list", Name: "Steps"}, {Role: "StaticText", Name: "(now)"},
		},
		"ready-console": {
			{Role: "heading", Name: "Bastion default is ready"}, {Role: "status"},
			{Role: "link", Name: "Download bastion-default.conf"},
			{Role: "region", Name: "Command that writes the ssh configuration"}, {Role: "button", Name: "Copy the command"},
			{Role: "region", Name: "Command to connect through the bastion"}, {Role: "button", Name: "Copy the ssh command"},
			{Role: "region", Name: "Command to open the status console"}, {Role: "button", Name: "Copy the console command"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBrowserFixture(t, b, looks["light"])
			pageStates[slices.IndexFunc(pageStates, func(s pageState) bool { return s.name == name })].reach(s)
			tree := s.AccessibilityTree()
			for _, node := range want {
				at := slices.IndexFunc(tree, func(h browser.Node) bool { return h.Role == node.Role && (node.Name == "" || h.Name == node.Name) })
				if at < 0 {
					t.Errorf("no %s %q, or not in this order", node.Role, node.Name)
					continue
				}
				tree = tree[at+1:]
			}
		})
	}
}

// A person who uses the keyboard sees where the focus is.
func TestFocusIsVisibleInBrowser(t *testing.T) {
	b := browser.Start(t)
	for _, look := range []string{"light", "dark"} {
		s := newBrowserFixture(t, b, looks[look])
		s.open(nil)
		s.Press("\t")
		if got := browser.Eval[string](s.Tab, `document.activeElement.matches("form button") && getComputedStyle(document.activeElement).outlineStyle + " " + getComputedStyle(document.activeElement).outlineWidth`); got != "solid 3px" {
			t.Errorf("%s: the outline of the focused button: %s", look, got)
		}
	}
}

// The reader's own time has a time zone.
func TestLocalTimeHasItsZoneInBrowser(t *testing.T) {
	s := newBrowserFixture(t, browser.Start(t), looks["light"])
	s.open(nil)
	if got := s.Text(".timenote"); !strings.Contains(got, "GMT+1") {
		t.Errorf("the local time in Berlin: %q", got)
	}
}
