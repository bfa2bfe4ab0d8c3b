//go:build conformance

package slack

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/browser"
)

const storySecret = "8f742231b10e8888abcd99yyyzzz85a5"

// pageStory is a local mode that runs as people run it, and somebody of its Slack.
type pageStory struct {
	t      testing.TB
	dir    string
	url    string
	client *http.Client
	log    pageLog
}

// newStory builds and starts it, with starts that take long enough to watch.
func newStory(t *testing.T) *pageStory {
	s := &pageStory{t: t, dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	s.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key")
	program := filepath.Join(s.dir, "bastion")
	s.run("go", "build", "-o", program, "github.com/bastion-on-demand/bastion/cmd/bastion")
	local := exec.Command(program, "local", "--listen", "127.0.0.1:0", "--launch-delay", "4s", "--slack-signing-secret", storySecret)
	local.Stderr = &s.log
	out, err := local.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := local.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = local.Process.Signal(os.Interrupt)
		_ = local.Wait() // it was interrupted
		if t.Failed() {
			t.Logf("local mode said:\n%s", &s.log)
		}
	})
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("local mode printed no URL: %v", err)
	}
	s.url = strings.TrimSpace(first)
	return s
}

// run runs a program in the story's folder and answers what it prints.
func (s *pageStory) run(name string, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	if name != "go" {
		command.Dir = s.dir
	}
	out, err := command.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// command is what somebody types in Slack, and its answer.
func (s *pageStory) command(text string) string {
	s.t.Helper()
	body := url.Values{
		"team_id": {"T0LOCAL"}, "user_id": {"U0CD"}, "channel_id": {"C0EF"}, "command": {"/bastion"}, "text": {text},
		"response_url": {"https://hooks.slack.com/commands/T0LOCAL/1/x"},
	}.Encode()
	r, err := http.NewRequestWithContext(s.t.Context(), "POST", s.url+commandRoute, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(storySecret))
	io.WriteString(mac, "v0:"+at+":"+body)
	r.Header.Set(timestampHeader, at)
	r.Header.Set(signatureHeader, "v0="+hex.EncodeToString(mac.Sum(nil)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	letter, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: status %d, %v: %s", text, answer.StatusCode, err, letter)
	}
	return string(letter)
}

var claimLink = regexp.MustCompile(`http://127\.0\.0\.1:\d+/slack/start/[A-Za-z0-9_-]{43}`)

// askedFor is the link that up answers with, for somebody whose key is known.
func (s *pageStory) askedFor() string {
	s.t.Helper()
	key, err := os.ReadFile(filepath.Join(s.dir, "key.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.command("key " + string(key))
	link := claimLink.FindString(s.command("up for 2h because index rebuild"))
	if link == "" {
		s.t.Fatal("up answers with no link")
	}
	return link
}

// pressInTab opens a link and presses its button: with the keyboard alone, from the top of
// the page, the first thing to reach is the button.
func pressInTab(t *testing.T, tab *browser.Tab, link string) {
	t.Helper()
	tab.Go(link)
	if got := tab.Text("#address"); got != "127.0.0.1" {
		t.Errorf("the page shows the address %q", got)
	}
	tab.Press("\t")
	tab.PressAndLoad("\r")
	if !strings.Contains(tab.Location(), "/slack/status/") {
		t.Fatalf("the button led to the page %q: %s", tab.Title(), tab.Text("main"))
	}
}

// The whole of it as a person does it: ask, open, press, watch, copy, connect.
func TestStoryInABrowser(t *testing.T) {
	s, b := newStory(t), browser.Start(t)
	tab := b.Open(t, browser.Look{Width: 1024, Height: 768})
	link := s.askedFor()
	pressInTab(t, tab, link)
	tab.LetCopy(s.url)
	if !strings.HasPrefix(tab.Title(), "Starting…") {
		t.Errorf("the title is %q", tab.Title())
	}
	// The page is this very one until it is ready: it is never loaded again.
	browser.Eval[bool](tab, "window.stays = true")
	tab.Await("#config")
	if !browser.Eval[bool](tab, "window.stays === true") {
		t.Error("the page was loaded again")
	}
	if got := tab.Title(); got != "Ready: bastion default" {
		t.Errorf("the title is %q", got)
	}
	browser.Eval[bool](tab, `window.heard = [], new MutationObserver(() => heard.push(copied.textContent)).observe(copied, { childList: true }) ?? true`)
	copied := map[string]string{}
	for _, what := range []string{"config", "connect", "console"} {
		browser.Eval[bool](tab, "(heard = []) && true")
		tab.Focus(`[data-copy="` + what + `"]`)
		tab.Press("\r")
		tab.AwaitTrue(`heard.includes("Copied")`) // by a screen reader
		copied[what] = tab.Pasted()
		if copied[what] == "" || copied[what] != browser.Eval[string](tab, `document.getElementById("`+what+`").textContent`) {
			t.Errorf("copied %s: %q", what, copied[what])
		}
	}
	s.connect(copied["config"], copied["connect"], copied["console"])
	if troubles := tab.Troubles(); len(troubles) > 0 {
		t.Errorf("the browser says: %s", strings.Join(troubles, "\n"))
	}
	tab.Go(link)
	if got := tab.Title(); got != linkInvalidPage.Title {
		t.Errorf("the used link: %q", got)
	}
	if token := lastOf(link); strings.Contains(s.log.String(), token[:20]) {
		t.Error("the log holds the token")
	}
}

// connect does what the page says, word for word.
func (s *pageStory) connect(config, connect, console string) {
	s.t.Helper()
	config += "  IdentityFile " + filepath.Join(s.dir, "key") + "\n"
	if err := os.WriteFile(filepath.Join(s.dir, "bastion-default.conf"), []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if got := s.run("sh", "-c", strings.Replace(connect, "TARGET", "private.internal", 1)+" hostname"); !strings.Contains(got, "private.internal") {
		s.t.Errorf("through the bastion: %q", got)
	}
	console = strings.Replace(console, "ssh ", "ssh -F none -i key ", 1)
	if got := s.run("sh", "-c", console+" status"); !strings.Contains(got, "127.0.0.1") {
		s.t.Errorf("the console: %q", got)
	}
}

// Without JavaScript the page loads itself again until it is ready; then it stays.
func TestStoryWithoutJavaScript(t *testing.T) {
	s, b := newStory(t), browser.Start(t)
	tab := b.Open(t, browser.Look{Width: 320, Height: 640, NoScript: true})
	pressInTab(t, tab, s.askedFor())
	tab.Await("#config")
	if text := tab.Text("main"); !strings.Contains(text, "Host bastion-default") || strings.Contains(text, "Copy the") {
		t.Errorf("the page without JavaScript:\n%s", text)
	}
	if pixels := tab.Overflow(); pixels > 0 {
		t.Errorf("the page is %d pixels wider than its screen", pixels)
	}
	if troubles := tab.Troubles(); len(troubles) > 0 {
		t.Errorf("the browser says: %s", strings.Join(troubles, "\n"))
	}
}
