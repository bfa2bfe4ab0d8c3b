// Package awscloud implements the ports of package bastion on AWS: records and
// leases in DynamoDB, groups in EC2, tasks in ECS. It is the only package of the
// functions and of bastiond that calls the AWS SDK, and it returns no error of the
// SDK's types.
//
// No method waits until AWS is consistent: it returns what a call finds, and the
// domain reads again later. Calls that are throttled, time out or meet a temporary
// conflict are retried until the caller's context ends.
//
// Each adapter declares an interface with the calls that it makes. The permissions
// of the functions and of the task follow from these interfaces.
package awscloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
)

// Tables names the tables of a stack.
type Tables struct {
	Records string
	Leases  string
	RoleID  string        // the unique id of the task role; see [NewLeases]
	History time.Duration // how long finished records stay; see [NewStore]
}

// Ports are all ports of the control plane.
type Ports struct {
	Store  *Store
	Groups *Groups
	Tasks  *Tasks
	Leases *Leases

	Functions *Functions // invokes the Slack function, which notifies owners
}

// Transport configures how a process calls AWS.
type Transport struct {
	Pacer *Pacer
	HTTP  *http.Client // nil for the clients of the SDK
}

// Connect returns the ports. They use the credentials and the region of the
// environment. Connect itself makes no call.
func Connect(ctx context.Context, stack Stack, tables Tables, transport Transport) (Ports, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return Ports{}, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	dynamo := NewDynamoDB(cfg, func(o *dynamodb.Options) { o.HTTPClient = transport.or(o.HTTPClient) })
	ec2 := NewEC2(cfg, transport.Pacer, func(o *ec2.Options) { o.HTTPClient = transport.or(o.HTTPClient) })
	ecs := NewECS(cfg, transport.Pacer, func(o *ecs.Options) { o.HTTPClient = transport.or(o.HTTPClient) })
	return Ports{
		Store:  NewStore(dynamo, tables.Records, tables.History, rand.Reader),
		Groups: NewGroups(ec2, stack),
		Tasks:  NewTasks(ecs, ec2, stack, time.Now),
		Leases: NewLeases(dynamo, tables.Leases, tables.RoleID, rand.Reader),

		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
}

func (t Transport) or(standard aws.HTTPClient) aws.HTTPClient {
	if t.HTTP != nil {
		return t.HTTP
	}
	return standard
}

// SlackPorts are all ports of the Slack function.
type SlackPorts struct {
	Items     *Items
	Secrets   *Secrets
	Functions *Functions
}

// ConnectSlack returns the ports of the Slack function: a table of [ItemsSchema]
// and the secrets of these names. It makes no call.
func ConnectSlack(ctx context.Context, table string, secrets ...string) (SlackPorts, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return SlackPorts{}, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	return SlackPorts{
		Items:     NewItems(NewDynamoDB(cfg), table, time.Now, rand.Reader),
		Secrets:   NewSecrets(NewSSM(cfg), time.Now, secrets...),
		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
}

// ConnectTaskLease returns a task's side of the lease table, with the credentials
// and the region of the environment. It makes no call.
func ConnectTaskLease(ctx context.Context, table, roleID, taskID string) (*TaskLease, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	return NewTaskLease(NewDynamoDB(cfg), table, roleID, taskID), nil
}

// Limits of a client of EC2 or ECS. The caller's context can end a call earlier.
const (
	computeTimeout    = 10 * time.Second // of one attempt; RunTask can take seconds
	computeAttempts   = 10
	computeMaxBackoff = 2 * time.Second
)

// NewEC2 returns a client that retries throttled requests and lost responses up to
// ten times or until the context ends, and keeps within the pacer's rates. The
// options are applied last.
func NewEC2(cfg aws.Config, pacer *Pacer, options ...func(*ec2.Options)) *ec2.Client {
	defaults := func(o *ec2.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pacer.addTo)
	}
	return ec2.NewFromConfig(cfg, append([]func(*ec2.Options){defaults}, options...)...)
}

// NewECS returns a client of ECS that retries like that of EC2. A retry of RunTask
// is safe because the request has a clientToken.
func NewECS(cfg aws.Config, pacer *Pacer, options ...func(*ecs.Options)) *ecs.Client {
	defaults := func(o *ecs.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pacer.addTo)
	}
	return ecs.NewFromConfig(cfg, append([]func(*ecs.Options){defaults}, options...)...)
}

func newComputeHTTP() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTimeout(computeTimeout)
}

// newComputeRetryer returns a retryer with growing pauses. It does not use the
// SDK's adaptive mode, which slows down all calls of a client when one is
// throttled: AWS has a bucket for each kind of call, and the pacer knows them. It
// has no retry budget either, because a hundred retries would use it up.
func newComputeRetryer() aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = computeAttempts, computeMaxBackoff, ratelimit.None
	})
}
