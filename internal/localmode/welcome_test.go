package localmode

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// home is a home directory with these files in .ssh.
func home(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, ".ssh", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// toPaste are the commands among what is printed.
func toPaste(text string) []string {
	var commands []string
	for line := range strings.Lines(text) {
		if command, found := strings.CutPrefix(line, "    "); found {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return commands
}

func TestWelcomeNamesTheKeyThereIs(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"id_ed25519.pub": {"id_rsa.pub": "", "id_ed25519.pub": ""},
		"id_ecdsa.pub":   {"id_rsa.pub": "", "id_ecdsa.pub": "", "id_ed25519": ""},
		"id_rsa.pub":     {"id_rsa.pub": ""},
	} {
		var out bytes.Buffer
		if err := welcome(&out, "http://127.0.0.1:8080", home(t, files)); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if !strings.HasPrefix(text, "http://127.0.0.1:8080\n") || !strings.Contains(text, `@"$HOME/.ssh/`+want+`"`) || strings.Contains(text, "ssh-keygen") {
			t.Errorf("with %v:\n%s", files, text)
		}
	}
	var out bytes.Buffer
	if err := welcome(&out, "http://127.0.0.1:8080", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if commands := toPaste(out.String()); len(commands) != 5 || !strings.HasPrefix(commands[0], "ssh-keygen ") || !strings.Contains(commands[1], "/.ssh/id_ed25519.pub") {
		t.Errorf("without a key: %q", commands)
	}
}

// Every command that is printed does in a shell what it is printed for.
func TestWhatIsPrintedCanBePasted(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	at := home(t, map[string]string{"id_ed25519.pub": w.add("ed25519")})
	var out bytes.Buffer
	if err := welcome(&out, r.URL, at); err != nil {
		t.Fatal(err)
	}
	commands := toPaste(out.String())
	wants := []string{"", "demonstration host", `"state": "closed"`, "bastion "}
	if len(commands) != len(wants) {
		t.Fatalf("commands %q", commands)
	}
	commands[2], commands[3] = commands[3], commands[2] // closing comes last
	wants[2], wants[3] = wants[3], wants[2]
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal("this test needs bash, and there is none: install it")
	}
	for i, command := range commands {
		shell := w.ssh("") // for its environment and its want of a terminal
		shell.Path, shell.Args = bash, []string{"bash", "-c", command}
		shell.Dir, shell.Env = at, append(shell.Env, "HOME="+at)
		stdout, stderr, err := w.run("", shell)
		if err != nil || !strings.Contains(stdout, wants[i]) {
			t.Errorf("%s\n%v: %s%s\nwant %q", command, err, stdout, stderr, wants[i])
		}
	}
	r.nothingLeft()
}
