package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

// runMain is the environment variable that makes the test binary run the command.
const runMain = "RUN_BASTION_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		os.Exit(0)
	}
	leakcheck.Main(m)
}

// command returns the command as a process with an empty home directory.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(binary, args...)
	c.Env = append(os.Environ(), runMain+"=1", "HOME="+t.TempDir())
	return c
}

func TestExitCodesAndOutput(t *testing.T) {
	for _, test := range []struct {
		args   string
		code   int
		stdout string
		stderr []string
	}{
		{"version", 0, "bastion devel go", nil},
		{"local --help", 0, "Owners are names, not identities", nil},
		{"local --listen 0.0.0.0:1", 2, "", []string{"--listen 0.0.0.0:1: local mode listens on loopback only"}},
		{"local --idle -1s --reap-every 0 --allow x", 2, "", []string{"--idle", "--reap-every", "--allow: \"x\""}},
		{"local --launch-delay soon", 2, "", []string{"invalid argument"}},
		{"local extra", 2, "", []string{"unknown command"}},
		{"locale", 2, "", []string{"unknown command"}},
		{"slack manifest --url https://host.example/bastions", 0, "url: https://host.example/slack/command", nil},
		{"slack manifest --url http://host.example", 2, "", []string{`"http://host.example" is not the URL of a service`, "output Url"}},
		{"slack manifest", 2, "", []string{`required flag(s) "url" not set`}},
		{"local --lisen x", 2, "", []string{"unknown flag"}},
	} {
		c := command(t, strings.Fields(test.args)...)
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		err := c.Run()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if code := c.ProcessState.ExitCode(); code != test.code {
			t.Errorf("bastion %s: exit code %d, want %d\n%s", test.args, code, test.code, stderr.String())
		}
		if !strings.Contains(stdout.String(), test.stdout) || test.stdout == "" && stdout.Len() > 0 {
			t.Errorf("bastion %s printed %q, want %q", test.args, stdout.String(), test.stdout)
		}
		for _, want := range test.stderr {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("bastion %s: %q is not in %q", test.args, want, stderr.String())
			}
		}
	}
}

func TestLocalModeStartsAndStopsOnSignal(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		c := command(t, "local", "--listen", "127.0.0.1:0")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		stdout, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		giveUp := time.AfterFunc(5*time.Minute, func() { _ = c.Process.Kill() })
		defer giveUp.Stop()
		lines := bufio.NewReader(stdout)
		first, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no URL: %v\n%s", err, stderr.String())
		}
		url := strings.TrimSuffix(first, "\n")
		if !regexp.MustCompile(`^http://127\.0\.0\.1:[0-9]+$`).MatchString(url) {
			t.Errorf("first line %q", first)
		}
		checkAPI(t, url)
		checkPortInUse(t, strings.TrimPrefix(url, "http://"))

		if err := c.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(lines)
		if err := c.Wait(); err != nil {
			t.Errorf("after %s: %v\n%s", signal, err, stderr.String())
		}
		for _, want := range []string{"ssh-keygen -t ed25519", url + "/bastions", "ssh -F bastion-default.conf -J bastion-default private.internal", "-X DELETE"} {
			if !strings.Contains(string(rest), want) {
				t.Errorf("the output lacks %q:\n%s", want, rest)
			}
		}
	}
}

func checkAPI(t *testing.T, url string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Minute}
	resp, err := client.Get(url + "/bastions")
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("GET /bastions: %s", resp.Status)
	}
}

func checkPortInUse(t *testing.T, address string) {
	t.Helper()
	c := command(t, "local", "--listen", address)
	output, _ := c.CombinedOutput()
	if code := c.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(output), "is in use") {
		t.Errorf("a second local mode on %s: exit code %d, %s", address, code, output)
	}
}
