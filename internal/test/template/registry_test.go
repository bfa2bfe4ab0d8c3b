//go:build conformance

package template

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v4"
)

// A task definition may use an old image, so tagged images never expire, and tags never
// move.
func TestRegistryKeepsTaggedImages(t *testing.T) {
	source, err := os.ReadFile("../../../registry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources struct {
			Registry struct {
				DeletionPolicy      string `yaml:"DeletionPolicy"`
				UpdateReplacePolicy string `yaml:"UpdateReplacePolicy"`
				Properties          struct {
					ImageTagMutability string            `yaml:"ImageTagMutability"`
					LifecyclePolicy    map[string]string `yaml:"LifecyclePolicy"`
				} `yaml:"Properties"`
			} `yaml:"Registry"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(source, &template); err != nil {
		t.Fatal(err)
	}
	if r := template.Resources.Registry; r.DeletionPolicy != "RetainExceptOnCreate" || r.UpdateReplacePolicy != "Retain" {
		t.Errorf("the repository's policies are %s and %s", r.DeletionPolicy, r.UpdateReplacePolicy)
	}
	p := template.Resources.Registry.Properties
	if p.ImageTagMutability != "IMMUTABLE" {
		t.Errorf("tags are %s", p.ImageTagMutability)
	}
	var policy struct{ Rules []object }
	if err := json.Unmarshal([]byte(p.LifecyclePolicy["LifecyclePolicyText"]), &policy); err != nil {
		t.Fatal(err)
	}
	want := object{"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 7.0}
	if len(policy.Rules) != 1 || !reflect.DeepEqual(policy.Rules[0]["selection"], want) {
		t.Errorf("the lifecycle rules are %v", policy.Rules)
	}
}

// The code in the bucket is not public, travels by TLS only, and stays: the present and
// the previous deployment need it.
func TestCodeBucketIsPrivateAndKept(t *testing.T) {
	source, err := os.ReadFile("../../../registry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources map[string]struct {
			DeletionPolicy      string         `yaml:"DeletionPolicy"`
			UpdateReplacePolicy string         `yaml:"UpdateReplacePolicy"`
			Properties          map[string]any `yaml:"Properties"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(source, &template); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CodeBucket", "CodeBucketPolicy"} {
		if r := template.Resources[name]; r.DeletionPolicy != "RetainExceptOnCreate" || r.UpdateReplacePolicy != "Retain" {
			t.Errorf("the policies of %s are %q and %q", name, r.DeletionPolicy, r.UpdateReplacePolicy)
		}
	}
	want := map[string]any{
		"PublicAccessBlockConfiguration": map[string]any{"BlockPublicAcls": true, "BlockPublicPolicy": true, "IgnorePublicAcls": true, "RestrictPublicBuckets": true},
		"OwnershipControls":              map[string]any{"Rules": []any{map[string]any{"ObjectOwnership": "BucketOwnerEnforced"}}},
		"BucketEncryption": map[string]any{"ServerSideEncryptionConfiguration": []any{
			map[string]any{"ServerSideEncryptionByDefault": map[string]any{"SSEAlgorithm": "AES256"}},
		}},
		"VersioningConfiguration": map[string]any{"Status": "Enabled"},
	}
	if got := template.Resources["CodeBucket"].Properties; !reflect.DeepEqual(got, want) { // no lifecycle rule
		t.Errorf("the bucket is %v, want %v", got, want)
	}
	want = map[string]any{
		"Bucket": "CodeBucket",
		"PolicyDocument": map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
			"Sid": "DenyWithoutTLS", "Effect": "Deny", "Principal": "*", "Action": "s3:*",
			"Resource":  []any{"CodeBucket.Arn", "${CodeBucket.Arn}/*"},
			"Condition": map[string]any{"Bool": map[string]any{"aws:SecureTransport": "false"}},
		}}},
	}
	if got := template.Resources["CodeBucketPolicy"].Properties; !reflect.DeepEqual(got, want) {
		t.Errorf("the bucket's policy is %v, want %v", got, want)
	}
}
