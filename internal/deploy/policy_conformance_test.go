//go:build conformance

package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// notUsed has the permissions that AWS's resource types declare and the templates do not
// need, with the reason.
var notUsed = map[string]string{
	"codedeploy:*":                "no alias is deployed gradually",
	"elasticfilesystem:*":         "no function has a file system",
	"firehose:*":                  "no log is delivered to a stream",
	"iam:AttachGroupPolicy":       "policies are attached to roles only",
	"iam:AttachUserPolicy":        "policies are attached to roles only",
	"iam:DetachGroupPolicy":       "policies are attached to roles only",
	"iam:DetachUserPolicy":        "policies are attached to roles only",
	"iam:CreateServiceLinkedRole": "the checks require that the role of ECS exists",
	"kinesis:*":                   "no table has a Kinesis stream",
	"kms:*":                       "no resource has a key of the customer",
	"s3files:*":                   "no function has a file system",
	"s3tables:*":                  "the bucket has no metadata table",
}

// The policy in deployer-policy.json grants what AWS's own schemas of the resource types
// declare as permissions of their create, read, update and delete handlers. cfn-lint comes
// with these schemas.
func TestDeployerPolicyCoversEveryResourceType(t *testing.T) {
	policy := readPolicy(t)
	used := map[string]bool{}
	for _, kind := range resourceTypes(t) {
		for _, permission := range handlerPermissions(t, kind) {
			if policy.allows(permission) {
				continue
			}
			service, _, _ := strings.Cut(permission, ":")
			switch {
			case notUsed[permission] != "":
				used[permission] = true
			case notUsed[service+":*"] != "":
				used[service+":*"] = true
			default:
				t.Errorf("%s needs %s", kind, permission)
			}
		}
	}
	for permission := range notUsed {
		if !used[permission] {
			t.Errorf("no resource type declares %s, or the policy grants it: remove it from notUsed", permission)
		}
	}
}

// resourceTypes returns the types in both templates after the SAM transform.
func resourceTypes(t *testing.T) (kinds []string) {
	t.Helper()
	source, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	var transformed struct {
		Resources map[string]struct{ Type string }
	}
	if err := json.Unmarshal(source, &transformed); err != nil {
		t.Fatal(err)
	}
	for _, r := range transformed.Resources {
		kinds = append(kinds, r.Type)
	}
	registry, err := readTemplate("../..", registryFile)
	if err != nil {
		t.Fatal(err)
	}
	resources := field(registry.root, "Resources").Content
	for i := 0; i < len(resources); i += 2 {
		kinds = append(kinds, field(resources[i+1], "Type").Value)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// handlerPermissions returns the permissions of a resource type.
func handlerPermissions(t *testing.T, kind string) (all []string) {
	t.Helper()
	schemas := filepath.Dir(filepath.Dir(emulator.Tool(t, "cfn-lint-1.58.0/lib/python3.*/site-packages/cfnlint/data/schemas/providers/eu-west-1.json")))
	var files map[string]string
	readJSON(t, filepath.Join(schemas, "providers", "eu-west-1.json"), &files)
	var schema struct {
		Handlers map[string]struct{ Permissions []string }
	}
	readJSON(t, filepath.Join(schemas, "resources", files[kind]+".json"), &schema)
	for _, handler := range []string{"create", "read", "update", "delete"} {
		all = append(all, schema.Handlers[handler].Permissions...)
	}
	if len(all) == 0 {
		t.Errorf("the schema of %s has no permissions", kind)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func readJSON(t *testing.T, file string, to any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
