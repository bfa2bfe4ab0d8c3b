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
