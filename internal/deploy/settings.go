package deploy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Settings are what the operator says.
type Settings struct {
	Stack      string            // the service's; the registry's is the same and "-registry"
	Region     string            // empty: that of the AWS configuration
	VPC        string            // as vpc-…
	Subnets    []string          // as subnet-…
	Parameters map[string]string // of template.yaml, except the ones named above
	Module     string            // the folder with template.yaml
	Token      string            // where requests need one: for the smoke request
	DryRun     bool
	Purge      bool // undeploy only: delete also what is kept
}

// What other settings, or the deployment itself, decide.
var ownParameters = map[string]string{
	"ImageUri":  "the deployment builds the image itself",
	"VpcId":     "say VPC=vpc-… instead",
	"SubnetIds": "say SUBNETS=subnet-…,subnet-… instead",
}

// What ParseParameters takes as a value: quotes and backslashes would mean
// something else to the SAM CLI, and no parameter of the template needs them.
var parameter = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9]*)=([^"'\\]*)$`)

// ParseParameters reads "Name=value Name=value", with spaces between.
func ParseParameters(words string) (map[string]string, error) {
	all := map[string]string{}
	var wrong []error
	for _, word := range strings.Fields(words) {
		match := parameter.FindStringSubmatch(word)
		if match == nil {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %q is not of the form Name=value, without quotes and backslashes", word))
			continue
		}
		if _, twice := all[match[1]]; twice {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %s is there twice", match[1]))
		}
		all[match[1]] = match[2]
	}
	return all, errors.Join(wrong...)
}

var (
	// A stack's name may have 128 characters; the registry's is longer by nine.
	stackName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,99}$`)
	vpcID     = regexp.MustCompile(`^vpc-[0-9a-f]{8,17}$`)
	subnetID  = regexp.MustCompile(`^subnet-[0-9a-f]{8,17}$`)
)

// Validate names everything that is missing or malformed.
func (s Settings) Validate() error {
	wrong := []error{s.ValidateStack()}
	if !vpcID.MatchString(s.VPC) {
		wrong = append(wrong, fmt.Errorf("VPC is %q: say the id of the VPC that holds what people want to reach, as VPC=vpc-0123456789abcdef0", s.VPC))
	}
	if len(s.Subnets) == 0 {
		wrong = append(wrong, errors.New("SUBNETS is empty: say the ids of that VPC's subnets for bastions, as SUBNETS=subnet-0123456789abcdef0,subnet-0fedcba9876543210"))
	}
	for i, subnet := range s.Subnets {
		if !subnetID.MatchString(subnet) {
			wrong = append(wrong, fmt.Errorf("SUBNETS: %q is not the id of a subnet", subnet))
		}
		if slices.Contains(s.Subnets[:i], subnet) {
			wrong = append(wrong, fmt.Errorf("SUBNETS: %s is there twice", subnet))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Parameters)) {
		if instead, own := ownParameters[name]; own {
			wrong = append(wrong, fmt.Errorf("PARAMETERS: %s is not yours to say: %s", name, instead))
		}
	}
	return errors.Join(wrong...)
}

// ValidateStack is Validate for undeploying, which needs no more than the stack.
func (s Settings) ValidateStack() error {
	if !stackName.MatchString(s.Stack) {
		return fmt.Errorf("STACK is %q: say a name for the stack, letters, digits and hyphens, a letter first, at most 100, as STACK=bastion", s.Stack)
	}
	return nil
}

// Registry is the name of the registry's stack.
func (s Settings) Registry() string { return s.Stack + "-registry" }
