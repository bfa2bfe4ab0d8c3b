package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
)

// Codes of quotas as Service Quotas has them ("AWS Fargate" and "Amazon VPC
// endpoints and quotas", AWS General Reference).
const (
	quotaOnDemand = "L-3032A538" // of fargate: On-Demand vCPU
	quotaSpot     = "L-36FBB829" // of fargate: Spot vCPU
	quotaGroups   = "L-E79EC296" // of vpc: security groups in the region
)

// taskVCPU is what the template's task definition takes.
const taskVCPU = 0.25

// stackTag is what everything that a bastion is made of is tagged with.
const stackTag = "bastion:stack"

// quota is the account's, or AWS's default: an account has a value of its own only
// for quotas that were ever applied to it.
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
		return 0, errors.New("the answer has no value")
	}
	return *quota.Value, nil
}

func (d *Deployment) raise(service, code string, to float64) string {
	return fmt.Sprintf("aws service-quotas request-service-quota-increase --region %s --service-code %s --quota-code %s --desired-value %g", d.Cloud.Region, service, code, to)
}

// checkVCPU holds the quota against all bastions at once; what else runs in the
// account is not known.
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
		return []string{fmt.Sprintf("The %s quota is %g vCPU, enough for %g bastions, and QuotaTotal is %g: say QuotaTotal=%[3]g or less in PARAMETERS, or run %[5]s.",
			name, has, math.Floor(has/taskVCPU), f.quotaTotal, d.raise("fargate", code, math.Ceil(need)))}, nil
	}
	return nil, nil
}

// checkGroups counts what is there without this stack's own.
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
	if need := others + f.quotaTotal + 1; need > has { // one more: the member group
		return []string{fmt.Sprintf("The region may have %g security groups and has %g, which leaves too few for QuotaTotal=%g bastions and the member group: delete some, say a smaller QuotaTotal in PARAMETERS, or run %s.",
			has, others, f.quotaTotal, d.raise("vpc", quotaGroups, need))}, nil
	}
	return nil, nil
}

func ofStack(tags []types.Tag, id string) bool {
	for _, tag := range tags {
		if key := aws.ToString(tag.Key); id != "" && aws.ToString(tag.Value) == id && (key == stackTag || key == "aws:cloudformation:stack-id") {
			return true
		}
	}
	return false
}
