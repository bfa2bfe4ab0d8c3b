package deploy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/bastion-on-demand/bastion/internal/config"
)

// Settings are the operator's settings.
type Settings struct {
	Stack      string            // of the service; the registry's has the suffix "-registry"
	Region     string            // empty: the configured one
	VPC        string            // vpc-…
	Subnets    []string          // subnet-…
	Parameters map[string]string // of template.yaml, except those that the fields above set
	Tags       map[string]string // of both stacks; nil: those that the stacks have
	Module     string            // the folder with template.yaml
	Token      string            // for the test request, if callers have tokens
	DryRun     bool
	SkipTrial  bool // deploy only: do not request a bastion
	Purge      bool // undeploy only: also delete what is kept
}

// reserved are the parameters that the deployment sets itself, with the reason.
var reserved = map[string]string{
	"ImageUri":  "the deployment builds the image",
	"VpcId":     "set VPC=vpc-… instead",
	"SubnetIds": "set SUBNETS=subnet-…,subnet-… instead",
}

// parameter matches one word of PARAMETERS. The shell of the Makefile interprets quotes
// and backslashes, and no parameter of the template needs them.
var parameter = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9]*)=([^"'\\]*)$`)

// ParseParameters reads "Name=value Name=value", separated by spaces.
func ParseParameters(text string) (map[string]string, error) {
	all := map[string]string{}
	var wrong []error
	for _, word := range strings.Fields(text) {
		match := parameter.FindStringSubmatch(word)
		if match == nil {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %q is not of the form Name=value, without quotes and backslashes", word))
			continue
		}
		if _, twice := all[match[1]]; twice {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %s is set twice", match[1]))
		}
		all[match[1]] = match[2]
	}
	return all, errors.Join(wrong...)
}

// Validate returns an error that lists everything that is missing or malformed.
func (s Settings) Validate() error {
	wrong := []error{s.ValidateStack()}
	if !config.VPCID.Match(s.VPC) {
		wrong = append(wrong, fmt.Errorf("VPC is %q: set VPC to %s", s.VPC, config.VPCID.Want))
	}
	if len(s.Subnets) == 0 {
		wrong = append(wrong, errors.New("SUBNETS is empty: set the IDs of that VPC's subnets for bastions, such as SUBNETS=subnet-0123456789abcdef0,subnet-0fedcba9876543210"))
	}
	for i, subnet := range s.Subnets {
		if !config.SubnetID.Match(subnet) {
			wrong = append(wrong, fmt.Errorf("SUBNETS: %q is not %s", subnet, config.SubnetID.Want))
		}
		if slices.Contains(s.Subnets[:i], subnet) {
			wrong = append(wrong, fmt.Errorf("SUBNETS: %s is listed twice", subnet))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Parameters)) {
		if reason, is := reserved[name]; is {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %s cannot be set here: %s", name, reason))
		}
	}
	return errors.Join(wrong...)
}

// ValidateStack validates the part of the settings that undeploying needs.
func (s Settings) ValidateStack() error {
	if !config.StackName.Match(s.Registry()) { // the longer of the two names
		return fmt.Errorf("STACK is %q: set a name of letters, digits and hyphens, a letter first, with at most 119 characters, such as STACK=bastion", s.Stack)
	}
	return nil
}

// Registry returns the name of the registry's stack.
func (s Settings) Registry() string { return s.Stack + "-registry" }

// The templates of the two stacks, in the module's folder.
const (
	templateFile = "template.yaml"
	registryFile = "registry.yaml"
)

// template is a template of the module's folder.
type template struct {
	text       []byte
	root       *yaml.Node // a mapping; its nodes keep the comments and the tags of intrinsic functions, such as !Sub
	parameters map[string]templateParameter
}

type templateParameter struct {
	Type    string `yaml:"Type"`
	Default any    `yaml:"Default"`
	// The limits of the value. CloudFormation checks them too, but only when everything is
	// built and uploaded.
	AllowedPattern        string   `yaml:"AllowedPattern"`
	ConstraintDescription string   `yaml:"ConstraintDescription"` // must be …
	AllowedValues         []string `yaml:"AllowedValues"`
	MaxLength             int      `yaml:"MaxLength"` // 0: any
	MinValue              *int     `yaml:"MinValue"`
	MaxValue              *int     `yaml:"MaxValue"`
}

// refuses returns what a value must be, or "" if the parameter accepts it.
func (p templateParameter) refuses(value string) string {
	switch n, err := strconv.Atoi(value); {
	case p.AllowedValues != nil && !slices.Contains(p.AllowedValues, value):
		return "must be one of " + strings.Join(p.AllowedValues, ", ")
	case p.Type == "Number" && err != nil:
		return "must be a whole number" // CloudFormation accepts 2.5, with which the functions do not start
	case p.MinValue != nil && n < *p.MinValue || p.MaxValue != nil && n > *p.MaxValue:
		return fmt.Sprintf("must be a number from %d to %d", *p.MinValue, *p.MaxValue)
	case p.AllowedPattern != "" && !regexp.MustCompile(p.AllowedPattern).MatchString(value):
		return p.ConstraintDescription
	case p.MaxLength > 0 && utf8.RuneCountInString(value) > p.MaxLength:
		return fmt.Sprintf("must have at most %d characters", p.MaxLength)
	}
	return ""
}

// readTemplate reads a template of the module's folder.
func readTemplate(module, name string) (template, error) {
	text, err := os.ReadFile(filepath.Join(module, name))
	if err != nil {
		return template{}, fmt.Errorf("read the template: %w; run this in the folder of the source", err)
	}
	return parseTemplate(name, text)
}

func parseTemplate(name string, text []byte) (template, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return template{}, fmt.Errorf("read %s: %w", name, err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return template{}, fmt.Errorf("read %s: it is not a mapping", name)
	}
	t := template{text: text, root: document.Content[0]}
	if parameters := field(t.root, "Parameters"); parameters != nil {
		if err := parameters.Decode(&t.parameters); err != nil {
			return template{}, fmt.Errorf("read the parameters of %s: %w", name, err)
		}
	}
	return t, nil
}

// unknown returns the names of parameters that the template does not have.
func (t template) unknown(given map[string]string) []string {
	var names []string
	for name := range given {
		if _, known := t.parameters[name]; !known {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// value returns the value that a parameter will have: the given one, or else that of
// the stack, or else the template's default.
func (t template) value(name string, given, stack map[string]string) string {
	if v, ok := given[name]; ok {
		return v
	}
	if v, ok := stack[name]; ok {
		return v
	}
	return fmt.Sprint(t.parameters[name].Default)
}
