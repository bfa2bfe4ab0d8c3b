package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-on-demand/bastion/internal/config"
)

// Failed has one sentence for each failed check, with the next step.
type Failed []string

func (f Failed) Error() string {
	return fmt.Sprintf("%d checks failed:\n  - %s", len(f), strings.Join(f, "\n  - "))
}

// facts is what the checks know about the deployment.
type facts struct {
	stack        stack
	public, spot bool
	ipv4, ipv6   bool
	quotaTotal   float64
	template     template
	slack        config.Slack
}

// check is one condition of a deployment. It returns sentences about what is wrong; an
// error means that the check was not possible.
type check struct {
	what string
	do   func(context.Context, *facts) ([]string, error)
}

func (d *Deployment) checks() []check {
	return []check{
		{"the VPC's DNS settings", d.checkDNS},
		{"the subnets and their routes", d.checkSubnets},
		{"the ECS service-linked role", d.checkServiceRole},
		{"the ECS setting dualStackIPv6", d.checkDualStack},
		{"the Fargate vCPU quota", d.checkVCPU},
		{"the security group quota", d.checkGroups},
		{"the parameters with Slack's secrets", d.checkSlack},
	}
}

// check does all checks. Its error lists all that failed.
func (d *Deployment) check(ctx context.Context) error {
	failed := d.checkTools()
	var f facts
	problems, err := d.checkParameters(&f)
	if err != nil {
		return err
	}
	failed = append(failed, problems...)
	reachable := d.checkIdentity(ctx)
	failed = append(failed, reachable...)
	if len(reachable) > 0 {
		return append(failed, "The VPC, subnets, roles and quotas were not checked, because that needs credentials and a region.")
	}
	if f.stack, err = fetchStack(ctx, d.Cloud.Stacks, d.Settings.Stack); err != nil {
		return err
	}
	if err := d.fill(&f); err != nil {
		failed = append(failed, err.Error())
	}
	for _, c := range d.checks() {
		err := d.Progress.Step("check "+c.what, nil, func() error {
			found, err := c.do(ctx, &f)
			failed = append(failed, found...)
			return err
		})
		if err != nil {
			failed = append(failed, fmt.Sprintf("It was not possible to check %s (%v): use credentials that are allowed to read that.", c.what, err))
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// checkTools looks for the programs that the build needs.
func (d *Deployment) checkTools() (failed Failed) {
	for _, tool := range [][2]string{{"go", "https://go.dev/dl"}, {"make", "your system's packages"}, {"python3", "your system's packages, with the venv module"}} {
		if _, err := d.LookPath(tool[0]); err != nil {
			failed = append(failed, fmt.Sprintf("%s is not installed: get it from %s.", tool[0], tool[1]))
		}
	}
	return failed
}

func (d *Deployment) checkParameters(f *facts) (failed []string, err error) {
	if f.template, err = readTemplate(d.Settings.Module); err != nil {
		return nil, err
	}
	for _, name := range f.template.unknown(d.Settings.Parameters) {
		failed = append(failed, fmt.Sprintf("template.yaml has no parameter %s: its first section lists them.", name))
	}
	return failed, nil
}

func (d *Deployment) checkIdentity(ctx context.Context) (failed []string) {
	if d.Cloud.Region == "" {
		return []string{"No AWS region is configured: set REGION=eu-west-1, or configure one with aws configure."}
	}
	identity := ""
	err := d.Progress.Step("check the credentials", nil, func() error {
		caller, err := d.Cloud.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err == nil {
			identity = fmt.Sprintf("%s, account %s", aws.ToString(caller.Arn), aws.ToString(caller.Account))
		}
		return err
	})
	if err != nil {
		return []string{fmt.Sprintf("AWS does not accept your credentials (%v): sign in, for example with aws sso login, or set AWS_PROFILE.", err)}
	}
	fmt.Fprintf(d.Progress.W, "caller: %s, region %s\n", identity, d.Cloud.Region)
	return nil
}

// fill reads the parameters that the checks depend on.
func (d *Deployment) fill(f *facts) error {
	value := func(name string) string { return f.template.value(name, d.Settings.Parameters, f.stack.parameters) }
	f.public, f.spot = value("PublicAddress") == "true", value("UseSpot") == "true"
	families := value("AddressFamilies")
	f.ipv4, f.ipv6 = families != "ipv6", families != "ipv4"
	f.slack = config.Slack{SigningSecret: value("SlackSigningSecretParameter"), BotTokens: value("SlackBotTokenParameter")}
	if teams := value("SlackTeams"); teams != "" {
		f.slack.Teams = strings.Split(teams, ",")
	}
	if _, err := fmt.Sscanf(value("QuotaTotal"), "%g", &f.quotaTotal); err != nil {
		return fmt.Errorf("QuotaTotal is %q: set a number", value("QuotaTotal"))
	}
	return nil
}

// checkDNS: endpoints with private DNS and the names of targets need both attributes.
func (d *Deployment) checkDNS(ctx context.Context, _ *facts) (failed []string, err error) {
	vpc := d.Settings.VPC
	for name, flag := range map[ec2types.VpcAttributeName]string{
		ec2types.VpcAttributeNameEnableDnsSupport:   "--enable-dns-support",
		ec2types.VpcAttributeNameEnableDnsHostnames: "--enable-dns-hostnames",
	} {
		out, err := d.Cloud.EC2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &vpc, Attribute: name})
		if isCode(err, "InvalidVpcID.NotFound") {
			return []string{fmt.Sprintf("There is no VPC %s in %s: list VPCs with aws ec2 describe-vpcs --region %[2]s.", vpc, d.Cloud.Region)}, nil
		}
		if err != nil {
			return nil, err
		}
		on := out.EnableDnsSupport
		if name == ec2types.VpcAttributeNameEnableDnsHostnames {
			on = out.EnableDnsHostnames
		}
		if on == nil || !aws.ToBool(on.Value) {
			failed = append(failed, fmt.Sprintf("%s is off in the VPC: run aws ec2 modify-vpc-attribute --region %s --vpc-id %s %s.", name, d.Cloud.Region, vpc, flag))
		}
	}
	return failed, nil
}

const serviceRole = "AWSServiceRoleForECS"

func (d *Deployment) checkServiceRole(ctx context.Context, _ *facts) ([]string, error) {
	_, err := d.Cloud.IAM.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String(serviceRole)})
	if missing := (*iamtypes.NoSuchEntityException)(nil); errors.As(err, &missing) {
		return []string{"The account has no role " + serviceRole + ", which ECS needs to create network interfaces: run aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com."}, nil
	}
	return nil, err
}

func (d *Deployment) checkDualStack(ctx context.Context, f *facts) ([]string, error) {
	if !f.ipv6 {
		return nil, nil
	}
	out, err := d.Cloud.ECS.ListAccountSettings(ctx, &ecs.ListAccountSettingsInput{
		Name: ecstypes.SettingName("dualStackIPv6"), EffectiveSettings: true,
	})
	if err != nil {
		return nil, err
	}
	for _, setting := range out.Settings {
		if aws.ToString(setting.Value) == "enabled" {
			return nil, nil
		}
	}
	return []string{"ECS does not give tasks IPv6 addresses: run aws ecs put-account-setting-default --region " + d.Cloud.Region + " --name dualStackIPv6 --value enabled."}, nil
}

// The codes of quotas, from "AWS Fargate" and "Amazon VPC endpoints and quotas" in the
// AWS General Reference.
const (
	quotaOnDemand = "L-3032A538" // of fargate: On-Demand vCPU
	quotaSpot     = "L-36FBB829" // of fargate: Spot vCPU
	quotaGroups   = "L-E79EC296" // of vpc: security groups in the region
)

// taskVCPU is the vCPU of the template's task definition.
const taskVCPU = 0.25

// stackTag is the tag on every security group and task of a bastion.
const stackTag = "bastion:stack"

// quota returns the account's quota, or AWS's default for a quota that was never
// applied to the account.
func (d *Deployment) quota(ctx context.Context, service, code string) (float64, error) {
	var quota *quotatypes.ServiceQuota
	own, err := d.Cloud.Quotas.GetServiceQuota(ctx, &servicequotas.GetServiceQuotaInput{ServiceCode: &service, QuotaCode: &code})
	if isCode(err, "NoSuchResourceException") {
		var standard *servicequotas.GetAWSDefaultServiceQuotaOutput
		standard, err = d.Cloud.Quotas.GetAWSDefaultServiceQuota(ctx, &servicequotas.GetAWSDefaultServiceQuotaInput{ServiceCode: &service, QuotaCode: &code})
		if err == nil {
			quota = standard.Quota
		}
	} else if err == nil {
		quota = own.Quota
	}
	if err != nil {
		return 0, err
	}
	if quota == nil || quota.Value == nil {
		return 0, errors.New("the response has no value")
	}
	return *quota.Value, nil
}

func (d *Deployment) raise(service, code string, to float64) string {
	return fmt.Sprintf("aws service-quotas request-service-quota-increase --region %s --service-code %s --quota-code %s --desired-value %g", d.Cloud.Region, service, code, to)
}

// checkVCPU compares the quota with QuotaTotal. It does not know what else runs in the
// account.
func (d *Deployment) checkVCPU(ctx context.Context, f *facts) ([]string, error) {
	code, name := quotaOnDemand, "Fargate On-Demand"
	if f.spot {
		code, name = quotaSpot, "Fargate Spot"
	}
	has, err := d.quota(ctx, "fargate", code)
	if err != nil {
		return nil, err
	}
	if need := f.quotaTotal * taskVCPU; need > has {
		return []string{fmt.Sprintf("The %s quota is %g vCPU, enough for %g bastions, but QuotaTotal is %g: set QuotaTotal=%[3]g or less in PARAMETERS, or run %[5]s.",
			name, has, math.Floor(has/taskVCPU), f.quotaTotal, d.raise("fargate", code, math.Ceil(need)))}, nil
	}
	return nil, nil
}

// checkGroups counts the region's security groups without this stack's.
func (d *Deployment) checkGroups(ctx context.Context, f *facts) ([]string, error) {
	has, err := d.quota(ctx, "vpc", quotaGroups)
	if err != nil {
		return nil, err
	}
	others := 0.0
	pages := ec2.NewDescribeSecurityGroupsPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("count security groups: %w", err)
		}
		for _, group := range page.SecurityGroups {
			if !ofStack(group.Tags, f.stack.id) {
				others++
			}
		}
	}
	if need := others + f.quotaTotal + 1; need > has { // with the member group
		return []string{fmt.Sprintf("The region's quota is %g security groups and it has %g, which leaves too few for QuotaTotal=%g bastions and the member group: delete some, set a smaller QuotaTotal in PARAMETERS, or run %s.",
			has, others, f.quotaTotal, d.raise("vpc", quotaGroups, need))}, nil
	}
	return nil, nil
}

func ofStack(tags []ec2types.Tag, id string) bool {
	for _, tag := range tags {
		if key := aws.ToString(tag.Key); id != "" && aws.ToString(tag.Value) == id && (key == stackTag || key == "aws:cloudformation:stack-id") {
			return true
		}
	}
	return false
}

// checkSlack looks for the parameters that the Slack function will read, without
// decrypting them.
func (d *Deployment) checkSlack(ctx context.Context, f *facts) (failed []string, err error) {
	s := f.slack
	switch {
	case len(s.Teams) == 0 && s.SigningSecret == "" && s.BotTokens == "":
		return nil, nil
	case len(s.Teams) == 0 || s.SigningSecret == "" || s.BotTokens == "":
		return []string{"Slack needs SlackTeams, SlackSigningSecretParameter and SlackBotTokenParameter: set all three in PARAMETERS. SLACK.md has the steps."}, nil
	}
	out, err := d.Cloud.Parameters.GetParameters(ctx, &ssm.GetParametersInput{Names: s.SecretNames()})
	if err != nil {
		return nil, err
	}
	for _, name := range out.InvalidParameters {
		failed = append(failed, fmt.Sprintf("Parameter Store has no parameter %s in %s: run aws ssm put-parameter --region %[2]s --type SecureString --name %[1]s, as in SLACK.md.", name, d.Cloud.Region))
	}
	for _, p := range out.Parameters {
		if p.Type != ssmtypes.ParameterTypeSecureString {
			failed = append(failed, fmt.Sprintf("The parameter %s has the type %s: delete it, and create it with --type SecureString.", aws.ToString(p.Name), p.Type))
		}
	}
	slices.Sort(failed)
	return failed, nil
}
