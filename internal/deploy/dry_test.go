package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/image"
)

// forbidden is a network, a machine and a registry that nothing may be asked of.
type forbidden struct{ t *testing.T }

func (f forbidden) called(what string) error {
	f.t.Errorf("a dry run calls %s", what)
	return errors.New("forbidden")
}

func (f forbidden) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, f.called(r.URL.String())
}
func (f forbidden) Run(_ context.Context, program string, _ ...string) error {
	return f.called(program)
}
func (f forbidden) Build(context.Context) (string, error)        { return "", f.called("build") }
func (f forbidden) Push(context.Context, string) (string, error) { return "", f.called("push") }

// The real clients, over a transport that fails the test: a dry run has all steps
// and calls nobody, not even for credentials.
func TestADryRunPrintsEveryStepAndCallsNothing(t *testing.T) {
	cleanEnvironment(t)
	no := forbidden{t}
	client := &http.Client{Transport: no}
	cloud, err := Connect(t.Context(), "eu-west-1", client)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := newWorld().settings
	s.DryRun = true
	s.Module = t.TempDir() // there is no template to read
	d := &Deployment{
		Settings: s, Cloud: cloud, Images: no, Runner: no, HTTP: client,
		LookPath: func(tool string) (string, error) { return "", no.called(tool) },
		Now:      func() time.Time { no.called("the clock"); return time.Time{} },
		Progress: image.Progress{W: &out},
	}
	if err := errors.Join(d.Deploy(t.Context()), d.Undeploy(t.Context())); err != nil {
		t.Error(err)
	}
	for i, s := range append(d.deploySteps(), d.undeploySteps()...) {
		if !strings.Contains(out.String(), "] "+s.what+"\n") {
			t.Errorf("step %d, %s, is not printed", i, s.what)
		}
		for _, detail := range s.details {
			if !strings.Contains(out.String(), "would "+detail+"\n") {
				t.Errorf("step %d, %s: %q is not printed", i, s.what, detail)
			}
		}
		if len(s.details) == 0 {
			t.Errorf("step %d, %s, has nothing to say", i, s.what)
		}
	}
}

// The transport above is one that the clients use: a real run would be caught.
func TestAnyRealCallGoesOverTheTransport(t *testing.T) {
	cleanEnvironment(t)
	caught := &catch{}
	cloud, err := Connect(t.Context(), "eu-west-1", &http.Client{Transport: caught})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = fetchStack(t.Context(), cloud.Stacks, "bastion"); err == nil || caught.n == 0 {
		t.Errorf("the transport sees %d calls: %v", caught.n, err)
	}
}

// cleanEnvironment has credentials that are nobody's, and nothing of whoever runs
// the test.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for variable, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CA_BUNDLE": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(variable, value)
	}
}

type catch struct{ n int }

func (c *catch) RoundTrip(*http.Request) (*http.Response, error) {
	c.n++
	return nil, fmt.Errorf("caught: %w", io.ErrUnexpectedEOF)
}

// The SAM CLI that is run is the one that is installed.
func TestTheSAMCLIIsTheOneThatIsInstalled(t *testing.T) {
	script, err := os.ReadFile("../../scripts/emulators")
	if err != nil {
		t.Fatal(err)
	}
	folder := strings.Split(samCLI, "/")[1]
	if !strings.Contains(string(script), "sam() { in_venv "+folder+" ") {
		t.Errorf("scripts/emulators does not install %s", folder)
	}
}

func TestProcesses(t *testing.T) {
	var out strings.Builder
	p := Processes{Folder: t.TempDir(), Out: &out}
	if err := p.Run(t.Context(), "sh", "-c", "pwd; echo $SAM_CLI_TELEMETRY"); err != nil || out.String() != p.Folder+"\n0\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if err := p.Run(t.Context(), "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "sh -c 'exit 3': exit status 3") {
		t.Error(err)
	}
	if err := p.Run(t.Context(), "scripts/missing"); err == nil || !strings.Contains(err.Error(), p.Folder+"/scripts/missing") {
		t.Error(err)
	}
}
