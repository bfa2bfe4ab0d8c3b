package localmode

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

const slackSecret = "hush"

// slackFixture is a local mode with Slack's routes, and a browser.
type slackFixture struct {
	*fixture
	browser *http.Client
}

func startSlack(t *testing.T) slackFixture {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := slackFixture{start(t, func(o *Options) { o.SlackSigningSecret = slackSecret }), &http.Client{Jar: jar, Transport: &http.Transport{}}}
	t.Cleanup(r.browser.CloseIdleConnections)
	return r
}

// command sends a signed slash command and returns the response.
func (r slackFixture) command(secret, text string) (int, string) {
	r.t.Helper()
	body := url.Values{
		"team_id": {slackTeam}, "user_id": {"U0LOCAL"}, "channel_id": {"C0LOCAL"}, "command": {"/bastion"}, "text": {text},
		"response_url": {"https://hooks.slack.com/commands/T0LOCAL/1/a"},
	}.Encode()
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte("v0:" + at + ":" + body))
	request, err := http.NewRequest(http.MethodPost, r.URL+"/slack/command", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("X-Slack-Request-Timestamp", at)
	request.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	return r.read(r.browser.Do(request))
}

func (r slackFixture) read(resp *http.Response, err error) (int, string) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// sent waits until a message to Slack that contains all the words has been logged.
func (r slackFixture) sent(words ...string) {
	r.t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(timeout); time.Now().Before(giveUp); <-look.C {
		for line := range strings.Lines(r.log.String()) {
			var entry struct {
				Msg, URL string
				Message  string
			}
			if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "to Slack" {
				continue
			}
			found := strings.HasPrefix(entry.URL, "https://hooks.slack.com/") || strings.HasPrefix(entry.URL, "https://slack.com/api/")
			for _, word := range words {
				found = found && strings.Contains(string(entry.Message), word)
			}
			if found {
				return
			}
		}
	}
	r.t.Fatalf("no message to Slack contains %q", words)
}

var (
	startLink = regexp.MustCompile(`http://[0-9.:]+/slack/start/[\w-]+`)
	hidden    = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)"`)
)

// up requests a link, opens it and presses its button.
func (r slackFixture) up(command string) (link string) {
	r.t.Helper()
	_, text := r.command(slackSecret, command)
	link = startLink.FindString(text)
	status, page := r.read(r.browser.Get(link))
	form := url.Values{}
	for _, field := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(field[1], field[2])
	}
	if status != http.StatusOK || len(form) == 0 || !strings.HasPrefix(link, r.URL) {
		r.t.Fatalf("at %q: %d %s", link, status, page)
	}
	if status, page := r.read(r.browser.PostForm(link, form)); status != http.StatusOK {
		r.t.Fatalf("the button: %d %s", status, page) // of the page that the button leads to
	}
	return link
}

// The API's own quota also limits Slack users.
func TestSlackUserCannotExceedTheQuota(t *testing.T) {
	r := startSlack(t)
	r.command(slackSecret, "key "+sshclient.New(t).AddKey("ed25519"))
	most := r.Service.Config.Quota.PerOwner
	for i := range most {
		name := "b" + strconv.Itoa(i)
		r.up("up name " + name)
		r.sent("Bastion " + name + " is")
	}
	r.up("up name one-more")
	r.sent("couldn't be started", "You have "+strconv.Itoa(most)+" bastions open", "quota_owner")
	all, err := r.Service.Records.ListByOwner(t.Context(), "slack:"+slackTeam+":U0LOCAL")
	if err != nil || len(all) != most {
		t.Errorf("%d bastions, want %d: %v", len(all), most, err)
	}
}

func TestSlackFromKeyToReceipt(t *testing.T) {
	r := startSlack(t)
	if status, text := r.command("wrong", "help"); status != http.StatusUnauthorized {
		t.Errorf("signed with another secret: %d %s", status, text)
	}
	if _, text := r.command(slackSecret, "key "+sshclient.New(t).AddKey("ed25519")); !strings.Contains(text, "Key saved") {
		t.Fatalf("a key: %s", text)
	}
	link := r.up("up for 2h name db")
	r.sent("is ready", "Host private.internal")
	if _, text := r.command(slackSecret, "down"); !strings.Contains(text, "ephemeral") {
		t.Fatalf("down: %s", text)
	}
	r.sent("is closed")
	if strings.Contains(r.log.String(), link[strings.LastIndex(link, "/")+1:]) {
		t.Error("the link is in the log")
	}
}

func TestGuardProtectsSlackRoutes(t *testing.T) {
	r := startSlack(t)
	req, err := http.NewRequest(http.MethodGet, r.URL+"/slack/start/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	if status, text := r.read(r.browser.Do(req)); status != http.StatusMisdirectedRequest {
		t.Errorf("with a foreign Host: %d %s", status, text)
	}
	if status, text := r.read(r.browser.Get(r.URL + "/bastions")); status != http.StatusOK {
		t.Errorf("the API: %d %s", status, text)
	}
	without := start(t, nil)
	if resp := without.do(request{method: "GET", path: "/slack/start/x"}); resp.status != http.StatusNotFound {
		t.Errorf("without a secret: %d %s", resp.status, resp.text)
	}
}
