//go:build conformance

package template

import (
	"archive/zip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

const (
	cfnLint = "../../../.tools/cfn-lint-1.58.0/bin/cfn-lint"
	sam     = "../../../.tools/aws-sam-cli-1.170.0/bin/sam"
)

// run runs a tool in the module's folder, and returns its output.
func run(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	path, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, arguments...)
	command.Dir = "../../.."
	command.Env = append(os.Environ(), "SAM_CLI_TELEMETRY=0", "AWS_DEFAULT_REGION=eu-west-1")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", filepath.Base(program), arguments, err, out)
	}
	return string(out)
}

// Informational messages count too.
func TestCfnLintReportsNothing(t *testing.T) {
	source, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "transformed.json")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, template := range []string{"template.yaml", "registry.yaml", file} {
		if output := run(t, cfnLint, "--include-checks", "I", "-t", template); output != "" {
			t.Errorf("%s:\n%s", template, output)
		}
	}
}

func TestSAMValidates(t *testing.T) {
	run(t, sam, "validate", "--lint")
}

// maxZip limits the size of a function's zip file.
const maxZip = 8 << 20

func TestSAMBuildsEveryFunction(t *testing.T) {
	folder := t.TempDir()
	run(t, sam, "build", "--build-dir", folder)
	for name := range deploy(t, withSlack...).of("AWS::Lambda::Function") {
		size, err := zipped(filepath.Join(folder, name, "bootstrap"))
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s: %.1f MB zipped", name, float64(size)/(1<<20))
		if size > maxZip {
			t.Errorf("%s has %d bytes zipped, more than %d", name, size, maxZip)
		}
	}
}

func zipped(file string) (size int64, err error) {
	source, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer source.Close()
	var count counter
	archive := zip.NewWriter(&count)
	entry, err := archive.Create("bootstrap")
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(entry, source); err != nil {
		return 0, err
	}
	return int64(count), archive.Close()
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
