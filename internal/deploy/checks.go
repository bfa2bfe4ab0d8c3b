package deploy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/config"
)

// Failed has one sentence for each failed check, with the next step.
type Failed []string

func (f Failed) Error() string {
	return fmt.Sprintf("%d of the checks failed:\n  - %s", len(f), strings.Join(f, "\n  - "))
}

// report collects what the checks find: sentences about what is wrong, with the next
// step. A deployment with a failure stops; one with a warning does not.
type report struct{ failed, warnings []string }

func (r *report) fail(format string, args ...any) {
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

func (r *report) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// facts is what the checks know about the deployment.
type facts struct {
	caller       arn.ARN
	stack        stack
	value        func(parameter string) string // that the parameter will have
	public, spot bool
	ipv4, ipv6   bool
	quotaTotal   int
	// reserved is the Lambda concurrency of each request function after the deployment,
	// and reservedNow before it.
	reserved, reservedNow int
	missingTools          int // the number of failures before those of the parameters
	template              template
	slack                 config.Slack

	// What the check of the subnets finds for later checks.
	subnets   []ec2types.Subnet // those that are in the VPC
	endpoints bool              // in one of them, tasks can start only by the VPC's endpoints
}

// check is one condition of a deployment. Its error means that the check was not
// possible.
type check struct {
	what string
	do   func(context.Context, *facts, *report) error
}

func (d *Deployment) checks() []check {
	return []check{
		{"the lists in the parameters", d.checkLists},
		{"the parameters as the functions read them", d.checkFunctions},
		{"the states of the stacks", d.checkStacks},
		{"the subnets, their zones and routes", d.checkSubnets},
		{"the VPC's DNS settings", d.checkDNS},
		{"VPC Block Public Access", d.checkBlockPublicAccess},
		{"the ECS service-linked role", d.checkServiceRole},
		{"the ECS setting dualStackIPv6", d.checkDualStack},
		{"the Fargate vCPU quota", d.checkVCPU},
		{"the security group quota", d.checkGroups},
		{"the Lambda concurrency", d.checkConcurrency},
		{"the parameters with Slack's secrets", d.checkSlack},
	}
}

// check does all checks of a deployment with this template. Its error lists all that
// failed.
func (d *Deployment) check(ctx context.Context, t template) error {
	var r report
	if err := d.checkAll(ctx, t, &r); err != nil {
		return err
	}
	if len(r.warnings) > 0 {
		fmt.Fprintf(d.Progress.W, "\nWarnings, which do not stop the deployment:\n  - %s\n", strings.Join(r.warnings, "\n  - "))
	}
	if len(r.failed) > 0 {
		return Failed(r.failed)
	}
	return nil
}

func (d *Deployment) checkAll(ctx context.Context, t template, r *report) error {
	d.checkTools(r)
	f := facts{template: t, missingTools: len(r.failed)}
	d.checkParameters(t, r)
	if !d.checkIdentity(ctx, &f, r) {
		d.fill(&f, r)
		_ = d.checkLists(ctx, &f, r) // which makes no call
		r.fail("The VPC, subnets, roles and quotas were not checked, because that needs credentials and a region.")
		return nil
	}
	var err error
	if f.stack, err = fetchStack(ctx, d.Cloud.Stacks, d.Settings.Stack); err != nil {
		return err
	}
	switch f.stack.status {
	case types.StackStatusReviewInProgress, types.StackStatusRollbackInProgress, types.StackStatusRollbackComplete,
		types.StackStatusRollbackFailed, types.StackStatusCreateFailed, types.StackStatusDeleteInProgress:
		f.stack = stack{} // the deployment creates it, so that none of its values is kept
	}
	d.fill(&f, r)
	for _, c := range d.checks() {
		before := len(r.warnings)
		err := d.Progress.Step("check "+c.what, nil, func() error { return c.do(ctx, &f, r) })
		if ctx.Err() != nil {
			return ctx.Err() // not a finding of every check that is left
		}
		if err != nil {
			r.fail("It was not possible to check %s (%v): use credentials that are allowed to read that.", c.what, err)
		}
		for _, warning := range r.warnings[before:] {
			fmt.Fprintf(d.Progress.W, "warning: %s\n", warning)
		}
	}
	return nil
}

// checkStacks fails if a stack must be repaired first. A stack that is changing may be
// right when its step begins.
func (d *Deployment) checkStacks(ctx context.Context, _ *facts, r *report) error {
	for _, name := range []string{d.Settings.Registry(), d.Settings.Stack} {
		s, err := fetchStack(ctx, d.Cloud.Stacks, name)
		if err != nil {
			return err
		}
		if err := s.broken(name); err != nil {
			r.fail("Before a deployment: %v.", err)
		}
	}
	return nil
}

// checkGiven does the checks of a dry run: those of PARAMETERS that need no call. The values
// that the stack has are not known.
func (d *Deployment) checkGiven(ctx context.Context) error {
	t, err := readTemplate(d.Settings.Module, templateFile)
	if err != nil {
		return err
	}
	var r report
	f := facts{template: t}
	d.checkParameters(t, &r)
	d.fill(&f, &r)
	if err := d.checkLists(ctx, &f, &r); err != nil {
		return err
	}
	if len(r.failed) > 0 {
		return Failed(r.failed)
	}
	return nil
}

// checkTools looks for the programs that the build needs.
func (d *Deployment) checkTools(r *report) {
	for _, tool := range [][2]string{{"go", "https://go.dev/dl"}, {"make", "your system's packages"}} {
		if _, err := d.LookPath(tool[0]); err != nil {
			r.fail("%s is not installed: get it from %s.", tool[0], tool[1])
		}
	}
}

func (d *Deployment) checkParameters(t template, r *report) {
	for _, name := range t.unknown(d.Settings.Parameters) {
		r.fail("template.yaml has no parameter %s: its first section lists them.", name)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Settings.Parameters)) {
		if value := d.Settings.Parameters[name]; !hasOwnCheck[name] {
			if must := t.parameters[name].refuses(value); must != "" {
				r.fail("%s is %q: it %s.", name, value, must)
			}
		}
	}
}

// hasOwnCheck has the parameters whose checks name each wrong entry, or the number that
// would do.
var hasOwnCheck = map[string]bool{
	"AllowedDestinations": true, "AllowedDestinationsIpv6": true, "DnsServers": true, "AllowedSources": true, "ResourceTags": true,
	"QuotaTotal": true, "RequestConcurrency": true,
}

// checkIdentity reports whether AWS can be called.
func (d *Deployment) checkIdentity(ctx context.Context, f *facts, r *report) bool {
	if d.Cloud.Region == "" {
		r.fail("No AWS region is configured: set REGION=eu-west-1, or configure one with aws configure.")
		return false
	}
	err := d.Progress.Step("check the credentials", nil, func() error {
		caller, err := d.Cloud.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err == nil {
			f.caller, err = arn.Parse(aws.ToString(caller.Arn))
		}
		return err
	})
	if err != nil {
		r.fail("AWS does not accept your credentials in the region %s (%v): sign in, for example with aws sso login, or set AWS_PROFILE; if no such region exists, set REGION.", d.Cloud.Region, err)
		return false
	}
	fmt.Fprintf(d.Progress.W, "caller: %s, region %s\n", f.caller, d.Cloud.Region)
	return true
}

// fill reads the parameters that the checks depend on.
func (d *Deployment) fill(f *facts, r *report) {
	f.value = func(name string) string { return f.template.value(name, d.Settings.Parameters, f.stack.parameters) }
	f.public, f.spot = f.value("PublicAddress") == "true", f.value("UseSpot") == "true"
	families := f.value("AddressFamilies")
	f.ipv4, f.ipv6 = families != "ipv6", families != "ipv4"
	f.slack = config.Slack{
		SigningSecret: f.value("SlackSigningSecretParameter"), BotTokens: f.value("SlackBotTokenParameter"),
		Teams: list(f.value("SlackTeams")),
	}
	whole := func(name, value string) int {
		n, err := strconv.Atoi(value)
		if err != nil {
			r.fail("%s is %q: set a whole number.", name, value)
		} else if must := f.template.parameters[name].refuses(value); must != "" {
			r.fail("%s is %q: it %s.", name, value, must)
		}
		return n
	}
	const concurrency = "RequestConcurrency"
	f.quotaTotal, f.reserved = whole("QuotaTotal", f.value("QuotaTotal")), whole(concurrency, f.value(concurrency))
	if now, has := f.stack.parameters[concurrency]; has {
		f.reservedNow = whole(concurrency, now)
	}
}

// list splits a value at its commas. An empty value is an empty list.
func list(value string) []string {
	if value == "" {
		return nil
	}
	return strings.Split(value, ",")
}

// checkLists finds entries with which EC2 refuses the member group, or the functions do
// not start: the template's patterns do not match them all.
func (d *Deployment) checkLists(_ context.Context, f *facts, r *report) error {
	refuse := func(name string, wrong []error) {
		for _, err := range wrong {
			r.fail("%s: %v.", name, err)
		}
		// Each entry may be right, and the list too long, or of the other address family.
		if must := f.template.parameters[name].refuses(f.value(name)); must != "" && len(wrong) == 0 {
			r.fail("%s: it %s.", name, must)
		}
	}
	dns, wrong := parseServers(f.value("DnsServers"))
	refuse("DnsServers", wrong)
	for _, name := range []string{"AllowedDestinations", "AllowedDestinationsIpv6"} {
		_, wrong := bastion.ParseDestinationRules(f.value(name), dns...)
		refuse(name, wrong)
	}
	_, wrong = config.ParseSources(f.value("AllowedSources"))
	refuse("AllowedSources", wrong)
	_, wrong = config.ParseTags(f.value("ResourceTags"))
	refuse("ResourceTags", wrong)
	return nil
}

// parseServers returns the rules that the member group has for DNS servers, without
// those for UDP.
func parseServers(text string) (rules []bastion.DestinationRule, wrong []error) {
	for _, entry := range list(text) {
		server, err := netip.ParseAddr(entry)
		if err != nil || !server.Is4() {
			wrong = append(wrong, fmt.Errorf("%q is not an IPv4 address, such as 10.0.0.10", entry))
			continue
		}
		rule := bastion.DestinationRule{Prefix: netip.PrefixFrom(server, 32), From: 53, To: 53}
		if slices.Contains(rules, rule) {
			wrong = append(wrong, fmt.Errorf("%s is in the list twice: remove one", entry))
		}
		rules = append(rules, rule)
	}
	return rules, wrong
}

// checkSlack looks for the parameters that the Slack function will read, without
// decrypting them.
func (d *Deployment) checkSlack(ctx context.Context, f *facts, r *report) error {
	s := f.slack
	switch {
	case len(s.Teams) == 0 && s.SigningSecret == "" && s.BotTokens == "":
		return nil
	case len(s.Teams) == 0 || s.SigningSecret == "" || s.BotTokens == "":
		r.fail("Slack needs SlackTeams, SlackSigningSecretParameter and SlackBotTokenParameter: set all three in PARAMETERS. SLACK.md has the steps.")
		return nil
	}
	out, err := d.Cloud.Parameters.GetParameters(ctx, &ssm.GetParametersInput{Names: s.SecretNames()})
	if err != nil {
		return err
	}
	slices.Sort(out.InvalidParameters)
	for _, name := range out.InvalidParameters {
		r.fail("Parameter Store has no parameter %s in %s: run aws ssm put-parameter --region %[2]s --type SecureString --name %[1]s, as in SLACK.md.", name, d.Cloud.Region)
	}
	for _, p := range out.Parameters {
		if p.Type != ssmtypes.ParameterTypeSecureString {
			r.fail("The parameter %s has the type %s: delete it, and create it with --type SecureString.", aws.ToString(p.Name), p.Type)
		}
	}
	return nil
}
