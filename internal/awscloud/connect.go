package awscloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

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

// Connect makes the ports, with the credentials and the region of the
// environment. It calls nobody.
func Connect(ctx context.Context, stack Stack, tables Tables) (Ports, error) {
	if err := stack.Validate(); err != nil {
		return Ports{}, err
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return Ports{}, fmt.Errorf("read the AWS configuration: %w", foreign(err))
	}
	dynamo, ec2 := NewDynamoDB(cfg), NewEC2(cfg)
	return Ports{
		Store:  NewStore(dynamo, tables.Records, tables.History, rand.Reader),
		Groups: NewGroups(ec2, stack),
		Tasks:  NewTasks(NewECS(cfg), ec2, stack, time.Now),
		Leases: NewLeases(dynamo, tables.Leases, tables.RoleID, rand.Reader),

		Functions: NewFunctions(NewLambda(cfg)),
	}, nil
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
		return SlackPorts{}, fmt.Errorf("read the AWS configuration: %w", foreign(err))
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
