package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Failed is what the checks found: sentences, each with the next step.
type Failed []string

func (f Failed) Error() string {
	return fmt.Sprintf("%d of the checks failed:\n  - %s", len(f), strings.Join(f, "\n  - "))
}

// facts are what the checks need to know of the deployment to be.
type facts struct {
	stack                 stack
	public, spot          bool
	ipv4, ipv6            bool
	quotaTotal            float64
	template              template
	accountID, callerName string
}

// check is one thing that must be so. It answers sentences about what is not; an
// error means that it could not find out.
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
	}
}

// check makes all checks, and answers all that failed at once.
func (d *Deployment) check(ctx context.Context) error {
	failed := d.checkTools()
	var f facts
	problems, err := d.checkParameters(&f)
	if err != nil {
		return err
	}
	failed = append(failed, problems...)
	reachable := d.checkIdentity(ctx, &f)
	failed = append(failed, reachable...)
	if len(reachable) > 0 {
		return append(failed, "The VPC, subnets, roles and quotas were not looked at: that takes credentials and a region.")
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
			failed = append(failed, fmt.Sprintf("It was not possible to check %s (%v): call as somebody who may ask that.", c.what, err))
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// checkTools looks for the programs that building takes.
func (d *Deployment) checkTools() (failed Failed) {
	for _, tool := range [][2]string{{"go", "https://go.dev/dl"}, {"make", "your system's packages"}, {"python3", "your system's packages, with its venv module"}} {
		if _, err := d.LookPath(tool[0]); err != nil {
			failed = append(failed, fmt.Sprintf("There is no %s on this machine: install it from %s.", tool[0], tool[1]))
		}
	}
	return failed
}

func (d *Deployment) checkParameters(f *facts) (failed []string, err error) {
	if f.template, err = readTemplate(d.Settings.Module); err != nil {
		return nil, err
	}
	for _, name := range f.template.unknown(d.Settings.Parameters) {
		failed = append(failed, fmt.Sprintf("template.yaml has no parameter %s: see the list at its top.", name))
	}
	return failed, nil
}

func (d *Deployment) checkIdentity(ctx context.Context, f *facts) (failed []string) {
	if d.Cloud.Region == "" {
		return []string{"There is no AWS region: say REGION=eu-west-1, or set one with aws configure."}
	}
	err := d.Progress.Step("check the credentials", nil, func() error {
		who, err := d.Cloud.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err == nil {
			f.accountID, f.callerName = aws.ToString(who.Account), aws.ToString(who.Arn)
		}
		return err
	})
	if err != nil {
		return []string{fmt.Sprintf("AWS does not know you (%v): sign in, such as with aws sso login, or set AWS_PROFILE.", err)}
	}
	fmt.Fprintf(d.Progress.W, "you are %s, in the account %s, in %s\n", f.callerName, f.accountID, d.Cloud.Region)
	return nil
}

// fill reads the parameters that decide what is to be checked.
func (d *Deployment) fill(f *facts) error {
	value := func(name string) string { return f.template.value(name, d.Settings.Parameters, f.stack.parameters) }
	f.public, f.spot = value("PublicAddress") == "true", value("UseSpot") == "true"
	families := value("AddressFamilies")
	f.ipv4, f.ipv6 = families != "ipv6", families != "ipv4"
	if _, err := fmt.Sscanf(value("QuotaTotal"), "%g", &f.quotaTotal); err != nil {
		return fmt.Errorf("QuotaTotal is %q: say a number", value("QuotaTotal"))
	}
	return nil
}

// checkDNS: endpoints with private DNS, and names of targets, need both.
func (d *Deployment) checkDNS(ctx context.Context, _ *facts) (failed []string, err error) {
	vpc := d.Settings.VPC
	for name, flag := range map[ec2types.VpcAttributeName]string{
		ec2types.VpcAttributeNameEnableDnsSupport:   "--enable-dns-support",
		ec2types.VpcAttributeNameEnableDnsHostnames: "--enable-dns-hostnames",
	} {
		answer, err := d.Cloud.EC2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &vpc, Attribute: name})
		if isCode(err, "InvalidVpcID.NotFound") {
			return []string{fmt.Sprintf("There is no VPC %s in %s: see aws ec2 describe-vpcs --region %[2]s.", vpc, d.Cloud.Region)}, nil
		}
		if err != nil {
			return nil, err
		}
		on := answer.EnableDnsSupport
		if name == ec2types.VpcAttributeNameEnableDnsHostnames {
			on = answer.EnableDnsHostnames
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
		return []string{"The account has no role " + serviceRole + ", by which ECS makes network interfaces: run aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com."}, nil
	}
	return nil, err
}

func (d *Deployment) checkDualStack(ctx context.Context, f *facts) ([]string, error) {
	if !f.ipv6 {
		return nil, nil
	}
	answer, err := d.Cloud.ECS.ListAccountSettings(ctx, &ecs.ListAccountSettingsInput{
		Name: ecstypes.SettingName("dualStackIPv6"), EffectiveSettings: true,
	})
	if err != nil {
		return nil, err
	}
	for _, setting := range answer.Settings {
		if aws.ToString(setting.Value) == "enabled" {
			return nil, nil
		}
	}
	return []string{"ECS gives tasks no IPv6 address: run aws ecs put-account-setting-default --region " + d.Cloud.Region + " --name dualStackIPv6 --value enabled."}, nil
}
