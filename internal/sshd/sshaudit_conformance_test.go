//go:build conformance

package sshd

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sshAudit is installed by scripts/emulators.
const sshAudit = "../../.tools/ssh-audit-3.9.0/bin/ssh-audit"

// ssh-audit finds no failure, and only warnings that SECURITY.md explains. Its full output
// is in the log of the test.
//
// Its test of the connection rate is skipped, because the result depends on how busy the
// machine is.
func TestSSHAudit(t *testing.T) {
	document, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	const (
		quantum    = "does not provide protection against post-quantum attacks"
		bits       = "2048-bit modulus only provides 112-bits of symmetric strength"
		encryptMAC = "using encrypt-and-MAC mode"
	)
	strictWarnings := []string{
		"curve25519-sha256: " + quantum,
		"curve25519-sha256@libssh.org: " + quantum,
	}
	for set, want := range map[Algorithms][]string{
		Strict: strictWarnings,
		Compatible: append(slices.Clone(strictWarnings),
			"diffie-hellman-group14-sha256: "+bits,
			"diffie-hellman-group14-sha256: "+quantum,
			"hmac-sha2-256: "+encryptMAC,
			"hmac-sha2-512: "+encryptMAC),
	} {
		t.Run(string(set), func(t *testing.T) {
			r := start(t, func(r *fixture) { r.cfg.Algorithms = set })
			if set == Compatible {
				r.bothHostKeys()
			}
			out := runSSHAudit(t, r.address)
			t.Logf("ssh-audit:\n%s", out)
			warnings, failures := findings(out)
			if len(failures) > 0 {
				t.Errorf("failures: %q", failures)
			}
			if !slices.Equal(warnings, want) {
				t.Errorf("the warnings are\n%q\nwant\n%q", warnings, want)
			}
			for _, warning := range warnings {
				if _, text, _ := strings.Cut(warning, ": "); !strings.Contains(string(document), "| "+text+" |") {
					t.Errorf("SECURITY.md does not explain %q", warning)
				}
			}
		})
	}
}

// runSSHAudit returns what ssh-audit prints about the server at an address.
func runSSHAudit(t *testing.T, address string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, sshAudit, "--no-colors", "--skip-rate-test", "--timeout=60", "--port="+port, host).CombinedOutput()
	// The exit status is 0, or 2 if there are warnings and 3 if there are failures.
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2 && exit.ExitCode() != 3) {
		t.Fatalf("ssh-audit: %v\n%s", err, out)
	}
	for _, section := range []string{"# key exchange algorithms", "# host-key algorithms", "# encryption algorithms", "# message authentication code algorithms"} {
		if !strings.Contains(string(out), section) {
			t.Fatalf("%q is missing in the output of ssh-audit:\n%s", section, out)
		}
	}
	return string(out)
}

// The first line about an algorithm has its name; further ones have only a mark.
var (
	algorithmLine = regexp.MustCompile(`^\([a-z]{3}\) (\S+) .*-- \[(info|warn|fail)\] (.*)$`)
	furtherLine   = regexp.MustCompile("^ +`- \\[(info|warn|fail)\\] (.*)$")
)

// findings returns the warnings and failures of ssh-audit, each as "ALGORITHM: TEXT".
func findings(out string) (warnings, failures []string) {
	name := ""
	for _, line := range strings.Split(out, "\n") {
		level, text := "", ""
		if found := algorithmLine.FindStringSubmatch(line); found != nil {
			name, level, text = found[1], found[2], found[3]
		} else if found := furtherLine.FindStringSubmatch(line); found != nil {
			level, text = found[1], found[2]
		}
		switch {
		case level == "warn":
			warnings = append(warnings, name+": "+text)
		case level == "fail" || level == "" && strings.Contains(line, "[fail]"):
			failures = append(failures, name+": "+strings.TrimSpace(line))
		}
	}
	return warnings, failures
}
