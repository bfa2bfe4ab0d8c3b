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

// history is how long the record of a finished bastion stays, with its receipt.
const history = 400 * 24 * time.Hour

// App is the service as a function on AWS has it.
type App struct {
	Config  config.Config
	Service *bastion.Service

	taskID  func(leaseKey string) string
	pace    *awscloud.Pacer
	work    work // of the Slack function
	metrics *metrics
	log     *slog.Logger
}

// backgroundShare is how much of AWS's rates the reaper, the sweep and the
// observer each take. The other half is for people, whose functions may take all
// of it, and for whatever else the account runs: 2.5 new groups a second, the
// scarcest, are more than people ask for. More would gain little, since the
// observer's part comes on top of the reaper's.
const backgroundShare = 0.5

// Start reads the environment and wires the service. A function that is told
// something wrong ends here, with all that is wrong in its log: Lambda then calls
// it a failed init.
func Start() *App {
	log := slog.New(lambdacontext.NewLogHandler())
	app, err := wire(context.Background(), os.Environ(), log, nil)
	if err != nil {
		log.Error("start", "error", err.Error())
		os.Exit(1)
	}
	return app
}

// wire calls AWS through the client, if there is one.
func wire(ctx context.Context, environ []string, log *slog.Logger, through *http.Client) (*App, error) {
	cfg, err := config.Load(environ)
	if err != nil {
		return nil, err
	}
	pace := awscloud.NewPacer()
	ports, err := awscloud.Connect(ctx, stack(cfg), awscloud.Tables{
		Records: cfg.Cloud.Table, Leases: cfg.Cloud.LeaseTable, RoleID: cfg.Cloud.TaskRoleID, History: history,
	}, awscloud.Transport{Pacer: pace, HTTP: through})
	if err != nil {
		return nil, fmt.Errorf("connect to AWS: %w", err)
	}
	meters := &metrics{out: os.Stdout, stack: stackName(cfg.Cloud.StackID), now: time.Now}
	return &App{
		Config: cfg,
		Service: &bastion.Service{
			Config:  cfg.Bastion,
			Records: metered{ports.Store, meters},
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
		work:    ports.Functions,
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
	}
}

// stackName is the name in a stack's id: arn:…:stack/NAME/UUID.
func stackName(id string) string {
	_, rest, _ := strings.Cut(id, ":stack/")
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// requestID is Lambda's name of an invocation.
func requestID(r *http.Request) string {
	if lc, ok := lambdacontext.FromContext(r.Context()); ok {
		return lc.AwsRequestID
	}
	return ""
}

// endTime is what a function keeps of its time, to say how it went before Lambda
// ends it.
const endTime = 2 * time.Second

// withinDeadline ends ctx before Lambda ends the function.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, limited := ctx.Deadline(); limited {
		return context.WithDeadline(ctx, deadline.Add(-endTime))
	}
	return context.WithCancel(ctx)
}
