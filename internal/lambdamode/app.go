// Package lambdamode wires the service on AWS, as localmode does on a laptop. It reads
// the configuration with package config, gives the ports of awscloud to the domain, and
// passes requests, schedules and events to the domain. Each main in functions/ chooses
// what its function serves.
package lambdamode

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/config"
)

// history is how long the record of a finished bastion is kept, with its receipt.
const history = 400 * 24 * time.Hour

// App is the service, wired for a function on AWS.
type App struct {
	Config  config.Config
	Service *bastion.Service

	taskID  func(leaseKey string) string
	pace    *awscloud.Pacer
	invoker invoker // of the Slack function
	metrics *metrics
	log     *slog.Logger
}

// backgroundShare is the share of AWS's rates that each process of the reaper and of
// the observer uses. It leaves the other half to the API functions and to everything
// else in the account. The API functions themselves may use the whole rate. The lowest
// rate is that of new groups: half of it is 2.5 a second, more than people request.
const backgroundShare = 0.5

// Start reads the environment and wires the service. If the configuration is wrong,
// the process ends with all problems in its log, which Lambda reports as a failed
// init.
func Start() *App {
	log := slog.New(lambdacontext.NewLogHandler())
	app, err := wire(context.Background(), os.Environ(), log, nil)
	if err != nil {
		log.Error("start failed", "error", err.Error())
		os.Exit(1)
	}
	return app
}

// wire reads the configuration and connects to AWS. It calls only Parameter Store, for the
// long settings. If client is nil, it uses the HTTP client of the SDK.
func wire(ctx context.Context, environ []string, log *slog.Logger, client *http.Client) (*App, error) {
	cfg, err := config.Load(environ, func(names ...string) (map[string]string, error) {
		return awscloud.ReadParameters(ctx, client, names...)
	})
	if err != nil {
		return nil, err
	}
	pace := awscloud.NewPacer()
	ports, err := awscloud.Connect(ctx, stack(cfg), awscloud.Tables{
		Records: cfg.Cloud.Table, Leases: cfg.Cloud.LeaseTable, RoleID: cfg.Cloud.TaskRoleID, History: history,
	}, awscloud.Transport{Pacer: pace, HTTP: client})
	if err != nil {
		return nil, fmt.Errorf("connect to AWS: %w", err)
	}
	meters := &metrics{out: os.Stdout, stack: stackName(cfg.Cloud.StackID), now: time.Now}
	return &App{
		Config: cfg,
		Service: &bastion.Service{
			Config:  cfg.Bastion,
			Records: metered{ports.Store, meters, cfg.Bastion.Timing.StableAfter},
			DueList: ports.Store,
			Keys:    ports.Store,
			Marks:   ports.Store,
			Groups:  ports.Groups,
			Tasks:   ports.Tasks,
			Leases:  ports.Leases,
			Now:     time.Now,
			Rand:    rand.Reader,
			Log:     log,
		},
		taskID:  ports.Leases.TaskID,
		pace:    pace,
		invoker: ports.Functions,
		metrics: meters,
		log:     log,
	}, nil
}

func stack(cfg config.Config) awscloud.Stack {
	return awscloud.Stack{
		ID:          cfg.Cloud.StackID,
		VPC:         cfg.Cloud.VPCID,
		MemberGroup: cfg.Cloud.MemberGroup,
		Cluster:     cfg.Cloud.ClusterARN,
		Container:   cfg.Cloud.Container,
		Port:        cfg.Cloud.SSHPort,
		Public:      cfg.Cloud.PublicAddress,
		IPv4:        cfg.Bastion.IPv4,
		IPv6:        cfg.Bastion.IPv6,
		Spot:        cfg.Cloud.Spot,
		WidestIPv4:  cfg.Bastion.WidestIPv4,
		WidestIPv6:  cfg.Bastion.WidestIPv6,
	}
}

// stackName returns the name in a stack's ID, arn:…:stack/NAME/UUID.
func stackName(id string) string {
	_, rest, _ := strings.Cut(id, ":stack/")
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// endTime is how long before its deadline a function stops its work, so that it can
// still log the result before Lambda ends it.
const endTime = 2 * time.Second

// withinDeadline returns a context that ends endTime before Lambda ends the function.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, limited := ctx.Deadline(); limited {
		return context.WithDeadline(ctx, deadline.Add(-endTime))
	}
	return context.WithCancel(ctx)
}
