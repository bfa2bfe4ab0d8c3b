//go:build conformance

package system

import (
	"encoding/json"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
)

// slackWork is the alias by which the Slack function is given work.
const slackWork = "slack:queue"

const slackTable = "way-in-SlackTable-1"

// warn is how long before its deadline an owner is warned: so long that the button
// which extends by an hour leads to a warning a quarter of a minute later.
const warn = "59m45s"

func functionARN(name string) string {
	return "arn:aws:lambda:" + region + ":" + account + ":function:" + name
}

// slackSettings is the environment that template.yaml gives to the Slack function,
// and by which it comes to Slack.
func slackEnvironment(s *fakeSlack) []string {
	return []string{
		"SLACK_TABLE=" + slackTable, "SLACK_SIGNING_SECRET_PARAMETER=" + secretName, "SLACK_BOT_TOKEN_PARAMETER=" + tokenName,
		"SLACK_TEAMS=" + team, "SLACK_CHANNELS=" + channel, "SLACK_USERS=", "SLACK_DEFAULT_TTL=1h", "SLACK_MAX_TTL=8h",
		"SLACK_CREATE=" + functionARN("create:slack"), "SLACK_DESCRIBE=" + functionARN("describe:slack"),
		"SLACK_EXTEND=" + functionARN("extend:slack"), "SLACK_DESTROY=" + functionARN("destroy:slack"),
		// net/http proxies nothing that is on loopback, where all else is.
		"HTTPS_PROXY=" + s.proxy, "SSL_CERT_FILE=" + s.certificateFile,
	}
}

// awsConfig is how the test itself calls what is there in AWS's place.
func awsConfig(t testing.TB) aws.Config {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func createSlackTable(t testing.TB) {
	t.Helper()
	if err := awscloud.CreateTable(t.Context(), awscloud.NewDynamoDB(awsConfig(t)), slackTable, awscloud.ItemsSchema()); err != nil {
		t.Fatal(err)
	}
}

// keepSecrets puts what was agreed with Slack, and something else, where it is read
// from.
func (m *moto) putSecrets(t testing.TB) {
	t.Helper()
	for name, value := range map[string]string{secretName: signingSecret, tokenName: botToken, "/another": "another"} {
		in, err := json.Marshal(map[string]string{"Name": name, "Value": value, "Type": "SecureString"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.call(t.Context(), "ssm", map[string]string{
			"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutParameter"}, in); err != nil {
			t.Fatal(err)
		}
	}
}
