package deploy

import (
	"encoding/json"
	"os"
	"path"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// policyFile is the policy for people who deploy.
const policyFile = "deployer-policy.json"

type policy struct {
	Statement []struct {
		Sid, Effect      string
		Action, Resource words
	}
}

// words is a text or a list of texts.
type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	if strings.HasPrefix(string(text), `"`) {
		*w = words{""}
		return json.Unmarshal(text, &(*w)[0])
	}
	return json.Unmarshal(text, (*[]string)(w))
}

func readPolicy(t *testing.T) (p policy) {
	t.Helper()
	text, err := os.ReadFile("../../" + policyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	// "IAM and AWS STS quotas" in the IAM User Guide: at most 6,144 characters, without white
	// space, in a managed policy. The placeholders may be shorter than the names.
	n := 0
	for _, r := range string(text) {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	if n > 5000 {
		t.Errorf("the policy has %d characters", n)
	}
	return p
}

// allows reports whether a statement has the permission. IAM ignores case.
func (p policy) allows(permission string) bool {
	for _, s := range p.Statement {
		for _, pattern := range s.Action {
			if matched, err := path.Match(strings.ToLower(pattern), strings.ToLower(permission)); err == nil && matched && s.Effect == "Allow" {
				return true
			}
		}
	}
	return false
}

// The policy grants every call that this package makes.
func TestDeployerPolicyCoversEveryCall(t *testing.T) {
	services := map[string]string{
		"STS": "sts", "IAM": "iam", "ECS": "ecs", "EC2": "ec2", "Quotas": "servicequotas", "Stacks": "cloudformation", "Objects": "s3",
		"ECR": "ecr", "Functions": "lambda", "Parameters": "ssm", "Tables": "dynamodb",
	}
	// The permissions with other names than the call: "Actions, resources, and condition keys
	// for Amazon S3" and "for AWS Lambda" in the Service Authorization Reference.
	named := map[string]string{
		"s3:HeadObject": "s3:GetObject", "s3:HeadBucket": "s3:ListBucket", "s3:ListObjectVersions": "s3:ListBucketVersions",
		"s3:DeleteObjects": "s3:DeleteObjectVersion", "lambda:Invoke": "lambda:InvokeFunction",
	}
	p, calls := readPolicy(t), 0
	cloud := reflect.TypeFor[Cloud]()
	for i := range cloud.NumField() {
		f := cloud.Field(i)
		if f.Type.Kind() != reflect.Interface || f.Name == "Credentials" {
			continue
		}
		for j := range f.Type.NumMethod() {
			permission := services[f.Name] + ":" + f.Type.Method(j).Name
			if other, is := named[permission]; is {
				permission = other
			}
			calls++
			if !p.allows(permission) {
				t.Errorf("%s is not granted", permission)
			}
		}
	}
	if calls < 40 {
		t.Errorf("only %d calls found", calls)
	}
	for _, permission := range []string{"dynamodb:Scan", "lambda:UpdateFunctionCode", "ecr:PutImage", "execute-api:Invoke"} {
		if !p.allows(permission) {
			t.Errorf("%s is not granted", permission)
		}
	}
	for _, permission := range []string{"iam:CreateUser", "iam:PutUserPolicy", "ec2:RunInstances", "sts:AssumeRole", "ssm:GetParameter", "kms:Decrypt"} {
		if p.allows(permission) {
			t.Errorf("%s is granted", permission)
		}
	}
}

// Parameters of others, such as the secrets of Slack, cannot be changed.
func TestDeployerPolicyChangesParametersOfTheStackOnly(t *testing.T) {
	for _, s := range readPolicy(t).Statement {
		for _, action := range s.Action {
			if strings.HasPrefix(action, "ssm:") && action != "ssm:GetParameters" && !reflect.DeepEqual(s.Resource, words{"arn:aws:ssm:REGION:ACCOUNT:parameter/bastion/STACK/*"}) {
				t.Errorf("%s is granted on %s", action, s.Resource)
			}
		}
	}
}

// Without limits to the stack's own resources, the services' wildcards would grant
// everything in the account.
func TestDeployerPolicyIsLimitedToTheStack(t *testing.T) {
	for _, s := range readPolicy(t).Statement {
		for _, action := range s.Action {
			service, name, _ := strings.Cut(action, ":")
			for _, resource := range s.Resource {
				if resource == "*" && (name == "*" || service == "iam" || service == "s3") {
					t.Errorf("%s grants %s on everything", s.Sid, action)
				}
			}
		}
		for _, resource := range s.Resource {
			if strings.HasPrefix(resource, "arn:aws:iam:") && !strings.Contains(resource, "/STACK-") && !strings.HasSuffix(resource, "/AWSServiceRoleForECS") {
				t.Errorf("%s grants %q on %s", s.Sid, s.Action, resource)
			}
		}
	}
}
