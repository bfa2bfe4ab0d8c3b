// Package awscloud implements the ports of package bastion on AWS: records and
// leases in DynamoDB, groups in EC2, tasks in ECS. For the Slack function, it stores
// values in DynamoDB, reads secrets from Parameter Store and invokes Lambda functions.
// For bastiond, it reads the metadata of the task. In the functions and in bastiond, no
// other package calls the AWS SDK. No error that this package returns has a type of the
// SDK.
//
// No method waits until AWS is consistent: a method returns what AWS shows now, and
// the domain reads again later. A call of DynamoDB, EC2 or ECS is repeated if it is
// throttled, times out or meets a temporary conflict, until the caller's context
// ends or the client's limit of attempts is reached.
//
// Each adapter declares an interface with the calls that it makes. A test checks that
// the table of permissions (internal/test/privilege) contains exactly these calls.
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

// Tables configures [NewStore] and [NewLeases].
type Tables struct {
	Records string        // the name of the record table
	Leases  string        // the name of the lease table
	RoleID  string        // the unique id of the task role (AROA…)
	History time.Duration // how long a finished record is kept
}

// Ports are all ports of the control plane.
type Ports struct {
	Store  *Store
	Groups *Groups
	Tasks  *Tasks
	Leases *Leases

	Functions *Functions // to invoke the Slack function, which notifies owners
}

// Transport configures how a process calls DynamoDB, EC2 and ECS.
type Transport struct {
	Pacer *Pacer       // for EC2 and ECS
	HTTP  *http.Client // if nil, each SDK client has an HTTP client of its own
}

// Connect returns the ports. They use the credentials and the region of the
// environment. Connect itself makes no call.
func Connect(ctx context.Context, stack Stack, tables Tables, transport Transport) (Ports, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return Ports{}, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	dynamoClient := NewDynamoDB(cfg, func(o *dynamodb.Options) { o.HTTPClient = transport.httpClientOr(o.HTTPClient) })
	ec2Client := NewEC2(cfg, transport.Pacer, func(o *ec2.Options) { o.HTTPClient = transport.httpClientOr(o.HTTPClient) })
	ecsClient := NewECS(cfg, transport.Pacer, func(o *ecs.Options) { o.HTTPClient = transport.httpClientOr(o.HTTPClient) })
	return Ports{
		Store:  NewStore(dynamoClient, tables.Records, tables.History, rand.Reader),
		Groups: NewGroups(ec2Client, stack),
		Tasks:  NewTasks(ecsClient, ec2Client, stack, time.Now),
		Leases: NewLeases(dynamoClient, tables.Leases, tables.RoleID, rand.Reader),

		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
}

func (t Transport) httpClientOr(standard aws.HTTPClient) aws.HTTPClient {
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

// ConnectSlack returns the ports of the Slack function. table is the name of a table
// with the schema [ItemsSchema]; secrets are the names of parameters. ConnectSlack
// itself makes no call.
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

// ConnectTaskLease returns a task's side of the lease table. It uses the credentials
// and the region of the environment. It makes no call.
func ConnectTaskLease(ctx context.Context, table, roleID, taskID string) (*TaskLease, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	return NewTaskLease(NewDynamoDB(cfg), table, roleID, taskID), nil
}

// Limits of the clients of EC2 and ECS. The caller's context can end a call earlier.
const (
	computeTimeout    = 10 * time.Second // of one attempt; RunTask can take seconds
	computeAttempts   = 10
	computeMaxBackoff = time.Second // so that a throttled call is repeated several times within bastion.Timing.StepTimeout
)

// NewEC2 returns a client of EC2 that keeps within the pacer's rates. If a request is
// throttled or its response is lost, the client sends it again, until the context
// ends or ten attempts have failed. The options are applied last.
func NewEC2(cfg aws.Config, pacer *Pacer, options ...func(*ec2.Options)) *ec2.Client {
	defaults := func(o *ec2.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pacer.addTo)
	}
	return ec2.NewFromConfig(cfg, append([]func(*ec2.Options){defaults}, options...)...)
}

// NewECS returns a client of ECS. It paces and retries calls in the same way as the
// client of [NewEC2]. A retry of RunTask is safe because the request has a clientToken.
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

// newComputeRetryer returns a retryer with growing pauses. It does not use the SDK's
// adaptive mode: when one call is throttled, that mode slows down all calls of the
// client, but AWS limits each kind of call separately, as [Pacer] does. It does not
// use the SDK's retry budget either: about a hundred retries use the budget up, and
// then no call of the client is retried.
func newComputeRetryer() aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = computeAttempts, computeMaxBackoff, ratelimit.None
	})
}
