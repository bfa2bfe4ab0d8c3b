package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/bastion-on-demand/bastion/internal/image"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

// asMain is the environment variable that makes the test binary run the command.
const asMain = "BE_THE_OPERATOR_COMMAND"

// stuck is a value of asMain: the binary waits for the first signal, reports it, and never
// ends by itself, as a command whose cleaning up hangs.
const stuck = "stuck"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) == stuck {
		ctx, cancel := interruptible()
		defer cancel()
		fmt.Println("started")
		<-ctx.Done()
		fmt.Println("interrupted")
		select {}
	}
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	leakcheck.Main(m)
}

// operator runs the command as a process, without credentials.
func operator(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), asMain+"=1", "DOCKER_CONFIG="+t.TempDir(), "REGISTRY_AUTH_FILE=", "XDG_RUNTIME_DIR=")
	var stdoutText, stderrText bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdoutText, &stderrText
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdoutText.String(), stderrText.String()
}

func TestExitCodesAndOutput(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for _, test := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"image", "--help"}, 0, "OCI image layout", ""},
		{[]string{"push", "--help"}, 0, "push REPOSITORY", ""},
		{[]string{"image", "extra"}, 2, "", "unknown command"},
		{[]string{"image", "--frobnicate"}, 2, "", "unknown flag"},
		{[]string{"push"}, 2, "", "accepts 1 arg"},
		{[]string{"deploy"}, 2, "", "SUBNETS is empty"},
		{[]string{"deploy", "--parameters", "QuotaTotal"}, 2, "", "not of the form Name=value"},
		{[]string{"deploy", "--tags", "aws:x=1"}, 2, "", "reserved for AWS"},
		{[]string{"deploy", "--parameters", "QuotaTotal", "--tags", "Team"}, 2, "", "PARAMETERS: \"QuotaTotal\" is not of the form Name=value, without quotes and backslashes\nTAGS: \"Team\" is not of the form Key=Value\nSTACK is"},
		{[]string{"deploy", "--dry-run", "--module", "../..", "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567,subnet-89abcdef"}, 0, `SubnetIds=subnet-01234567,subnet-89abcdef`, ""},
		{[]string{"deploy", "--dry-run", "--module", "../..", "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567"}, 0, "9/9] try a bastion", ""},
		{[]string{"deploy", "--dry-run", "--module", "../..", "--skip-trial", "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567"}, 0, "8/8] send a test request", ""},
		{[]string{"deploy", "--dry-run", "--module", nowhere, "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567"}, 1, "", "run this in the folder of the source"},
		{[]string{"deploy", "--dry-run", "--module", "../..", "--parameters", "QuotaTotal=0", "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567"}, 1, "", `QuotaTotal is "0"`},
		{[]string{"undeploy"}, 2, "", "STACK is"},
		{[]string{"undeploy", "--dry-run", "--stack", "b", "--purge"}, 0, "delete the tables", ""},
		{[]string{"image", "--module", nowhere}, 1, "", "compile ./cmd/bastiond for linux/amd64: chdir " + nowhere},
		{[]string{"push", "--image", nowhere, "127.0.0.1:1/bastiond"}, 1, "", "run make image"},
	} {
		code, stdout, stderr := operator(t, test.args...)
		if code != test.code || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
			t.Errorf("operator %s: exit code %d, want %d\n%s%s", test.args, code, test.code, stdout, stderr)
		}
	}
}

func anyIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	one, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	platform := v1.Platform{OS: "linux", Architecture: "arm64"}
	one, err = mutate.ConfigFile(one, configFor(t, one, platform))
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &platform}})
}

func configFor(t *testing.T, one v1.Image, platform v1.Platform) *v1.ConfigFile {
	t.Helper()
	config, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	return config
}

// Standard output has the template's ImageUri and nothing else.
func TestPushPrintsTheNameByDigest(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "image")
	index := anyIndex(t)
	if err := image.Write(folder, index); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/bastiond"
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		code, stdout, stderr := operator(t, "push", "--image", folder, repository)
		if code != 0 || stdout != repository+"@"+digest.String()+"\n" || !strings.Contains(stderr, "push to "+repository) {
			t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
	}
}

func TestSummaryHasDigestAndSizes(t *testing.T) {
	var out bytes.Buffer
	err := printSummary(&out, v1.Hash{}, []image.Summary{
		{Platform: "linux/amd64", Size: 4_180_000}, {Platform: "linux/arm64", Size: 3_714_000},
	})
	want := "index        :\nlinux/amd64  :  4.18 MB compressed\nlinux/arm64  :  3.71 MB compressed\n"
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestSecondSignalEndsTheProcess(t *testing.T) {
	stop := syscall.SIGINT
	if signal.Ignored(stop) { // as in a job that a script has started with &
		stop = syscall.SIGTERM
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), asMain+"="+stuck)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"started", "interrupted"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("the process printed %q, want %q", lines.Text(), want)
		}
		// The process may not have restored the default action yet when it prints that it was
		// interrupted, so the signal is sent until the process has ended.
		if err := cmd.Process.Signal(stop); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	for again := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-ended:
			again.Stop()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != stop {
				t.Errorf("the process ended with %v", cmd.ProcessState)
			}
			return
		case <-again.C:
			_ = cmd.Process.Signal(stop) // the process may have ended
		}
	}
}

// A switch with an unknown value runs nothing: PURGE=off must not purge.
func TestMakeRefusesUnknownSwitches(t *testing.T) {
	for _, args := range [][2]string{{"undeploy", "PURGE=off"}, {"undeploy", "PURGE=False"}, {"deploy", "SMOKE=off"}, {"deploy", "DRY_RUN=maybe"}} {
		cmd := exec.Command("make", "-n", args[0], args[1])
		cmd.Dir = "../.."
		_, value, _ := strings.Cut(args[1], "=")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "one of them is "+value) || strings.Contains(string(out), "bin/operator "+args[0]) {
			t.Errorf("make -n %s: %v\n%s", args, err, out)
		}
	}
}

// A value with a quote is one word, so that the operator's message names it.
func TestMakeQuotesSettings(t *testing.T) {
	for name, flag := range map[string]string{
		"STACK": "stack", "REGION": "region", "VPC": "vpc", "SUBNETS": "subnets", "PARAMETERS": "parameters", "TAGS": "tags",
	} {
		cmd := exec.Command("make", "-n", "deploy", name+"=it's one")
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--"+flag+` 'it'\''s one' `) {
			t.Errorf("make -n deploy %s: %v\n%s", name, err, out)
		}
	}
}

func TestMakePassesSmokeToOperator(t *testing.T) {
	for setting, skips := range map[string]bool{"SMOKE=0": true, "SMOKE=no": true, "SMOKE=1": false, "OTHER=": false} {
		cmd := exec.Command("make", "-n", "deploy", setting)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "--skip-trial") != skips {
			t.Errorf("make -n deploy %s: %v\n%s", setting, err, out)
		}
	}
}
