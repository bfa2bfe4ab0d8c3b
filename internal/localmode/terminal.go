package localmode

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// defaultKeys are the files of the public keys that ssh offers by default. The welcome
// uses the first of them that exists.
var defaultKeys = []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub", "id_ed25519_sk.pub", "id_ecdsa_sk.pub"}

// welcome prints the URL alone on the first line, for scripts, and then commands
// to paste. They work in bash, zsh and fish.
func welcome(w io.Writer, url, home string) error {
	folder := filepath.Join(home, ".ssh")
	key, isDefault, found := publicKeyFile(folder)
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n", url)
	if !found {
		fmt.Fprintf(&text, "No default key (id_ed25519, id_ecdsa, id_rsa) found in %s. Create one:\n\n"+
			"    ssh-keygen -t ed25519 -f \"$HOME/.ssh/id_ed25519\"\n\n"+
			"To use a key with another name, name its .pub file in the curl command below, and\n"+
			"append a line to bastion-default.conf: IdentityFile ~/.ssh/YOUR-KEY\n\n", folder)
	}
	identity := ""
	if found && !isDefault {
		// At the end of the file, the line belongs to the last Host block, which names
		// all hosts of the file. ssh -i would not apply to the connection that -J makes.
		identity = fmt.Sprintf("    echo 'IdentityFile ~/.ssh/%s' >> bastion-default.conf\n", strings.TrimSuffix(key, ".pub"))
	}
	fmt.Fprintf(&text, `Start a bastion, connect to a private host through it, and close it again.
Paste these commands into another terminal:

    curl -sS --fail-with-body -H 'Prefer: wait=25' -H 'Accept: text/plain' --data-binary @"$HOME/.ssh/%[2]s" -o bastion-default.conf %[1]s/bastions || cat bastion-default.conf
%[4]s    ssh -F bastion-default.conf -J bastion-default %[3]s
    curl -sS -X DELETE -H 'Prefer: wait=25' %[1]s/bastions

The same host over HTTP, while the bastion is open:

    printf 'GET / HTTP/1.0\r\n\r\n' | ssh -F bastion-default.conf -W %[3]s:80 bastion-default

If your key has a passphrase, run ssh-add first, or ssh asks for it twice.
Press Ctrl-C to stop; everything is cleaned up.

`, url, key, privateName, identity)
	_, err := io.WriteString(w, text.String())
	return err
}

// publicKeyFile returns the name of the public key to use: the first default key,
// or else the only other one. If there is neither, it returns the name that
// ssh-keygen gives a new key.
func publicKeyFile(folder string) (name string, isDefault, found bool) {
	for _, name := range defaultKeys {
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.Mode().IsRegular() {
			return name, true, true
		}
	}
	others, _ := filepath.Glob(filepath.Join(folder, "*.pub"))
	others = slices.DeleteFunc(others, func(file string) bool {
		_, err := os.Stat(strings.TrimSuffix(file, ".pub"))
		return err != nil || !plainName(filepath.Base(file)) || strings.HasSuffix(file, "-cert.pub")
	})
	if len(others) == 1 {
		return filepath.Base(others[0]), false, true
	}
	return defaultKeys[0], true, false
}

// plainName reports whether a file name needs no quoting in any shell.
func plainName(name string) bool {
	return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// terminalHandler writes one short line for each record, and below it the text of a
// message to Slack. It is for terminals only; otherwise logHandler writes the records
// with all attributes, as JSON.
type terminalHandler struct {
	mu    *sync.Mutex // one for all copies of the handler
	w     io.Writer
	attrs []slog.Attr
}

func newTerminalHandler(w io.Writer) *terminalHandler {
	return &terminalHandler{mu: &sync.Mutex{}, w: w}
}

// shown are the attributes that a line of level Info has. A line of level Warn or Error
// has all attributes.
var shown = map[string]bool{
	"bastion": true, "name": true, "state": true, "stage": true, "end": true, "deadline": true,
	"method": true, "route": true, "status": true, "code": true,
	"requested": true, "reason": true, "result": true, "error": true, "url": true,
}

// Enabled implements slog.Handler.
func (h *terminalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// WithAttrs implements slog.Handler.
func (h *terminalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &terminalHandler{mu: h.mu, w: h.w, attrs: append(slices.Clip(h.attrs), attrs...)}
}

// WithGroup implements slog.Handler. No logger of this module uses groups.
func (h *terminalHandler) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h *terminalHandler) Handle(_ context.Context, record slog.Record) error {
	attrs := slices.Clone(h.attrs)
	record.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	if record.Level == slog.LevelInfo && readOnly(attrs) {
		return nil // web pages and scripts poll with GET; their lines would hide the others
	}
	var line, texts strings.Builder
	fmt.Fprintf(&line, "%s ", record.Time.Format("15:04:05"))
	if record.Level != slog.LevelInfo {
		fmt.Fprintf(&line, "%s ", record.Level)
	}
	line.WriteString(record.Message)
	for _, a := range attrs {
		value := a.Value.Resolve()
		text := value.String()
		if a.Key == slackMessage {
			for line := range strings.Lines(text) {
				fmt.Fprintf(&texts, "          %s\n", printable(strings.TrimSuffix(line, "\n")))
			}
			continue
		}
		if value.Kind() == slog.KindTime {
			text = value.Time().Format("15:04:05")
		}
		if text != "" && (shown[a.Key] || record.Level > slog.LevelInfo) {
			fmt.Fprintf(&line, " %s=%s", a.Key, printable(text))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintf(h.w, "%s\n%s", line.String(), texts.String())
	return err
}

// readOnly reports whether the attributes are those of a GET that succeeded.
func readOnly(attrs []slog.Attr) bool {
	var get, succeeded bool
	for _, a := range attrs {
		switch a.Key {
		case "method":
			get = a.Value.String() == "GET" || a.Value.String() == "HEAD"
		case "status":
			succeeded = len(a.Value.String()) == 3 && a.Value.String() < "400"
		}
	}
	return get && succeeded
}

// printable replaces control characters, so that text from a client cannot drive
// the terminal that shows it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}
