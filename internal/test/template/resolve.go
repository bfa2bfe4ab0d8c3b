//go:build conformance

package template

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// object is a JSON object.
type object = map[string]any

// stack is the template as CloudFormation evaluates it for some parameters: every
// resource whose condition is true, without intrinsic functions.
type stack struct {
	resources map[string]object
}

// attributes has the values that must have the form of AWS's. All other references
// evaluate to the resource's name, or Name.Attribute.
var attributes = map[string]string{
	"AWS::StackId":   "arn:aws:cloudformation:eu-west-1:111122223333:stack/way-in/5f1c",
	"AWS::StackName": "way-in", "AWS::Region": "eu-west-1", "AWS::AccountId": "111122223333",
	"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com",
	"Cluster": "cluster1", "Cluster.Arn": "arn:aws:ecs:eu-west-1:111122223333:cluster/cluster1",
	"MemberGroup.GroupId": "sg-0123456789abcdef0", "TaskRole.RoleId": "AROAEXAMPLEEXAMPLE123",
	"TaskDefinition":   "arn:aws:ecs:eu-west-1:111122223333:task-definition/way-in:7",
	"CreateSlackAlias": alias("Create", "slack"), "DescribeSlackAlias": alias("Describe", "slack"),
	"ExtendSlackAlias": alias("Extend", "slack"), "DestroySlackAlias": alias("Destroy", "slack"), "SlackQueue": alias("Slack", "queue"),
}

func alias(function, name string) string {
	return "arn:aws:lambda:eu-west-1:111122223333:function:way-in-" + function + "Function-1:" + name
}

// required has the parameters without a default.
var required = map[string]any{
	"ImageUri":  "111122223333.dkr.ecr.eu-west-1.amazonaws.com/registry-1@sha256:" + strings.Repeat("0", 64),
	"VpcId":     "vpc-0123456789abcdef0",
	"SubnetIds": []any{"subnet-0123456789abcdef0", "subnet-0123456789abcdef1"},
}

// source is the template.
type source struct {
	Parameters map[string]object
	Mappings   map[string]map[string]object
	Rules      map[string]object
	Conditions map[string]any
	Resources  map[string]object
}

// open reads the template. given has pairs of a parameter and its value.
func open(t *testing.T, given ...string) (source, resolver) {
	t.Helper()
	transformed, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	return read(t, transformed, attributes, given...)
}

// Evaluate returns the resources of a template after the SAM transform, as CloudFormation
// evaluates it: those whose condition is true, without intrinsic functions. references has
// the values of references to resources, pseudo parameters and attributes (Name.Attribute);
// other references evaluate to their name. given has pairs of a parameter and its value.
func Evaluate(t testing.TB, transformed []byte, references map[string]string, given ...string) map[string]map[string]any {
	t.Helper()
	template, r := read(t, transformed, references, given...)
	return r.resources(template)
}

// read reads a template after the SAM transform. See [Evaluate] for the parameters.
func read(t testing.TB, transformed []byte, references map[string]string, given ...string) (source, resolver) {
	t.Helper()
	var template source
	if err := json.Unmarshal(transformed, &template); err != nil {
		t.Fatal(err)
	}
	r := resolver{t: t, parameters: maps.Clone(required), references: references, mappings: template.Mappings, conditions: template.Conditions}
	for name, parameter := range template.Parameters {
		if value, ok := parameter["Default"]; ok {
			r.parameters[name] = fmt.Sprint(value)
		}
	}
	for i := 0; i < len(given); i += 2 {
		parameter, ok := template.Parameters[given[i]]
		if !ok {
			t.Fatalf("there is no parameter %s", given[i])
		}
		if pattern, ok := parameter["AllowedPattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(given[i+1]) {
			t.Fatalf("the parameter %s does not allow %q", given[i], given[i+1])
		}
		if r.parameters[given[i]] = given[i+1]; strings.HasPrefix(fmt.Sprint(parameter["Type"]), "List<") {
			r.parameters[given[i]] = split(given[i+1], ",")
		}
	}
	return template, r
}

// deploy evaluates the template. given has pairs of a parameter and its value.
func deploy(t *testing.T, given ...string) stack {
	t.Helper()
	template, r := open(t, given...)
	return stack{r.resources(template)}
}

func (r resolver) resources(template source) map[string]object {
	evaluated := map[string]object{}
	for name, resource := range template.Resources {
		if condition, ok := resource["Condition"].(string); ok && !r.holds(condition) {
			continue
		}
		evaluated[name] = r.value(resource).(object)
	}
	return evaluated
}

// of returns the resources of a type.
func (s stack) of(kind string) map[string]object {
	found := map[string]object{}
	for name, resource := range s.resources {
		if resource["Type"] == kind {
			found[name] = resource
		}
	}
	return found
}

// properties returns the properties of a resource, which must exist.
func (s stack) properties(t *testing.T, name string) object {
	t.Helper()
	properties, ok := s.resources[name]["Properties"].(object)
	if !ok {
		t.Fatalf("there is no resource %s", name)
	}
	return properties
}

// at returns the member at a path through objects, or nil.
func at(value any, path ...string) any {
	for _, member := range path {
		object, ok := value.(object)
		if !ok {
			return nil
		}
		value = object[member]
	}
	return value
}

// noValue is the value of AWS::NoValue, which removes its member.
type noValue struct{}

type resolver struct {
	t          testing.TB
	parameters map[string]any
	references map[string]string
	mappings   map[string]map[string]object
	conditions map[string]any
}

func (r resolver) holds(condition string) bool {
	expression, ok := r.conditions[condition]
	if !ok {
		r.t.Fatalf("there is no condition %s", condition)
	}
	return r.value(expression).(bool)
}

// value evaluates an expression. It fails the test for a function that the template does
// not use.
func (r resolver) value(v any) any {
	switch v := v.(type) {
	case []any:
		var out []any
		for _, one := range v {
			if one = r.value(one); one != (noValue{}) {
				out = append(out, one)
			}
		}
		return out
	case object:
		if name, argument, ok := function(v); ok {
			return r.call(name, argument)
		}
		out := object{}
		for name, member := range v {
			if member = r.value(member); member != (any)(noValue{}) {
				out[name] = member
			}
		}
		return out
	}
	return v
}

func function(v object) (name string, argument any, ok bool) {
	if len(v) != 1 {
		return "", nil, false
	}
	for name, argument = range v {
		ok = name == "Ref" || strings.HasPrefix(name, "Fn::")
	}
	return name, argument, ok
}

func (r resolver) call(name string, argument any) any {
	switch name {
	case "Ref":
		return r.name(argument.(string))
	case "Fn::Sub":
		return r.sub(argument)
	case "Fn::If":
		parts := argument.([]any)
		if r.holds(parts[0].(string)) {
			return r.value(parts[1])
		}
		return r.value(parts[2])
	}
	parts, ok := r.value(argument).([]any)
	if !ok {
		r.t.Fatalf("%s of %v", name, argument)
	}
	switch name {
	case "Fn::GetAtt":
		return r.name(fmt.Sprint(parts[0], ".", parts[1]))
	case "Fn::FindInMap":
		found, ok := r.mappings[parts[0].(string)][parts[1].(string)][parts[2].(string)]
		if !ok {
			r.t.Fatalf("there is no mapping %v", parts)
		}
		return found
	case "Fn::Equals":
		return reflect.DeepEqual(parts[0], parts[1])
	case "Fn::Or":
		return slices.Contains(parts, any(true))
	case "Fn::Not":
		return !parts[0].(bool)
	case "Fn::Select":
		return parts[1].([]any)[int(parts[0].(float64))]
	case "Fn::Split":
		return split(parts[1].(string), parts[0].(string))
	case "Fn::Join":
		return join(parts[1].([]any), parts[0].(string))
	}
	r.t.Fatalf("the tests do not support the function %s", name)
	return nil
}

func split(text, separator string) (all []any) {
	for _, one := range strings.Split(text, separator) {
		all = append(all, one)
	}
	return all
}

func join(all []any, separator string) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, one.(string))
	}
	return strings.Join(texts, separator)
}

func (r resolver) name(name string) any {
	if name == "AWS::NoValue" {
		return noValue{}
	}
	if value, ok := r.parameters[name]; ok {
		return value
	}
	if value, ok := r.references[name]; ok {
		return value
	}
	return name
}

var variable = regexp.MustCompile(`\$\{(!?)([^}]+)\}`)

func (r resolver) sub(argument any) string {
	text, ok := argument.(string)
	own := object{}
	if !ok {
		text, own = argument.([]any)[0].(string), r.value(argument.([]any)[1]).(object)
	}
	return variable.ReplaceAllStringFunc(text, func(found string) string {
		match := variable.FindStringSubmatch(found)
		if match[1] != "" { // a literal ${...}
			return "${" + match[2] + "}"
		}
		if value, ok := own[match[2]]; ok {
			return fmt.Sprint(value)
		}
		return fmt.Sprint(r.name(match[2]))
	})
}
