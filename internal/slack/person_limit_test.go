package slack

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The table has a bounded number of items of one person, however many commands the person
// sends. The app accepts at most 20 commands in a minute, and only an accepted command
// stores items: a signature, which expires after at most six minutes, and a link, which
// expires after at most ten minutes if it is not used. At most five of the links are open.
func TestOnePersonsItemsAreBounded(t *testing.T) {
	const commands = 300
	for _, test := range []struct {
		name  string
		every time.Duration
		most  int
	}{
		{"at once", 0, 1 + maxStartLinks + maxCommands},
		{"within a minute", time.Minute / commands, 1 + maxStartLinks + 2*maxCommands},
		{"as fast as is allowed", countFor / maxCommands, 1 + 2*maxStartLinks + 7*maxCommands},
	} {
		d := withKey(t)
		d.clock = d.clock.Add(time.Hour)
		links, refused, most := 0, 0, 0
		for range commands {
			d.random = byte(links) // tokens differ
			switch text := readable(d.types("up")); {
			case strings.Contains(text, "Open this link on the machine"):
				links++
			case strings.Contains(text, "Rate limit"):
				refused++
			default:
				t.Fatalf("%s: the reply is %s", test.name, text)
			}
			most = max(most, d.table.size())
			d.clock = d.clock.Add(test.every)
		}
		t.Logf("%d commands %s: %d links, %d refused, at most %d items in the table", commands, test.name, links, refused, most)
		if most > test.most {
			t.Errorf("%s: %d items, want at most %d", test.name, most, test.most)
		}
		if len(d.api.calls)+len(d.queue.jobs) != 0 {
			t.Errorf("%s: a command made a call or a job", test.name)
		}
		var p person
		if _, err := d.fetch(t.Context(), personKey(ann), &p); err != nil || len(p.StartLinks) > maxStartLinks {
			t.Errorf("%s: %d open links, %v", test.name, len(p.StartLinks), err)
		}
	}
}

// size returns the number of items that have not expired.
func (m *memory) size() int {
	n := 0
	for key := range m.items {
		if _, ok := m.live(key); ok {
			n++
		}
	}
	return n
}

// Requests beyond the limit write nothing and start no job. A minute later, requests are
// accepted again. The limit of one person does not affect others.
func TestRequestsBeyondTheLimitAreIgnored(t *testing.T) {
	d := newFixture(t)
	d.api.bastions = []*Bastion{aBastion("web")}
	for range maxCommands {
		d.types("status")
	}
	writes, jobs := d.table.writes, len(d.queue.jobs)
	for range 50 {
		wantContains(t, readable(d.types("status")), "Rate limit: 20 requests per minute")
		d.push(actionClose, "aaaaaaaaaaaaaaa2")
	}
	if d.table.writes != writes || len(d.queue.jobs) != jobs {
		t.Errorf("%d writes and %d jobs beyond the limit", d.table.writes-writes, len(d.queue.jobs)-jobs)
	}
	other := command("status")
	other.Set("user_id", "U0BOB")
	if d.serve(d.signedRequest(commandRoute, other)); len(d.queue.jobs) != jobs+1 {
		t.Error("another person's request is refused")
	}
	d.clock = d.clock.Add(countFor)
	if d.types("status"); len(d.queue.jobs) != jobs+2 {
		t.Error("a request after a minute is refused")
	}
}

// The limit holds for concurrent requests, because the count is a compare-and-swap.
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
		t.Errorf("%d requests were admitted, %d were not; the limit is %d", admitted, others, maxCommands)
	}
}

// If the API refuses a start because of its quota, the person sees its sentence in Slack
// and on the status page.
func TestQuotaRefusalIsShown(t *testing.T) {
	d := newFixture(t)
	d.api.problem = bastion.Errorf(bastion.CodeQuotaOwner, "You have 3 bastions open, the maximum per owner. Close one first.")
	if err := d.RunJob(t.Context(), d.storeUsedLink(startLink{Name: "fourth"})); err != nil {
		t.Fatal(err)
	}
	wantContains(t, d.slack.last(hookA), "the maximum per owner. Close one first.", "quota_owner")
	var v statusPage
	if _, err := d.fetch(t.Context(), statusPageKey("the-pages-hash"), &v); err != nil || !strings.Contains(v.Problem, "Close one first") {
		t.Errorf("the page says %q: %v", v.Problem, err)
	}
}
