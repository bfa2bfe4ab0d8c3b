package httpapi_test

import (
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// stockSSH runs the installed OpenSSH client, which must not ask anything.
func stockSSH(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	return run(t, exec.CommandContext(t.Context(), "ssh", args...))
}

func run(t *testing.T, cmd *exec.Cmd) (output string, err error) {
	t.Helper()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no agent
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The golden files are what ssh reads.
func TestSSHReadsTheGoldenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		out, err := stockSSH(t, "-G", "-F", file, "bastion-default")
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

func TestSSHUnderstandsTheConfiguration(t *testing.T) {
	for file, hosts := range map[string]map[string]string{
		"ready.conf":             {"bastion-default": "198.51.100.24:2222 bastion [198.51.100.24]:2222 " + string(hostKey)},
		"ready-ipv6.conf":        {"bastion-default": "2001:db8:1::24:2222 bastion [2001:db8:1::24]:2222 " + string(hostKey)},
		"ready-port-22.conf":     {"bastion-db": "198.51.100.25:22 bastion 198.51.100.25 " + string(hostKey)},
		"ready-with-target.conf": {"private.internal": "private.internal:22 demo private.internal " + string(privateHost.HostKey)},
		"list.conf": {
			"bastion-default": "198.51.100.24:2222 bastion [198.51.100.24]:2222 " + string(hostKey),
			"bastion-db":      "198.51.100.25:22 bastion 198.51.100.25 " + string(hostKey),
		},
	} {
		for host, want := range hosts {
			out, err := stockSSH(t, "-G", "-F", filepath.Join("testdata", file), host)
			if err != nil {
				t.Fatalf("%s: %v\n%s", file, err, out)
			}
			is := map[string]string{}
			for line := range strings.Lines(out) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				is[name] = value
			}
			got := is["hostname"] + ":" + is["port"] + " " + is["user"] + " " + strings.TrimPrefix(is["knownhostscommand"], "/bin/echo ")
			if got != want {
				t.Errorf("%s, %s: %s\nwant %s", file, host, got, want)
			}
			if is["userknownhostsfile"] != "/dev/null" || is["globalknownhostsfile"] != "/dev/null" || is["stricthostkeychecking"] != "true" {
				t.Errorf("%s, %s: files %s and %s, strict %s", file, host, is["userknownhostsfile"], is["globalknownhostsfile"], is["stricthostkeychecking"])
			}
		}
	}
}

// local is the API in front of a real SSH server on loopback.
func local(t *testing.T) *rig {
	t.Helper()
	r := newRig()
	r.options.Targets = []httpapi.Target{privateHost}
	source := netip.MustParsePrefix("127.0.0.1/32")
	r.rec = ready()
	r.rec.Intent.Source, r.rec.Group.Ingress = source, source
	r.rec.Attempt.Endpoints = []netip.AddrPort{newBastion(t)}
	return r
}

// identity writes the private half of userKey into a file.
func identity(t *testing.T) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(privateKeyOf(1), "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id_ed25519")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// saved is the text answer as a person saves it, with lines appended.
func saved(t *testing.T, r *rig, appended string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bastion-default.conf")
	text := r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String()
	if err := os.WriteFile(path, []byte(text+appended), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The answer as it stands, with a line for the key appended, takes a stock client
// through the bastion to the private host with nobody there to say yes.
func TestSSHThroughTheBastion(t *testing.T) {
	r := local(t)
	file := saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n")
	for target, want := range map[string]string{
		"private.internal": "the private host answers\n",
		"bastion-default":  "the bastion answers\n",
	} {
		args := []string{"-F", file}
		if target == "private.internal" {
			args = append(args, "-J", "bastion-default")
		}
		out, err := stockSSH(t, append(args, target, "true")...)
		if err != nil || out != want {
			t.Errorf("%s: %v\n%s", target, err, out)
		}
	}
}

// The field ssh is one command for a shell, with all it needs but the key.
func TestTheConsoleCommand(t *testing.T) {
	r := local(t)
	command, _ := get(t, r)["ssh"].(string)
	given := "ssh -F none -o BatchMode=yes -i " + identity(t) + " "
	out, err := run(t, exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(command, "ssh ", given, 1)))
	if err != nil || !strings.HasSuffix(out, "the bastion answers\n") {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
}

// A server that has another host key than the answer says is not spoken to,
// whether it is the bastion or what is behind it.
func TestSSHRefusesAnotherHostKey(t *testing.T) {
	for name, lie := range map[string]func(*rig){
		"the bastion": func(r *rig) { r.rec.Attempt.HostKey = keyOf(9) },
		"the target": func(r *rig) {
			r.options.Targets = []httpapi.Target{{Name: privateHost.Name, User: privateHost.User, HostKey: keyOf(9)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := local(t)
			lie(r)
			file := saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n")
			out, err := stockSSH(t, "-F", file, "-J", "bastion-default", "private.internal", "true")
			if err == nil || !strings.Contains(out, "Host key verification failed") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
