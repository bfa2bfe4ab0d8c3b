package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func wholeSlack() map[string]string {
	alias := func(name string) string {
		return "arn:aws:lambda:eu-west-1:111122223333:function:way-in-" + name + ":slack"
	}
	return map[string]string{
		"TABLE":                    "way-in-Slack-1",
		"SIGNING_SECRET_PARAMETER": "/way-in/signing-secret", "BOT_TOKEN_PARAMETER": "/way-in/bot-token",
		"TEAMS": "T0123ABCD, E0123ABCD", "CHANNELS": "C0123ABCD,G0123ABCD,D0123ABCD", "USERS": "U0123ABCD,W0123ABCD",
		"DEFAULT_TTL": "1h", "MAX_TTL": "8h",
		"CREATE": alias("create"), "DESCRIBE": alias("describe"), "EXTEND": alias("extend"), "DESTROY": alias("destroy"),
	}
}

func loadSlack(env map[string]string, more ...string) (Slack, error) {
	environ := append(more, "PATH=/usr/bin", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=way-in-slack")
	for name, value := range env {
		environ = append(environ, slackPrefix+name+"="+value)
	}
	return LoadSlack(environ)
}

func TestLoadSlackReadsEveryVariable(t *testing.T) {
	got, err := loadSlack(wholeSlack(), "BASTION_TABLE=none of its business")
	if err != nil {
		t.Fatal(err)
	}
	want := Slack{
		Table: "way-in-Slack-1", SigningSecret: "/way-in/signing-secret", BotTokens: "/way-in/bot-token",
		Teams: []string{"T0123ABCD", "E0123ABCD"}, Channels: []string{"C0123ABCD", "G0123ABCD", "D0123ABCD"}, Users: []string{"U0123ABCD", "W0123ABCD"},
		DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour,
		Create:   "arn:aws:lambda:eu-west-1:111122223333:function:way-in-create:slack",
		Describe: "arn:aws:lambda:eu-west-1:111122223333:function:way-in-describe:slack",
		Extend:   "arn:aws:lambda:eu-west-1:111122223333:function:way-in-extend:slack",
		Destroy:  "arn:aws:lambda:eu-west-1:111122223333:function:way-in-destroy:slack",
		Queue:    "way-in-slack:queue",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if names := got.SecretNames(); !slices.Equal(names, []string{"/way-in/signing-secret", "/way-in/bot-token"}) {
		t.Errorf("its secrets are %q", names)
	}
	least := wholeSlack()
	least["CHANNELS"], least["USERS"] = "", ""
	if got, err := loadSlack(least); err != nil || got.Channels != nil || got.Users != nil {
		t.Errorf("without optional values: %+v, %v", got, err)
	}
}

// A path has one token for each team, and one call reads at most ten parameters.
func TestBotTokenPathHasOneTokenForEachTeam(t *testing.T) {
	env := wholeSlack()
	env["BOT_TOKEN_PARAMETER"] = "/way-in/tokens/"
	got, err := loadSlack(env)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/way-in/signing-secret", "/way-in/tokens/T0123ABCD", "/way-in/tokens/E0123ABCD"}
	if names := got.SecretNames(); !slices.Equal(names, want) || got.BotToken("T0123ABCD") != want[1] {
		t.Errorf("its secrets are %q", names)
	}
	env["TEAMS"] = "T00,T01,T02,T03,T04,T05,T06,T07,T08,T09"
	if _, err := loadSlack(env); err == nil || !strings.Contains(err.Error(), "at most 9") {
		t.Errorf("ten workspaces with a token each: %v", err)
	}
	env["TEAMS"], env["SIGNING_SECRET_PARAMETER"] = "T00,T01", "/way-in/tokens/T01"
	if _, err := loadSlack(env); err == nil || !strings.Contains(err.Error(), "different secrets") {
		t.Errorf("the signing secret is a team's token: %v", err)
	}
}

func TestMissingSlackVariableIsAnError(t *testing.T) {
	for name := range wholeSlack() {
		env := wholeSlack()
		delete(env, name)
		if _, err := loadSlack(env); err == nil || !strings.Contains(err.Error(), slackPrefix+name+" is missing") {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if _, err := LoadSlack(nil); err == nil || !strings.Contains(err.Error(), "AWS_LAMBDA_FUNCTION_NAME is missing") {
		t.Errorf("without a name: %v", err)
	}
}

func TestInvalidSlackVariableIsNamed(t *testing.T) {
	const alias = `the ARN of a function's alias "slack"`
	for _, test := range []struct{ name, value, want string }{
		{"TABLE", "", "the name of a DynamoDB table"},
		{"SIGNING_SECRET_PARAMETER", "", "the name of a parameter"},
		{"SIGNING_SECRET_PARAMETER", "/way-in/signing secret", "the name of a parameter"},
		{"SIGNING_SECRET_PARAMETER", "/way-in/bot-token", "different secrets"},
		{"SIGNING_SECRET_PARAMETER", "/way-in/", "the name of a parameter"},
		{"BOT_TOKEN_PARAMETER", "", "the name of a parameter"},
		{"BOT_TOKEN_PARAMETER", "xoxb 1", "or a path with one parameter for each team ID, such as /bastion/slack/tokens/"},
		{"TEAMS", "", "no workspace could use the command"},
		{"MAX_TTL", "0s", "SLACK_MAX_TTL (0s) must be more than zero"},
		{"DEFAULT_TTL", "soon", `SLACK_DEFAULT_TTL is "soon": want a duration`},
		{"TEAMS", "T0123ABCD,", `SLACK_TEAMS is "": want the ID of a Slack workspace`},
		{"TEAMS", "U0123ABCD", "the ID of a Slack workspace"},
		{"TEAMS", "T0", "the ID of a Slack workspace"},
		{"TEAMS", "T" + strings.Repeat("0", 32), "the ID of a Slack workspace"}, // the owner would be too long
		{"TEAMS", "t0123abcd", "the ID of a Slack workspace"},
		{"TEAMS", "T0123:ABCD", "the ID of a Slack workspace"},
		{"TEAMS", "T0123ABCD,T0123ABCD", "has T0123ABCD twice"},
		{"CHANNELS", "#general", "the ID of a Slack channel"},
		{"CHANNELS", "T0123ABCD", "the ID of a Slack channel"},
		{"USERS", "@alice", "the ID of a Slack user"},
		{"USERS", "B0123ABCD", "the ID of a Slack user"},
		{"CREATE", "", alias},
		{"DESCRIBE", "arn:aws:lambda:eu-west-1:111122223333:function:way-in-describe", alias},
		{"EXTEND", "arn:aws:lambda:eu-west-1:111122223333:function:way-in-extend:queue", alias},
		{"DESTROY", "arn:aws:lambda:eu-west-1:111122223333:function:way-in-destroy:slack:slack", alias},
		{"TEAM", "T0123ABCD", "SLACK_TEAM is not a setting"},
		{"SIGNING_SECRET", "8f742231b10e", "SLACK_SIGNING_SECRET is not a setting"},
	} {
		env := wholeSlack()
		env[test.name] = test.value
		if _, err := loadSlack(env); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s=%q:\n got %v\nwant %s", test.name, test.value, err, test.want)
		}
	}
}

// The value of an unknown variable may be a secret.
func TestErrorHasNoValueOfAnUnknownVariable(t *testing.T) {
	env := wholeSlack()
	env["SIGNING_SECRET"] = "8f742231b10e"
	if _, err := loadSlack(env); err == nil || strings.Contains(err.Error(), "8f742231b10e") {
		t.Errorf("%v", err)
	}
}

func TestErrorListsEverySlackProblem(t *testing.T) {
	env := wholeSlack()
	delete(env, "TABLE")
	env["TEAMS"], env["CREATE"], env["COLOUR"] = "general", "create", "blue"
	_, err := loadSlack(env)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"SLACK_TABLE is missing", "SLACK_TEAMS", "SLACK_CREATE", "SLACK_COLOUR"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
}

// The emulator sets a function name that has an alias.
func TestQueueReplacesAnAliasInTheName(t *testing.T) {
	got, err := loadSlack(wholeSlack(), "AWS_LAMBDA_FUNCTION_NAME=slack:queue")
	if err != nil || got.Queue != "slack:queue" {
		t.Errorf("%q, %v", got.Queue, err)
	}
}
