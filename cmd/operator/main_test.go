package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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

func TestMain(m *testing.M) {
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
		{[]string{"deploy", "--dry-run", "--stack", "b", "--vpc", "vpc-01234567", "--subnets", "subnet-01234567,subnet-89abcdef"}, 0, `SubnetIds="subnet-01234567,subnet-89abcdef"`, ""},
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
