package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The shells that people paste the command into. bash and sh must be installed.
func shells(t *testing.T) (found []string) {
	t.Helper()
	for _, shell := range []string{"bash", "sh", "dash", "zsh"} {
		if _, err := exec.LookPath(shell); err == nil {
			found = append(found, shell)
		}
	}
	if !slices.Contains(found, "bash") || !slices.Contains(found, "sh") {
		t.Fatalf("the shells are %q; want bash and sh among them", found)
	}
	return found
}

// curlArguments runs a command in a shell, and returns the arguments that curl would get.
func curlArguments(t *testing.T, shell, command string, environ ...string) []string {
	t.Helper()
	bin := t.TempDir()
	for name, script := range map[string]string{
		"curl": `for a; do printf '%s\n' "$a"; done`,
		"aws":  `:`, // credentials that the environment already has
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(shell, "-uc", command) // -u: a variable that is not set is an error
	cmd.Env = append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=/home/alice smith", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=a b*c",
	}, environ...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s -c %q: %v\n%s", shell, command, err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

func TestPrintedCommandWorksInEveryShell(t *testing.T) {
	signed := []string{"-sS", "--aws-sigv4", "aws:amz:eu-west-1:execute-api", "--user", "AKIDEXAMPLE:a b*c"}
	body := []string{"-H", "Prefer: wait=25", "-H", "Accept: text/plain", "--data-binary", "@/home/alice smith/.ssh/id_ed25519.pub", testURL}
	for _, shell := range shells(t) {
		for _, test := range []struct {
			name, environ string
			tokens        bool
			want          []string
		}{
			{"no session token", "OTHER=", false, slices.Concat(signed, body)},
			{"empty session token", "AWS_SESSION_TOKEN=", false, slices.Concat(signed, body)},
			{"session token", "AWS_SESSION_TOKEN=a/b+c= *", false, slices.Concat(signed, []string{"-Hx-amz-security-token: a/b+c= *"}, body)},
			{"bearer token", "BASTION_TOKEN=abc", true, slices.Concat([]string{"-sS", "-H", "Authorization: Bearer abc"}, body)},
		} {
			got := curlArguments(t, shell, firstCommand(testURL, "eu-west-1", test.tokens), test.environ)
			if !slices.Equal(got, test.want) {
				t.Errorf("%s, %s:\ngot  %q\nwant %q", shell, test.name, got, test.want)
			}
		}
	}
}

// README.md has the same arguments in an array, which bash and zsh have.
func TestReadmeSignsAsThePrintedCommand(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "signed=(" + signedCurl("eu-west-1") + ")\n"; !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not have %s", want)
	}
	for _, file := range []string{"README.md", "SLACK.md", "OPERATIONS.md", "SECURITY.md"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		rest := strings.ReplaceAll(string(text), signedCurl("eu-west-1"), "")
		if strings.Contains(rest, "x-amz-security-token:") || strings.Contains(rest, "--aws-sigv4") {
			t.Errorf("%s signs a request in another way than the printed command", file)
		}
	}
	array := "signed=(" + signedCurl("eu-west-1") + `); curl -sS "${signed[@]}" URL`
	for _, shell := range shells(t) {
		if shell != "bash" && shell != "zsh" {
			continue
		}
		for token, want := range map[string]string{"": "URL", "abc": "-Hx-amz-security-token: abc"} {
			got := curlArguments(t, shell, array, "AWS_SESSION_TOKEN="+token)
			if len(got) < 6 || got[5] != want {
				t.Errorf("%s, token %q: %q", shell, token, got)
			}
		}
	}
}
