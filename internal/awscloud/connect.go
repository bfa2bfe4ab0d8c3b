package awscloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
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
type Reach struct {
	Pace *Pacer
	HTTP *http.Client // nil for the SDK's own; else all calls go through it
}

// Connect makes the ports, with the credentials and the region of the
// environment. It calls nobody.
func Connect(ctx context.Context, stack Stack, tables Tables, reach Reach) (Ports, error) {
	if err := stack.Validate(); err != nil {
		return Ports{}, err
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return Ports{}, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	dynamo := NewDynamoDB(cfg, func(o *dynamodb.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	ec2 := NewEC2(cfg, reach.Pace, func(o *ec2.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	ecs := NewECS(cfg, reach.Pace, func(o *ecs.Options) { o.HTTPClient = reach.or(o.HTTPClient) })
	return Ports{
		Store:  NewStore(dynamo, tables.Records, tables.History, rand.Reader),
		Groups: NewGroups(ec2, stack),
		Tasks:  NewTasks(ecs, ec2, stack, time.Now),
		Leases: NewLeases(dynamo, tables.Leases, tables.RoleID, rand.Reader),

		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
}

func (r Reach) or(own aws.HTTPClient) aws.HTTPClient {
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

// What the stream of the leases' table is read by: the attribute that says which
// bastion an item is of, and the one that is its key. Tasks can write neither.
const (
	LeaseBastion = attBastion
	LeaseKey     = keyTask
)

var (
	_ bastion.Store  = Ports{}.Store
	_ bastion.Leases = Ports{}.Leases
)
