package slack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// hostile are texts that an attacker may send in any field.
var hostile = []string{
	"<!channel>", "<!here|here>", "<@U0BOB>", "<#C0OPS>", "<!subteam^S0X>", "<!date^1^{date}|x>",
	"<http://evil.test|click here>", "http://evil.test/", "https://evil.test/?a=b&c=d", "mailto:eve@evil.test",
	"*bold*", "_italic_", "~struck~", "`code`", "```\ncode\n```", "> quote", "# heading", "- list",
	":rotating_light:", "@channel", "#general", "&lt;!channel&gt;", "&amp;lt;!channel&amp;gt;",
	"one\ntwo\r\nthree\u2028four", "\u202eesrever", "\u2066\u200b\ufeff", "\x00\x07\x1b[31m", "\xff\xfe",
	strings.Repeat("x", 5000), strings.Repeat("<!channel>", 400), strings.Repeat("𝕏", 3001), "",
}

// Every message with a hostile text is within Slack's limits, and Slack parses no markup
// in the text.
func TestHostileTextStaysTextInMessages(t *testing.T) {
	for _, text := range hostile {
		b := aBastion("web")
		b.Name, b.Reason, b.Source, b.Host, b.Keys, b.Stage = text, text, text, text, []string{text, text}, text
		b.SSHConfig = "Host x\n" + text
		closed, failed := closedBastion(), failedBastion()
		closed.Name, closed.Reason, failed.Name = text, text, text
		failed.Failure.Code, failed.Failure.Message = bastion.FailureCode(text), text
		receipt := aReceipt()
		receipt.Destinations = []string{text, text, text, text, text, text, text, text, text, text, text}
		job := Job{Action: JobDown, Name: text, At: start, TTL: time.Hour}
		odd := *b
		odd.State = bastion.State(text)
		for name, l := range map[string]*message{
			"used":      usedMessage(*b, netip.MustParseAddr(annsHome)),
			"status":    statusMessage(*b),
			"odd state": statusMessage(odd),
			"ready":     readyMessage(*b),
			"key added": keyAddedMessage(*b, b.Keys),
			"list":      listMessage(slices.Repeat([]Bastion{*b}, 20)),
			"which":     whichMessage(whichError{open: slices.Repeat([]Bastion{*b}, 20), name: text}, job),
			"extended":  extendedMessage(*b, job),
			"closing":   closingMessage(*b),
			"warning":   warningMessage(*b, start),
			"failed":    failedMessage(Notice{Bastion: *failed, Receipt: receipt}),
			"receipt":   receiptMessage(Notice{Bastion: *closed, Receipt: receipt}),
			"refusal":   refusalMessage(&bastion.Error{Code: bastion.Code(text), Message: text}),
			"no start":  notStartedMessage(notStartedHeading, text, &bastion.Error{Code: bastion.Code(text)}, netip.Addr{}),
			"wrong":     wrongMessage(&CommandError{Message: text, Try: []string{text, text}, Verb: VerbUp}),
			"working":   workingMessage(job),
			"link":      linkMessage(startLink{Name: text, Reason: text, Key: text, TTL: time.Hour, ExpiresAt: start}, "", "https://bastions.example/slack/start/x"),
		} {
			for kind, m := range map[string]any{"webhook": l.webhook(true), "direct": l.direct(posted{Channel: "U0ANN"}), "update": l.direct(posted{"D0ANN", "1.0"})} {
				body, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				checkMessage(t, fmt.Sprintf("%s as %s with %.30q", name, kind, text), body)
			}
		}
	}
}

// The reply to each verb with each hostile text is within Slack's limits, and Slack parses
// no markup in the text.
func TestRepliesToHostileCommandsAreText(t *testing.T) {
	d := withKey(t)
	for _, text := range hostile {
		for _, verb := range []string{"", "up because ", "up name ", "up for ", "down ", "extend 30m ", "extend ", "key ", "status ", "help "} {
			d.clock = d.clock.Add(time.Minute)
			checkMessage(t, fmt.Sprintf("%s%.30q", verb, text), d.types(verb+text))
		}
	}
	for _, job := range d.queue.jobs {
		if err := d.RunJob(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range d.slack.posts {
		checkMessage(t, "a result", s.body)
	}
	if len(d.slack.posts) == 0 {
		t.Error("no command was valid")
	}
}

// The reply to up shows a reason with markup as the person typed it.
func TestMarkupInReasonsStaysText(t *testing.T) {
	d := withKey(t)
	wantContains(t, readable(d.types("up because &lt;!channel&gt; *b* <https://evil.test|here> :x:")), "Reason: <!channel> *b* here :x:")
}

func TestHostileResponseURLsAreRefused(t *testing.T) {
	valid := []string{
		"https://hooks.slack.com/commands/T0ANN/1234567890/AbCdEf0123456789",
		"https://hooks.slack.com/actions/T0ANN/1234567890/AbCdEf0123456789",
		"https://hooks.slack.com/app/T0ANN/123/xyz_response-url",
		"https://hooks.slack.com/commands/1234/5678",
	}
	for _, url := range valid {
		if !isResponseURL(url) {
			t.Errorf("Slack's own %s is refused", url)
		}
	}
	for _, url := range []string{
		"", "hooks.slack.com/commands/1/2", "//hooks.slack.com/commands/1/2", "/commands/1/2",
		"http://hooks.slack.com/commands/1/2", "HTTPS://hooks.slack.com/commands/1/2", "ftp://hooks.slack.com/commands/1/2",
		"file:///etc/passwd", "gopher://hooks.slack.com/commands/1/2", "javascript:alert(1)",
		"https://169.254.169.254/latest/meta-data/", "http://169.254.169.254/", "https://169.254.170.2/commands/1/2",
		"https://2852039166/commands/1/2", "https://0xA9FEA9FE/commands/1/2", "https://0251.0376.0251.0376/commands/1/2", "https://[::ffff:169.254.169.254]/commands/1/2",
		"https://localhost/commands/1/2", "https://127.0.0.1/commands/1/2", "https://[::1]/commands/1/2",
		"https://hooks.slack.com.evil.test/commands/1/2", "https://evil.test/hooks.slack.com/commands/1/2", "https://evil-hooks.slack.com/commands/1/2",
		"https://hooks.slack.co/commands/1/2", "https://slack.com/commands/1/2", "https://hooks-slack.com/commands/1/2", "https://hooksXslack.com/commands/1/2",
		"https://hooks.slack.com@evil.test/commands/1/2", "https://user@hooks.slack.com/commands/1/2", "https://user:pw@hooks.slack.com/commands/1/2", "https://@hooks.slack.com/commands/1/2",
		"https://hooks.slack.com:443/commands/1/2", "https://hooks.slack.com:8443/commands/1/2", "https://hooks.slack.com:/commands/1/2",
		`https://hooks.slack.com\@evil.test/commands/1/2`, `https://evil.test\.hooks.slack.com/commands/1/2`, `https:\\hooks.slack.com\commands\1\2`, `https:/\hooks.slack.com/commands/1/2`,
		"https://xn--hooks-slack.com/commands/1/2", "https://hооks.slack.com/commands/1/2", "https://hooks。slack。com/commands/1/2", "https://hooks.ѕlack.com/commands/1/2",
		"https://hooks.slack.com./commands/1/2", "https://HOOKS.SLACK.COM/commands/1/2", "https://Hooks.slack.com/commands/1/2",
		"https://hooks.slack.com/commands/1/2?to=evil", "https://hooks.slack.com/commands/1/2#x", "https://hooks.slack.com/commands/../1/2", "https://hooks.slack.com/commands//2",
		"https://hooks.slack.com/commands/1/2/", "https://hooks.slack.com/commands/%2e%2e/2", "https://hooks.slack.com/commands/1/2 ", " https://hooks.slack.com/commands/1/2",
		"https://hooks.slack.com/commands/1/2\n", "https://hooks.slack.com/commands/1/2\r\nHost: evil.test", "https://hooks.slack.com/commands/1/2\x00", "https://hooks.slack.com\t/commands/1/2",
		"https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/", "https://hooks.slack.com", "https://hooks.slack.com/commands", "https://hooks.slack.com/commands/",
		"https://hooks.slack.com/commands/1/" + strings.Repeat("x", 600),
	} {
		if isResponseURL(url) {
			t.Errorf("%q is accepted", url)
		}
		// In a request:
		d := newFixture(t)
		form := command("status")
		form.Set("response_url", url)
		if w := d.serve(d.signedRequest(commandRoute, form)); w.Code != http.StatusBadRequest || len(d.queue.jobs) != 0 {
			t.Errorf("a command with %q: status %d, %d jobs", url, w.Code, len(d.queue.jobs))
		}
		// In a job:
		if err := d.RunJob(t.Context(), Job{Action: JobStatus, Owner: ann, ResponseURL: url, At: start}); err != nil {
			t.Errorf("a job with %q: %v; it would be run again", url, err)
		}
		if len(d.slack.posts) != 0 {
			t.Errorf("posted to %q", d.slack.posts[0].url)
		}
		if url != "" && len(url) > 20 && strings.Contains(d.log.String(), url) {
			t.Errorf("%q is in the log", url)
		}
	}
}
