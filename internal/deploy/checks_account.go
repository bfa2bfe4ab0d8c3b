package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
)

const serviceRole = "AWSServiceRoleForECS"

func (d *Deployment) checkServiceRole(ctx context.Context, _ *facts, r *report) error {
	_, err := d.Cloud.IAM.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String(serviceRole)})
	if missing := (*iamtypes.NoSuchEntityException)(nil); errors.As(err, &missing) {
		r.fail("The account has no role %s, which ECS needs to create network interfaces: run aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com.", serviceRole)
		return nil
	}
	return err
}

// dualStack is the ECS setting that gives tasks IPv6 addresses.
const dualStack = ecstypes.SettingName("dualStackIPv6")

// checkDualStack reads the account's setting, which the functions' roles have. The
// deployer may have another one.
func (d *Deployment) checkDualStack(ctx context.Context, f *facts, r *report) error {
	if !f.ipv6 {
		return nil
	}
	root := arn.ARN{Partition: f.caller.Partition, Service: "iam", AccountID: f.caller.AccountID, Resource: "root"}.String()
	value, _, err := d.ecsSetting(ctx, dualStack, &root)
	principal := root
	if refusal := smithy.APIError(nil); errors.As(err, &refusal) {
		// "API Reference", ListAccountSettings: only the root user may ask for the root
		// user. Without a principal the response has the caller's own setting; if the
		// caller has none, it has the account's, with the root user as the principal
		// ("AWS CLI Command Reference", list-account-settings).
		value, principal, err = d.ecsSetting(ctx, dualStack, nil)
	}
	if err != nil {
		return err
	}
	enable := fmt.Sprintf("aws ecs put-account-setting-default --region %s --name %s --value enabled", d.Cloud.Region, dualStack)
	switch {
	case principal != root && principal != "":
		r.warn("Your identity has an ECS setting %s of its own, so the account's setting, which the service has, could not be read. Bastions get IPv6 addresses only if it is enabled: run %s.", dualStack, enable)
	case value != "enabled":
		r.fail("ECS does not give tasks IPv6 addresses: run %s.", enable)
	}
	return nil
}

// ecsSetting returns the effective setting of a principal, and the principal that it was
// set for.
func (d *Deployment) ecsSetting(ctx context.Context, name ecstypes.SettingName, of *string) (value, principal string, err error) {
	out, err := d.Cloud.ECS.ListAccountSettings(ctx, &ecs.ListAccountSettingsInput{Name: name, EffectiveSettings: true, PrincipalArn: of})
	if err != nil || len(out.Settings) == 0 {
		return "", "", err
	}
	return aws.ToString(out.Settings[0].Value), aws.ToString(out.Settings[0].PrincipalArn), nil
}

// The codes of quotas, from "AWS Fargate", "Amazon VPC" and "AWS Lambda endpoints and
// quotas" in the AWS General Reference.
const (
	quotaOnDemand    = "L-3032A538" // of fargate: On-Demand vCPU
	quotaSpot        = "L-36FBB829" // of fargate: Spot vCPU
	quotaGroups      = "L-E79EC296" // of vpc: security groups in the region
	quotaConcurrency = "L-B99A9384" // of lambda: concurrent executions
)

// taskVCPU is the vCPU of the template's task definition.
const taskVCPU = 0.25

// quota returns the account's quota, or AWS's default for a quota that was never
// applied to the account.
func (d *Deployment) quota(ctx context.Context, service, code string) (float64, error) {
	own, err := d.Cloud.Quotas.GetServiceQuota(ctx, &servicequotas.GetServiceQuotaInput{ServiceCode: &service, QuotaCode: &code})
	if isCode(err, "NoSuchResourceException") {
		standard, err := d.Cloud.Quotas.GetAWSDefaultServiceQuota(ctx, &servicequotas.GetAWSDefaultServiceQuotaInput{ServiceCode: &service, QuotaCode: &code})
		if err != nil {
			return 0, err
		}
		return quotaValue(standard.Quota)
	}
	if err != nil {
		return 0, err
	}
	return quotaValue(own.Quota)
}

func quotaValue(quota *quotatypes.ServiceQuota) (float64, error) {
	if quota == nil || quota.Value == nil {
		return 0, errors.New("the response has no value")
	}
	return *quota.Value, nil
}

// raise returns the command that asks AWS for a higher quota.
func (d *Deployment) raise(service, code string, to float64) string {
	return fmt.Sprintf("aws service-quotas request-service-quota-increase --region %s --service-code %s --quota-code %s --desired-value %g", d.Cloud.Region, service, code, to)
}

// checkVCPU compares the quota with QuotaTotal. It does not know what else runs in the
// account.
func (d *Deployment) checkVCPU(ctx context.Context, f *facts, r *report) error {
	code, name := quotaOnDemand, "Fargate On-Demand"
	if f.spot {
		code, name = quotaSpot, "Fargate Spot"
	}
	has, err := d.quota(ctx, "fargate", code)
	if err != nil {
		return err
	}
	need := float64(f.quotaTotal) * taskVCPU
	if need <= has {
		return nil
	}
	enough, smaller := math.Floor(has/taskVCPU), ""
	if enough >= 1 {
		smaller = fmt.Sprintf("set QuotaTotal=%g or less in PARAMETERS, or ", enough)
	}
	r.fail("The %s quota is %g vCPU, enough for %g bastions, but QuotaTotal is %d: %srun %s.",
		name, has, enough, f.quotaTotal, smaller, d.raise("fargate", code, math.Ceil(need)))
	return nil
}

// checkGroups counts the region's security groups without this stack's.
func (d *Deployment) checkGroups(ctx context.Context, f *facts, r *report) error {
	has, err := d.quota(ctx, "vpc", quotaGroups)
	if err != nil {
		return err
	}
	others := 0
	pages := ec2.NewDescribeSecurityGroupsPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("count security groups: %w", err)
		}
		for _, group := range page.SecurityGroups {
			if !ofStack(group.Tags, f.stack.id) {
				others++
			}
		}
	}
	if need := float64(others + f.quotaTotal + 1); need > has { // with the member group
		r.fail("The region's quota is %g security groups and it has %d, which leaves too few for QuotaTotal=%d bastions and the member group: delete some, set a smaller QuotaTotal in PARAMETERS, or run %s.",
			has, others, f.quotaTotal, d.raise("vpc", quotaGroups, need))
	}
	return nil
}

func ofStack(tags []ec2types.Tag, id string) bool {
	for _, tag := range tags {
		if key := aws.ToString(tag.Key); id != "" && aws.ToString(tag.Value) == id && (key == awscloud.TagStack || key == "aws:cloudformation:stack-id") {
			return true
		}
	}
	return false
}

const (
	// requestFunctions are those for which RequestConcurrency is reserved: create,
	// describe, extend and destroy.
	requestFunctions = 4
	// leastUnreserved is the concurrency that reservations must leave to all other
	// functions ("API Reference", PutFunctionConcurrency).
	leastUnreserved = 100
	// usualConcurrency is AWS's default quota. New accounts have less ("Lambda quotas",
	// AWS Lambda Developer Guide).
	usualConcurrency = 1000
)

// checkConcurrency compares the account's Lambda concurrency with the reservations of
// all functions in the region, also those of other stacks.
func (d *Deployment) checkConcurrency(ctx context.Context, f *facts, r *report) error {
	out, err := d.Cloud.Functions.GetAccountSettings(ctx, &lambda.GetAccountSettingsInput{})
	if err != nil {
		return err
	}
	if out.AccountLimit == nil || out.AccountLimit.UnreservedConcurrentExecutions == nil {
		return errors.New("the response has no limit")
	}
	limit := int(out.AccountLimit.ConcurrentExecutions)
	others := int(*out.AccountLimit.UnreservedConcurrentExecutions) + requestFunctions*f.reservedNow // what other functions leave
	left := others - requestFunctions*f.reserved
	switch {
	case left >= leastUnreserved:
	case f.reserved > 0:
		r.fail("RequestConcurrency=%d reserves that many executions for each of %d functions. That leaves %d of the region's %d to functions without a reservation, and Lambda requires %d: set RequestConcurrency in PARAMETERS to %d at most, or run %s.",
			f.reserved, requestFunctions, max(left, 0), limit, leastUnreserved, max(others-leastUnreserved, 0)/requestFunctions,
			d.raise("lambda", quotaConcurrency, max(usualConcurrency, float64(limit+leastUnreserved-left))))
	default:
		r.warn("Lambda runs at most %d executions at a time in this account and region, for all functions together. A request with Prefer: wait is one execution for up to 25 seconds, so %[1]d people who wait block all other functions, also the reaper: run %s.",
			left, d.raise("lambda", quotaConcurrency, usualConcurrency))
	}
	return nil
}
