//go:build conformance

package slack

import (
	"bufio"
	"context"
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

const localSecret = "8f742231b10e8888abcd99yyyzzz85a5"

// localRun is a running `bastion local`, and a person in its Slack.
type localRun struct {
	t      testing.TB
	dir    string
	url    string
	client *http.Client
	log    pageLog
}

// startLocalMode builds and starts local mode. Each launch takes four seconds, so that the
// test can watch its stages.
func startLocalMode(t *testing.T) *localRun {
	l := &localRun{t: t, dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	l.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key")
	program := filepath.Join(l.dir, "bastion")
	l.run("go", "build", "-o", program, "github.com/bastion-on-demand/bastion/cmd/bastion")
	local := exec.Command(program, "local", "--listen", "127.0.0.1:0", "--launch-delay", "4s", "--slack-signing-secret", localSecret)
	local.Stderr = &l.log
	out, err := local.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := local.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = local.Process.Signal(os.Interrupt)
		_ = local.Wait() // returns an error, because the interrupt ends the program
		if t.Failed() {
			t.Logf("log of local mode:\n%s", &l.log)
		}
	})
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("local mode printed no URL: %v", err)
	}
	l.url = strings.TrimSpace(first)
	return l
}

// run runs a program in a folder of the test's own and returns its output.
func (l *localRun) run(name string, args ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	if name != "go" {
		command.Dir = l.dir
	}
	out, err := command.CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// do sends a request and returns the body of its response, which must be 200.
func (l *localRun) do(r *http.Request) string {
	l.t.Helper()
	response, err := l.client.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		l.t.Fatalf("%s %s: status %d, %v: %s", r.Method, r.URL.Path, response.StatusCode, err, body)
	}
	return string(body)
}

// command runs a slash command and returns the reply.
func (l *localRun) command(text string) string {
	l.t.Helper()
	body := url.Values{
		"team_id": {"T0LOCAL"}, "team_domain": {"local"}, "user_id": {"U0CD"}, "user_name": {"carol"},
		"channel_id": {"C0EF"}, "command": {"/bastion"}, "text": {text},
		"response_url": {"https://hooks.slack.com/commands/T0LOCAL/1/x"},
	}.Encode()
	r, err := http.NewRequestWithContext(l.t.Context(), "POST", l.url+commandRoute, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set(timestampHeader, at)
	r.Header.Set(signatureHeader, signatureOf(localSecret, at, []byte(body)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return l.do(r)
}

var startLinkPattern = regexp.MustCompile(`http://127\.0\.0\.1:\d+/slack/start/[A-Za-z0-9_-]{43}`)

// requestLink registers the key and returns a start link.
func (l *localRun) requestLink() string {
	l.t.Helper()
	key, err := os.ReadFile(filepath.Join(l.dir, "key.pub"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.command("key " + string(key))
	link := startLinkPattern.FindString(l.command("up for 2h because index rebuild"))
	if link == "" {
		l.t.Fatal("the reply to up has no link")
	}
	return link
}

// pressInTab opens a link and presses its button with the keyboard alone: the button
// is the first element that Tab reaches.
func pressInTab(t *testing.T, tab *browser.Tab, link string) {
	t.Helper()
	tab.Go(link)
	if got := tab.Text("#address"); got != "127.0.0.1" {
		t.Errorf("the page shows the address %q", got)
	}
	tab.Press("\t")
	tab.PressAndLoad("\r")
	if !strings.Contains(tab.Location(), statusPath) {
		t.Fatalf("the button led to the page %q: %s", tab.Title(), tab.Text("main"))
	}
}

// TestStartAndConnectInBrowser does what a person does: request, open, press, watch,
// copy, connect.
func TestStartAndConnectInBrowser(t *testing.T) {
	l, b := startLocalMode(t), browser.Start(t)
	tab := b.Open(t, browser.Look{Width: 1024, Height: 768})
	link := l.requestLink()
	pressInTab(t, tab, link)
	tab.AllowClipboard(l.url)
	if !strings.HasPrefix(tab.Title(), "Starting…") {
		t.Errorf("the title is %q", tab.Title())
	}
	// The page updates itself without being loaded again.
	browser.Eval[bool](tab, "window.sameDocument = true")
	tab.Await("#save")
	if !browser.Eval[bool](tab, "window.sameDocument === true") {
		t.Error("the page was loaded again")
	}
	if got := tab.Title(); got != "Ready: bastion default" {
		t.Errorf("the title is %q", got)
	}
	if got := tab.Text("#status"); got != "Ready. You can connect now." {
		t.Errorf("the live region says %q", got)
	}
	tab.Focus("summary")
	tab.Press("\r") // shows the console's command
	browser.Eval[bool](tab, `window.announced = [], new MutationObserver(() => announced.push(copied.textContent)).observe(copied, { childList: true }) ?? true`)
	commands := map[string]string{}
	for _, id := range []string{"save", "connect", "console"} {
		button := `[data-copy="` + id + `"]`
		width := browser.Eval[float64](tab, `document.querySelector('`+button+`').offsetWidth`)
		browser.Eval[bool](tab, "(announced = []) && true")
		tab.Focus(button)
		tab.Press("\r")
		tab.AwaitTrue(`announced.includes("Copied")`) // to screen readers
		if got := browser.Eval[float64](tab, `document.querySelector('`+button+`').offsetWidth`); got < width {
			t.Errorf("the button for %s shrank from %.0f to %.0f pixels", id, width, got)
		}
		commands[id] = tab.Paste()
		if commands[id] == "" || commands[id] != browser.Eval[string](tab, `document.getElementById("`+id+`").textContent`) {
			t.Errorf("copied %s: %q", id, commands[id])
		}
	}
	location := tab.Location()
	r, err := http.NewRequestWithContext(t.Context(), "GET", location+"?download", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.connect(commands, l.do(r))
	if problems := tab.Problems(); len(problems) > 0 {
		t.Errorf("the browser reports: %s", strings.Join(problems, "\n"))
	}
	if tab.Go(link); tab.Location() != location {
		t.Errorf("the used link leads to %q", tab.Title())
	}
	other := b.Open(t, browser.Look{Width: 1024, Height: 768})
	if other.Go(link); other.Title() != linkInvalidPage.Title {
		t.Errorf("the used link in another browser leads to %q", other.Title())
	}
	if token := lastOf(link); strings.Contains(l.log.String(), token[:20]) {
		t.Error("the log contains the token")
	}
}

// connect runs the commands of the page, word for word.
func (l *localRun) connect(commands map[string]string, download string) {
	l.t.Helper()
	l.run("sh", "-c", commands["save"])
	file := filepath.Join(l.dir, "bastion-default.conf")
	saved, err := os.ReadFile(file)
	if err != nil || string(saved) != download {
		l.t.Errorf("the command wrote %q, %v, and the download is %q", saved, err, download)
	}
	config := download + "  IdentityFile " + filepath.Join(l.dir, "key") + "\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if got := l.run("sh", "-c", commands["connect"]+" hostname"); !strings.Contains(got, "private.internal") {
		l.t.Errorf("through the bastion: %q", got)
	}
	console := strings.Replace(commands["console"], "ssh ", "ssh -F none -i key ", 1)
	if got := l.run("sh", "-c", console+" status"); !strings.Contains(got, "127.0.0.1") {
		l.t.Errorf("the console: %q", got)
	}
}

// Without JavaScript the page loads itself again until the bastion is ready.
func TestStartWithoutJavaScriptInBrowser(t *testing.T) {
	l, b := startLocalMode(t), browser.Start(t)
	tab := b.Open(t, browser.Look{Width: 320, Height: 640, NoScript: true})
	pressInTab(t, tab, l.requestLink())
	tab.Await("#save")
	if text := tab.Text("main"); !strings.Contains(text, "Host bastion-default") || !strings.Contains(text, "Download") || strings.Contains(text, "Copy the") {
		t.Errorf("the page without JavaScript:\n%s", text)
	}
	if pixels := tab.Overflow(); pixels > 0 {
		t.Errorf("the page is %d pixels wider than its screen", pixels)
	}
	if problems := tab.Problems(); len(problems) > 0 {
		t.Errorf("the browser reports: %s", strings.Join(problems, "\n"))
	}
}
