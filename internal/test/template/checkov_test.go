//go:build conformance

package template

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

const checkov = "../../../.tools/checkov-3.3.30/bin/checkov"

// accepted has each finding of checkov that remains: the check, the resources that fail
// it, and why they are as they are.
var accepted = []struct {
	check     string
	resources string
	reason    string
}{
	{"CKV_AWS_18 Ensure the S3 bucket has access logging enabled", "CodeBucket",
		"Only the people who deploy can read or write the bucket, which has code and templates. Logs of them would need a second bucket. Accounts that want logs have CloudTrail data events."},
	{"CKV_AWS_23 Ensure every security groups rule has a description", "MemberGroup",
		"Each rule has a description (TestMemberGroup). checkov does not look into Fn::If."},
	{"CKV_AWS_27 Ensure all data stored in the SQS queue is encrypted", "DeadLetters",
		"SQS encrypts the queue with its own key (SqsManagedSseEnabled). checkov accepts a KMS key only."},
	{"CKV_AWS_65 Ensure container insights are enabled on ECS cluster", "Cluster",
		"The metrics of one task for each bastion would cost more than everything else. The service has metrics of its own."},
	{"CKV_AWS_115 Ensure that AWS Lambda function is configured for function-level concurrent execution limit", "ObserverFunction ReaperFunction SlackFunction",
		"A reservation fails in accounts with a small quota. RequestConcurrency limits the functions that people's requests invoke, so that these three get the rest."},
	{"CKV_AWS_116 Ensure that AWS Lambda function is configured for a Dead Letter Queue(DLQ)", "CreateFunction DescribeFunction DestroyFunction ExtendFunction ObserverFunction ReaperFunction SlackFunction",
		"API Gateway invokes four of them synchronously, so there is no event to keep. The others have a destination on failure (TestAsynchronousFunctions, TestSlackFunctionAndItsQueue), which checkov does not know."},
	{"CKV_AWS_117 Ensure that AWS Lambda function is configured inside a VPC", "CreateFunction DescribeFunction DestroyFunction ExtendFunction ObserverFunction ReaperFunction SlackFunction",
		"The functions call APIs of AWS and Slack only. In a VPC they would need NAT and an interface to the network that bastions protect."},
	{"CKV_AWS_119 Ensure DynamoDB Tables are encrypted using a KMS Customer Managed CMK", "LeasesTable RecordsTable SlackTable",
		"DynamoDB encrypts the tables with its own key. They have no secret: tokens are stored as hashes, keys are public. With a customer managed key, every role, the tasks' too, would need kms:Decrypt."},
	{"CKV_AWS_136 Ensure that ECR repositories are encrypted using KMS", "Registry",
		"ECR encrypts the images with its own key. They have no secret: anyone can build them from the source."},
	{"CKV_AWS_158 Ensure that CloudWatch Log Group is encrypted by KMS", "AccessLogGroup CreateLogGroup DescribeLogGroup DestroyLogGroup ExtendLogGroup ObserverLogGroup ReaperLogGroup SlackLogGroup TaskLogGroup",
		"CloudWatch Logs encrypts all groups with its own key. With another key, too, IAM permissions of CloudWatch Logs decide who may read a group."},
	{"CKV_AWS_173 Check encryption settings for Lambda environment variable", "CreateFunction DescribeFunction DestroyFunction ExtendFunction ObserverFunction ReaperFunction SlackFunction",
		"Lambda encrypts the variables with its own key. They have no secret: those of Slack are in Parameter Store."},
}

// TestCheckovFindings compares the findings with the list in both directions: a new
// finding fails, and so does an entry that checkov no longer reports.
func TestCheckovFindings(t *testing.T) {
	want := map[string]bool{}
	for _, entry := range accepted {
		if entry.reason == "" {
			t.Errorf("%s has no reason", entry.check)
		}
		for resource := range strings.FieldsSeq(entry.resources) {
			want[entry.check+": "+resource] = true
		}
	}
	got := findings(t)
	for _, finding := range slices.Sorted(maps.Keys(got)) {
		if !want[finding] {
			t.Errorf("checkov has the new finding %s: change the template, or add it to the list with the reason", finding)
		}
	}
	for _, finding := range slices.Sorted(maps.Keys(want)) {
		if !got[finding] {
			t.Errorf("checkov no longer reports %s: remove it from the list", finding)
		}
	}
}

// findings returns the failed checks of both templates, "CHECK NAME: RESOURCE".
func findings(t *testing.T) map[string]bool {
	t.Helper()
	transformed, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "template.json")
	if err := os.WriteFile(file, transformed, 0o600); err != nil {
		t.Fatal(err)
	}
	// Without --skip-download, checkov reads guides and policies from the network.
	command := exec.Command(checkov, "--framework", "cloudformation", "--skip-download", "--soft-fail", "--compact", "--quiet", "--output", "json",
		"--file", file, "--file", "../../../registry.yaml")
	var problems strings.Builder
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		t.Fatalf("checkov: %v\n%s%s", err, output, &problems)
	}
	var report struct {
		Summary struct {
			Passed        int
			ParsingErrors int `json:"parsing_errors"`
		}
		Results struct {
			Failed []struct {
				ID       string `json:"check_id"`
				Name     string `json:"check_name"`
				Resource string // TYPE.NAME
			} `json:"failed_checks"`
		}
	}
	if err := json.Unmarshal(output, &report); err != nil {
		t.Fatalf("%v in %s%s", err, output, &problems)
	}
	if report.Summary.ParsingErrors > 0 || report.Summary.Passed < 100 {
		t.Fatalf("checkov did not read the templates: %+v\n%s", report.Summary, &problems)
	}
	t.Logf("%d checks passed, %d findings", report.Summary.Passed, len(report.Results.Failed))
	all := map[string]bool{}
	for _, failed := range report.Results.Failed {
		all[failed.ID+" "+failed.Name+": "+failed.Resource[strings.LastIndexByte(failed.Resource, '.')+1:]] = true
	}
	return all
}
