//go:build conformance

package system

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/awscloud/wiretest"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/referee"
)

// What a stack of template.yaml would have.
const (
	account     = "111122223333"
	region      = "eu-west-1"
	accessKey   = "local" // by which DynamoDB Local tells whose tables are meant
	stackID     = "arn:aws:cloudformation:" + region + ":" + account + ":stack/way-in/5f1c"
	cluster     = "arn:aws:ecs:" + region + ":" + account + ":cluster/way-in-1"
	vpc         = "vpc-0123456789abcdef0"
	memberGroup = "sg-0123456789abcdef0"
	recordTable = "way-in-RecordsTable-1"
	leaseTable  = "way-in-LeasesTable-1"
	taskRoleID  = "AROAEXAMPLEEXAMPLE123"
)

// privateNetwork is where the private host is, the only one that bastions may
// connect to.
const privateNetwork = "127.99.0.0/16"

// firstTask is the address of the first task; others follow.
var firstTask = netip.MustParseAddr("127.65.0.1")

func taskARN(id string) string {
	return strings.Replace(cluster, ":cluster/", ":task/", 1) + "/" + id
}

// world is the whole system.
type world struct {
	url       string // of the API, without a path
	functions functions
	fargate   *fargate
	cloud     *localcloud.Cloud // the truth about groups and tasks
	bridge    *eventBridge
	ports     awscloud.Ports // to look at what is left

	ctx  context.Context // of events and schedules
	quit func()          // ends these
}

// begin builds and starts everything.
func begin(t *testing.T) *world {
	t.Helper()
	w := &world{bridge: &eventBridge{count: map[string]int{}}}
	programs, dynamo, port := compile(t), referee.DynamoDB(t), referee.FreePort(t)
	w.fargate = &fargate{program: filepath.Join(programs, "bastiond"), dynamo: dynamo, log: &referee.Output{}}
	w.fargate.running = map[string]*os.Process{}
	w.fargate.metadata = serve(t, w.fargate)
	w.cloud = localcloud.New(localcloud.Config{
		LaunchDelay: 2 * time.Second, Linger: time.Second, StopTimeout: 2 * stopTimeout, Staleness: 200 * time.Millisecond,
		Host: firstTask, Port: uint16(port), Runner: w.fargate, OnTask: w.taskChanged,
	})
	wire := serve(t, wiretest.New(wiretest.Config{
		Cloud: w.cloud, Cluster: cluster, Groups: []string{memberGroup}, Port: uint16(port), AddressAfter: 1,
	}))
	sdk := []string{
		"AWS_REGION=" + region, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + accessKey,
		"AWS_ENDPOINT_URL_DYNAMODB=" + dynamo, "AWS_ENDPOINT_URL_ECS=" + wire, "AWS_ENDPOINT_URL_EC2=" + wire,
	}
	w.connect(t, sdk, port)
	w.functions = emulate(t, programs, append(sdk, settings(port)...))
	w.url = serve(t, gateway{w.functions})
	w.deliver(t, &stream{url: dynamo, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, bridge: w.bridge})
	return w
}

// settings is the environment that template.yaml gives to each function.
func settings(port int) []string {
	return []string{
		"BASTION_STACK_ID=" + stackID, "BASTION_TABLE=" + recordTable, "BASTION_LEASE_TABLE=" + leaseTable,
		"BASTION_CLUSTER=" + cluster, "BASTION_VPC=" + vpc, "BASTION_MEMBER_GROUP=" + memberGroup,
		"BASTION_SUBNETS=subnet-0123456789abcdef0,subnet-0123456789abcdef1",
		"BASTION_TASK_DEFINITION=arn:aws:ecs:" + region + ":" + account + ":task-definition/way-in:7",
		"BASTION_TASK_ROLE_ID=" + taskRoleID, "BASTION_CONTAINER=bastiond", fmt.Sprint("BASTION_SSH_PORT=", port),
		"BASTION_PUBLIC_ADDRESS=true", "BASTION_FAMILIES=ipv4", "BASTION_SPOT=false",
		"BASTION_ALLOWED=" + privateNetwork, "BASTION_SOURCES=", "BASTION_DEFAULT_TTL=1h", "BASTION_MAX_TTL=8h", "BASTION_IDLE=15m",
		"BASTION_QUOTA_OWNER=1", "BASTION_QUOTA_TOTAL=5", "BASTION_TRUSTED_ROLES=AWSReservedSSO_*", "BASTION_ADMINS=",
		"BASTION_JWT_ISSUER=", "BASTION_DRAINING=false", "BASTION_WARN=10m", "BASTION_SLACK=",
	}
}

// serve serves on loopback until the test is over, and answers the URL.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// connect makes the tables, and the test's own way to look at things.
func (w *world) connect(t *testing.T, environ []string, port int) {
	t.Helper()
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	tables := awscloud.Tables{Records: recordTable, Leases: leaseTable, RoleID: taskRoleID, History: time.Hour}
	if err := tables.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	var err error
	w.ports, err = awscloud.Connect(t.Context(), awscloud.Stack{
		ID: stackID, VPC: vpc, MemberGroup: memberGroup, Cluster: cluster, Container: "bastiond", Port: uint16(port), Public: true, IPv4: true,
	}, tables)
	if err != nil {
		t.Fatal(err)
	}
}

// deliver begins to bring events, from schedules, stream and tasks. They end
// before what they need does.
func (w *world) deliver(t *testing.T, leases *stream) {
	t.Helper()
	if err := leases.find(t.Context(), leaseTable); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { leases.pump(ctx, w.functions) })
	running.Go(func() { w.bridge.schedule(ctx, w.functions, "reap", time.Second) })
	running.Go(func() { w.bridge.schedule(ctx, w.functions, "sweep", 5*time.Second) })
	w.ctx = ctx
	w.quit = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		w.cloud.Close()
	})
	t.Cleanup(func() {
		w.quit()
		if t.Failed() {
			t.Logf("bastiond said:\n%s", w.fargate.log)
			t.Logf("dead letters:\n%s", strings.Join(w.bridge.deadLetters(), "\n"))
		}
	})
}

// taskChanged is what the local cloud calls at each change of a task.
func (w *world) taskChanged(startedBy, taskID string) {
	status := ""
	for _, task := range w.cloud.Inventory().Tasks {
		if task.ID == taskID {
			status = string(task.Status)
		}
	}
	w.bridge.taskChanged(w.ctx, w.functions, startedBy, taskID, status)
}

// task is the one task of a bastion that is not stopped.
func (w *world) task(t *testing.T, id string) bastion.Task {
	t.Helper()
	var found []bastion.Task
	for _, task := range w.cloud.Inventory().Live() {
		if task.BastionID == "bastion/"+id {
			found = append(found, task.Task)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the bastion %s has %d tasks: %+v", id, len(found), found)
	}
	return found[0]
}
