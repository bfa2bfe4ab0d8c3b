//go:build conformance

package template

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v4"
)

// A task definition may still run an image however old it is: what has a tag is
// never taken away, and its tag never comes to mean another.
func TestTheRegistryKeepsWhatHasATag(t *testing.T) {
	source, err := os.ReadFile("../../../registry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources struct {
			Registry struct {
				Properties struct {
					ImageTagMutability string            `yaml:"ImageTagMutability"`
					LifecyclePolicy    map[string]string `yaml:"LifecyclePolicy"`
				} `yaml:"Properties"`
			} `yaml:"Registry"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(source, &template); err != nil {
		t.Fatal(err)
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
		t.Errorf("what expires: %v", policy.Rules)
	}
}
