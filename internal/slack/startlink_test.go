package slack

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestTableHoldsNoToken(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	b := newVisitor(app, homeV4).open(link).press()
	status := b.head.Get("Location")
	for key, value := range app.table.items {
		for _, token := range []string{lastOf(link), lastOf(status)} {
			if strings.Contains(key, token) || strings.Contains(string(value.value), token) {
				t.Errorf("a token is in the table, under %s", key)
			}
		}
	}
	if a, b := lastOf(link), lastOf(status); a == b || !isToken(a) || !isToken(b) {
		t.Errorf("tokens of a link and its status page: want two of 43 characters, got %d and %d", len(a), len(b))
	}
}

func TestNoTokenWithoutRandomness(t *testing.T) {
	app := newPageFixture(t, func(o *Options) { o.Rand = strings.NewReader("too little") })
	if token, err := app.issueStartLink(t.Context(), startLink{Owner: pageOwner}); err == nil {
		t.Errorf("a token was made of ten bytes: %q", token)
	}
}

func TestSixthLinkVoidsTheOldest(t *testing.T) {
	app := newPageFixture(t, nil)
	var links []string
	for i := range maxStartLinks + 2 {
		links = append(links, app.link(func(l *startLink) { l.Name = fmt.Sprint("n", i) }))
		app.sleep(time.Second)
	}
	other := app.link(func(l *startLink) { l.Owner = "slack:T0AB:U0OTHER" })
	for i, link := range append(links, other) {
		want := 200
		if i < 2 {
			want = 404
		}
		if got := newVisitor(app, homeV4).do("GET", link, "").status; got != want {
			t.Errorf("link %d of %d: status %d, want %d", i+1, len(links), got, want)
		}
	}
}

func TestConcurrentIssuesLeaveFiveOpenLinks(t *testing.T) {
	app := newPageFixture(t, nil)
	app.link(nil) // stores the key
	const many = 12
	links := make([]string, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			token, err := app.issueStartLink(t.Context(), startLink{Owner: pageOwner, Name: "default", Key: pageKey})
			if err != nil {
				t.Error(err)
			}
			links[i] = "/slack/start/" + token
		})
	}
	all.Wait()
	open := 0
	for _, link := range links {
		if newVisitor(app, homeV4).do("GET", link, "").status == 200 {
			open++
		}
	}
	if open != maxStartLinks {
		t.Errorf("%d of %d links are open, want %d", open, many, maxStartLinks)
	}
}

// A job reads its used link, so newer links must not void it.
func TestUsedLinkIsNotVoided(t *testing.T) {
	app := newPageFixture(t, nil)
	link := app.link(nil)
	newVisitor(app, homeV4).open(link).press()
	for range maxStartLinks + 1 {
		app.link(nil)
	}
	used, err := app.usedStartLink(t.Context(), app.jobs[0].StartLink)
	if err != nil || used.Source != pageAddress || used.StatusPage == "" {
		t.Errorf("the link of the job: %+v, %v", used, err)
	}
}

// A person may replace a key because somebody else has it, so links for the old key
// must not work. A used link already has its job.
func TestLinksForReplacedKeyAreVoid(t *testing.T) {
	app := newPageFixture(t, nil)
	used, open, shown := app.link(nil), app.link(nil), app.link(nil)
	newVisitor(app, homeV4).open(used).press()
	b := newVisitor(app, homeV4).open(shown)
	other := app.link(func(l *startLink) { l.Owner = "slack:T0AB:U0OTHER" })
	if err := app.saveKey(t.Context(), pageOwner, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1CE6FEP1wUcyLQj7Z9YTUPW2E6wgbUKtPwy9Rujd3G"); err != nil {
		t.Fatal(err)
	}
	if got := newVisitor(app, homeV4).do("GET", open, "").status; got != 404 {
		t.Errorf("a link for the old key: status %d, want 404", got)
	}
	if b.press(); b.status != 404 || len(app.jobs) != 1 {
		t.Errorf("the button of a page that was open before: status %d and %d jobs, want 404 and 1", b.status, len(app.jobs))
	}
	if got := newVisitor(app, homeV4).do("GET", other, "").status; got != 200 {
		t.Errorf("another person's link: status %d", got)
	}
	if _, err := app.usedStartLink(t.Context(), app.jobs[0].StartLink); err != nil {
		t.Errorf("the link that was used before: %v", err)
	}
}

func TestExpiredLinksLeaveTheList(t *testing.T) {
	app := newPageFixture(t, nil)
	for range 3 {
		app.link(nil)
	}
	app.sleep(startLinkLife)
	app.link(nil)
	var p person
	if _, err := app.fetch(t.Context(), personKey(pageOwner), &p); err != nil || len(p.StartLinks) != 1 {
		t.Errorf("links in the list: %d (%v), want the new one only", len(p.StartLinks), err)
	}
}

func TestNewLinkKeepsThePersonsKeyAndCount(t *testing.T) {
	app := newPageFixture(t, nil)
	if err := app.write(t.Context(), personKey(pageOwner), 0, person{Key: pageKey, Commands: 3}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	app.link(nil)
	var p person
	if _, err := app.fetch(t.Context(), personKey(pageOwner), &p); err != nil || p.Key != pageKey || p.Commands != 3 {
		t.Errorf("the person after a link: %+v, %v", p, err)
	}
}

// issueStartLink returns no token if it cannot store the link or the person's list.
func TestNoTokenIfTheTableFails(t *testing.T) {
	for _, key := range []string{"startlink#", "person#"} {
		app := newPageFixture(t, nil)
		app.table.fail = func(k string) (error, error) {
			if strings.HasPrefix(k, key) {
				return errDownTest, nil
			}
			return nil, nil
		}
		if token, err := app.issueStartLink(t.Context(), startLink{Owner: pageOwner}); !errors.Is(err, errDownTest) || token != "" {
			t.Errorf("issue while writes of %s fail: %q, %v", key, token, err)
		}
	}
}

// The write of a person's list takes effect but returns a conflict, so it is repeated. The
// list has the new link once.
func TestRepeatedWriteListsOneLink(t *testing.T) {
	app := newPageFixture(t, nil)
	if err := app.saveKey(t.Context(), pageOwner, pageKey); err != nil {
		t.Fatal(err)
	}
	var first sync.Once
	app.table.fail = func(k string) (before, after error) {
		if strings.HasPrefix(k, "person#") {
			first.Do(func() { after = bastion.ErrConflict })
		}
		return nil, after
	}
	app.link(nil)
	var p person
	if _, err := app.fetch(t.Context(), personKey(pageOwner), &p); err != nil || len(p.StartLinks) != 1 {
		t.Errorf("links in the list: %d, %v", len(p.StartLinks), err)
	}
}

func TestStartLinkURL(t *testing.T) {
	r := httptest.NewRequest("POST", "/slack/command", nil)
	r.Host = "abc.example.test"
	r.Header.Set("X-Forwarded-Host", "evil.example.test")
	for plain, want := range map[bool]string{
		false: "https://abc.example.test/slack/start/TOKEN",
		true:  "http://abc.example.test/slack/start/TOKEN",
	} {
		if got := New(Options{Plain: plain}).startLinkURL(r, "TOKEN"); got != want {
			t.Errorf("plain %v: %s, want %s", plain, got, want)
		}
	}
}

func TestUnusedLinkStartsNothing(t *testing.T) {
	app := newPageFixture(t, nil)
	for _, hash := range []string{hashOf(lastOf(app.link(nil))), hashOf("unknown")} {
		if _, err := app.usedStartLink(t.Context(), hash); !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("a job of an unused link: %v", err)
		}
	}
}
