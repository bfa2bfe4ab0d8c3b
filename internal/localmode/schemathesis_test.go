//go:build conformance

package localmode

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// accepted maps codes of schemathesis to the reasons why the service behaves so on
// purpose.
var accepted = map[string]string{
	"ST401": "API accepts requests without authentication: in local mode a request without credentials has the owner local",
	"ST301": "deleted resource still available: the document of a closed bastion stays readable, because it says why it ended",
}

// schemathesisConfig allows the status 422 for requests that match the schema. The
// service's configuration, which a schema cannot contain, limits durations and sources. A
// response 400 to such a request is a finding.
const schemathesisConfig = `
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422, 503]
`

// finding is a line of the summary, such as "❌ ST202 Schema-valid request rejected: 2".
var finding = regexp.MustCompile(`(?m)^ +❌ (ST\d+|[A-Z][^:\n]+)[^\n]*: \d+$`)

// schemathesis makes requests from api/openapi.yaml, valid and invalid ones, and
// runs all its checks on the responses of local mode.
func TestContractHoldsUnderSchemathesis(t *testing.T) {
	program := emulator.Tool(t, filepath.Join("schemathesis-4.32.5", "bin", "schemathesis"))
	dir, hooks := t.TempDir(), "schemathesis_formats"
	formats, err := os.ReadFile(filepath.Join("testdata", hooks+".py"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{hooks + ".py": formats, "config.toml": []byte(schemathesisConfig)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	contract, err := filepath.Abs("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	local := start(t, func(o *Options) { o.LaunchDelay = 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, "--config-file", "config.toml", "--no-color", "run", contract,
		"--url", local.URL, "--checks", "all", "--continue-on-failure", "--seed", "1", "--max-examples", "30", "--request-timeout", "120")
	command.Dir, command.WaitDelay = dir, time.Second
	command.Env = append(os.Environ(), "SCHEMATHESIS_HOOKS="+hooks, "PYTHONPATH="+dir, "PYTHONDONTWRITEBYTECODE=1", "COLUMNS=200")
	output, err := command.CombinedOutput()
	findings := finding.FindAllSubmatch(output, -1)
	if err == nil || len(findings) == 0 || bytes.Contains(output, []byte("\nErrors:")) {
		t.Fatalf("schemathesis has errors, or lacks the accepted findings: %v\n%s", err, output)
	}
	for _, found := range findings {
		if reason, ok := accepted[string(found[1])]; ok {
			t.Logf("accepted: %s", reason)
			continue
		}
		t.Errorf("found %s\n%s", found[0], output)
	}
}
