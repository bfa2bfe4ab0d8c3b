package privilege

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Granted reads from a template (JSON, after the SAM transform) what each role
// grants at the most, whatever the stack's parameters are: its own policies, those
// that it shares and those that name it. What it does not understand is an error:
// nothing is granted unseen.
func Granted(template []byte) (map[string][]Permission, error) {
	var t struct {
		Resources map[string]struct {
			Type       string
			Properties json.RawMessage
		}
	}
	template, err := whole(template)
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
			err = fmt.Errorf("a %s grants beside the roles", resource.Type)
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
		return nil, fmt.Errorf("a policy is for the role %q, which is none of the template's", name)
	}
	return granted, nil
}

// whole is a template in which all is there that a condition may leave out.
func whole(template []byte) ([]byte, error) {
	var t any
	if err := json.Unmarshal(template, &t); err != nil {
		return nil, err
	}
	return json.Marshal(withOptions(t))
}

// withOptions puts what is there under a condition, and otherwise nothing, in the
// place of the condition.
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

// statement is all that one may have here; see UnmarshalJSON.
type statement struct {
	Sid, Effect      string
	Action, Resource any
	Condition        map[string]map[string]any
}

// UnmarshalJSON refuses members that this package does not know, as NotAction.
func (s *statement) UnmarshalJSON(text []byte) error {
	type plain statement
	decoder := json.NewDecoder(strings.NewReader(string(text)))
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
		name, err := written(arn)
		policy, known := shared[strings.Trim(name, "${}")]
		if err != nil || !known {
			return nil, fmt.Errorf("the policy %v is none of the template's", arn)
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
			on, err := written(resource)
			if err != nil {
				return nil, err
			}
			all = append(all, Permission{fmt.Sprint(action), on, condition})
		}
	}
	return all, nil
}

// conditionOf writes all conditions of a statement in a line, in alphabetical
// order: all of them must hold.
func conditionOf(operators map[string]map[string]any) (string, error) {
	var all []string
	for operator, keys := range operators {
		for key, values := range keys {
			var texts []string
			for _, value := range list(values) {
				text, err := written(value)
				if err != nil {
					return "", err
				}
				texts = append(texts, text)
			}
			all = append(all, operator+" "+key+" "+strings.Join(texts, ", "))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " and "), nil
}

// list makes one of what a policy may say as one or as several.
func list(v any) []any {
	if several, ok := v.([]any); ok {
		return several
	}
	return []any{v}
}

var (
	// arnStart is what ARNs of this account and region begin with.
	arnStart = regexp.MustCompile(`^arn:\$\{AWS::Partition\}:[a-z0-9-]+:\$\{AWS::Region\}:\$\{AWS::AccountId\}:`)
	// arnOf is the ARN of a resource of the template.
	arnOf = regexp.MustCompile(`\$\{(\w+)\.Arn\}`)
)

// written is a value as the package's doc comment says that it is written.
func written(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case map[string]any:
		for function, argument := range v {
			if text, ok := called(function, argument); ok && len(v) == 1 {
				return arnOf.ReplaceAllString(arnStart.ReplaceAllString(text, ""), "$1"), nil
			}
		}
	}
	return "", fmt.Errorf("a policy says %v, which this does not know", v)
}

// called is the text of an intrinsic function's call. What else is put into the
// text of Fn::Sub stays a name.
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
