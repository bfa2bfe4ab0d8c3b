package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
	"go.yaml.in/yaml/v4"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/image"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

const (
	testVPC    = "vpc-0123456789abcdef0"
	testSubnet = "subnet-0123456789abcdef0"
	testDigest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	testRepo   = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/registry-abc"
	testBucket = "bastion-registry-codebucket-abc"
	testURL    = "https://abc.execute-api.eu-west-1.amazonaws.com/bastions"
)

var testNow = time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)

// madeStack is a stack in the world.
type madeStack struct {
	name, id string
	status   types.StackStatus
	next     types.StackStatus // its status after the next read
	params   map[string]string
	outputs  map[string]string
	tags     map[string]string
	text     string             // its template
	events   []types.StackEvent // the oldest first
	sets     []*madeSet         // that were not deleted
}

// madeSet is a change set of a stack in the world.
type madeSet struct {
	id, text     string
	params, tags map[string]string
	status       types.ChangeSetStatus
	reason       string
}

// world is an account, a machine and a service in memory. It records each call, and fails
// the calls in fail.
type world struct {
	out      strings.Builder
	calls    []string
	fail     map[string]error  // by a call, or the words that it starts with
	hang     string            // the function whose invocations get no response
	on       map[string]func() // called before such a call, once
	killed   bool              // the deployment was killed, so its calls have no effect
	settings Settings
	region   string

	missingTools []string
	noRole       bool
	dualStack    string            // the account's setting
	ownDualStack string            // that of the deployer, if it has one
	isRoot       bool              // the deployer is the root user
	zones        map[string]string // the types of zones
	publicAccess ec2types.VpcBlockPublicAccessOptions
	exclusions   []ec2types.VpcBlockPublicAccessExclusion
	concurrency  int32 // of Lambda
	unreserved   int32
	dns          map[ec2types.VpcAttributeName]bool
	subnet       ec2types.Subnet
	routes       []ec2types.Route
	endpoints    []ec2types.VpcEndpoint
	groups       []ec2types.SecurityGroup
	rules        []ec2types.SecurityGroupRule
	interfaces   []string
	quotas       map[string]float64

	stacks   []*madeStack
	versions []version // in the bucket
	bucket   bool
	failing  []types.StackEvent // the events of resources in a change that fails
	bastions []api.Bastion
	tables   map[string]bool
	repo     bool
	secrets  map[string]ssmtypes.ParameterType // in Parameter Store
	statuses []int                             // of the test request; the last one repeats
	signed   []string
	source   string        // the address that the service sees
	ahead    time.Duration // of the clock of AWS
	owner    string        // of the bucket
	trial    fakeTrial     // the service for the owner of the trial
}

func newWorld() *world {
	return &world{
		fail:      map[string]error{},
		region:    "eu-west-1",
		settings:  Settings{Stack: "bastion", VPC: testVPC, Subnets: []string{testSubnet}, Module: "../..", Parameters: map[string]string{}},
		dualStack: "enabled",
		dns:       map[ec2types.VpcAttributeName]bool{ec2types.VpcAttributeNameEnableDnsSupport: true, ec2types.VpcAttributeNameEnableDnsHostnames: true},
		subnet: ec2types.Subnet{
			SubnetId: aws.String(testSubnet), VpcId: aws.String(testVPC), AvailableIpAddressCount: aws.Int32(100),
			AvailabilityZoneId: aws.String("euw1-az1"), OwnerId: aws.String("111122223333"),
		},
		zones:        map[string]string{"euw1-az1": "availability-zone"},
		publicAccess: ec2types.VpcBlockPublicAccessOptions{InternetGatewayBlockMode: ec2types.InternetGatewayBlockModeOff, ExclusionsAllowed: ec2types.VpcBlockPublicAccessExclusionsAllowedAllowed},
		concurrency:  1000, unreserved: 1000,
		routes:   []ec2types.Route{route("0.0.0.0/0", "igw-1")},
		quotas:   map[string]float64{quotaOnDemand: 100, quotaSpot: 100, quotaGroups: 2500},
		tables:   map[string]bool{"records-1": true, "leases-1": true},
		repo:     true,
		bucket:   true,
		owner:    "111122223333",
		statuses: []int{200},
		source:   "203.0.113.7",
		secrets:  map[string]ssmtypes.ParameterType{},
	}
}

// serviceTemplate returns template.yaml. It is read once, because parsing takes most of the
// time of these tests. Do not change it.
func serviceTemplate(t *testing.T) template {
	t.Helper()
	service, err := readServiceTemplate()
	if err != nil {
		t.Fatal(err)
	}
	return service
}

var readServiceTemplate = sync.OnceValues(func() (template, error) { return readTemplate("../..", templateFile) })

// shortModule returns a folder with registry.yaml and a short template.yaml: its parameters,
// its globals, and its functions without their properties. A deployment reads no more of it.
// Tests that deploy very often use this folder, because a deployment spends most of its time on
// reading and writing the template.
func shortModule(t *testing.T) string {
	t.Helper()
	service, err := readTemplate("../..", templateFile)
	if err != nil {
		t.Fatal(err)
	}
	short := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	resources := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, section := range []string{"Parameters", "Globals"} {
		set(short, section, field(service.root, section))
	}
	set(short, "Resources", resources)
	functions, err := service.functions()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range functions {
		function := field(service.root, "Resources", name)
		set(function, "Properties", &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"})
		set(resources, name, function)
	}
	text, err := yaml.Dump(short)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := os.ReadFile("../../" + registryFile)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, text := range map[string][]byte{templateFile: text, registryFile: registry} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// parsedTemplates are the templates that CloudFormation has parsed, by their text.
var parsedTemplates sync.Map

// parsedBefore parses a template, once for each text.
func parsedBefore(text string) (template, error) {
	if t, is := parsedTemplates.Load(text); is {
		return t.(template), nil
	}
	t, err := parseTemplate("the template", []byte(text))
	if err == nil {
		parsedTemplates.Store(text, t)
	}
	return t, err
}

func route(to, gateway string) ec2types.Route {
	return ec2types.Route{DestinationCidrBlock: &to, GatewayId: &gateway, State: ec2types.RouteStateActive}
}

func (w *world) deployment() *Deployment {
	w.out.Reset()
	return &Deployment{
		Settings: w.settings,
		Cloud: Cloud{
			Region: w.region, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "example", SessionToken: "session"}, nil
			}),
			STS: w, IAM: w, ECS: w, EC2: w, Quotas: w, Stacks: w, Objects: w, ECR: w, Functions: w, Parameters: w, Tables: w,
		},
		Images: w, Runner: w, HTTP: &http.Client{Transport: w}, Dial: w.Dial,
		LookPath: func(tool string) (string, error) {
			for _, missing := range w.missingTools {
				if missing == tool {
					return "", errors.New("not found")
				}
			}
			return tool, nil
		},
		Now:      func() time.Time { return testNow },
		Progress: image.Progress{W: &w.out},
	}
}

// call records a call, and returns its failure.
func (w *world) call(format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	w.calls = append(w.calls, name)
	for beginning, do := range w.on {
		if name == beginning || strings.HasPrefix(name, beginning+" ") {
			delete(w.on, beginning)
			do()
		}
	}
	for beginning, err := range w.fail {
		if name == beginning || strings.HasPrefix(name, beginning+" ") {
			return err
		}
	}
	if w.killed {
		return errTest
	}
	return nil
}

// takeCalls returns the calls since the last time that start with one of the texts.
func (w *world) takeCalls(beginnings ...string) (found []string) {
	for _, call := range w.calls {
		for _, beginning := range beginnings {
			if strings.HasPrefix(call, beginning) {
				found = append(found, call)
			}
		}
	}
	w.calls = nil
	return found
}

func refusal(code, message string) error {
	return &smithy.GenericAPIError{Code: code, Message: message}
}

// named returns the newest stack with the name that is not deleted, or the one with the ID.
func (w *world) named(name string) *madeStack {
	for _, s := range w.stacks {
		if s.id == name || s.name == name && s.status != types.StackStatusDeleteComplete {
			return s
		}
	}
	return nil
}

func (w *world) add(name string, status types.StackStatus) *madeStack {
	s := &madeStack{
		name: name, id: fmt.Sprintf("arn:aws:cloudformation:eu-west-1:111122223333:stack/%s/uuid-%d", name, len(w.stacks)), status: status,
		params: map[string]string{
			"Admins": "iam:111122223333:AIDAOTHEROTHER12", "Draining": "false", "JwtIssuer": "", "VpcId": testVPC,
			"PublicAddress": "true", "AddressFamilies": "ipv4", "AllowedSources": "", "LongestLifetime": "8h",
		},
		outputs: map[string]string{
			"Url": testURL, "MemberGroupId": "sg-member",
			"RepositoryUri": testRepo, "CodeBucketName": testBucket, "CodeBucketDomain": testBucket + ".s3.eu-west-1.amazonaws.com",
		},
	}
	w.stacks = append(w.stacks, s)
	return s
}

// Run is make, which compiles a function. A deployment runs no other program.
func (w *world) Run(_ context.Context, program string, args ...string) error {
	if program != "make" {
		_ = w.call("run %s", program) // which no test expects
		return fmt.Errorf("the program %s is not make", program)
	}
	target, folder := args[len(args)-2], strings.TrimPrefix(args[len(args)-1], "ARTIFACTS_DIR=")
	if err := w.call("make %s", target); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "bootstrap"), []byte("the executable of "+target), 0o600)
}

func (w *world) Build(context.Context) (string, error) { return testDigest, w.call("build image") }

func (w *world) Push(_ context.Context, repository string) (string, error) {
	return repository + "@" + testDigest, w.call("push %s", repository)
}

// RoundTrip is the deployed API.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.signed = append(w.signed, r.Header.Get("Authorization"))
	if err := w.call("GET %s", r.URL); err != nil {
		return nil, err
	}
	status := w.statuses[0]
	if len(w.statuses) > 1 {
		w.statuses = w.statuses[1:]
	}
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Request: r,
		Header: http.Header{"X-Source-Address": {w.source}, "Date": {testNow.Add(w.ahead).Format(http.TimeFormat)}},
		Body:   io.NopCloser(strings.NewReader("{}")),
	}, nil
}

// serve is the functions. A closed bastion is listed two more times.
func (w *world) serve(function string, event events.APIGatewayV2HTTPRequest) (int, string) {
	authorizer := event.RequestContext.Authorizer
	owner := ""
	if authorizer.IAM != nil {
		owner, _, _ = strings.Cut("iam:"+authorizer.IAM.AccountID+":"+authorizer.IAM.UserID, ":session")
	} else {
		owner = "jwt:" + authorizer.JWT.Claims["iss"] + "#" + authorizer.JWT.Claims["sub"]
	}
	if strings.Contains(owner, trialUserID) || strings.Contains(owner, "#trial-of-make-deploy:") {
		return w.trial.serve(owner, event)
	}
	if !strings.Contains(w.named("bastion").params["Admins"], owner) {
		return 403, `{"code":"forbidden"}`
	}
	if function == "destroy-1" {
		for i := range w.bastions {
			if "/bastions/"+w.bastions[i].ID == event.RawPath {
				w.bastions[i].State = bastion.Closing
				return 202, "{}"
			}
		}
		return 404, "{}"
	}
	list, err := json.Marshal(api.List{Bastions: w.bastions})
	if err != nil {
		return 500, err.Error()
	}
	var left []api.Bastion
	for _, b := range w.bastions {
		switch b.State {
		case bastion.Closing:
			b.State = bastion.Closed
		case bastion.Closed:
			continue
		}
		left = append(left, b)
	}
	w.bastions = left
	return 200, string(list)
}
