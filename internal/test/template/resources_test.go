//go:build conformance

package template

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// The tables have the schemas of the adapters' tests. They are retained and backed up.
func TestTables(t *testing.T) {
	s := deploy(t, withSlack...)
	schemas := map[string]any{"RecordsTable": awscloud.RecordsSchema(), "LeasesTable": awscloud.LeasesSchema(), "SlackTable": awscloud.ItemsSchema()}
	if n := len(s.of("AWS::DynamoDB::Table")); n != len(schemas) {
		t.Errorf("%d tables", n)
	}
	for name, schema := range schemas {
		if r := s.resources[name]; r["DeletionPolicy"] != "RetainExceptOnCreate" || r["UpdateReplacePolicy"] != "Retain" {
			t.Errorf("%s is not retained", name)
		}
		p := s.properties(t, name)
		if at(p, "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled") != true || p["BillingMode"] != "PAY_PER_REQUEST" ||
			at(p, "TimeToLiveSpecification", "AttributeName") != "expires_at" || at(p, "TimeToLiveSpecification", "Enabled") != true {
			t.Errorf("%s: %v", name, p)
		}
		encoded, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		var want object
		if err := json.Unmarshal(encoded, &want); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"} {
			if !reflect.DeepEqual(p[part], withoutNulls(want[part])) {
				t.Errorf("%s of %s:\n got %v\nwant %v", part, name, p[part], withoutNulls(want[part]))
			}
		}
		if at(p, "StreamSpecification", "StreamViewType") != nonEmpty(at(want, "StreamSpecification", "StreamViewType")) {
			t.Errorf("the stream of %s: %v", name, p["StreamSpecification"])
		}
	}
}

func nonEmpty(v any) any {
	if v == "" {
		return nil
	}
	return v
}

// withoutNulls removes the members that the SDK's types leave unset.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	case object:
		for name, member := range v {
			if member == nil {
				delete(v, name)
			} else {
				v[name] = withoutNulls(member)
			}
		}
	}
	return v
}

func TestTaskDefinition(t *testing.T) {
	s := deploy(t)
	p := s.properties(t, "TaskDefinition")
	container := p["ContainerDefinitions"].([]any)[0].(object)
	if s.resources["TaskDefinition"]["UpdateReplacePolicy"] != "Retain" {
		t.Error("a deployment deletes the old revision, which running attempts need")
	}
	if at(p, "RuntimePlatform", "CpuArchitecture") != "ARM64" || p["Cpu"] != "256" || p["Memory"] != "512" || p["NetworkMode"] != "awsvpc" {
		t.Errorf("the task is %v", p)
	}
	if p["TaskRoleArn"] != "TaskRole.Arn" || p["ExecutionRoleArn"] != "ExecutionRole.Arn" {
		t.Errorf("the roles are %v and %v", p["TaskRoleArn"], p["ExecutionRoleArn"])
	}
	if container["ReadonlyRootFilesystem"] != true || strings.HasPrefix(container["User"].(string), "0") || container["Privileged"] != nil ||
		container["Image"] != required["ImageUri"] || container["StopTimeout"] != 60.0 {
		t.Errorf("the container is %v", container)
	}
	var region any
	for _, variable := range container["Environment"].([]any) {
		if at(variable, "Name") == "AWS_REGION" {
			region = at(variable, "Value")
		}
	}
	if region != "eu-west-1" {
		t.Errorf("AWS_REGION is %v", region)
	}
	if drop := at(container, "LinuxParameters", "Capabilities", "Drop"); !reflect.DeepEqual(drop, []any{"ALL"}) {
		t.Errorf("the container keeps capabilities: %v", drop)
	}
}

// Go's memory limit and its number of threads belong to the Memory and the Cpu of the task.
// After a change, TestStuckUploadsUseLimitedMemory of bastiond measures how much memory it
// needs with these variables.
func TestCollectorFollowsMemoryOfTheTask(t *testing.T) {
	p := deploy(t).properties(t, "TaskDefinition")
	number := func(v any) int {
		t.Helper()
		n, err := strconv.Atoi(v.(string))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	memory, cpu := number(p["Memory"]), number(p["Cpu"])
	want := map[string]string{
		// Three eighths for Go. The kernel's buffers of sockets and the log driver need the
		// rest, and Go may exceed its limit while more than that is in use.
		"GOMEMLIMIT": fmt.Sprintf("%dMiB", memory*3/8),
		"GOMAXPROCS": strconv.Itoa((cpu + 1023) / 1024), // 1,024 units are one vCPU
	}
	got := map[string]string{}
	for _, variable := range p["ContainerDefinitions"].([]any)[0].(object)["Environment"].([]any) {
		if name := at(variable, "Name").(string); want[name] != "" {
			got[name] = at(variable, "Value").(string)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("for a Memory of %d and a Cpu of %d, the container has %v, want %v", memory, cpu, got, want)
	}
}

// A container without capabilities can listen on 22 and 443 with the system control only.
func TestSystemControlOfPrivilegedPorts(t *testing.T) {
	const control = "net.ipv4.ip_unprivileged_port_start"
	for port, want := range map[string]any{
		"22": []any{object{"Namespace": control, "Value": "0"}}, "443": []any{object{"Namespace": control, "Value": "0"}}, "2222": nil, "1024": nil,
	} {
		s := deploy(t, "SshPort", port)
		container := s.properties(t, "TaskDefinition")["ContainerDefinitions"].([]any)[0]
		if got := at(container, "SystemControls"); !reflect.DeepEqual(got, want) {
			t.Errorf("port %s: the system controls are %v, want %v", port, got, want)
		}
		if mapped := at(container, "PortMappings").([]any)[0]; at(mapped, "ContainerPort") != port {
			t.Errorf("port %s: the container's port is %v", port, mapped)
		}
		if got := at(s.properties(t, "CreateFunction"), "Environment", "Variables", "BASTION_SSH_PORT"); got != port {
			t.Errorf("port %s: the functions have %v", port, got)
		}
	}
}

// bastiond reads the set of algorithms from its environment.
func TestAlgorithmsOfTheSSHServer(t *testing.T) {
	for value, parameters := range map[string][]string{"compatible": nil, "strict": {"SshAlgorithms", "strict"}} {
		container := deploy(t, parameters...).properties(t, "TaskDefinition")["ContainerDefinitions"].([]any)[0]
		want := object{"Name": "BASTIOND_SSH_ALGORITHMS", "Value": value}
		if environment := at(container, "Environment").([]any); !slices.ContainsFunc(environment, func(v any) bool { return reflect.DeepEqual(v, want) }) {
			t.Errorf("%v: the environment is %v, want %v in it", parameters, environment, want)
		}
		if _, err := sshd.ParseAlgorithms(value); err != nil {
			t.Errorf("bastiond refuses %v", err)
		}
	}
}

// bastiond reads its limits from its environment.
func TestLimitsOfTheSSHServer(t *testing.T) {
	parameters := []string{"SshHandshakes", "SshConnections", "SshChannels", "SshSilenceMinutes"}
	names := []string{"BASTIOND_SSH_HANDSHAKES", "BASTIOND_SSH_CONNECTIONS", "BASTIOND_SSH_CHANNELS", "BASTIOND_SSH_SILENCE_MINUTES"}
	var defaults []string
	for _, value := range []int{sshd.DefaultHandshakes, sshd.DefaultConnections, sshd.DefaultChannels, int(sshd.DefaultSilence.Minutes())} {
		defaults = append(defaults, strconv.Itoa(value))
	}
	for _, values := range [][]string{defaults, {"401", "251", "252", "16"}} {
		var set []string
		for i, parameter := range parameters {
			if values[i] != defaults[i] {
				set = append(set, parameter, values[i])
			}
		}
		container := deploy(t, set...).properties(t, "TaskDefinition")["ContainerDefinitions"].([]any)[0]
		for i, name := range names {
			if !slices.ContainsFunc(at(container, "Environment").([]any), func(v any) bool {
				return at(v, "Name") == name && fmt.Sprint(at(v, "Value")) == values[i]
			}) {
				t.Errorf("%s is not %s in %v", name, values[i], at(container, "Environment"))
			}
		}
	}
}

// The cluster has both providers; RunTask selects one.
func TestClusterHasBothProviders(t *testing.T) {
	if got := deploy(t).properties(t, "Cluster")["CapacityProviders"]; !reflect.DeepEqual(got, []any{"FARGATE", "FARGATE_SPOT"}) {
		t.Errorf("the cluster has %v", got)
	}
}

// rules returns the rules of the member group as texts.
func rules(t *testing.T, s stack, direction string) []string {
	t.Helper()
	var all []string
	list, _ := s.properties(t, "MemberGroup")[direction].([]any)
	for _, rule := range list {
		r := rule.(object)
		if description, _ := r["Description"].(string); description == "" {
			t.Errorf("the rule %v has no description", r)
		}
		to := r["CidrIp"]
		if to == nil {
			to = r["CidrIpv6"]
		}
		all = append(all, fmt.Sprint(r["IpProtocol"], " ", r["FromPort"], "-", r["ToPort"], " ", to))
	}
	slices.Sort(all)
	return all
}

func TestMemberGroup(t *testing.T) {
	always := []string{"tcp 443-443 0.0.0.0/0", "tcp 443-443 ::/0"}
	twenty, four := many(20, "10.%d.0.0/16"), many(4, "fd0%d::/16")
	for _, test := range []struct {
		parameters []string
		want       []string // in addition to always
	}{
		{nil, all("tcp 0-65535", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")},
		{[]string{"AllowedDestinations", "10.1.0.0/16"}, all("tcp 0-65535", "10.1.0.0/16")},
		{[]string{"AllowedDestinations", twenty, "AllowedDestinationsIpv6", four}, all("tcp 0-65535", twenty+","+four)},
		{[]string{"AllowedDestinations", "10.1.0.0/16:5432"}, all("tcp 5432-5432", "10.1.0.0/16")},
		{[]string{"AllowedDestinations", "10.1.0.0/16:5432,10.1.0.0/16:8000-8099,10.1.0.7/32,10.1.0.0/16:1-65535"},
			[]string{"tcp 5432-5432 10.1.0.0/16", "tcp 8000-8099 10.1.0.0/16", "tcp 0-65535 10.1.0.7/32", "tcp 1-65535 10.1.0.0/16"}},
		{[]string{"AllowedDestinations", many(20, "10.%d.0.0/16:22"), "AllowedDestinationsIpv6", many(4, "fd0%d::/16:8000-8099")},
			slices.Concat(all("tcp 22-22", twenty), all("tcp 8000-8099", four))},
		{[]string{"AllowedDestinations", "10.1.0.0/16", "AllowedDestinationsIpv6", "2001:db8::/32:5432"}, []string{"tcp 0-65535 10.1.0.0/16", "tcp 5432-5432 2001:db8::/32"}},
		{[]string{"AllowedDestinations", "10.1.0.0/16", "AllowedDestinationsIpv6", "2001:db8::/32:443-444,2001:db8::/32,::1:0:0/96:22,::/0:80"},
			[]string{"tcp 0-65535 10.1.0.0/16", "tcp 443-444 2001:db8::/32", "tcp 0-65535 2001:db8::/32", "tcp 22-22 ::1:0:0/96", "tcp 80-80 ::/0"}},
		{[]string{"AllowedDestinations", "10.1.0.0/16", "DnsServers", "10.9.0.2,10.9.0.3,10.9.0.4"}, slices.Concat(
			all("tcp 0-65535", "10.1.0.0/16"), all("tcp 53-53", "10.9.0.2/32,10.9.0.3/32,10.9.0.4/32"), all("udp 53-53", "10.9.0.2/32,10.9.0.3/32,10.9.0.4/32"))},
	} {
		s := deploy(t, test.parameters...)
		want := slices.Sorted(slices.Values(slices.Concat(always, test.want)))
		if got := rules(t, s, "SecurityGroupEgress"); !slices.Equal(got, want) {
			t.Errorf("%v:\n got %q\nwant %q", test.parameters, got, want)
		}
		if in := rules(t, s, "SecurityGroupIngress"); len(in) > 0 {
			t.Errorf("the member group admits %q", in)
		}
	}
	if tags := deploy(t).properties(t, "MemberGroup")["Tags"]; tags != nil {
		t.Errorf("the member group has the tags %v: functions can change groups with the stack's tag", tags)
	}
	if groups := deploy(t).of("AWS::EC2::SecurityGroup"); len(groups) != 1 {
		t.Errorf("%d groups: those of bastions are created at run time", len(groups))
	}
}

func all(ports, prefixes string) []string {
	var lines []string
	for prefix := range strings.SplitSeq(prefixes, ",") {
		lines = append(lines, ports+" "+prefix)
	}
	return lines
}

// Package config accepts the environment that the template sets, for all kinds of
// parameters.
func TestEnvironmentIsAValidConfiguration(t *testing.T) {
	for _, parameters := range [][]string{
		nil,
		{"PublicAddress", "false", "AllowedSources", "10.8.0.0/16"},
		{"AddressFamilies", "dualstack", "AllowedDestinationsIpv6", "fd00::/8", "UseSpot", "true", "Draining", "true"},
		{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a", "Admins", "jwt:https://issuer.example/#alice"},
		{"Admins", "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/Operator,iam:111122223333:AIDAEXAMPLEEXAMPLE111", "TrustedSessionRoles", "AWSReservedSSO_*,Login"},
		{"Admins", "", "TrustedSessionRoles", "", "AllowedSources", "2001:db8::/32,203.0.113.0/24"},
		{"IdleTime", "0s", "WarningTime", "0s"},
		{"SshPort", "443"},
		{"SshPort", "22"},
		{"ResourceTags", "CostCenter=42,data owner=a=b"},
		{"AllowedDestinations", many(20, "10.%d.0.0/16:5432"), "AllowedDestinationsIpv6", many(4, "fd0%d::/16:8000-8099")},
		withSlack,
		slices.Concat(withSlack, []string{"SlackBotTokenParameter", "/bastion/slack/bot-token", "SlackChannels", "C0123ABCD,G0123ABCD", "SlackUsers", "U0123ABCD,W0123ABCD"}),
	} {
		s := deploy(t, parameters...)
		for name, function := range s.of("AWS::Lambda::Function") {
			var environ []string
			for variable, value := range at(function, "Properties", "Environment", "Variables").(object) {
				environ = append(environ, variable+"="+fmt.Sprint(value))
			}
			_, err := config.Load(environ, s.parameters)
			if name == "SlackFunction" {
				_, err = config.LoadSlack(append(environ, "AWS_LAMBDA_FUNCTION_NAME=way-in-SlackFunction-1"))
			}
			if err != nil {
				t.Errorf("%v: %s: %v", parameters, name, err)
			}
		}
	}
}

// parameters is a config.ReadParameters of the stack.
func (s stack) parameters(names ...string) (map[string]string, error) {
	values := map[string]string{}
	for _, name := range names {
		values[name] = fmt.Sprint(at(s.resources[name], "Properties", "Value"))
	}
	return values, nil
}

// The functions that write leases have the destinations, and only they. A text has all
// entries of both families.
func TestDestinations(t *testing.T) {
	v4, v6 := many(20, "10.%d.0.0/16:5432"), many(4, "fd0%d::/16:22-23")
	for _, test := range []struct{ v4, v6, want string }{{v4, v6, v4 + "," + v6}, {v4, "", v4}} {
		s := deploy(t, slices.Concat(withSlack, []string{"AllowedDestinations", test.v4, "AllowedDestinationsIpv6", test.v6})...)
		for role, may := range functions {
			name := strings.TrimSuffix(role, "Role") + "Function"
			want := ""
			if may&bastion.WriteLease != 0 {
				want = "DestinationsParameter"
			}
			if got := at(s.properties(t, name), "Environment", "Variables", "BASTION_ALLOWED_PARAMETER"); got != want {
				t.Errorf("%s reads the destinations from %q, want %q", name, got, want)
			}
		}
		p := s.properties(t, "DestinationsParameter")
		if p["Type"] != "String" || p["Value"] != test.want {
			t.Errorf("the parameter is %v", p)
		}
		if rules, wrong := bastion.ParseDestinationRules(test.want); wrong != nil || len(rules) != strings.Count(test.want, ",")+1 {
			t.Errorf("%s has %d rules, %v", test.want, len(rules), wrong)
		}
	}
}

// Functions read the parameters only when they start. They start again if their environment
// changes, and the revision of the task definition is in it. So each setting in a parameter
// must change the task definition.
func TestParametersChangeTheTaskDefinition(t *testing.T) {
	label := func(given ...string) any {
		container := deploy(t, given...).properties(t, "TaskDefinition")["ContainerDefinitions"].([]any)[0]
		return at(container, "DockerLabels", "bastion.settings")
	}
	base := label()
	for _, given := range [][]string{{"AllowedDestinations", "10.0.0.0/8:22"}, {"AllowedDestinationsIpv6", "fd00::/8"}, {"ResourceTags", "a=b"}} {
		if got := label(given...); got == base || !strings.Contains(fmt.Sprint(got), given[1]) {
			t.Errorf("with %q, the label is %q", given, got)
		}
	}
	for name, function := range deploy(t, withSlack...).of("AWS::Lambda::Function") {
		definition := at(function, "Properties", "Environment", "Variables", "BASTION_TASK_DEFINITION")
		if definition != attributes["TaskDefinition"] && name != "SlackFunction" {
			t.Errorf("the environment of %s has the task definition %v", name, definition)
		}
	}
}

// A value of Parameter Store's free tier has at most 4 KB.
func TestLongestParametersFit(t *testing.T) {
	template, _ := open(t)
	length := func(name string) int { return int(template.Parameters[name]["MaxLength"].(float64)) }
	if n := length("AllowedDestinations") + 1 + length("AllowedDestinationsIpv6"); n > 4096 {
		t.Errorf("the destinations may have %d bytes", n)
	}
	if n := length("ResourceTags"); n > 4096 {
		t.Errorf("the tags may have %d bytes", n)
	}
}

// By default a caller can name single addresses only. Every function that can admit a
// source has the same limits.
func TestWidestSources(t *testing.T) {
	for _, test := range []struct {
		parameters []string
		v4, v6     string
	}{
		{nil, "32", "128"},
		{[]string{"WidestSourceIpv4", "28", "WidestSourceIpv6", "64"}, "28", "64"},
	} {
		s := deploy(t, test.parameters...)
		for _, name := range []string{"CreateFunction", "ReaperFunction", "ObserverFunction"} {
			variables := func(variable string) string {
				return fmt.Sprint(at(s.properties(t, name), "Environment", "Variables", variable))
			}
			if v4, v6 := variables("BASTION_WIDEST_IPV4"), variables("BASTION_WIDEST_IPV6"); v4 != test.v4 || v6 != test.v6 {
				t.Errorf("%v: %s has the limits %s and %s, want %s and %s", test.parameters, name, v4, v6, test.v4, test.v6)
			}
		}
	}
}

// The functions that create groups and tasks have the operator's tags, and only they.
func TestTags(t *testing.T) {
	creators := map[string]bool{}
	for role, may := range functions {
		creators[strings.TrimSuffix(role, "Role")+"Function"] = may&(bastion.CreateGroup|bastion.RunTask) != 0
	}
	for _, tags := range []string{"CostCenter=42", ""} {
		s := deploy(t, slices.Concat(withSlack, []string{"ResourceTags", tags})...)
		for name, function := range s.of("AWS::Lambda::Function") {
			want := ""
			if creators[name] && tags != "" {
				want = "TagsParameter"
			}
			if got := at(function, "Properties", "Environment", "Variables", "BASTION_TAGS_PARAMETER"); got != want {
				t.Errorf("%s reads the tags from %q, want %q", name, got, want)
			}
		}
		// Parameter Store accepts no empty value.
		if p, found := s.resources["TagsParameter"]; found != (tags != "") || found && at(p, "Properties", "Value") != tags {
			t.Errorf("with the tags %q, the parameter is %v", tags, p)
		}
	}
}

// Lambda limits the variables of a function to 4 KB, and refuses more only during a
// deployment. Names that contain the stack's may have its 128 characters, and there may
// be sixteen subnets.
func TestLongestEnvironmentFits(t *testing.T) {
	longest(t, "ReaperFunction", 7*128+14*25, "AllowedSources", "TrustedSessionRoles", "Admins", "JwtIssuer")
	longest(t, "SlackFunction", 5*128, "SlackTeams", "SlackSigningSecretParameter", "SlackBotTokenParameter", "SlackChannels", "SlackUsers")
}

// longest adds the longest values of the parameters to the size of a function's
// environment. size is that of names that contain the stack's.
func longest(t *testing.T, name string, size int, parameters ...string) {
	t.Helper()
	function := deploy(t, withSlack...).properties(t, name)
	for variable, value := range at(function, "Environment", "Variables").(object) {
		size += len(variable) + len(fmt.Sprint(value))
	}
	template, _ := open(t)
	for _, name := range parameters {
		parameter := template.Parameters[name]
		longest, ok := parameter["MaxLength"].(float64)
		if !ok {
			t.Fatalf("the parameter %s has no longest length", name)
		}
		size += int(longest) - len(fmt.Sprint(parameter["Default"]))
	}
	t.Logf("%s: at most %d bytes", name, size)
	if size > 4096 {
		t.Errorf("%s may have %d bytes of variables, more than 4096", name, size)
	}
}

// Only resources that have data remain when a stack is deleted, and nothing remains when
// the creation of a stack is rolled back.
func TestKeptResources(t *testing.T) {
	want := []string{"AccessLogGroup", "LeasesTable", "RecordsTable", "SlackTable", "TaskLogGroup"}
	var kept []string
	for name, resource := range deploy(t, withSlack...).resources {
		switch resource["DeletionPolicy"] {
		case nil, "Delete":
		case "RetainExceptOnCreate":
			kept = append(kept, name)
		default:
			t.Errorf("the deletion policy of %s is %v", name, resource["DeletionPolicy"])
		}
	}
	slices.Sort(kept)
	if !slices.Equal(kept, want) {
		t.Errorf("kept %q, want %q", kept, want)
	}
}

// An account may have several stacks, so no resource has a fixed name. Names may contain
// the stack's, and an alias has its name within its function. A stack that is created
// again under the same name must not need the name of a resource that is kept, so the
// name of the log of requests contains the stack's UUID.
func TestNoResourceHasAFixedName(t *testing.T) {
	names := []string{"TableName", "FunctionName", "RoleName", "ManagedPolicyName", "QueueName", "ClusterName", "LogGroupName", "GroupName", "AlarmName", "RepositoryName", "DashboardName", "Name", "Family"}
	s := deploy(t, append([]string{"Dashboard", "true"}, withSlack...)...)
	for logical, resource := range s.resources {
		for _, name := range names {
			value, ok := at(resource, "Properties", name).(string)
			_, isReference := s.resources[strings.TrimSuffix(value, ".Arn")]
			if name == "LogGroupName" && value == "/aws/vendedlogs/apigateway/way-in-5f1c" {
				continue
			}
			if ok && !isReference && !strings.HasPrefix(strings.TrimPrefix(value, "/bastion/"), attributes["AWS::StackName"]) && resource["Type"] != "AWS::Lambda::Alias" {
				t.Errorf("%s has the %s %q", logical, name, value)
			}
		}
	}
}
