package privilege

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Granted returns the permissions of each role in a template (JSON, after the SAM
// transform), with all optional parts: those of its own policies, of shared policies and
// of separate policies for the role. Everything that it does not understand is an error,
// so that no permission is missed.
func Granted(template []byte) (map[string][]Permission, error) {
	var t struct {
		Resources map[string]struct {
			Type       string
			Properties json.RawMessage
		}
	}
	template, err := withAllOptions(template)
	if err == nil {
		err = json.Unmarshal(template, &t)
	}
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	shared, beside := map[string]document{}, map[string][]document{}
	roles := map[string]role{}
	for name, resource := range t.Resources {
		var err error
		switch resource.Type {
		case "AWS::IAM::ManagedPolicy":
			var policy struct{ PolicyDocument document }
			err = json.Unmarshal(resource.Properties, &policy)
			shared[name] = policy.PolicyDocument
		case "AWS::IAM::Role":
			var r role
			err = json.Unmarshal(resource.Properties, &r)
			roles[name] = r
		case "AWS::IAM::RolePolicy":
			var policy struct {
				RoleName       struct{ Ref string }
				PolicyDocument document
			}
			err = json.Unmarshal(resource.Properties, &policy)
			beside[policy.RoleName.Ref] = append(beside[policy.RoleName.Ref], policy.PolicyDocument)
		case "AWS::IAM::Policy", "AWS::IAM::UserPolicy", "AWS::IAM::GroupPolicy":
			err = fmt.Errorf("a %s grants permissions outside of the roles", resource.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	granted := map[string][]Permission{}
	for name, r := range roles {
		all, err := r.permissions(shared, beside[name])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		granted[name] = all
		delete(beside, name)
	}
	for name := range beside {
		return nil, fmt.Errorf("a policy is for the role %q, which is not in the template", name)
	}
	return granted, nil
}

// withAllOptions returns the template with every part that a condition may leave out.
func withAllOptions(template []byte) ([]byte, error) {
	var t any
	if err := json.Unmarshal(template, &t); err != nil {
		return nil, err
	}
	return json.Marshal(withOptions(t))
}

// withOptions replaces every Fn::If whose alternative is AWS::NoValue with its value.
func withOptions(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withOptions(v[i])
		}
	case map[string]any:
		if choice, _ := v["Fn::If"].([]any); len(choice) == 3 && fmt.Sprint(choice[2]) == "map[Ref:AWS::NoValue]" {
			return withOptions(choice[1])
		}
		for key := range v {
			v[key] = withOptions(v[key])
		}
	}
	return v
}

type role struct {
	ManagedPolicyArns []any
	Policies          []struct{ PolicyDocument document }
}

type document struct{ Statement []statement }

// statement has the only members that a statement may have; see UnmarshalJSON.
type statement struct {
	Sid, Effect      string
	Action, Resource any
	Condition        map[string]map[string]any
}

// UnmarshalJSON refuses other members, such as NotAction.
func (s *statement) UnmarshalJSON(data []byte) error {
	type plain statement
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode((*plain)(s)); err != nil {
		return err
	}
	if s.Effect != "Allow" {
		return fmt.Errorf("the statement %s has the effect %q", s.Sid, s.Effect)
	}
	return nil
}

func (r role) permissions(shared map[string]document, beside []document) ([]Permission, error) {
	documents := slices.Clone(beside)
	for _, policy := range r.Policies {
		documents = append(documents, policy.PolicyDocument)
	}
	for _, arn := range r.ManagedPolicyArns {
		name, err := text(arn)
		policy, known := shared[strings.Trim(name, "${}")]
		if err != nil || !known {
			return nil, fmt.Errorf("the policy %v is not in the template", arn)
		}
		documents = append(documents, policy)
	}
	var all []Permission
	for _, d := range documents {
		for _, s := range d.Statement {
			some, err := s.permissions()
			if err != nil {
				return nil, fmt.Errorf("the statement %s: %w", s.Sid, err)
			}
			all = append(all, some...)
		}
	}
	return sorted(all), nil
}

func (s statement) permissions() ([]Permission, error) {
	condition, err := conditionOf(s.Condition)
	if err != nil {
		return nil, err
	}
	var all []Permission
	for _, action := range list(s.Action) {
		for _, resource := range list(s.Resource) {
			on, err := text(resource)
			if err != nil {
				return nil, err
			}
			all = append(all, Permission{fmt.Sprint(action), on, condition})
		}
	}
	return all, nil
}

// conditionOf returns all conditions of a statement in one line, in alphabetical order.
func conditionOf(operators map[string]map[string]any) (string, error) {
	var all []string
	for operator, keys := range operators {
		for key, values := range keys {
			var texts []string
			for _, value := range list(values) {
				one, err := text(value)
				if err != nil {
					return "", err
				}
				texts = append(texts, one)
			}
			all = append(all, operator+" "+key+" "+strings.Join(texts, ", "))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " and "), nil
}

// list returns a slice for a member that may have one value or several.
func list(v any) []any {
	if several, ok := v.([]any); ok {
		return several
	}
	return []any{v}
}

var (
	// arnStart matches the start of ARNs of this account and region.
	arnStart = regexp.MustCompile(`^arn:\$\{AWS::Partition\}:[a-z0-9-]+:\$\{AWS::Region\}:\$\{AWS::AccountId\}:`)
	// arnOf matches the ARN of a resource of the template.
	arnOf = regexp.MustCompile(`\$\{(\w+)\.Arn\}`)
)

// text returns a value in the form that the package comment describes.
func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case map[string]any:
		for function, argument := range v {
			if result, ok := called(function, argument); ok && len(v) == 1 {
				return arnOf.ReplaceAllString(arnStart.ReplaceAllString(result, ""), "$1"), nil
			}
		}
	}
	return "", fmt.Errorf("a policy has the unknown value %v", v)
}

// called returns the text of an intrinsic function. Variables in the text of Fn::Sub stay
// names.
func called(function string, argument any) (string, bool) {
	parts := list(argument)
	first, ok := parts[0].(string)
	switch {
	case !ok:
		return "", false
	case function == "Ref":
		return "${" + first + "}", true
	case function == "Fn::Sub":
		return first, true
	case function == "Fn::GetAtt" && len(parts) == 2:
		attribute := fmt.Sprint(parts[1])
		if attribute == "Arn" {
			return first, true
		}
		return first + "." + attribute, true
	}
	return "", false
}
