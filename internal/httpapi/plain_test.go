package httpapi_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// otherSystems change the response into what it is for other SSH clients. The first has
// an OpenSSH that knows no option of that name, as before 8.5; the second has no
// /usr/bin/env, as Termux and Windows.
var otherSystems = map[string]func(text string) string{
	"OpenSSH before 8.5": func(text string) string {
		return strings.ReplaceAll(text, "KnownHostsCommand", "KnownHostsCommandOfALaterRelease")
	},
	"no /usr/bin/env": func(text string) string {
		return strings.ReplaceAll(text, "/usr/bin/env", "/nonexistent/bin/env")
	},
}

// recipe returns the commands in the comments of a response that follow the line with
// the heading.
func recipe(t *testing.T, text, heading string) (commands []string) {
	t.Helper()
	_, after, found := strings.Cut(text, heading+":\n")
	for line := range strings.Lines(after) {
		command, ok := strings.CutPrefix(line, "#   ")
		if !ok {
			break
		}
		commands = append(commands, strings.TrimSuffix(command, "\n"))
	}
	if !found || len(commands) != 2 {
		t.Fatalf("%d commands after %q:\n%s", len(commands), heading, text)
	}
	return commands
}

// inShell runs the commands for a shell in the folder of the response.
func inShell(t *testing.T, folder, text string) {
	t.Helper()
	client := sshclient.New(t)
	for _, line := range recipe(t, text, "In a shell") {
		command := client.Command("sh", "-c", line)
		command.Dir = folder
		if stdout, stderr, err := client.Run("", command); err != nil || stdout+stderr != "" {
			t.Errorf("%s: %v\n%s%s", line, err, stdout, stderr)
		}
	}
}

// These are the forms of the two commands for PowerShell: keep the lines that match and
// remove the match; and replace what matches in all lines.
var (
	powerShellKeep    = regexp.MustCompile(`^\(Get-Content (\S+)\) -match '([^']+)' -replace '([^']+)' \| Set-Content -Encoding ascii (\S+)$`)
	powerShellReplace = regexp.MustCompile(`^\(Get-Content (\S+)\) -replace '([^']+)', '([^']+)' \| Set-Content -Encoding ascii (\S+)$`)
)

// likePowerShell does what the commands for PowerShell do, which does not run here: the
// operators -match and -replace work on each line, and Set-Content ends lines with CR LF.
func likePowerShell(t *testing.T, folder, text string) {
	t.Helper()
	for _, command := range recipe(t, text, "In Windows PowerShell") {
		kept, replaced := powerShellKeep.FindStringSubmatch(command), powerShellReplace.FindStringSubmatch(command)
		if kept == nil && replaced == nil {
			t.Fatalf("%s has another form than this test knows", command)
		}
		of := append(kept, replaced...)
		content, err := os.ReadFile(filepath.Join(folder, of[1]))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case replaced != nil:
				line = regexp.MustCompile(of[2]).ReplaceAllString(line, of[3])
			case regexp.MustCompile(of[2]).MatchString(line):
				line = regexp.MustCompile(of[3]).ReplaceAllString(line, "")
			default:
				continue
			}
			out.WriteString(line + "\r\n")
		}
		if err := os.WriteFile(filepath.Join(folder, of[4]), []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// plainCopy saves the response of a system in a folder and follows its instructions.
// follow is inShell or likePowerShell.
func plainCopy(t *testing.T, r *fixture, change func(string) string, follow func(t *testing.T, folder, text string)) (folder string) {
	t.Helper()
	folder = t.TempDir()
	text := change(r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String())
	text += "IdentityFile " + identity(t) + "\nBatchMode yes\n"
	if err := os.WriteFile(filepath.Join(folder, "bastion-default.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	follow(t, folder, text)
	return folder
}

// sshIn runs ssh in a folder and returns all its output.
func sshIn(t *testing.T, folder string, args ...string) (output string, err error) {
	t.Helper()
	client := sshclient.New(t)
	command := client.Command("ssh", args...)
	command.Dir = folder
	stdout, stderr, err := client.Run("", command)
	return stderr + stdout, err
}

// A client that cannot use KnownHostsCommand does not get in with the response, and does
// with the instructions in its comments: to the bastion, through it, and without a word
// on standard error.
func TestInstructionsForOtherSSHClients(t *testing.T) {
	for system, change := range otherSystems {
		for how, follow := range map[string]func(*testing.T, string, string){"shell": inShell, "PowerShell": likePowerShell} {
			t.Run(system+", "+how, func(t *testing.T) {
				r := local(t)
				r.rec.Intent.Reason = "known_hosts: * " + string(keyOf(9)) // a comment, too
				folder := plainCopy(t, r, change, follow)
				if out, err := sshIn(t, folder, "-F", "bastion-default.conf", "bastion-default", "true"); err == nil {
					t.Errorf("without the instructions: %s", out)
				}
				if out, err := sshIn(t, folder, "-F", "bastion-default.plain.conf", "bastion-default", "true"); err != nil || out != "the bastion answers\n" {
					t.Errorf("the bastion: %v\n%s", err, out)
				}
				if out, err := sshIn(t, folder, "-F", "bastion-default.plain.conf", "-J", "bastion-default", "private.internal", "true"); err != nil || out != "the private host answers\n" {
					t.Errorf("the private host: %v\n%s", err, out)
				}
			})
		}
	}
}

// With the instructions, too, a client accepts only the host keys of the response.
func TestInstructionsKeepHostKeyCheckingStrict(t *testing.T) {
	for name, lie := range map[string]func(*fixture){
		"the bastion": func(r *fixture) { r.rec.Attempt.HostKey, r.rec.Attempt.MoreHostKeys = keyOf(9), []bastion.Key{rsaHost} },
		"the target": func(r *fixture) {
			r.options.Targets = []httpapi.Target{{Name: privateHost.Name, User: privateHost.User, HostKey: keyOf(9)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := local(t)
			lie(r)
			folder := plainCopy(t, r, otherSystems["OpenSSH before 8.5"], inShell)
			out, err := sshIn(t, folder, "-F", "bastion-default.plain.conf", "-J", "bastion-default", "private.internal", "true")
			if err == nil || !strings.Contains(out, "Host key verification failed") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// libssh cuts a line of an ssh_config file at 1,024 bytes (src/config.c: MAX_LINE_SIZE).
// The longest names are 32 characters for a bastion and 63 for a label of a target.
func TestLinesAreShortEnoughForLibssh(t *testing.T) {
	r := newFixture()
	r.rec = ready()
	r.rec.Name = strings.Repeat("n", 32)
	r.options.Targets = []httpapi.Target{{Name: strings.Repeat("t", 63) + ".internal", User: "ec2-user", HostKey: keyOf(4)}}
	text := r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String()
	for line := range strings.Lines(text) {
		if len(line) >= 1024 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
	file := filepath.Join(t.TempDir(), "bastion.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"bastion-" + r.rec.Name, r.options.Targets[0].Name} {
		out, err := runSSH(t, "-G", "-F", file, host)
		if err != nil || !strings.Contains(out, "userknownhostsfile /dev/null\n") {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
}
