package lambdamode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
)

// environment returns a valid environment, as template.yaml sets it.
func environment(changes ...string) []string {
	return append([]string{
		"AWS_REGION=eu-west-1",
		"BASTION_STACK_ID=arn:aws:cloudformation:eu-west-1:111122223333:stack/way-in/5f1c",
		"BASTION_TABLE=records", "BASTION_LEASE_TABLE=leases",
		"BASTION_CLUSTER=arn:aws:ecs:eu-west-1:111122223333:cluster/way-in-1",
		"BASTION_VPC=vpc-0123456789abcdef0", "BASTION_SUBNETS=subnet-0123456789abcdef0", "BASTION_MEMBER_GROUP=sg-0123456789abcdef0",
		"BASTION_TASK_DEFINITION=arn:aws:ecs:eu-west-1:111122223333:task-definition/way-in:7", "BASTION_TASK_ROLE_ID=AROAEXAMPLEEXAMPLE123",
		"BASTION_CONTAINER=bastiond", "BASTION_SSH_PORT=2222", "BASTION_PUBLIC_ADDRESS=true", "BASTION_FAMILIES=ipv4", "BASTION_SPOT=true",
		"BASTION_ALLOWED_PARAMETER=", "BASTION_SOURCES=", "BASTION_WIDEST_IPV4=28", "BASTION_WIDEST_IPV6=64", "BASTION_DEFAULT_TTL=1h", "BASTION_MAX_TTL=8h", "BASTION_IDLE=15m",
		"BASTION_QUOTA_OWNER=3", "BASTION_QUOTA_TOTAL=50", "BASTION_TRUSTED_ROLES=AWSReservedSSO_*", "BASTION_ADMINS=", "BASTION_JWT_ISSUER=",
		"BASTION_DRAINING=false", "BASTION_REAPER_PERIOD=1m", "BASTION_WARN=10m", "BASTION_SLACK=", "BASTION_TAGS_PARAMETER=",
	}, changes...)
}

func TestServiceIsWired(t *testing.T) {
	app, err := wire(t.Context(), environment(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := app.Service
	if s.Records == nil || s.Groups == nil || s.Tasks == nil || s.Leases == nil || s.Now == nil || s.Rand == nil || s.Log == nil {
		t.Errorf("something is missing: %+v", s)
	}
	if err := s.Config.Validate(); err != nil {
		t.Error(err)
	}
	if app.metrics.stack != "way-in" {
		t.Errorf("metrics are of the stack %q", app.metrics.stack)
	}
	if got := app.taskID("AROAEXAMPLEEXAMPLE123:0123abcd"); got != "0123abcd" {
		t.Errorf("the key of a lease names the task %q", got)
	}
	want := awscloud.Stack{
		ID:  "arn:aws:cloudformation:eu-west-1:111122223333:stack/way-in/5f1c",
		VPC: "vpc-0123456789abcdef0", MemberGroup: "sg-0123456789abcdef0",
		Cluster:   "arn:aws:ecs:eu-west-1:111122223333:cluster/way-in-1",
		Container: "bastiond", Port: 2222, Public: true, IPv4: true, Spot: true, WidestIPv4: 28, WidestIPv6: 64,
	}
	if got := stack(app.Config); got != want {
		t.Errorf("the stack is %+v", got)
	}
}

// parameterStore is an HTTP transport that responds with these parameters, or with an error
// if it has none.
type parameterStore map[string]string

func (p parameterStore) RoundTrip(r *http.Request) (*http.Response, error) {
	var in struct{ Names []string }
	if r.Header.Get("X-Amz-Target") != "AmazonSSM.GetParameters" || json.NewDecoder(r.Body).Decode(&in) != nil || p == nil {
		return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader(`{"__type":"AccessDeniedException"}`)), Request: r}, nil
	}
	out := map[string][]map[string]string{}
	for _, name := range in.Names {
		if value, ok := p[name]; ok {
			out["Parameters"] = append(out["Parameters"], map[string]string{"Name": name, "Value": value})
		}
	}
	body, err := json.Marshal(out)
	return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
}

func TestLongSettingsAreReadFromParameterStore(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": "/dev/null"} {
		t.Setenv(name, value)
	}
	environ := environment("BASTION_ALLOWED_PARAMETER=CFN-Destinations-1", "BASTION_TAGS_PARAMETER=CFN-Tags-1")
	start := func(store parameterStore) (*App, error) {
		return wire(t.Context(), environ, slog.New(slog.DiscardHandler), &http.Client{Transport: store})
	}
	app, err := start(parameterStore{"CFN-Destinations-1": "10.0.0.0/8,10.1.0.0/16:5432,fd00::/8:22", "CFN-Tags-1": "Owner=team a", "another": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(app.Service.Config.AllowedDestinations, app.Service.Config.Tags); got != "[10.0.0.0/8 10.1.0.0/16:5432 fd00::/8:22] [{Owner team a}]" {
		t.Errorf("the settings are %s", got)
	}
	for want, store := range map[string]parameterStore{
		"BASTION_TAGS_PARAMETER is \"CFN-Tags-1\", and Parameter Store has no parameter of this name": {"CFN-Destinations-1": "10.0.0.0/8"},
		"BASTION_ALLOWED_PARAMETER: 10.0.0.1/8 has bits set":                                          {"CFN-Destinations-1": "10.0.0.1/8", "CFN-Tags-1": "a=b"},
		"read parameters CFN-Destinations-1, CFN-Tags-1":                                              nil,
	} {
		if _, err := start(store); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A wrong configuration is found before the first call of AWS.
func TestWrongConfigurationIsRefused(t *testing.T) {
	for change, want := range map[string]string{
		"BASTION_SPOT=perhaps":  "BASTION_SPOT",
		"BASTION_NEW=1":         "BASTION_NEW is not a setting",
		"BASTION_FAMILIES=ipv6": "public addresses are IPv4",
	} {
		if _, err := wire(t.Context(), environment(change), slog.New(slog.DiscardHandler), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}
