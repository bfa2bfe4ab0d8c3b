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

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/browser"
)

// The looks that every state is seen in.
var looks = map[string]browser.Look{
	"light":  {Width: 1024, Height: 768},
	"dark":   {Width: 1024, Height: 768, Dark: true},
	"narrow": {Width: 320, Height: 640},
	"plain":  {Width: 390, Height: 844, Dark: true, NoScript: true},
}

// state brings a rig to a state of its pages, and the tab in front of it.
type state struct {
	name  string
	title string // of the tab, as it begins
	reach func(*stage)
}

// stage is a rig with a real browser in front of it, over https.
type stage struct {
	*pageRig
	*browser.Tab
	url  string
	from string // where the person is
}

func (s *stage) open(edit func(*startLink)) { s.Go(s.url + s.link(edit)) }

func (s *stage) press() {
	s.Focus("form button")
	s.PressAndLoad("\r")
}

var states = []state{
	{"claim-ipv4", "Start a bastion for 203.0.113.7?", func(s *stage) {
		s.open(func(c *startLink) { c.Reason = "rebuild the index of orders <before Monday>" })
	}},
	{"claim-ipv6", "Start a bastion for 2001:db8:7:1f2e:a3b4:c5d6:e7f8:9a0b?", func(s *stage) {
		s.from = "[2001:db8:7:1f2e:a3b4:c5d6:e7f8:9a0b]:50123"
		s.open(func(c *startLink) { c.Name = "a-name-of-two-and-thirty-letters"; c.TTL = 26 * time.Hour })
	}},
	{"address-changed", "Your address has changed", func(s *stage) {
		s.open(nil)
		s.from = homeV6
		s.press()
	}},
	{"hand-over-failed", "Not started: press again", func(s *stage) {
		s.handOver = errPage
		s.open(nil)
		s.press()
	}},
	{"taking-up", "Starting… (1 of 6)", func(s *stage) {
		s.open(nil)
		s.press()
	}},
	{"starting", "Starting… (4 of 6)", func(s *stage) { s.followed(bastionAt("starting", "image")) }},
	{"moving", "Starting… (2 of 3)", func(s *stage) { s.followed(bastionAt("starting", "address")) }},
	{"ready", "Ready: bastion default", func(s *stage) { s.followed(readyBastion()) }},
	{"moved-away", "Bastion moved", func(s *stage) {
		b := readyBastion()
		b.Source = "198.51.100.99/32"
		s.followed(b)
	}},
	{"failed", "Bastion not started", func(s *stage) {
		b := bastionAt("failed", "")
		setFailure(&b, "capacity_unavailable", "AWS Fargate has no capacity for the bastion in the configured subnets right now. Try again in a few minutes; if it goes on, ask your operator for subnets in another Availability Zone.")
		s.followed(b)
	}},
	{"refused", "Bastion not started", func(s *stage) {
		s.open(nil)
		s.press()
		s.find(func(hash string) error {
			return s.foundProblem(s.pageRig.t.Context(), hash, "You hold 1 bastion already, and may hold no more. Close it first, or use it.")
		})
	}},
	{"closed", "Bastion closed", func(s *stage) {
		b := bastionAt("closed", "")
		setEnded(&b, "idle", b.Deadline)
		s.followed(b)
	}},
	{"service-down", "Starting…", func(s *stage) {
		s.open(nil)
		s.press()
		s.reply = func(Call) (Reply, error) { return Reply{}, errPage }
		s.find(func(hash string) error { return s.foundBastion(s.pageRig.t.Context(), hash, pageBastion) })
	}},
	{"unknown-link", "This link leads nowhere", func(s *stage) { s.Go(s.url + "/slack/start/unknown") }},
	{"table-down", "The service does not answer", func(s *stage) {
		s.table.down = errPage
		s.Go(s.url + "/slack/start/unknown")
	}},
}

func bastionAt(state bastion.State, stage string) Bastion {
	b := readyBastion()
	b.State, b.Stage, b.SSHConfig, b.SSH, b.Host = state, stage, "", "", ""
	return b
}

// followed opens, presses, and shows what has become of it.
func (s *stage) followed(b Bastion) {
	s.answers(b)
	s.open(nil)
	s.press()
	s.find(func(hash string) error { return s.foundBastion(s.pageRig.t.Context(), hash, pageBastion) })
}

// find is what a job does, while the view is open; then the page is loaded again.
func (s *stage) find(found func(viewHash string) error) {
	s.pageRig.t.Helper()
	path := s.Location()
	if err := found(hashOf(lastOf(path))); err != nil {
		s.pageRig.t.Fatal(err)
	}
	s.Go(path)
}

func newStage(t *testing.T, b *browser.Browser, look browser.Look) *stage {
	s := &stage{pageRig: newPageRig(t, nil), from: homeV4}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = s.from
		s.pageRig.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url, s.Tab = server.URL, b.Open(t, look)
	return s
}

// Every state of the pages, in every look: the browser has nothing to say against
// it, nothing is wider than the screen, and a screen reader finds its way. With
// SCREENSHOTS set, a picture of each goes into that folder.
func TestEveryStateInABrowser(t *testing.T) {
	b := browser.Start(t)
	for _, state := range states {
		for name, look := range looks {
			t.Run(state.name+"/"+name, func(t *testing.T) {
				s := newStage(t, b, look)
				state.reach(s)
				if title := s.Title(); title != state.title {
					t.Errorf("the title is %q, want %q", title, state.title)
				}
				if pixels := s.Overflow(); pixels > 0 {
					t.Errorf("the page is %d pixels wider than its screen", pixels)
				}
				if faint := s.Faint(); len(faint) > 0 {
					t.Errorf("hard to read: %s", strings.Join(faint, "; "))
				}
				hears(t, s.Heard())
				if troubles := s.Troubles(); len(troubles) > 0 {
					t.Errorf("the browser says: %s", strings.Join(troubles, "\n"))
				}
				if folder := os.Getenv("SCREENSHOTS"); folder != "" {
					if err := os.WriteFile(filepath.Join(folder, state.name+"-"+name+".png"), s.Picture(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// hears checks what a screen reader needs of any page: a title, landmarks, a
// heading, and a name for whatever can be used.
func hears(t *testing.T, page []browser.Node) {
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

// held is a Work that takes jobs when it is let.
type held struct {
	Queue
	entered, let chan struct{}
}

func (h held) Enqueue(ctx context.Context, job Job) error {
	h.entered <- struct{}{}
	<-h.let
	return h.Queue.Enqueue(ctx, job)
}

// A browser drops what it was doing for the second of two clicks: its answer, that
// the link was used, must not take the place of the first one's.
func TestDoubleClickIsOnePress(t *testing.T) {
	s := newStage(t, browser.Start(t), looks["light"])
	work := held{s.Queue, make(chan struct{}, 2), make(chan struct{})}
	s.Queue = work
	s.open(nil)
	browser.Eval[bool](s.Tab, `setTimeout(() => document.querySelector("form button").click(), 100), document.querySelector("form button").click() ?? true`)
	<-work.entered
	time.AfterFunc(time.Second, func() { close(work.let) }) // well after the second
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

// What a screen reader says of the pages that matter, by role and name.
func TestPagesAsTheyAreHeard(t *testing.T) {
	b := browser.Start(t)
	for name, want := range map[string][]browser.Node{
		"claim-ipv4": {
			{Role: "heading", Name: "Start a bastion for the address you are at?"},
			{Role: "region", Name: "Your address, as seen from here"},
			{Role: "button", Name: "Start the bastion"},
		},
		"address-changed": {{Role: "alert"}, {Role: "heading", Name: "Your address has changed"}, {Role: "button", Name: "Start the bastion"}},
		"starting": {
			{Role: "heading", Name: "Starting your bastion"}, {Role: "status"},
			{Role: "list", Name: "Steps of the start"}, {Role: "StaticText", Name: "(now)"},
		},
		"ready": {
			{Role: "heading", Name: "Bastion default is ready"}, {Role: "status"},
			{Role: "region", Name: "ssh configuration"}, {Role: "button", Name: "Copy the configuration"},
			{Role: "region", Name: "Command to connect through the bastion"}, {Role: "button", Name: "Copy the command"},
			{Role: "region", Name: "Command to open the status console"}, {Role: "button", Name: "Copy the console command"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, b, looks["light"])
			states[slices.IndexFunc(states, func(s state) bool { return s.name == name })].reach(s)
			heard := s.Heard()
			for _, node := range want {
				at := slices.IndexFunc(heard, func(h browser.Node) bool { return h.Role == node.Role && (node.Name == "" || h.Name == node.Name) })
				if at < 0 {
					t.Errorf("no %s %q, or not in this order", node.Role, node.Name)
					continue
				}
				heard = heard[at+1:]
			}
		})
	}
}

// Whoever uses the keyboard sees where they are.
func TestFocusIsSeen(t *testing.T) {
	b := browser.Start(t)
	for _, look := range []string{"light", "dark"} {
		s := newStage(t, b, looks[look])
		s.open(nil)
		s.Press("\t")
		if got := browser.Eval[string](s.Tab, `document.activeElement.matches("form button") && getComputedStyle(document.activeElement).outlineStyle + " " + getComputedStyle(document.activeElement).outlineWidth`); got != "solid 3px" {
			t.Errorf("%s: the button has the focus, and looks so: %s", look, got)
		}
	}
}
