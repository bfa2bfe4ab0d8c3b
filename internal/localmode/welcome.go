package localmode

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// keyFiles are the public keys that a stock ssh client offers by itself, the
// ones we would choose first.
var keyFiles = []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"}

// welcome prints the URL, alone on the first line for scripts, and then the
// commands that a newcomer pastes into another terminal.
func welcome(w io.Writer, url, home string) error {
	key, found := publicKeyFile(home)
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n", url)
	if !found {
		fmt.Fprintf(&text, "Make a key pair first, for there is none in %s:\n\n    ssh-keygen -t ed25519 -f \"$HOME/.ssh/id_ed25519\"\n\n", filepath.Join(home, ".ssh"))
	}
	fmt.Fprintf(&text, `Request a bastion, connect to a private host through it, and close it again:

    curl -sS --fail-with-body -H 'Prefer: wait=25' -H 'Accept: text/plain' --data-binary @"$HOME/.ssh/%[2]s" -o bastion-default.conf %[1]s/bastions || cat bastion-default.conf
    ssh -F bastion-default.conf -J bastion-default %[3]s
    curl -sS -X DELETE -H 'Prefer: wait=25' %[1]s/bastions

The same host over HTTP:

    printf 'GET / HTTP/1.0\r\n\r\n' | ssh -F bastion-default.conf -W %[3]s:80 bastion-default

Everything is gone again when you press Ctrl-C here.
`, url, key, privateName)
	_, err := io.WriteString(w, text.String())
	return err
}

// publicKeyFile finds the key that ssh will use. Without one it is the one that
// ssh-keygen will make.
func publicKeyFile(home string) (name string, found bool) {
	for _, name := range keyFiles {
		if info, err := os.Stat(filepath.Join(home, ".ssh", name)); err == nil && info.Mode().IsRegular() {
			return name, true
		}
	}
	return keyFiles[0], false
}
