package localmode

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// home returns a home directory with these files in .ssh.
func home(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if err := os.WriteFile(filepath.Join(dir, ".ssh", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// welcomed returns the welcome and the commands in it.
func welcomed(t *testing.T, url, home string) (text string, commands []string) {
	t.Helper()
	var out bytes.Buffer
	if err := welcome(&out, url, home); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if command, found := strings.CutPrefix(line, "    "); found {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return out.String(), commands
}

func TestWelcomeUsesAnExistingKey(t *testing.T) {
	const url = "http://127.0.0.1:8080"
	for want, files := range map[string][]string{
		"id_ed25519.pub":    {"id_rsa.pub", "id_ed25519.pub"},
		"id_ecdsa.pub":      {"id_rsa.pub", "id_ecdsa.pub", "id_ed25519"},
		"id_rsa.pub":        {"id_rsa.pub", "work.pub", "work"},
		"id_ed25519_sk.pub": {"id_ed25519_sk.pub"},
	} {
		text, commands := welcomed(t, url, home(t, files...))
		if !strings.HasPrefix(text, url+"\n") || len(commands) != 4 || !strings.Contains(commands[0], `@"$HOME/.ssh/`+want+`"`) {
			t.Errorf("with %v:\n%s", files, text)
		}
	}
	text, commands := welcomed(t, url, home(t, "work_key.pub", "work_key", "authorized_keys", "lone.pub"))
	if len(commands) != 5 || !strings.Contains(commands[0], `@"$HOME/.ssh/work_key.pub"`) ||
		commands[1] != "echo 'IdentityFile ~/.ssh/work_key' >> bastion-default.conf" {
		t.Errorf("with one key of another name:\n%s", text)
	}
	for _, files := range [][]string{{}, {"a.pub", "a", "b.pub", "b"}, {"it's.pub", "it's"}} {
		text, commands := welcomed(t, url, home(t, files...))
		if len(commands) != 5 || !strings.HasPrefix(commands[0], "ssh-keygen ") || !strings.Contains(commands[1], "/.ssh/id_ed25519.pub") {
			t.Errorf("with %v:\n%s", files, text)
		}
	}
}

// Every command of the welcome is run in every shell that is installed.
func TestWelcomeCommandsWorkWhenPasted(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	dir := home(t)
	if err := os.WriteFile(filepath.Join(dir, ".ssh", "id_ed25519.pub"), []byte(w.AddKey("ed25519")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, commands := welcomed(t, f.URL, dir)
	wants := []string{"", "demonstration host", `"state": "closed"`, "bastion "}
	if len(commands) != len(wants) {
		t.Fatalf("commands %q", commands)
	}
	order := []int{0, 1, 3, 2} // closing comes last
	for _, shell := range []string{"bash", "zsh", "fish"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			if shell == "bash" {
				t.Fatal("this test needs bash")
			}
			t.Logf("%s is not installed", shell)
			continue
		}
		for _, i := range order {
			c := w.Command(path, "-c", commands[i])
			c.Dir, c.Env = dir, append(c.Env, "HOME="+dir)
			stdout, stderr, err := w.Run("", c)
			if err != nil || !strings.Contains(stdout, wants[i]) {
				t.Errorf("%s: %s\n%v: %s%s\nwant %q", shell, commands[i], err, stdout, stderr, wants[i])
			}
		}
	}
	f.nothingLeft()
}

func TestTerminalLogIsShort(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newTerminalHandler(&out)).With("task", "0123", "bastion", "abc")
	log.Info("request", "method", "GET", "status", 200, "route", "/bastions")
	log.Info("request", "request_id", "X", "method", "POST", "status", 201, "route", "/bastions", "code", "")
	log.Info("refusal", "kind", "forward", "requested", "a\nb\x1b[2J", "key", "SHA256:x")
	log.Warn("reap failed", "error", "stop task", "attempt", 2)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{
		"request bastion=abc method=POST status=201 route=/bastions",
		"refusal bastion=abc requested=a?b?[2J",
		"WARN reap failed task=0123 bastion=abc error=stop task attempt=2",
	} {
		if i >= len(lines) || !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %d does not end in %q:\n%s", i, want, out.String())
		}
	}
	if want := 3; len(lines) != want {
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, out.String())
	}
}

func TestTerminalShowsDestinationOfForwards(t *testing.T) {
	var out logBuffer
	f := start(t, func(o *Options) { o.Log = slog.New(newTerminalHandler(&out)) })
	w := sshclient.New(t)
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	for to, want := range map[string]string{
		"private.internal:80":  " forward bastion=ID requested=private.internal:80 result=ok\n",
		"private.internal:443": " forward bastion=ID requested=private.internal:443 result=",
		"127.0.0.1:80":         " requested=127.0.0.1:80\n",
	} {
		if _, _, err := w.Run("GET / HTTP/1.0\r\n\r\n", w.SSH(config, "-W", to, "bastion-default")); (err == nil) != (to == "private.internal:80") {
			t.Errorf("forward to %s: %v", to, err)
		}
		want = strings.ReplaceAll(want, "ID", f.Cloud.Inventory().Records[0].ID)
		f.eventually("the log has "+want, func() bool { return out.count(want) == 1 })
	}
}

func TestTerminalShowsTextOfSlackMessages(t *testing.T) {
	var out bytes.Buffer
	transport := &loggingTransport{log: slog.New(newTerminalHandler(&out))}
	r := httptest.NewRequest(http.MethodPost, "https://slack.com/api/chat.postMessage", strings.NewReader(`{"text":"fallback","blocks":[
		{"type":"section","text":{"type":"mrkdwn","text":"*Ready*\nsecond \u001b[2J"}},
		{"type":"rich_text","elements":[{"type":"rich_text_section","elements":[{"type":"text","text":"Host "},{"type":"text","text":"b"}]}]}]}`))
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	want := " to Slack url=https://slack.com/api/chat.postMessage\n          *Ready*\n          second ?[2J\n          Host b\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("the terminal shows\n%s\nwant\n%s", out.String(), want)
	}
}
