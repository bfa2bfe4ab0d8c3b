package deploy

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-on-demand/bastion/internal/image"
)

var errTest = errors.New("refused for the test")

// bubble runs a test in simulated time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// effects are the calls of Deploy that have effects, in order.
var effects = []string{
	"GetCallerIdentity", "run ", "make ", "build ", "push ", "DescribeImages", "PutObject", "GET ", "Invoke create-1",
	"CreateChangeSet", "ExecuteChangeSet", "DeleteChangeSet", "DeleteStack", "UpdateStack",
}

var wholeDeployment = []string{
	"GetCallerIdentity", "CreateChangeSet bastion-registry", "ExecuteChangeSet bastion-registry",
	"make build-CreateFunction", "make build-DescribeFunction", "make build-ExtendFunction", "make build-DestroyFunction",
	"make build-ReaperFunction", "make build-ObserverFunction", "make build-SlackFunction", "build image", "push " + testRepo,
	"DescribeImages registry-abc",
	"PutObject functions", "PutObject functions", "PutObject functions", "PutObject functions",
	"PutObject functions", "PutObject functions", "PutObject functions", "PutObject templates",
	"CreateChangeSet bastion", "ExecuteChangeSet bastion", "GET " + testURL,
	"Invoke create-1 POST /bastions",
}

// repeated returns the calls of a deployment if the first ones of an earlier one have
// taken effect: objects are not sent again, and change sets are empty.
func repeated(completed int) (calls []string) {
	for i, call := range wholeDeployment {
		what, stack, _ := strings.Cut(call, " ")
		switch {
		case i < completed && what == "PutObject":
		case i < completed && what == "ExecuteChangeSet":
			calls = append(calls, "DeleteChangeSet "+stack)
		default:
			calls = append(calls, call)
		}
	}
	return calls
}

func TestDeployIsRepeatable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.settings.Parameters["QuotaTotal"] = "20"
		for _, want := range [][]string{wholeDeployment, repeated(len(wholeDeployment))} {
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
			if got := w.takeCalls(effects...); !slices.Equal(got, want) {
				t.Errorf("the calls are %q", got)
			}
		}
		params := w.named("bastion").params
		for name, want := range map[string]string{"ImageUri": testRepo + "@" + testDigest, "VpcId": testVPC, "SubnetIds": testSubnet, "Draining": "false", "QuotaTotal": "20", "IdleTime": "15m"} {
			if params[name] != want {
				t.Errorf("%s is %q, want %q", name, params[name], want)
			}
		}
		out := w.out.String()
		for _, want := range []string{
			"--aws-sigv4 aws:amz:eu-west-1:execute-api", "id_ed25519.pub\" " + testURL, "sg-member",
			"the stack bastion-registry is up to date\n", "the stack bastion is up to date\n", "the code of ReaperFunction is in the bucket already\n",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
	})
}

func TestDeployCanBeRerunAfterAnyFailure(t *testing.T) {
	module := shortModule(t)
	for _, broken := range slices.Compact(slices.Clone(wholeDeployment)) {
		i := slices.Index(wholeDeployment, broken)
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.settings.Module = module
			w.fail[broken] = errTest
			err := w.deployment().Deploy(t.Context())
			got := w.takeCalls(effects...)
			if err == nil || !strings.Contains(err.Error(), errTest.Error()) || !strings.Contains(err.Error(), "rerun make deploy") {
				t.Errorf("%s fails: %v", broken, err)
			}
			if last := got[len(got)-1]; last != broken || len(got) > i+smokeTries {
				t.Errorf("%s fails, and the calls are %q", broken, got)
			}
			clear(w.fail)
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Errorf("%s failed once; the rerun: %v", broken, err)
			}
			if got, want := w.takeCalls(effects...), repeated(i); !slices.Equal(got, want) {
				t.Errorf("%s failed once; the calls of the rerun are\n%q, want\n%q", broken, got, want)
			}
		})
	}
}

func TestDeployWaitsForOrDeletesUnusableStacks(t *testing.T) {
	for _, test := range []struct {
		status, next types.StackStatus
		deletes      bool
		want         string
	}{
		{types.StackStatusRollbackComplete, "", true, ""},
		{types.StackStatusCreateInProgress, types.StackStatusRollbackComplete, true, ""},
		{types.StackStatusUpdateInProgress, types.StackStatusUpdateComplete, false, ""},
		{types.StackStatusReviewInProgress, "", false, ""},
		{types.StackStatusUpdateRollbackComplete, "", false, ""},
		{types.StackStatusDeleteFailed, "", false, "make undeploy"},
		{types.StackStatusUpdateRollbackFailed, "", false, "continue-update-rollback --stack-name bastion"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			s := w.add("bastion", test.status)
			s.next = test.next
			err := w.deployment().Deploy(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: %v", test.status, err)
			}
			if failed := (Failed)(nil); test.want != "" && (!errors.As(err, &failed) || len(failed) != 1) {
				t.Errorf("%s: the checks did not find it: %v", test.status, err)
			}
			if deleted := len(w.takeCalls("DeleteStack bastion")) > 0; deleted != test.deletes {
				t.Errorf("%s: deleted: %v", test.status, deleted)
			}
		})
	}
}

// The checks find it before the registry's step.
func TestBrokenRegistryStackFailsTheChecks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.add("bastion-registry", types.StackStatusUpdateRollbackFailed)
		w.settings.Parameters["QuotaTotal"] = "many"
		err := w.deployment().Deploy(t.Context())
		if err == nil || !strings.Contains(err.Error(), "--stack-name bastion-registry") || !strings.Contains(err.Error(), "QuotaTotal") {
			t.Errorf("%v, want both problems", err)
		}
	})
}

// make undeploy deletes the stack while make deploy builds.
func TestStackThatIsBeingDeletedIsCreatedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.on = map[string]func(){"DescribeImages": func() {
			s := w.add("bastion", types.StackStatusDeleteInProgress)
			s.next = types.StackStatusDeleteComplete
		}}
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Errorf("%v\n%s", err, w.out.String())
		}
		if s := w.named("bastion"); s == nil || s.status != types.StackStatusCreateComplete {
			t.Errorf("the stack is %+v", s)
		}
	})
}

func TestUnexpectedDigestIsNotDeployed(t *testing.T) {
	d := newWorld().deployment()
	err := d.verify(t.Context(), &built{repository: testRepo, digest: testDigest, reference: testRepo + "@sha256:2222"})
	if err == nil || !strings.Contains(err.Error(), "the built one") {
		t.Error(err)
	}
}

// The SDK corrects a wrong clock in its own signatures, so the test request is the first to
// fail.
func TestWrongClockIsNamed(t *testing.T) {
	for clock, want := range map[time.Duration]string{
		-7 * time.Minute: "The clock of this machine differs by 7m0s from that of AWS", 7 * time.Minute: "differs by 7m0s", 4 * time.Minute: "execute-api:Invoke",
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.statuses, w.ahead = []int{403}, clock
			w.add("bastion", types.StackStatusCreateComplete)
			if _, err := w.deployment().smoke(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", clock, err)
			}
		})
	}
}

func TestSmokeRequest(t *testing.T) {
	for _, test := range []struct {
		name, issuer, token string
		statuses            []int
		want, authorization string
	}{
		{"signed", "", "", []int{200}, "", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-west-1/execute-api/aws4_request"},
		{"not ready at first", "", "", []int{404, 500, 200}, "", "AWS4-HMAC-SHA256"},
		{"broken", "", "", []int{500}, "500 Internal Server Error", "AWS4-HMAC-SHA256"},
		{"not allowed", "", "", []int{403}, "execute-api:Invoke", "AWS4-HMAC-SHA256"},
		{"another status", "", "", []int{401}, "not 200", "AWS4-HMAC-SHA256"},
		{"no token", "https://issuer.example", "", []int{401}, "", ""},
		{"open without a token", "https://issuer.example", "", []int{200}, "not 401", ""},
		{"token", "https://issuer.example", "abc", []int{200}, "", "Bearer abc"},
		{"bad token", "https://issuer.example", "abc", []int{401}, "not 200", "Bearer abc"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.statuses, w.settings.Token = test.statuses, test.token
			w.add("bastion", types.StackStatusCreateComplete).params["JwtIssuer"] = test.issuer
			_, err := w.deployment().smoke(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: %v", test.name, err)
			}
			if !strings.HasPrefix(w.signed[0], test.authorization) || test.authorization == "" && w.signed[0] != "" {
				t.Errorf("%s: the authorization is %q", test.name, w.signed[0])
			}
		})
	}
}

// forbidden is a network, a machine and a registry whose every call fails the test.
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

// The clients are the SDK's, with a transport that fails the test. A dry run does not
// even look for credentials.
func TestDryRunPrintsEveryStepAndCallsNothing(t *testing.T) {
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
	d := &Deployment{
		Settings: s, Cloud: cloud, Images: no, Runner: no, HTTP: client,
		LookPath: func(tool string) (string, error) { return "", no.called(tool) },
		Now:      func() time.Time { no.called("the clock"); return time.Time{} },
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, no.called("the network") },
		Progress: image.Progress{W: &out},
	}
	if err := errors.Join(d.Deploy(t.Context()), d.Undeploy(t.Context())); err != nil {
		t.Error(err)
	}
	for i, s := range append(d.deploySteps(&built{}), d.undeploySteps()...) {
		if !strings.Contains(out.String(), "] "+s.what+"\n") {
			t.Errorf("step %d, %s, is not printed", i, s.what)
		}
		for _, detail := range s.details {
			if !strings.Contains(out.String(), "would "+detail+"\n") {
				t.Errorf("step %d, %s: %q is not printed", i, s.what, detail)
			}
		}
		if len(s.details) == 0 {
			t.Errorf("step %d, %s, has no details", i, s.what)
		}
	}
}

// PARAMETERS can be checked without a call, so a dry run refuses what a deployment refuses.
func TestDryRunAndDeploymentWithoutCredentialsCheckParameters(t *testing.T) {
	for _, dry := range []bool{true, false} {
		w := newWorld()
		w.settings.DryRun = dry
		w.fail["GetCallerIdentity"] = errTest
		w.settings.Parameters = map[string]string{
			"QuotaTotl": "1", "QuotaTotal": "0", "RequestConcurrency": "some", "SshPort": "80", "AllowedDestinations": "10.0.0.0/8:99999", "ResourceTags": "aws:x=1",
		}
		err := w.deployment().Deploy(t.Context())
		if err == nil {
			t.Fatalf("dry run %v: no error", dry)
		}
		for _, want := range []string{
			"no parameter QuotaTotl", `QuotaTotal is "0"`, `RequestConcurrency is "some"`, `SshPort is "80"`, "AllowedDestinations: ", "ResourceTags: ",
		} {
			if strings.Count(err.Error(), want) != 1 {
				t.Errorf("dry run %v: %q is not there once in\n%v", dry, want, err)
			}
		}
		if dry && len(w.calls) > 0 {
			t.Errorf("the calls are %q", w.calls)
		}
	}
}

// The clients do use the transport of the test above.
func TestCallsUseTheTransport(t *testing.T) {
	cleanEnvironment(t)
	caught := &catch{}
	cloud, err := Connect(t.Context(), "eu-west-1", &http.Client{Transport: caught})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = fetchStack(t.Context(), cloud.Stacks, "bastion"); err == nil || caught.n == 0 {
		t.Errorf("%d calls: %v", caught.n, err)
	}
}

// cleanEnvironment sets example credentials, and removes other AWS settings.
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

func TestOperationsGuideHasEveryAlarmAndFailureCode(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	operations := read("OPERATIONS.md")
	for file, pattern := range map[string]string{
		"template.yaml":               `(?m)^  (\w+Alarm):$`,
		"internal/bastion/failure.go": `FailureCode = "(\w+)"`,
	} {
		names := regexp.MustCompile(pattern).FindAllStringSubmatch(read(file), -1)
		if len(names) < 5 {
			t.Errorf("%s: %d names found", file, len(names))
		}
		for _, name := range names {
			if !strings.Contains(operations, "| `"+name[1]+"` |") {
				t.Errorf("%s: OPERATIONS.md has no row for %s", file, name[1])
			}
		}
	}
}

// Each step can fail, and the error names the step, what failed, and what to do.
func TestErrorOfEachStep(t *testing.T) {
	for _, test := range []struct {
		fails string // a call
		err   error
		want  []string
	}{
		{"GetCallerIdentity", refusal("ExpiredToken", "the token has expired"),
			[]string{"step 1 of 9, check this machine, the account and the network: ", "AWS does not accept your credentials", "the token has expired", "aws sso login"}},
		{"CreateChangeSet bastion-registry", refusal("AccessDenied", "not authorized"),
			[]string{"step 2 of 9, deploy the registry, stack bastion-registry: create a change set for the stack bastion-registry: ", "not authorized"}},
		{"make build-ReaperFunction", errors.New("make build-ReaperFunction: exit status 2; see its output above"),
			[]string{"step 3 of 9, build the functions and the image: make build-ReaperFunction: exit status 2; see its output above"}},
		{"build image", errors.New("compile ./cmd/bastiond for linux/arm64: exit status 1"),
			[]string{"step 3 of 9, build the functions and the image: compile ./cmd/bastiond for linux/arm64"}},
		{"push", errors.New("push to " + testRepo + ": 401 Unauthorized"),
			[]string{"step 4 of 9, push the image: push to " + testRepo + ": 401 Unauthorized"}},
		{"DescribeImages", refusal("ImageNotFoundException", "no such image"),
			[]string{"step 5 of 9, verify the image's digest: look up " + testRepo + "@" + testDigest + " in ECR: ", "no such image"}},
		{"PutObject functions", refusal("AccessDenied", "not authorized to s3:PutObject"),
			[]string{"step 6 of 9, upload the functions' code and the template: upload the code of CreateFunction", "s3:PutObject"}},
		{"PutObject templates", refusal("AccessDenied", "not authorized to s3:PutObject"),
			[]string{"step 6 of 9, upload the functions' code and the template: upload the template", "s3:PutObject"}},
		{"CreateChangeSet bastion", refusal("ValidationError", "Template format error"),
			[]string{"step 7 of 9, deploy the service, stack bastion: create a change set for the stack bastion: ", "Template format error"}},
		{"ExecuteChangeSet bastion", refusal("InsufficientCapabilities", "requires capabilities"),
			[]string{"step 7 of 9, deploy the service, stack bastion: execute the change set", "requires capabilities"}},
		{"GET", errors.New("no such host"),
			[]string{"step 8 of 9, send a test request: GET " + testURL + ": ", "no such host"}},
		{"Invoke create-1", errors.New("no such host"),
			[]string{"step 9 of 9, try a bastion: invoke create-1: no such host"}},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.fail[test.fails] = test.err
			err := w.deployment().Deploy(t.Context())
			for _, want := range append(test.want, "\nFix that and rerun make deploy; completed steps are skipped") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s fails: %q is missing in: %v", test.fails, want, err)
				}
			}
			if out := w.out.String(); strings.Contains(out, "curl ") {
				t.Errorf("%s fails, and the output has the first steps:\n%s", test.fails, out)
			}
		})
	}
}

var update = flag.Bool("update", false, "write the golden file anew")

// The golden file shows a reviewer what an operator sees.
func TestDryRunIsTheGoldenFile(t *testing.T) {
	w := newWorld()
	w.settings.DryRun = true
	w.settings.Tags = map[string]string{"CostCenter": "4711"}
	w.settings.Parameters = map[string]string{"QuotaTotal": "20"}
	if err := w.deployment().Deploy(t.Context()); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/dryrun.golden"
	if *update {
		if err := os.WriteFile(file, []byte(w.out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.out.String(); got != string(want) {
		t.Errorf("make deploy DRY_RUN=1 prints\n%s\nand %s has\n%s\nIf the change is intended: go test ./internal/deploy -run Golden -update", got, file, want)
	}
	if len(w.calls) > 0 {
		t.Errorf("the calls are %q", w.calls)
	}
}
