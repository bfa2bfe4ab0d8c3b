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
)

const slackSecret = "hush"

// slackRig is a local mode with Slack's routes, and somebody with a browser.
type slackRig struct {
	*rig
	browser *http.Client
}

func startSlack(t *testing.T) slackRig {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := slackRig{start(t, func(o *Options) { o.SlackSigningSecret = slackSecret }), &http.Client{Jar: jar, Transport: &http.Transport{}}}
	t.Cleanup(r.browser.CloseIdleConnections)
	return r
}

// command sends a slash command, signed with a secret, and answers what comes back.
func (r slackRig) command(secret, text string) (int, string) {
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
	return r.answer(r.browser.Do(request))
}

func (r slackRig) answer(answer *http.Response, err error) (int, string) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// sent waits until Slack would have been sent a message with all the words.
func (r slackRig) sent(words ...string) {
	r.t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp); <-look.C {
		for line := range strings.Lines(r.log.String()) {
			var said struct {
				Msg, URL string
				Message  json.RawMessage
			}
			if json.Unmarshal([]byte(line), &said) != nil || said.Msg != "to Slack" {
				continue
			}
			found := strings.HasPrefix(said.URL, "https://hooks.slack.com/") || strings.HasPrefix(said.URL, "https://slack.com/api/")
			for _, word := range words {
				found = found && strings.Contains(string(said.Message), word)
			}
			if found {
				return
			}
		}
	}
	r.t.Fatalf("Slack was not told %q", words)
}

var (
	claimLink = regexp.MustCompile(`http://[0-9.:]+/slack/start/[\w-]+`)
	hidden    = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)"`)
)

// up asks for a link, opens it and presses its button.
func (r slackRig) up(command string) (link string) {
	r.t.Helper()
	_, text := r.command(slackSecret, command)
	link = claimLink.FindString(text)
	status, page := r.answer(r.browser.Get(link))
	form := url.Values{}
	for _, field := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(field[1], field[2])
	}
	if status != http.StatusOK || len(form) == 0 || !strings.HasPrefix(link, r.URL) {
		r.t.Fatalf("at %q: %d %s", link, status, page)
	}
	if status, page := r.answer(r.browser.PostForm(link, form)); status != http.StatusOK {
		r.t.Fatalf("the button: %d %s", status, page) // and the page that it leads to
	}
	return link
}

// The quota is the service's own, and holds for people of Slack as for all.
func TestNobodyOfSlackStartsMoreThanTheQuota(t *testing.T) {
	r := startSlack(t)
	r.command(slackSecret, "key "+newWallet(t).add("ed25519"))
	most := r.Service.Config.Quota.PerOwner
	for i := range most {
		name := "b" + strconv.Itoa(i)
		r.up("up name " + name)
		r.sent("Bastion " + name + " is")
	}
	r.up("up name one-more")
	r.sent("was not started", "You have "+strconv.Itoa(most)+" bastions open", "quota_owner")
	all, err := r.Service.Store.ListByOwner(t.Context(), "slack:"+slackTeam+":U0LOCAL")
	if err != nil || len(all) != most {
		t.Errorf("%d bastions, want %d: %v", len(all), most, err)
	}
}

// From the command to the receipt, as a person at this machine goes the way.
func TestSlackBesideTheAPI(t *testing.T) {
	r := startSlack(t)
	if status, text := r.command("wrong", "help"); status != http.StatusUnauthorized {
		t.Errorf("signed by somebody else: %d %s", status, text)
	}
	if _, text := r.command(slackSecret, "key "+newWallet(t).add("ed25519")); !strings.Contains(text, "remembered") {
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

// Slack's people are none of the API's, and the guard is in front of both.
func TestSlackIsBehindTheGuardToo(t *testing.T) {
	r := startSlack(t)
	request, err := http.NewRequest(http.MethodGet, r.URL+"/slack/start/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example"
	if status, text := r.answer(r.browser.Do(request)); status != http.StatusMisdirectedRequest {
		t.Errorf("under another's name: %d %s", status, text)
	}
	if status, text := r.answer(r.browser.Get(r.URL + "/bastions")); status != http.StatusOK {
		t.Errorf("the API: %d %s", status, text)
	}
	without := start(t, nil)
	if answer := without.do(call{method: "GET", path: "/slack/start/x"}); answer.status != http.StatusNotFound {
		t.Errorf("without a secret: %d %s", answer.status, answer.text)
	}
}
