package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// whole is a valid environment.
func whole() map[string]string {
	return map[string]string{
		"DEFAULT_TTL": "1h", "MAX_TTL": "8h", "IDLE": "15m", "WARN": "10m",
		"ALLOWED_PARAMETER": "destinations", "SOURCES": "", "WIDEST_IPV4": "28", "WIDEST_IPV6": "64",
		"QUOTA_OWNER": "3", "QUOTA_TOTAL": "50",
		"TAGS_PARAMETER":  "tags",
		"SUBNETS":         "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
		"TASK_DEFINITION": "arn:aws:ecs:eu-west-1:111122223333:task-definition/way-in:7",
		"STACK_ID":        "arn:aws:cloudformation:eu-west-1:111122223333:stack/way-in/5f1c",
		"TABLE":           "way-in-Records-1", "LEASE_TABLE": "way-in-Leases-1",
		"CLUSTER": "arn:aws:ecs:eu-west-1:111122223333:cluster/way-in-1",
		"VPC":     "vpc-0123456789abcdef0", "MEMBER_GROUP": "sg-0123456789abcdef0",
		"SSH_PORT": "2222", "PUBLIC_ADDRESS": "true", "FAMILIES": "ipv4", "SPOT": "false",
		"CONTAINER": "bastiond", "TASK_ROLE_ID": "AROAEXAMPLEEXAMPLE123",
		"TRUSTED_ROLES": "AWSReservedSSO_*", "ADMINS": "", "JWT_ISSUER": "", "REAPER_PERIOD": "1m", "DRAINING": "false",
		"SLACK": "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack:queue",
	}
}

// stored is the Parameter Store of load.
func stored() map[string]string {
	return map[string]string{"destinations": "10.0.0.0/8, fd00::/8:22-23", "tags": "CostCenter=42,data owner=a=b"}
}

func load(env map[string]string) (Config, error) { return loadWith(env, stored()) }

func loadWith(env, parameters map[string]string) (Config, error) {
	environ := []string{"PATH=/usr/bin", "AWS_REGION=eu-west-1"}
	for name, value := range env {
		environ = append(environ, prefix+name+"="+value)
	}
	return Load(environ, func(names ...string) (map[string]string, error) {
		found := map[string]string{}
		for _, name := range names {
			if value, ok := parameters[name]; ok {
				found[name] = value
			}
		}
		return found, nil
	})
}

func TestLoadReadsEveryVariable(t *testing.T) {
	got, err := load(whole())
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Bastion: bastion.Config{
			DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour, IdleTimeout: 15 * time.Minute, WarnBefore: 10 * time.Minute,
			AllowedDestinations: []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("fd00::/8"), From: 22, To: 23}},
			WidestIPv4:          28, WidestIPv6: 64, IPv4: true,
			Quota:          bastion.Quota{PerOwner: 3, Total: 50},
			Subnets:        []string{"subnet-0123456789abcdef0", "subnet-0123456789abcdef1"},
			TaskDefinition: "arn:aws:ecs:eu-west-1:111122223333:task-definition/way-in:7",
			Tags:           []bastion.Tag{{Key: "CostCenter", Value: "42"}, {Key: "data owner", Value: "a=b"}},
			MaxAttempts:    maxAttempts, Timing: timing(time.Minute),
		},
		Cloud: Cloud{
			StackID: "arn:aws:cloudformation:eu-west-1:111122223333:stack/way-in/5f1c",
			Table:   "way-in-Records-1", LeaseTable: "way-in-Leases-1",
			ClusterARN: "arn:aws:ecs:eu-west-1:111122223333:cluster/way-in-1",
			VPCID:      "vpc-0123456789abcdef0", MemberGroup: "sg-0123456789abcdef0",
			SSHPort: 2222, PublicAddress: true, Container: "bastiond", TaskRoleID: "AROAEXAMPLEEXAMPLE123",
		},
		Access:       Access{TrustedRoles: []string{"AWSReservedSSO_*"}},
		ReaperPeriod: time.Minute,
		Slack:        "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack:queue",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPortsThatNetworksAdmit(t *testing.T) {
	for port, want := range map[string]uint16{"22": 22, "443": 443, "1024": 1024, "65535": 65535} {
		env := whole()
		env["SSH_PORT"] = port
		if cfg, err := load(env); err != nil || cfg.Cloud.SSHPort != want {
			t.Errorf("%s: %d, %v", port, cfg.Cloud.SSHPort, err)
		}
	}
}

// A forgotten variable must not silently mean the zero value of its field.
func TestMissingVariableIsAnError(t *testing.T) {
	for name := range whole() {
		env := whole()
		delete(env, name)
		if _, err := load(env); err == nil || !strings.Contains(err.Error(), prefix+name+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestInvalidVariableIsNamed(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"DEFAULT_TTL", "1 hour", `BASTION_DEFAULT_TTL is "1 hour": want a duration`},
		{"MAX_TTL", "24", `BASTION_MAX_TTL is "24": want a duration`},
		{"MAX_TTL", "-1h", "the maximum lifetime must be more than zero"},
		{"IDLE", "", `BASTION_IDLE is "": want a duration`},
		{"IDLE", "5s", "before its owner can connect"},
		{"WARN", "", `BASTION_WARN is "": want a duration`},
		{"WARN", "-10m", "must be zero (never) or more"},
		{"WARN", "8h", "the warning time before a deadline (8h) must be shorter than the maximum lifetime (8h)"},
		{"WARN", "59s", "the warning could come after the end"},
		{"SLACK", "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack", "the Slack function's alias \"queue\", or an empty value"},
		{"SLACK", "way-in-slack:queue", "the Slack function's alias"},
		{"SOURCES", "10.0.0.0", `BASTION_SOURCES: "10.0.0.0" is not a CIDR`},
		{"SOURCES", "10.0.0.1/8", "write 10.0.0.0/8"},
		{"SOURCES", "::ffff:10.0.0.0/104", "is not a CIDR"},
		{"SOURCES", "0.0.0.0/0", "a caller could open the security group to any source address"},
		{"SOURCES", "::/0", "a caller could open the security group to any source address"},
		{"WIDEST_IPV4", "/28", "want a whole number"},
		{"WIDEST_IPV4", "0", "the widest IPv4 source must have a prefix length from 1 to 32, not 0"},
		{"WIDEST_IPV4", "33", "from 1 to 32, not 33"},
		{"WIDEST_IPV6", "0", "the widest IPv6 source must have a prefix length from 1 to 128, not 0"},
		{"WIDEST_IPV6", "129", "from 1 to 128, not 129"},
		{"QUOTA_OWNER", "three", "want a whole number"},
		{"QUOTA_OWNER", "0", "at least one bastion"},
		{"QUOTA_TOTAL", "2", "the total quota (2) must not be less than the quota of one owner"},
		{"SUBNETS", "", "there must be at least one subnet"},
		{"SUBNETS", "subnet-0123456789abcdef0,", `BASTION_SUBNETS is "": want the ID of a subnet`},
		{"SUBNETS", "subnet-0123456789abcdef0,subnet-0123456789abcdef0", "has subnet-0123456789abcdef0 twice"},
		{"TASK_DEFINITION", "way-in", "the ARN of a task definition with its revision"},
		{"STACK_ID", "way-in", "the ID of a CloudFormation stack"},
		{"TABLE", "", "the name of a DynamoDB table"},
		{"LEASE_TABLE", "way-in-Records-1", "BASTION_TABLE and BASTION_LEASE_TABLE are both way-in-Records-1"},
		{"CLUSTER", "way-in", "the ARN of an ECS cluster"},
		{"VPC", "subnet-0123456789abcdef0", "the ID of a VPC"},
		{"MEMBER_GROUP", "default", "the ID of a security group"},
		{"SSH_PORT", "23", "want 22, 443 or a port from 1024 to 65535"},
		{"SSH_PORT", "0", "want 22, 443 or a port from 1024"},
		{"SSH_PORT", "1023", "want 22, 443 or a port from 1024"},
		{"SSH_PORT", "65536", "want 22, 443 or a port from 1024"},
		{"PUBLIC_ADDRESS", "yes", "want true or false"},
		{"PUBLIC_ADDRESS", "false", "at least one prefix of allowed sources is needed"},
		{"FAMILIES", "ipv6", "public addresses are IPv4"},
		{"FAMILIES", "ipv5", "want ipv4, ipv6 or dualstack"},
		{"CONTAINER", "", "the name of a container"},
		{"TASK_ROLE_ID", "AIDAEXAMPLEEXAMPLE123", "the unique ID of an IAM role"},
		{"TRUSTED_ROLES", "*", "would trust every session name"},
		{"TRUSTED_ROLES", "A*B", "which may end in *"},
		{"ADMINS", "arn:aws:sts::111122223333:assumed-role/Admin/alice", "a session cannot be an admin"},
		{"ADMINS", "iam:111122223333:AROAEXAMPLEEXAMPLE123:alice", "a session cannot be an admin"},
		{"ADMINS", "alice", "a session cannot be an admin"},
		{"ADMINS", "jwt:https://issuer.example/#alice", "which no caller can be: requests are authorized by IAM"},
		{"JWT_ISSUER", "issuer.example", "the https URL of a token issuer, or an empty value"},
		{"DRAINING", "", "want true or false"},
		{"REAPER_PERIOD", "", "want a duration"},
		{"REAPER_PERIOD", "30s", "one run may take 55s, so use a minute or more"},
		{"REAPER_PERIOD", "15m", "BASTION_WARN is 10m0s: the reaper sends warnings and runs every 15m0s"},
		{"QUOTA_OWNERS", "3", "BASTION_QUOTA_OWNERS is not a setting"},
	} {
		env := whole()
		env[test.name] = test.value
		if _, err := load(env); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q:\n got %v\nwant %s", test.name, test.value, err, test.want)
		}
	}
}

func TestInvalidParameterIsNamed(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"destinations", "", "bastions could connect to nothing"},
		{"destinations", "10.0.0.0/8,10.1.0.0", `BASTION_ALLOWED_PARAMETER: "10.1.0.0" is not CIDR, CIDR:PORT or CIDR:FROM-TO`},
		{"destinations", "10.0.0.1/8:22", "BASTION_ALLOWED_PARAMETER: 10.0.0.1/8:22 has bits set after the prefix length: write 10.0.0.0/8:22"},
		{"destinations", "10.0.0.0/8:0", `BASTION_ALLOWED_PARAMETER: "10.0.0.0/8:0" has the ports "0": write a port from 1 to 65535`},
		{"destinations", "10.0.0.0/8:22,10.0.0.0/8:22-22", "BASTION_ALLOWED_PARAMETER: 10.0.0.0/8:22 and 10.0.0.0/8:22-22 are the same rule"},
		{"destinations", "0.0.0.0/0:443", "BASTION_ALLOWED_PARAMETER: 0.0.0.0/0:443 is a rule that the member group always has"},
		{"tags", "CostCenter", `BASTION_TAGS_PARAMETER: "CostCenter" is not a tag: want Key=Value`},
	} {
		parameters := stored()
		parameters[test.name] = test.value
		if _, err := loadWith(whole(), parameters); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q:\n got %v\nwant %s", test.name, test.value, err, test.want)
		}
	}
}

// All parameters are read in one call. Each that is missing is named, with the other
// problems of the configuration.
func TestParametersAreReadInOneCall(t *testing.T) {
	env, calls := whole(), 0
	env["SPOT"] = "maybe"
	var environ []string
	for name, value := range env {
		environ = append(environ, prefix+name+"="+value)
	}
	_, err := Load(environ, func(names ...string) (map[string]string, error) { calls++; return nil, nil })
	for _, want := range []string{
		`BASTION_ALLOWED_PARAMETER is "destinations", and Parameter Store has no parameter of this name`,
		`BASTION_TAGS_PARAMETER is "tags", and Parameter Store has no parameter of this name`, "BASTION_SPOT",
	} {
		if err == nil || !strings.Contains(err.Error(), want) || calls != 1 {
			t.Errorf("%v after %d calls, want %s", err, calls, want)
		}
	}
	failed := errors.New("read parameters: timed out")
	if _, err := Load(environ, func(...string) (map[string]string, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}

// A function that writes no leases and starts no tasks needs neither parameter.
func TestNoParameterIsReadIfNoneIsNamed(t *testing.T) {
	env := whole()
	env["ALLOWED_PARAMETER"], env["TAGS_PARAMETER"] = "", ""
	if cfg, err := loadWith(env, nil); err != nil || cfg.Bastion.AllowedDestinations != nil || cfg.Bastion.Tags != nil {
		t.Errorf("%+v, %v", cfg.Bastion, err)
	}
	env["TAGS_PARAMETER"] = "a b"
	if _, err := load(env); err == nil || !strings.Contains(err.Error(), "BASTION_TAGS_PARAMETER is \"a b\": want the name of a parameter") {
		t.Errorf("got %v", err)
	}
}

func TestStackWithoutSlackAndWarnings(t *testing.T) {
	env := whole()
	env["SLACK"], env["WARN"] = "", "0s"
	if cfg, err := load(env); err != nil || cfg.Slack != "" || cfg.Bastion.WarnBefore != 0 {
		t.Errorf("%q, %s, %v", cfg.Slack, cfg.Bastion.WarnBefore, err)
	}
}

func TestAdminMustFitTheAuthorizer(t *testing.T) {
	env := whole()
	env["JWT_ISSUER"] = "https://issuer.example/"
	env["ADMINS"] = "jwt:https://issuer.example/#alice"
	if _, err := load(env); err != nil {
		t.Error(err)
	}
	env["ADMINS"] = "iam:111122223333:AIDAEXAMPLEEXAMPLE123"
	if _, err := load(env); err == nil || !strings.Contains(err.Error(), "the tokens of https://issuer.example/") {
		t.Errorf("got %v", err)
	}
}

// One deployment must be enough to correct a configuration.
func TestErrorListsEveryProblem(t *testing.T) {
	env := whole()
	delete(env, "VPC")
	env["SSH_PORT"], env["SPOT"], env["COLOUR"] = "80", "maybe", "blue"
	_, err := load(env)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"BASTION_VPC is missing", "BASTION_SSH_PORT", "BASTION_SPOT", "BASTION_COLOUR"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
	env = whole()
	env["LEASE_TABLE"], env["QUOTA_TOTAL"], env["COLOUR"] = env["TABLE"], "1", "blue"
	_, err = load(env)
	if err == nil || strings.Count(err.Error(), "\n") != 3 || !strings.Contains(err.Error(), "BASTION_COLOUR") {
		t.Errorf("two contradictions and an unknown variable: %v", err)
	}
}

// The times depend on each other and on the reaper's period.
func TestTimingIsConsistent(t *testing.T) {
	for _, period := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute} {
		env := whole()
		env["REAPER_PERIOD"] = period.String()
		cfg, err := load(env)
		if err != nil {
			t.Fatal(err)
		}
		timing := cfg.Bastion.Timing
		if timing.CallTimeout >= 28*time.Second {
			t.Error("a converge may outlive the function that it runs in")
		}
		if timing.Settle <= LongestFunction+timing.ReadLag {
			t.Error("a record settles while a function that read the old intent may still run")
		}
		if timing.TombstoneLife <= timing.Settle {
			t.Error("a tombstone expires before the last function that could overwrite it")
		}
		if LongestFunction >= period {
			t.Errorf("%s: two runs of the reaper may overlap", period)
		}
		if timing.WatchInterval != period/4 || cfg.OverdueAfter() != 2*period {
			t.Errorf("%s: the watch interval is %s, and a record is overdue after %s", period, timing.WatchInterval, cfg.OverdueAfter())
		}
	}
}
