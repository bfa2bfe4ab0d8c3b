package deploy

import (
	"context"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// The calls of AWS that a deployment makes. The SDK's clients implement them.
type (
	// STS identifies the caller.
	STS interface {
		GetCallerIdentity(context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options)) (*sts.GetCallerIdentityOutput, error)
	}
	// IAM has the service-linked role.
	IAM interface {
		GetRole(context.Context, *iam.GetRoleInput, ...func(*iam.Options)) (*iam.GetRoleOutput, error)
	}
	// ECS has the account's settings, and the task of the trial.
	ECS interface {
		ecs.ListTasksAPIClient
		ecs.DescribeTasksAPIClient
		ListAccountSettings(context.Context, *ecs.ListAccountSettingsInput, ...func(*ecs.Options)) (*ecs.ListAccountSettingsOutput, error)
	}
	// EC2 describes the network.
	EC2 interface {
		DescribeVpcAttribute(context.Context, *ec2.DescribeVpcAttributeInput, ...func(*ec2.Options)) (*ec2.DescribeVpcAttributeOutput, error)
		DescribeAvailabilityZones(context.Context, *ec2.DescribeAvailabilityZonesInput, ...func(*ec2.Options)) (*ec2.DescribeAvailabilityZonesOutput, error)
		DescribeVpcBlockPublicAccessOptions(context.Context, *ec2.DescribeVpcBlockPublicAccessOptionsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessOptionsOutput, error)
		DescribeVpcBlockPublicAccessExclusions(context.Context, *ec2.DescribeVpcBlockPublicAccessExclusionsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessExclusionsOutput, error)
		ec2.DescribeSubnetsAPIClient
		ec2.DescribeRouteTablesAPIClient
		ec2.DescribeVpcEndpointsAPIClient
		ec2.DescribeSecurityGroupsAPIClient
		ec2.DescribeSecurityGroupRulesAPIClient
		ec2.DescribeNetworkInterfacesAPIClient
	}
	// Quotas is Service Quotas.
	Quotas interface {
		GetServiceQuota(context.Context, *servicequotas.GetServiceQuotaInput, ...func(*servicequotas.Options)) (*servicequotas.GetServiceQuotaOutput, error)
		GetAWSDefaultServiceQuota(context.Context, *servicequotas.GetAWSDefaultServiceQuotaInput, ...func(*servicequotas.Options)) (*servicequotas.GetAWSDefaultServiceQuotaOutput, error)
	}
	// Stacks is CloudFormation.
	Stacks interface {
		cloudformation.DescribeStacksAPIClient
		cloudformation.DescribeStackEventsAPIClient
		cloudformation.ListStacksAPIClient
		cloudformation.ListStackResourcesAPIClient
		cloudformation.DescribeChangeSetAPIClient
		CreateChangeSet(context.Context, *cloudformation.CreateChangeSetInput, ...func(*cloudformation.Options)) (*cloudformation.CreateChangeSetOutput, error)
		ExecuteChangeSet(context.Context, *cloudformation.ExecuteChangeSetInput, ...func(*cloudformation.Options)) (*cloudformation.ExecuteChangeSetOutput, error)
		DeleteChangeSet(context.Context, *cloudformation.DeleteChangeSetInput, ...func(*cloudformation.Options)) (*cloudformation.DeleteChangeSetOutput, error)
		UpdateStack(context.Context, *cloudformation.UpdateStackInput, ...func(*cloudformation.Options)) (*cloudformation.UpdateStackOutput, error)
		DeleteStack(context.Context, *cloudformation.DeleteStackInput, ...func(*cloudformation.Options)) (*cloudformation.DeleteStackOutput, error)
	}
	// Objects is S3, with the bucket for code and templates.
	Objects interface {
		s3.HeadObjectAPIClient
		s3.HeadBucketAPIClient
		s3.ListObjectVersionsAPIClient
		PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
		DeleteObjects(context.Context, *s3.DeleteObjectsInput, ...func(*s3.Options)) (*s3.DeleteObjectsOutput, error)
		DeleteBucket(context.Context, *s3.DeleteBucketInput, ...func(*s3.Options)) (*s3.DeleteBucketOutput, error)
	}
	// ECR is the registry of images.
	ECR interface {
		DescribeImages(context.Context, *ecr.DescribeImagesInput, ...func(*ecr.Options)) (*ecr.DescribeImagesOutput, error)
		DescribeRepositories(context.Context, *ecr.DescribeRepositoriesInput, ...func(*ecr.Options)) (*ecr.DescribeRepositoriesOutput, error)
		DeleteRepository(context.Context, *ecr.DeleteRepositoryInput, ...func(*ecr.Options)) (*ecr.DeleteRepositoryOutput, error)
	}
	// Functions is Lambda.
	Functions interface {
		GetAccountSettings(context.Context, *lambda.GetAccountSettingsInput, ...func(*lambda.Options)) (*lambda.GetAccountSettingsOutput, error)
		Invoke(context.Context, *lambda.InvokeInput, ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
	}
	// Parameters is Parameter Store.
	Parameters interface {
		GetParameters(context.Context, *ssm.GetParametersInput, ...func(*ssm.Options)) (*ssm.GetParametersOutput, error)
	}
	// Tables is DynamoDB.
	Tables interface {
		DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
		DeleteTable(context.Context, *dynamodb.DeleteTableInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteTableOutput, error)
	}
)

// Cloud is one account in one region.
type Cloud struct {
	Region      string // empty if none is configured
	Credentials aws.CredentialsProvider

	STS        STS
	IAM        IAM
	ECS        ECS
	EC2        EC2
	Quotas     Quotas
	Stacks     Stacks
	Objects    Objects
	ECR        ECR
	Functions  Functions
	Parameters Parameters
	Tables     Tables
}

// Connect reads the AWS configuration and returns the clients, without any call. An
// empty region means the configured one, and a nil client the SDK's own.
func Connect(ctx context.Context, region string, client *http.Client) (Cloud, error) {
	options := []func(*config.LoadOptions) error{config.WithRegion(region)}
	if client != nil {
		options = append(options, config.WithHTTPClient(client))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return Cloud{}, fmt.Errorf("read the AWS configuration: %w", err)
	}
	return Cloud{
		Region:      cfg.Region,
		Credentials: cfg.Credentials,
		STS:         sts.NewFromConfig(cfg),
		IAM:         iam.NewFromConfig(cfg),
		ECS:         ecs.NewFromConfig(cfg),
		EC2:         ec2.NewFromConfig(cfg),
		Quotas:      servicequotas.NewFromConfig(cfg),
		Stacks:      cloudformation.NewFromConfig(cfg),
		Objects:     s3.NewFromConfig(cfg),
		ECR:         ecr.NewFromConfig(cfg),
		Functions:   lambda.NewFromConfig(cfg),
		Parameters:  ssm.NewFromConfig(cfg),
		Tables:      dynamodb.NewFromConfig(cfg),
	}, nil
}
