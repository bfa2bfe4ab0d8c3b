package lambdamode

import (
	"log/slog"
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
		"BASTION_ALLOWED=10.0.0.0/8", "BASTION_SOURCES=", "BASTION_DEFAULT_TTL=1h", "BASTION_MAX_TTL=8h", "BASTION_IDLE=15m",
		"BASTION_QUOTA_OWNER=3", "BASTION_QUOTA_TOTAL=50", "BASTION_TRUSTED_ROLES=AWSReservedSSO_*", "BASTION_ADMINS=", "BASTION_JWT_ISSUER=",
		"BASTION_DRAINING=false", "BASTION_REAPER_PERIOD=1m", "BASTION_WARN=10m", "BASTION_SLACK=", "BASTION_TAGS=Owner=team a",
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
		Container: "bastiond", Port: 2222, Public: true, IPv4: true, Spot: true,
	}
	if got := stack(app.Config); got != want {
		t.Errorf("the stack is %+v", got)
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
