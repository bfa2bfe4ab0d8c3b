package privilege

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

const small = `{"Resources": {
	"T": {"Type": "AWS::DynamoDB::Table", "Properties": {}},
	"P": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
		{"Sid": "Stop", "Effect": "Allow", "Action": "ecs:StopTask",
		 "Resource": {"Fn::Sub": "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${Cluster}/*"},
		 "Condition": {"StringEquals": {"aws:ResourceTag/t": {"Ref": "AWS::StackId"}}, "ArnEquals": {"ecs:cluster": {"Fn::GetAtt": ["Cluster", "Arn"]}}}}]}}},
	"R": {"Type": "AWS::IAM::Role", "Properties": {
		"ManagedPolicyArns": [{"Ref": "P"}],
		"Policies": [{"PolicyName": "own", "PolicyDocument": {"Version": "2012-10-17", "Statement": [
			{"Sid": "Read", "Effect": "Allow", "Action": ["dynamodb:Query", "dynamodb:Scan"],
			 "Resource": [{"Fn::GetAtt": ["T", "Arn"]}, {"Fn::Sub": "${T.Arn}/index/i"}, "*"]},
			{"Fn::If": ["A", {"Sid": "Call", "Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": [{"Ref": "Alias"}, {"Fn::If": ["B", "b", {"Ref": "AWS::NoValue"}]}]}, {"Ref": "AWS::NoValue"}]},
			{"Sid": "Stream", "Effect": "Allow", "Action": "dynamodb:GetRecords", "Resource": {"Fn::GetAtt": ["T", "StreamArn"]},
			 "Condition": {"StringLike": {"k": ["a", "b"]}}}]}}]}},
	"Beside": {"Type": "AWS::IAM::RolePolicy", "Properties": {"RoleName": {"Ref": "Other"}, "PolicyName": "more", "PolicyDocument": {"Version": "2012-10-17", "Statement": [
		{"Sid": "More", "Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": {"Ref": "Queue"}}]}}},
	"Other": {"Type": "AWS::IAM::Role", "Properties": {}},
	"None": {"Type": "AWS::IAM::Role", "Properties": {}}}}`

func TestGrantedReadsEveryPolicy(t *testing.T) {
	got, err := Granted([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]Permission{"None": nil, "Other": {{"lambda:InvokeFunction", "${Queue}", ""}}, "R": {
		{"dynamodb:GetRecords", "T.StreamArn", "StringLike k a, b"},
		{"dynamodb:Query", "*", ""}, {"dynamodb:Query", "T", ""}, {"dynamodb:Query", "T/index/i", ""},
		{"dynamodb:Scan", "*", ""}, {"dynamodb:Scan", "T", ""}, {"dynamodb:Scan", "T/index/i", ""},
		{"ecs:StopTask", "task/${Cluster}/*", "ArnEquals ecs:cluster Cluster and StringEquals aws:ResourceTag/t ${AWS::StackId}"},
		{"lambda:InvokeFunction", "${Alias}", ""}, {"lambda:InvokeFunction", "b", ""},
	}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("granted is %v", got)
	}
}

// A permission in an unknown form must not be missed.
func TestUnknownFormsAreErrors(t *testing.T) {
	for _, change := range [][2]string{
		{`"Sid": "Stop", "Effect": "Allow"`, `"Sid": "Stop", "Effect": "Deny"`},
		{`"Action": "ecs:StopTask"`, `"NotAction": "ecs:StopTask"`},
		{`{"Ref": "P"}`, `"arn:aws:iam::aws:policy/AdministratorAccess"`},
		{`{"Ref": "AWS::StackId"}`, `{"Fn::If": ["A", "b", "c"]}`},
		{`{"Fn::Sub": "${T.Arn}/index/i"}`, `{"Fn::ImportValue": "x"}`},
		{`"AWS::DynamoDB::Table"`, `"AWS::IAM::Policy"`},
		{`"AWS::DynamoDB::Table"`, `"AWS::IAM::UserPolicy"`},
		{`{"Ref": "Other"}`, `{"Ref": "Elsewhere"}`},
		{`{"Ref": "Other"}`, `"a-role"`},
		{`["B", "b", {"Ref": "AWS::NoValue"}]`, `["B", "b", "c"]`},
		{`"Resources"`, `Resources`},
	} {
		template := strings.Replace(small, change[0], change[1], 1)
		if template == small {
			t.Fatalf("the template has no %s", change[0])
		}
		if got, err := Granted([]byte(template)); err == nil {
			t.Errorf("with %s, granted is %v", change[1], got)
		}
	}
}

// An ARN of another account or region keeps its start, so it matches nothing in the
// tables.
func TestForeignARNKeepsItsStart(t *testing.T) {
	const foreign = "arn:${AWS::Partition}:ecs:*:${AWS::AccountId}:task/${Cluster}/*"
	got, err := Granted([]byte(strings.Replace(small, "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${Cluster}/*", foreign, 1)))
	if err != nil || !slices.ContainsFunc(got["R"], func(p Permission) bool { return p.On == foreign }) {
		t.Errorf("granted is %v, %v", got, err)
	}
}
