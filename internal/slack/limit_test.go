package slack

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// What somebody leaves in the table who types without end. A signature is kept for six
// minutes at most, a link for ten, and only what was let in leaves any: one person
// item, five links, and a signature for each of 20 commands in each of the minutes
// for which signatures are kept.
func TestOnePersonsItemsAreBounded(t *testing.T) {
	const commands = 300
	for _, test := range []struct {
		name  string
		every time.Duration
		most  int
	}{
		{"at once", 0, 1 + maxStartLinks + maxCommands},
		{"within a minute", time.Minute / commands, 1 + maxStartLinks + 2*maxCommands},
		{"as fast as is let in", countFor / maxCommands, 1 + 2*maxStartLinks + 7*maxCommands},
	} {
		d := withKey(t)
		d.clock = d.clock.Add(time.Hour)
		offered, refused, most := 0, 0, 0
		for range commands {
			d.random = byte(offered) // tokens differ
			switch text := readable(d.types("up")); {
			case strings.Contains(text, "Open this link on the machine"):
				offered++
			case strings.Contains(text, "Rate limit"):
				refused++
			default:
				t.Fatalf("%s: answered %s", test.name, text)
			}
			most = max(most, d.table.size())
			d.clock = d.clock.Add(test.every)
		}
		t.Logf("%d commands %s: %d links, %d refused, at most %d items in the table", commands, test.name, offered, refused, most)
		if most > test.most {
			t.Errorf("%s: %d items, want at most %d", test.name, most, test.most)
		}
		if len(d.service.calls)+len(d.work.jobs) != 0 {
			t.Errorf("%s: up alone has started something", test.name)
		}
		var p person
		if _, err := d.fetch(t.Context(), personKey(ann), &p); err != nil || len(p.StartLinks) > maxStartLinks {
			t.Errorf("%s: %d open links, %v", test.name, len(p.StartLinks), err)
		}
	}
}

// size counts the items that have not expired.
func (m *memory) size() int {
	n := 0
	for key := range m.items {
		if _, ok := m.live(key); ok {
			n++
		}
	}
	return n
}

// Beyond the limit nothing is written, and nothing handed over; a minute later all
// is well. Others are not held up.
func TestRequestsBeyondTheLimitAreIgnored(t *testing.T) {
	d := newFixture(t)
	d.service.bastions = []*Bastion{aBastion("web")}
	for range maxCommands {
		d.types("status")
	}
	writes, jobs := d.table.writes, len(d.work.jobs)
	for range 50 {
		wantRead(t, readable(d.types("status")), "Rate limit: 20 requests per minute")
		d.push(actionClose, "aaaaaaaaaaaaaaa2")
	}
	if d.table.writes != writes || len(d.work.jobs) != jobs {
		t.Errorf("%d writes and %d jobs beyond the limit", d.table.writes-writes, len(d.work.jobs)-jobs)
	}
	other := command("status")
	other.Set("user_id", "U0BOB")
	if d.serve(d.signedRequest(commandRoute, other)); len(d.work.jobs) != jobs+1 {
		t.Error("somebody else is held up")
	}
	d.clock = d.clock.Add(countFor)
	if d.types("status"); len(d.work.jobs) != jobs+2 {
		t.Error("it does not work after a minute")
	}
}

// The limit holds when everything comes at once: counting is a compare-and-swap.
func TestRateLimitHoldsForConcurrentRequests(t *testing.T) {
	d := newFixture(t)
	var admitted, others int
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			err := d.admit(context.Background(), ann, signed{signature: string(rune('a' + i)), at: start})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted++
			} else {
				others++
			}
		})
	}
	all.Wait()
	if admitted > maxCommands || admitted == 0 || admitted+others != 200 {
		t.Errorf("%d were let in, %d were not; the limit is %d", admitted, others, maxCommands)
	}
}

// A link does not make a bastion more than the quota: create says so itself, and
// the person reads its sentence in Slack and on the page.
func TestQuotaRefusalIsShown(t *testing.T) {
	d := newFixture(t)
	d.service.problem = bastion.Errorf(bastion.CodeQuotaOwner, "You have 3 bastions open, which is as many as one owner may. Close one first.")
	if err := d.RunJob(t.Context(), d.used(startLink{Name: "fourth"})); err != nil {
		t.Fatal(err)
	}
	wantRead(t, d.slack.last(hookA), "as many as one owner may. Close one first.", "quota_owner")
	var v statusPage
	if _, err := d.fetch(t.Context(), statusPageKey("the-pages-hash"), &v); err != nil || !strings.Contains(v.Problem, "Close one first") {
		t.Errorf("the page says %q: %v", v.Problem, err)
	}
}
