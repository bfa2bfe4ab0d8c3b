package localmode

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// readmeExamples returns the examples of README in a language, in order.
func readmeExamples(t *testing.T, language string) (examples []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range strings.Split(string(text), "\n```"+language+"\n")[1:] {
		example, _, _ := strings.Cut(after, "\n```")
		examples = append(examples, example+"\n")
	}
	if len(examples) == 0 {
		t.Fatalf("README has no example in %s", language)
	}
	return examples
}

// reader is a person who has followed README in a folder, up to its examples.
type reader struct {
	t      *testing.T
	folder string // the home folder, in which the responses are saved, too
	id     string // of the bastion
}

// newReader requests a bastion and saves both forms of the response. With lie, the bastion
// has other host keys than the response says.
func newReader(t *testing.T, f *fixture, lie bool) *reader {
	t.Helper()
	r := &reader{t: t, folder: t.TempDir()}
	private, err := sshclient.NewKey("ed25519")
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	r.write(".ssh/id_ed25519", string(pem.EncodeToMemory(block)))
	b := f.create(request{body: string(ssh.MarshalAuthorizedKey(signer.PublicKey()))})
	r.id = b.ID
	text := f.do(request{method: "GET", path: "/bastions/" + b.ID, header: map[string]string{"Accept": "text/plain"}}).text
	document := f.get(b.ID).text
	if lie {
		for _, key := range b.HostKeys {
			text = strings.ReplaceAll(text, key, otherHostKeys()[strings.Fields(key)[0]])
			document = strings.ReplaceAll(document, key, otherHostKeys()[strings.Fields(key)[0]])
		}
	}
	r.write("bastion-default.conf", text)
	r.write("bastion.json", document)
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "#   sed "); ok {
			if out, err := r.run("sh", "-c", "sed "+command); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
	}
	return r
}

// otherHostKeys returns host keys that no bastion has, by their type.
var otherHostKeys = sync.OnceValue(func() map[string]string {
	keys := map[string]string{}
	for _, kind := range []string{"ed25519", "rsa"} {
		private, err := sshclient.NewKey(kind)
		if err != nil {
			panic(err)
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			panic(err)
		}
		keys[signer.PublicKey().Type()] = string(publickey.Of(signer.PublicKey()))
	}
	return keys
})

func (r *reader) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// run runs a program in the folder and returns all its output.
func (r *reader) run(program string, args ...string) (string, error) {
	r.t.Helper()
	command := exec.CommandContext(r.t.Context(), program, args...)
	command.Dir, command.Env = r.folder, []string{"HOME=" + r.folder, "PATH=" + os.Getenv("PATH")}
	out, err := command.CombinedOutput()
	return string(out), err
}

// wantAccess runs a program twice: with the response it must print the private host's
// page, and with a response that has other host keys it must fail because of them.
func wantAccess(t *testing.T, refusal string, run func(r *reader) (string, error)) {
	t.Helper()
	f := start(t, nil)
	r := newReader(t, f, false)
	out, err := run(r)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wantPage(t, out, r.id)
	if out, err = run(newReader(t, f, true)); err == nil || !strings.Contains(out, refusal) {
		t.Errorf("with other host keys: %v, want %q\n%s", err, refusal, out)
	}
}

const goProgram = `package main

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/crypto/ssh"
)

func main() {
	response, err := os.ReadFile("bastion.json")
	if err != nil {
		log.Fatal(err)
	}
	private, err := os.ReadFile(".ssh/id_ed25519")
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		log.Fatal(err)
	}
	if err := fetch(response, signer); err != nil {
		log.Fatal(err)
	}
}

func fetch(response []byte, signer ssh.Signer) error {
	EXAMPLE
	if err != nil {
		return err
	}
	defer page.Body.Close()
	_, err = io.Copy(os.Stdout, page.Body)
	return err
}
`

func TestReadmeExampleInGo(t *testing.T) {
	examples := readmeExamples(t, "go")
	folder := t.TempDir()
	source, program := filepath.Join(folder, "main.go"), filepath.Join(folder, "example")
	if err := os.WriteFile(source, []byte(strings.Replace(goProgram, "EXAMPLE", examples[0], 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput(); err != nil || len(examples) != 1 {
		t.Fatalf("%d examples, %v\n%s", len(examples), err, out)
	}
	wantAccess(t, "host key mismatch", func(r *reader) (string, error) { return r.run(program) })
}
