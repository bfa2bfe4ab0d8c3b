package slack

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares a message with its golden file and with Slack's limits.
func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	checkMessage(t, name, body)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", "  "); err != nil {
		t.Fatalf("%s: %v: %s", name, err, body)
	}
	pretty.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pretty.Bytes(), want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, pretty.Bytes(), want)
	}
}

// withKey returns a fixture in which ann's key is stored.
func withKey(t *testing.T) *fixture {
	d := newFixture(t)
	d.types("key " + annsKey)
	return d
}

// annsConfig has an RSA key of 3,072 bits, as bastions have.
var annsConfig = api.WithoutKnownHostsCommand("bastion-web") + "# known_hosts: [198.51.100.9]:2222 ssh-ed25519 AAAA\n" +
	"Host bastion-web\n  HostName 198.51.100.9\n  Port 2222\n  User bastion\n  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com\n" +
	`  KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\n" [198.51.100.9]:2222 ssh-ed25519 AAAA [198.51.100.9]:2222 ssh-rsa ` + strings.Repeat("B", 544) +
	"\n  UserKnownHostsFile /dev/null\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n"

// aBastion returns a ready bastion of ann's.
func aBastion(name string) *Bastion {
	return &Bastion{
		ID: "aaaaaaaaaaaaaaa2", Name: name, Owner: ann, State: "ready", Reason: "the deploy",
		Source: annsHome + "/32", Keys: []string{bastion.Key(annsKey).Fingerprint()},
		Host: "198.51.100.9", Port: 2222, SSHConfig: strings.ReplaceAll(annsConfig, "bastion-web", "bastion-"+name),
		CreatedAt: start, ReadyAt: start.Add(time.Minute), Deadline: start.Add(2 * time.Hour), LatestDeadline: start.Add(8 * time.Hour),
	}
}

// The immediate replies to commands.
func TestGoldenReplies(t *testing.T) {
	for _, test := range []struct {
		name, text string
		prepare    func(*fixture)
	}{
		{"help", "help", nil},
		{"up", "up for 2h name web because “the deploy”", func(d *fixture) { d.types("key " + annsKey) }},
		{"up_default", "up", func(d *fixture) { d.types("key " + annsKey) }},
		{"up_no_key", "up", nil},
		{"up_wrong", "up web", nil},
		{"up_too_long", "up for 9h name web because “the deploy”", nil},
		{"extend_too_long", "extend 8h1s", nil},
		{"down", "down", nil},
		{"down_name", "down web", nil},
		{"down_wrong", "dwon web", nil},
		{"status", "status", nil},
		{"status_wrong", "statsu", nil},
		{"extend", "extend 30m", nil},
		{"extend_name", "extend 30m web", nil},
		{"extend_wrong", "extend", nil},
		{"key", "key " + annsKey, nil},
		{"key_wrong", "key ssh-dss AAAA", nil},
		{"key_missing", "key", nil},
		{"key_private", "key -----BEGIN OPENSSH PRIVATE KEY-----", nil},
		{"unknown", "frobnicate", nil},
		{"other_team", "up", func(d *fixture) { d.Teams = []string{"T0BOB"} }},
		{"other_user", "up", func(d *fixture) { d.Users = []string{"U0BOB"} }},
		{"other_channel", "up", func(d *fixture) { d.Channels = []string{"C0DEV"} }},
		{"too_many", "status", func(d *fixture) {
			for range maxCommands {
				d.types("help")
			}
		}},
		{"not_enqueued", "status", func(d *fixture) { d.queue.down = errors.New("throttled") }},
		{"table_down", "up", func(d *fixture) { d.faults.at = 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newFixture(t)
			if test.prepare != nil {
				test.prepare(d)
			}
			golden(t, "reply_"+test.name, d.types(test.text))
		})
	}
}

// The replies of jobs: to commands and to buttons.
func TestGoldenResults(t *testing.T) {
	second := aBastion("db")
	second.ID = "bbbbbbbbbbbbbbb2"
	starting := aBastion("web")
	starting.State, starting.Stage, starting.Host, starting.Port, starting.SSHConfig = "starting", "capacity", "", 0, ""
	closing := aBastion("web")
	closing.State = "closing"
	closed, refused := api.Ended{Reason: bastion.EndClosed, At: start}, api.Failure{Code: bastion.CapacityFailure.Code, Message: bastion.CapacityFailure.Message}
	closingDelayed, closingRefused := *closing, *closing
	closingDelayed.Stage, closingDelayed.Ended = "delayed", &closed
	closingRefused.Failure, closingRefused.Ended = &refused, &closed
	extending := aBastion("web")
	extending.State, extending.Stage = "starting", "delayed"
	command := func(text string) func(*fixture) { return func(d *fixture) { d.types(text) } }
	press := func(action string) func(*fixture) { return func(d *fixture) { d.push(action, "aaaaaaaaaaaaaaa2") } }
	capped := bastion.Errorf(bastion.CodeTTLBeyondCap, "This bastion may run until 17:30 at the latest.")
	for _, test := range []struct {
		name     string
		bastions []*Bastion
		request  func(*fixture)
		prepare  func(*fixture)
	}{
		{"status", []*Bastion{aBastion("web")}, command("status"), nil},
		{"status_none", nil, command("status"), nil},
		{"status_two", []*Bastion{aBastion("web"), second}, command("status"), nil},
		{"status_starting", []*Bastion{starting}, command("status"), nil},
		{"status_down", nil, command("status"), func(d *fixture) { d.api.down = errors.New("down") }},
		{"down", []*Bastion{aBastion("web")}, command("down"), nil},
		{"down_closing", []*Bastion{closing}, command("down"), nil},
		{"down_delayed", []*Bastion{&closingDelayed}, command("down"), nil},
		{"down_refused", []*Bastion{&closingRefused}, command("down"), nil},
		{"extend_delayed", []*Bastion{extending}, command("extend 3h"), nil},
		{"status_delayed", []*Bastion{extending}, command("status"), nil},
		{"down_none", nil, command("down"), nil},
		{"down_which", []*Bastion{aBastion("web"), second}, command("down"), nil},
		{"down_no_such", []*Bastion{aBastion("web")}, command("down db"), nil},
		{"down_down", nil, command("down"), func(d *fixture) { d.api.down = errors.New("down") }},
		{"extend", []*Bastion{aBastion("web")}, command("extend 3h"), nil},
		{"extend_no_more", []*Bastion{aBastion("web")}, command("extend 30m"), nil},
		{"extend_which", []*Bastion{aBastion("web"), second}, command("extend 30m"), nil},
		{"extend_refused", []*Bastion{aBastion("web")}, command("extend 30m web"), func(d *fixture) { d.api.problem = capped }},
		{"button_extend", []*Bastion{aBastion("web")}, press("extend"), nil},
		{"button_close", []*Bastion{aBastion("web")}, press("close"), nil},
		{"button_gone", nil, press("close"), nil},
		{"button_down", nil, press("extend"), func(d *fixture) { d.api.down = errors.New("down") }},
		{"button_not_enqueued", nil, press("extend"), func(d *fixture) { d.queue.down = errors.New("throttled") }},
		{"button_other_team", nil, press("extend"), func(d *fixture) { d.Teams = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newFixture(t)
			d.api.bastions = test.bastions
			d.clock = start.Add(time.Minute)
			if test.prepare != nil {
				test.prepare(d)
			}
			test.request(d)
			for _, job := range d.queue.jobs {
				if err := d.RunJob(t.Context(), job); err != nil {
					t.Fatal(err)
				}
			}
			if len(d.slack.posts) != 1 {
				t.Fatalf("%d posts to Slack, want 1", len(d.slack.posts))
			}
			golden(t, "result_"+test.name, d.slack.posts[0].body)
		})
	}
}

// noticeOf returns a notice about a bastion.
func noticeOf(version int64, b *Bastion) Notice { return Notice{Bastion: *b, Version: version} }

// aReceipt returns the receipt of a bastion that ran for an hour and a half.
func aReceipt() *Receipt {
	return &Receipt{
		StartedAt: start.Add(time.Minute), EndedAt: start.Add(91 * time.Minute),
		Connections: 2, Forwards: 3, Refusals: 1, BytesIn: 12_345, BytesOut: 6_789_012_345,
		Destinations: []string{"db.internal:5432", "10.0.0.7:22"}, Unnamed: 0,
	}
}

func closedBastion() *Bastion {
	b := aBastion("web")
	b.State, b.Host, b.SSHConfig = "closed", "", ""
	b.Ended = &api.Ended{Reason: "idle", At: start.Add(91 * time.Minute)}
	return b
}

func failedBastion() *Bastion {
	b := aBastion("web")
	b.State, b.Host, b.SSHConfig = "failed", "", ""
	b.Failure = &api.Failure{Code: "capacity_unavailable", Message: bastion.CapacityFailure.Message}
	return b
}

// The direct messages of each notice, in the order in which they are sent.
func TestGoldenNotices(t *testing.T) {
	starting := aBastion("web")
	starting.State, starting.Stage, starting.Host, starting.Port, starting.SSHConfig = "starting", "image", "", 0, ""
	closed, failed := noticeOf(9, closedBastion()), noticeOf(9, failedBastion())
	closed.Receipt = aReceipt()
	warning := noticeOf(9, aBastion("web"))
	delayed, refused, closingDelayed := *starting, *starting, *closingBastion()
	delayed.Stage, delayed.ReadyAt = "delayed", time.Time{}
	refused.Stage, refused.Failure = "address", failedBastion().Failure
	closingDelayed.Stage, closingDelayed.Ended = "delayed", &api.Ended{Reason: bastion.EndClosed, At: start}
	warning.Warning = true
	moved := withKeys(aBastion("web"), "SHA256:two")
	moved.Source = "198.51.100.77/32"
	moved.Admissions = []api.Admission{
		{Key: moved.Keys[0], Sources: []string{annsHome + "/32"}},
		{Key: moved.Keys[1], Sources: []string{moved.Source, "192.0.2.0/28", "2001:db8::7/128"}},
	}
	twoKeys := *moved
	twoKeys.Source = annsHome + "/32"
	for _, test := range []struct {
		name   string
		notice Notice
		names  []string
	}{
		{"stage", noticeOf(9, starting), []string{"status_starting"}},
		{"ready", noticeOf(9, aBastion("web")), []string{"ready", "status_ready"}},
		{"key added", noticeOf(9, &twoKeys), []string{"key_added", "status_two_keys"}},
		{"key added from another address", noticeOf(9, moved), []string{"ready_key_added"}},
		{"warning", warning, []string{"warning"}},
		{"closing", noticeOf(9, closingBastion()), []string{"status_closing"}},
		{"delayed", noticeOf(9, &delayed), []string{"status_starting_delayed"}},
		{"refused move", noticeOf(9, &refused), []string{"status_moving_refused"}},
		{"closing delayed", noticeOf(9, &closingDelayed), []string{"status_closing_delayed"}},
		{"closed", closed, []string{"receipt", "status_closed"}},
		{"never ran", noticeOf(9, closedBastion()), []string{"receipt_never_ran"}},
		{"failed", failed, []string{"failure", "status_failed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newFixture(t)
			d.clock = start.Add(10 * time.Minute)
			if test.notice.Warning {
				d.clock = test.notice.Bastion.Deadline.Add(-10 * time.Minute)
			}
			d.notify(noticeOf(1, stageOf("capacity"))) // the status message, which is edited
			if strings.HasPrefix(test.name, "key added") {
				d.notify(noticeOf(2, aBastion("web")))
			}
			d.slack.posts = nil
			d.notify(test.notice)
			for i, name := range test.names {
				golden(t, "direct_"+name, d.slack.posts[i].body)
			}
		})
	}
}

// storeUsedLink stores a used link of ann's with its status page, and returns its job.
func (d *fixture) storeUsedLink(c startLink) Job {
	d.t.Helper()
	const link, page = "the-links-hash", "the-pages-hash"
	c.Owner, c.Key, c.ResponseURL, c.StatusPage = ann, annsKey, hookA, page
	c.UsedAt, c.ExpiresAt = d.clock, d.clock.Add(startLinkLife-time.Minute)
	if err := c.Source.UnmarshalText([]byte(annsHome)); err != nil {
		d.t.Fatal(err)
	}
	if err := d.write(d.t.Context(), startLinkKey(link), 0, c, d.clock.Add(time.Hour)); err != nil {
		d.t.Fatal(err)
	}
	v := statusPage{Owner: ann, StartLink: link, Source: c.Source, StartedAt: d.clock, ExpiresAt: d.clock.Add(time.Hour)}
	if err := d.write(d.t.Context(), statusPageKey(page), 0, v, v.ExpiresAt); err != nil {
		d.t.Fatal(err)
	}
	return Job{Action: JobStart, Owner: ann, ResponseURL: hookA, StartLink: link, Name: c.Name}
}

func TestGoldenStarts(t *testing.T) {
	quota := bastion.Errorf(bastion.CodeQuotaOwner, "You have 3 bastions open, the maximum per owner. Close one first.")
	for _, test := range []struct {
		name    string
		prepare func(*fixture)
	}{
		{"used", func(*fixture) {}},
		{"used_ready", func(d *fixture) { d.api.bastions = []*Bastion{aBastion("web")} }},
		{"refused", func(d *fixture) { d.api.problem = quota }},
		{"down", func(d *fixture) { d.api.down = errors.New("down") }},
		{"too_late", func(d *fixture) { d.clock = d.clock.Add(startTimeout + time.Second) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newFixture(t)
			job := d.storeUsedLink(startLink{Name: "web", TTL: 2 * time.Hour, Reason: "the deploy"})
			test.prepare(d)
			if err := d.RunJob(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			if len(d.slack.posts) != 1 || d.slack.posts[0].url != hookA {
				t.Fatalf("posts: %+v", d.slack.posts)
			}
			golden(t, "start_"+test.name, d.slack.posts[0].body)
		})
	}
}

func TestStartCallsAPIWithValuesOfLink(t *testing.T) {
	d := newFixture(t)
	job := d.storeUsedLink(startLink{Name: "web", TTL: 2 * time.Hour, Reason: "the <b> deploy"})
	if err := d.RunJob(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	call := d.api.calls[0]
	want := `{"name":"web","public_key":"` + annsKey + `","reason":"the \u003cb\u003e deploy","ttl":"2h0m0s"}`
	if call.Owner != ann || call.Source.String() != annsHome || call.Method != http.MethodPost || call.Path != "/bastions" || string(call.Body) != want {
		t.Errorf("the call is %+v with %s", call, call.Body)
	}
	var v statusPage
	if _, err := d.fetch(t.Context(), statusPageKey("the-pages-hash"), &v); err != nil || v.ID != d.api.bastions[0].ID {
		t.Errorf("the status page has the bastion %q: %v", v.ID, err)
	}
}
