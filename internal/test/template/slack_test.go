//go:build conformance

package template

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// withSlack has the parameters of a stack with Slack.
var withSlack = []string{
	"SlackTeams", "T0123ABCD", "SlackSigningSecretParameter", "/bastion/slack/signing-secret", "SlackBotTokenParameter", "/bastion/slack/bot-token",
}

// The role reads the two parameters, or everything below a path of bot tokens.
func TestSlackRoleReadsTheNamedParameters(t *testing.T) {
	const prefix = "arn:aws:ssm:eu-west-1:111122223333:parameter/bastion/slack/"
	for parameter, want := range map[string]string{
		"/bastion/slack/bot-token": "bot-token", "/bastion/slack/tokens/": "tokens/*", "/bastion/slack/tokens": "tokens",
	} {
		var got []string
		for _, st := range statements(t, deploy(t, slices.Concat(withSlack, []string{"SlackBotTokenParameter", parameter})...), "SlackRole") {
			if strings.HasPrefix(st.actions[0], "ssm:") {
				got = append(st.actions, st.resources...)
			}
		}
		if !slices.Equal(got, []string{"ssm:GetParameters", prefix + "signing-secret", prefix + want}) {
			t.Errorf("%s: %q", parameter, got)
		}
	}
}

// slackRoutes has every route without an authorizer.
var slackRoutes = []string{
	"GET /slack/start/{token}", "GET /slack/status/{token}", "POST /slack/command", "POST /slack/interaction", "POST /slack/start/{token}",
}

func TestOnlySlackRoutesHaveNoAuthorizer(t *testing.T) {
	for _, test := range []struct {
		parameters    []string
		authorization string
	}{
		{withSlack, "AWS_IAM"},
		{slices.Concat(withSlack, []string{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a"}), "JWT"},
	} {
		s := deploy(t, test.parameters...)
		var open []string
		for name, route := range s.of("AWS::ApiGatewayV2::Route") {
			p := route["Properties"].(object)
			key := p["RouteKey"].(string)
			switch p["AuthorizationType"] {
			case "NONE":
				open = append(open, key)
				if p["Target"] != "integrations/SlackIntegration" {
					t.Errorf("the target of %s is %v", name, p["Target"])
				}
			case test.authorization:
				if routes[key] == "" {
					t.Errorf("%s is the unknown route %s", name, key)
				}
			default:
				t.Errorf("%s is authorized by %v", name, p["AuthorizationType"])
			}
		}
		slices.Sort(open)
		if !slices.Equal(open, slackRoutes) {
			t.Errorf("%v: the routes without an authorizer are %q", test.parameters, open)
		}
	}
}

// API Gateway may invoke the unqualified Slack function, for its routes only.
func TestPermissionsToInvokeTheSlackFunction(t *testing.T) {
	const api = "arn:aws:execute-api:eu-west-1:111122223333:Api/*/"
	var got []string
	for _, permission := range deploy(t, withSlack...).of("AWS::Lambda::Permission") {
		p := permission["Properties"].(object)
		if function := p["FunctionName"].(string); strings.Contains(function, "Slack") {
			got = append(got, function+" "+p["Principal"].(string)+" "+p["SourceArn"].(string))
		}
	}
	slices.Sort(got)
	want := []string{
		"SlackFunction.Arn apigateway.amazonaws.com " + api + "GET/slack/start/*",
		"SlackFunction.Arn apigateway.amazonaws.com " + api + "GET/slack/status/*",
		"SlackFunction.Arn apigateway.amazonaws.com " + api + "POST/slack/command",
		"SlackFunction.Arn apigateway.amazonaws.com " + api + "POST/slack/interaction",
		"SlackFunction.Arn apigateway.amazonaws.com " + api + "POST/slack/start/*",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// The aliases refer to the current code, so a deployment changes them with the function.
func TestAliases(t *testing.T) {
	got := map[string]string{}
	for name, alias := range deploy(t, withSlack...).of("AWS::Lambda::Alias") {
		p := alias["Properties"].(object)
		got[name] = strings.Join([]string{p["FunctionName"].(string), p["Name"].(string), p["FunctionVersion"].(string)}, " ")
	}
	want := map[string]string{
		"CreateSlackAlias": "CreateFunction slack $LATEST", "DescribeSlackAlias": "DescribeFunction slack $LATEST",
		"ExtendSlackAlias": "ExtendFunction slack $LATEST", "DestroySlackAlias": "DestroyFunction slack $LATEST",
		"SlackQueue": "SlackFunction queue $LATEST",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// The Slack function may invoke the aliases of the API and its own queue. The reaper and
// the observer may invoke that queue. Only the schedules may invoke an unqualified
// function, the reaper.
func TestPermissionsToInvokeAliases(t *testing.T) {
	s := deploy(t, withSlack...)
	got := map[string][]string{}
	add := func(role string, document any) {
		for _, one := range at(document, "Statement").([]any) {
			if slices.Contains(texts(at(one, "Action")), "lambda:InvokeFunction") {
				got[role] = append(got[role], texts(at(one, "Resource"))...)
			}
		}
	}
	for role := range s.of("AWS::IAM::Role") {
		policies, _ := s.properties(t, role)["Policies"].([]any)
		for _, policy := range policies {
			add(role, at(policy, "PolicyDocument"))
		}
	}
	for name := range s.of("AWS::IAM::RolePolicy") {
		p := s.properties(t, name)
		add(p["RoleName"].(string), p["PolicyDocument"])
	}
	for name := range s.of("AWS::IAM::ManagedPolicy") {
		add(name, s.properties(t, name)["PolicyDocument"])
	}
	want := map[string][]string{
		"SlackRole": {
			alias("Create", "slack"), alias("Describe", "slack"), alias("Extend", "slack"), alias("Destroy", "slack"), alias("Slack", "queue"),
		},
		"ReaperRole": {alias("Slack", "queue")}, "ObserverRole": {alias("Slack", "queue")}, "ScheduleRole": {"ReaperFunction.Arn"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestSlackFunctionAndItsQueue(t *testing.T) {
	s := deploy(t, withSlack...)
	p := s.properties(t, "SlackQueueInvokeConfig")
	if p["FunctionName"] != "SlackFunction" || p["Qualifier"] != "queue" || p["MaximumRetryAttempts"] != 2.0 || p["MaximumEventAgeInSeconds"] != 1800.0 ||
		at(p, "DestinationConfig", "OnFailure", "Destination") != deadLetters {
		t.Errorf("failed events: %v", p)
	}
	if p := s.properties(t, "SlackFunction"); p["Role"] != "SlackRole.Arn" || at(p, "LoggingConfig", "LogGroup") != "SlackLogGroup" {
		t.Errorf("the function is %v", p)
	}
	for _, name := range []string{"ReaperFunction", "ObserverFunction"} {
		for parameters, want := range map[*[]string]string{&withSlack: alias("Slack", "queue"), {}: ""} {
			if got := at(deploy(t, *parameters...).properties(t, name), "Environment", "Variables", "BASTION_SLACK"); got != want {
				t.Errorf("%v: %s notifies %v", *parameters, name, got)
			}
		}
	}
}

func TestStackWithoutSlackHasNoSlackResources(t *testing.T) {
	for name := range deploy(t).resources {
		if strings.Contains(name, "Slack") {
			t.Errorf("the stack has %s", name)
		}
	}
}

// The paths of the pages contain tokens, which must not be in a log.
func TestAccessLogHasNoPath(t *testing.T) {
	s := deploy(t, withSlack...)
	format := at(s.properties(t, "Stage"), "AccessLogSettings", "Format").(string)
	for part := range strings.SplitSeq(format, "$") {
		if strings.HasPrefix(part, "context.path") || strings.Contains(part, "uery") || strings.HasPrefix(part, "context.protocol") {
			t.Errorf("the log has %s", part)
		}
	}
	if !strings.Contains(format, "$context.routeKey") {
		t.Errorf("the log has no route: %s", format)
	}
}
