//go:build conformance

package system

import (
	"fmt"
	"html"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// slackUser is a user of Slack with a machine, from which they use curl and ssh.
type slackUser struct {
	apiUser
	userID string // of the user

	startLink   string
	statusPage  string // the URL of the page that follows the start page
	responseURL string // of the command that the start link came from
	bastionID   string
	deadline    time.Time
	tunnel      *tunnel
}

func (u *slackUser) owner() string { return "slack:" + team + ":" + u.userID }

// browse opens a page with curl, with the cookies of the pages before.
func (u *slackUser) browse(t *testing.T, args ...string) (status int, page, location string) {
	t.Helper()
	jar := filepath.Join(filepath.Dir(u.keyFile), "cookies")
	args = append([]string{
		"--silent", "--show-error", "--max-time", "60", "--interface", u.sourceIP, "--cacert", u.deployment.slack.certificateFile,
		"--cookie", jar, "--cookie-jar", jar, "--write-out", "\n%{http_code} %{redirect_url}",
	}, args...)
	out, err := exec.Command("curl", args...).Output()
	if err != nil {
		t.Fatalf("curl %v: %v\n%s", args, err, out)
	}
	cut := strings.LastIndexByte(string(out), '\n')
	_, _ = fmt.Sscan(string(out[cut+1:]), &status, &location) // the location may be missing
	return status, string(out[:cut]), location
}

// pressStart opens the start link and presses the page's button. If the page has no
// button, it returns the page.
func (u *slackUser) pressStart(t *testing.T) (status int, page string) {
	t.Helper()
	status, page, _ = u.browse(t, u.startLink)
	if status != http.StatusOK {
		return status, page
	}
	if seen := findInPage(t, page, `id="address">([^<]*)<`); seen != u.sourceIP {
		t.Fatalf("the page shows the address %s", seen)
	}
	status, page, u.statusPage = u.browse(t, "--data-urlencode", "proof="+findInPage(t, page, `name="proof" value="([^"]*)"`),
		"--data-urlencode", "address="+findInPage(t, page, `name="address" value="([^"]*)"`), u.startLink)
	return status, page
}

// findInPage returns the first group of a pattern in a page, with HTML unescaped.
func findInPage(t *testing.T, page, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(`(?s)` + pattern).FindStringSubmatch(page)
	if match == nil {
		t.Fatalf("the page has no %s\n%s", pattern, page)
	}
	return html.UnescapeString(match[1])
}

// slackSendsStartLink saves a key and gets a start link.
func (s *systemTest) slackSendsStartLink(t *testing.T) {
	s.carol = &slackUser{apiUser: apiUser{deployment: s.deployment, sourceIP: "127.0.0.7"}, userID: "UCAROL"}
	s.carol.generateKey(t)
	if reply, _ := s.slack.sendCommand(t, s.carol.userID, "up for 30m"); !strings.Contains(reply.text, "Register your public key first") {
		t.Fatalf("up without a key: the reply is\n%s", reply.text)
	}
	if reply, _ := s.slack.sendCommand(t, s.carol.userID, "key "+s.carol.readPublicKey(t)); !strings.Contains(reply.text, "Key saved") {
		t.Fatalf("key: the reply is\n%s", reply.text)
	}
	var reply message
	reply, s.carol.responseURL = s.slack.sendCommand(t, s.carol.userID, "up for 30m because deploy")
	s.carol.startLink = reply.button(t, "open").URL
	s.logf(t, "  the key is saved; up returns a start link")
}

// slackUserStarts opens the start link and presses the button twice. The first press
// fails, because Lambda rejects the job.
func (s *systemTest) slackUserStarts(t *testing.T) {
	s.lambda.rejectNext("job start", "")
	if status, page := s.carol.pressStart(t); status != http.StatusServiceUnavailable || !strings.Contains(page, "nothing was started") {
		t.Fatalf("the button, while Lambda rejects the job, returned %d\n%s", status, page)
	}
	s.logf(t, "  Lambda rejects the job: the page says that nothing was started")
	s.lambda.rejectNext("notice ready", roleOf("reaper"))
	if status, page := s.carol.pressStart(t); status != http.StatusSeeOther || !strings.Contains(s.carol.statusPage, "/slack/status/") {
		t.Fatalf("the button, pressed again, returned %d %s\n%s", status, s.carol.statusPage, page)
	}
	if status, page, location := s.carol.browse(t, s.carol.startLink); status != http.StatusSeeOther || location != s.carol.statusPage {
		t.Fatalf("the used link in the same browser: status %d, to %s\n%s", status, location, page)
	}
	s.slack.waitForMessage(t, s.carol.responseURL, s.carol.sourceIP)
	s.logf(t, "  pressed again, the button starts the bastion; the message in Slack names the address")
}

// slackUserConnects reloads the status page until the bastion is ready, downloads the
// configuration, and connects with it.
func (s *systemTest) slackUserConnects(t *testing.T) {
	var page string
	eventually(t, "the page has the configuration", func() bool {
		_, page, _ = s.carol.browse(t, s.carol.statusPage)
		if status := findInPage(t, page, `id="status"[^>]*>([^<]*)<`); !strings.Contains(page, `href="?download"`) {
			s.logf(t, "  the page: %s", status)
			return false
		}
		return true
	})
	s.carol.hostAlias, s.carol.sshConfig = "bastion-default", filepath.Join(t.TempDir(), "bastion-default.conf")
	status, config, _ := s.carol.browse(t, s.carol.statusPage+"?download")
	if status != http.StatusOK {
		t.Fatalf("the download: status %d\n%s", status, config)
	}
	if err := os.WriteFile(s.carol.sshConfig, []byte(strings.TrimRight(config, "\n")+"\n  IdentityFile "+s.carol.keyFile+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.carol.checkConnects(t, s.carol.owner())
	s.carol.tunnel = s.carol.openTunnel(t, s.targetHost)
	s.carol.tunnel.checkEcho(t, "hello from Slack")
	elsewhere := s.carol.apiUser
	elsewhere.sourceIP = "127.0.0.8"
	elsewhere.checkRefused(t)
	s.logf(t, "  ready; ssh connects with the downloaded file, from another address it does not")
}

// slackReportsReady waits for the status message and the ready message. Lambda rejects
// the notice until the reaper sends it.
func (s *systemTest) slackReportsReady(t *testing.T) {
	s.slack.waitForDirectMessage(t, s.carol.userID, "is ready for "+s.carol.sourceIP)
	ready := s.slack.waitForDirectMessage(t, s.carol.userID, "Bastion default is ready\n")
	rejected, lost := s.lambda.outcomes()
	if !slices.Equal(rejected, []string{"job start", "notice ready"}) {
		t.Errorf("Lambda rejected %q", rejected)
	}
	for _, kind := range []string{"job start", "notice ready"} {
		if !slices.Contains(lost, kind) {
			t.Errorf("no %s event was lost, but %q", kind, lost)
		}
	}
	s.carol.bastionID = ready.button(t, "extend").Value
	s.logf(t, "  Slack shows ready; Lambda rejected %q and lost the first attempts of %q", rejected, lost)
}

// slackButtonExtends presses the button that extends to one hour from now.
func (s *systemTest) slackButtonExtends(t *testing.T) {
	before := s.describeForAdmin(t)
	at := s.slack.pressButton(t, s.carol.userID, s.slack.waitForDirectMessage(t, s.carol.userID, "Bastion default is ready\n").button(t, "extend"))
	s.slack.waitForMessage(t, at, "Bastion default extended")
	after := s.describeForAdmin(t)
	s.carol.deadline = after.Deadline
	if moved := after.Deadline.Sub(before.Deadline); moved < 25*time.Minute || after.ID != before.ID || time.Until(after.Deadline) > time.Hour+time.Second {
		t.Fatalf("the deadline moved by %s: %s", moved, after.Body)
	}
	s.slack.waitForDirectMessage(t, s.carol.userID, after.Deadline.UTC().Format("2006-01-02 15:04 UTC")+">; can be extended")
	s.carol.tunnel.checkEcho(t, "the open tunnel stays open")
	s.logf(t, "  until %s instead of %s; the open tunnel stays open", after.Deadline.Format(time.TimeOnly), before.Deadline.Format(time.TimeOnly))
}

// describeForAdmin returns carol's bastion as an admin sees it.
func (s *systemTest) describeForAdmin(t *testing.T) apiResponse {
	t.Helper()
	admin := &apiUser{deployment: s.deployment, user: operator, sourceIP: "127.0.0.5"}
	seen := admin.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+s.carol.bastionID)
	if seen.Owner != s.carol.owner() || seen.Source != s.carol.sourceIP+"/32" {
		t.Fatalf("the admin sees %s", seen.Body)
	}
	return seen
}

// slackSendsWarning waits for the warning of the new deadline.
func (s *systemTest) slackSendsWarning(t *testing.T) {
	var warnings []message
	eventually(t, "Slack has the warning", func() bool {
		warnings = s.slack.directMessages(s.carol.userID, "closes in")
		return len(warnings) > 0
	})
	before, err := time.ParseDuration(warn)
	if err != nil || time.Until(s.carol.deadline) > before {
		t.Errorf("the warning came %s before the deadline, %v", time.Until(s.carol.deadline), err)
	}
	for _, id := range []string{"extend", "close"} {
		if warnings[0].button(t, id).Value != s.carol.bastionID {
			t.Errorf("the warning's buttons are %+v", warnings[0].buttons)
		}
	}
	s.resendNotice(t)
	s.logf(t, "  by direct message: %s", strings.SplitN(warnings[0].text, "\n", 2)[0])
}

// resendNotice removes the last notice from the record, as if the function that sent it
// had died before it could store it. The notice is sent again, but not the warning; see
// slackKeepsLimitsAndSecrets.
func (s *systemTest) resendNotice(t *testing.T) {
	t.Helper()
	notices := s.events.delivered("warning")
	eventually(t, "the last notice is removed", func() bool {
		rec, err := s.ports.Store.Fetch(t.Context(), s.carol.bastionID)
		next := rec
		next.LastNotice, next.DueAt, next.Version = bastion.Notice{}, time.Now().UTC(), rec.Version+1
		return err == nil && s.ports.Store.Replace(t.Context(), rec, next) == nil
	})
	eventually(t, "another notice with the warning", func() bool { return s.events.delivered("warning") > notices })
}

// slackCloses runs status and down, and reads the receipt.
func (s *systemTest) slackCloses(t *testing.T) {
	reply, at := s.slack.sendCommand(t, s.carol.userID, "status")
	if !strings.Contains(reply.text, "Looking up your bastions") {
		t.Fatalf("status: the reply is\n%s", reply.text)
	}
	s.slack.waitForMessage(t, at, "Bastion default is ready")
	reply, at = s.slack.sendCommand(t, s.carol.userID, "down")
	if !strings.Contains(reply.text, "Closing your bastion") {
		t.Fatalf("down: the reply is\n%s", reply.text)
	}
	s.slack.waitForMessage(t, at, "is clos")
	s.carol.tunnel.checkCut(t)
	s.carol.checkRefused(t)
	receipt := s.slack.waitForDirectMessage(t, s.carol.userID, "It was closed on request.")
	s.slack.waitForDirectMessages(t, s.carol.userID, "Bastion default is closed\n", 2) // also the status message
	for _, want := range []string{"Destinations: " + s.targetHost, "From: " + s.carol.sourceIP, "Reason: deploy", "Cost: about $"} {
		if !strings.Contains(receipt.text, want) {
			t.Errorf("the receipt does not contain %q:\n%s", want, receipt.text)
		}
	}
	for line := range strings.Lines(receipt.text) {
		s.logf(t, "  the receipt: %s", strings.TrimSpace(line))
	}
	if _, page, _ := s.carol.browse(t, s.carol.statusPage); !strings.Contains(page, "The bastion is closed") {
		t.Errorf("the status page is\n%s", page)
	}
}

// slackKeepsLimitsAndSecrets checks that the bastion has one warning and one status
// message, that Slack rejected no message but for rate limits, and that no log contains a
// secret.
func (s *systemTest) slackKeepsLimitsAndSecrets(t *testing.T) {
	if warnings := s.slack.directMessages(s.carol.userID, "closes in"); len(warnings) != 1 {
		t.Errorf("%d warnings of one deadline", len(warnings))
	}
	if status := s.slack.directMessages(s.carol.userID, "Your bastion: closed.\n"); len(status) != 1 {
		t.Errorf("%d status messages of one bastion: %v", len(status), status)
	}
	s.slack.mu.Lock()
	defer s.slack.mu.Unlock()
	if len(s.slack.rejected) > 0 {
		t.Errorf("Slack rejected %q", s.slack.rejected)
	}
	for _, method := range []string{"chat.postMessage", "chat.update"} {
		if s.slack.rateLimited[method] == 0 {
			t.Errorf("%s was never rate limited", method)
		}
	}
	if sent := s.events.delivered("job send"); sent == 0 {
		t.Error("no job has sent the messages that waited for a rate limit")
	}
	s.logf(t, "  rate limited: %v", s.slack.rateLimited)
	secrets := []string{signingSecret, botToken, s.carol.startLink[strings.LastIndexByte(s.carol.startLink, '/')+1:], s.carol.statusPage[strings.LastIndexByte(s.carol.statusPage, '/')+1:]}
	for at, used := range s.slack.uses {
		if at != "" {
			secrets = append(secrets, strings.TrimPrefix(at, "https://hooks.slack.com"))
			s.logf(t, "  a response_url was used %d times: %s", used, strings.Join(strings.Split(at, "/")[2:4], "/"))
		}
	}
	for name, function := range s.functions {
		log := function.Log.String()
		for _, secret := range secrets {
			if strings.Contains(log, secret) {
				t.Errorf("the log of %s contains %q", name, secret)
			}
		}
	}
}
