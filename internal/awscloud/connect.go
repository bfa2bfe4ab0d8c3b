// Package awscloud is the ports of package bastion on AWS: records and leases in
// DynamoDB, groups in EC2, tasks in ECS. It is the only package that calls the
// AWS SDK, and no error of the SDK's own types leaves it.
//
// Nothing here waits for the cloud to catch up: what a call finds is answered,
// and the domain looks again. Calls that are throttled, time out or meet a
// conflict that will pass are repeated within the caller's context.
//
// Each adapter names, as an interface, the calls that it makes. The functions'
// and the task's permissions follow from those interfaces.
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

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Tables says where a stack's records and leases are.
type Tables struct {
	Records string
	Leases  string
	RoleID  string        // the unique id of the tasks' role; see [NewLeases]
	History time.Duration // how long finished records stay; see [NewStore]
}

// Ports are all ports of the control plane.
type Ports struct {
	Store  *Store
	Groups *Groups
	Tasks  *Tasks
	Leases *Leases

	Functions *Functions // through which owners are told things
}

// Reach says how a process calls AWS.
type Transport struct {
	Pacer *Pacer
	HTTP  *http.Client // nil for the SDK's own; else all calls go through it
}

// Connect makes the ports, with the credentials and the region of the
// environment. It calls nobody.
func Connect(ctx context.Context, stack Stack, tables Tables, reach Transport) (Ports, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return Ports{}, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	dynamo := NewDynamoDB(cfg, func(o *dynamodb.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	ec2 := NewEC2(cfg, reach.Pacer, func(o *ec2.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	ecs := NewECS(cfg, reach.Pacer, func(o *ecs.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	return Ports{
		Store:  NewStore(dynamo, tables.Records, tables.History, rand.Reader),
		Groups: NewGroups(ec2, stack),
		Tasks:  NewTasks(ecs, ec2, stack, time.Now),
		Leases: NewLeases(dynamo, tables.Leases, tables.RoleID, rand.Reader),

		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
}

func (r Transport) or(own aws.HTTPClient) aws.HTTPClient {
	if r.HTTP != nil {
		return r.HTTP
	}
	return own
}

// SlackPorts are all that the Slack function may touch.
type SlackPorts struct {
	Items     *Items
	Secrets   *Secrets
	Functions *Functions
}

// ConnectSlack makes the ports of the Slack function: a table of [ItemsSchema], and
// secrets of these names. It calls nobody.
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

var (
	_ bastion.Store  = Ports{}.Store
	_ bastion.Leases = Ports{}.Leases
)

// How patient a client of EC2 or ECS is. The caller's context ends all of it
// sooner.
const (
	computeTimeout  = 10 * time.Second // of one try; RunTask may take seconds
	computeTries    = 10
	computeMaxPause = 2 * time.Second
)

// NewEC2 makes a client that repeats what was throttled or lost until the context
// ends or it was in vain ten times, and keeps to the pacer's rates. Options are
// applied last.
func NewEC2(cfg aws.Config, pace *Pacer, options ...func(*ec2.Options)) *ec2.Client {
	ours := func(o *ec2.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pace.addTo)
	}
	return ec2.NewFromConfig(cfg, append([]func(*ec2.Options){ours}, options...)...)
}

// NewECS makes a client of ECS, patient as that of EC2. RunTask may be repeated
// because it carries a clientToken.
func NewECS(cfg aws.Config, pace *Pacer, options ...func(*ecs.Options)) *ecs.Client {
	ours := func(o *ecs.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pace.addTo)
	}
	return ecs.NewFromConfig(cfg, append([]func(*ecs.Options){ours}, options...)...)
}

func newComputeHTTP() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTimeout(computeTimeout)
}

// newComputeRetryer repeats, with pauses that grow. The SDK's adaptive mode is not
// for us: it slows down all calls of a client when one of them is throttled, where
// each has a bucket of its own, which the pacer knows. Nor is its budget of
// repeats, which a hundred of them use up.
func newComputeRetryer() aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = computeTries, computeMaxPause, ratelimit.None
	})
}
