package deploy

import (
	"context"
	"errors"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/config"
)

// created are the variables of the functions that hold a resource of the stack, with a
// value of the same form, because the resource may not exist yet.
var created = map[string]string{
	"BASTION_STACK_ID":          "arn:aws:cloudformation:eu-west-1:111122223333:stack/bastion/1",
	"BASTION_TABLE":             "records",
	"BASTION_LEASE_TABLE":       "leases",
	"BASTION_CLUSTER":           "arn:aws:ecs:eu-west-1:111122223333:cluster/bastion",
	"BASTION_MEMBER_GROUP":      "sg-00000000",
	"BASTION_TASK_DEFINITION":   "arn:aws:ecs:eu-west-1:111122223333:task-definition/bastion:1",
	"BASTION_TASK_ROLE_ID":      "AROA000000000000",
	"BASTION_ALLOWED_PARAMETER": "destinations",
}

// checkFunctions reads the parameters as the functions do when they start. They do not
// start if two values contradict each other, or if a value has a form that the template's
// pattern does not exclude. A running service would then fail until the next deployment.
func (d *Deployment) checkFunctions(_ context.Context, f *facts, r *report) error {
	if len(r.failed) > f.missingTools {
		return nil // the functions would refuse the same values again
	}
	environ, names, err := d.environment(f)
	if err != nil {
		return err
	}
	destinations := strings.Trim(f.value("AllowedDestinations")+","+f.value("AllowedDestinationsIpv6"), ",")
	_, err = config.Load(environ, func(...string) (map[string]string, error) {
		return map[string]string{created["BASTION_ALLOWED_PARAMETER"]: destinations}, nil
	})
	if err == nil {
		return nil
	}
	_, text, _ := strings.Cut(err.Error(), "\n") // the first line is a title
	for line := range strings.Lines(names.Replace(text)) {
		r.fail("The functions do not start with these parameters: %s: change PARAMETERS.", strings.TrimSpace(line))
	}
	return nil
}

// environment returns the variables that template.yaml sets for all functions, and a
// replacer of their names by those of the parameters that they hold.
func (d *Deployment) environment(f *facts) (environ []string, names *strings.Replacer, err error) {
	variables := field(f.template.root, "Globals", "Function", "Environment", "Variables")
	if variables == nil {
		return nil, nil, errors.New(templateFile + " has no variables for all functions")
	}
	set := d.parameters("") // with VPC and SUBNETS
	var pairs []string
	for i := 0; i+1 < len(variables.Content); i += 2 {
		name, node := variables.Content[i].Value, variables.Content[i+1]
		value := node.Value
		switch _, isParameter := f.template.parameters[value]; {
		case created[name] != "":
			value = created[name]
		case name == "BASTION_SUBNETS":
			value = set["SubnetIds"]
		case name == "BASTION_REAPER_PERIOD":
			value = f.value("ReaperPeriod") + "m"
		case node.Tag == "!Ref" && isParameter:
			pairs = append(pairs, name, value)
			value = f.template.value(value, set, f.stack.parameters)
		}
		environ = append(environ, name+"="+value)
	}
	return environ, strings.NewReplacer(pairs...), nil
}
