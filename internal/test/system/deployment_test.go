//go:build conformance

package system

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// What a stack of template.yaml would have, beside what moto names.
const (
	account     = "123456789012" // moto's
	region      = "eu-west-1"
	accessKey   = "local" // by which DynamoDB Local tells whose tables are meant; to moto, anybody's
	stackID     = "arn:aws:cloudformation:" + region + ":" + account + ":stack/way-in/5f1c"
	recordTable = "way-in-RecordsTable-1"
	leaseTable  = "way-in-LeasesTable-1"
	taskRoleID  = "AROAEXAMPLEEXAMPLE123"
)

// privateNetwork is where the private host is, the only one that bastions may
// connect to.
const privateNetwork = "127.99.0.0/16"

// firstTask is the address of the first task; others follow.
var firstTask = netip.MustParseAddr("127.65.0.1")

func taskARN(cluster, id string) string {
	return strings.Replace(cluster, ":cluster/", ":task/", 1) + "/" + id
}

func taskID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// world is the whole system.
type deployment struct {
	url       string // of the API, without a path
	functions functions
	fargate   *fargate
	proxy     *motoProxy // to moto, which has all groups, tasks and interfaces
	events    *eventBridge
	lambda    *lambdaAPI
	slack     *fakeSlack
	services  map[string]string // the URL of each service
	ports     awscloud.Ports    // to look at what is left
	recorder  *privilege.Recorder

	ctx        context.Context // of events and schedules
	cancel     func()          // of ctx
	stopEvents func()          // ends these, and waits for the last
}

// begin builds and starts everything.
func startDeployment(t *testing.T) *deployment {
	t.Helper()
	w := &deployment{events: &eventBridge{count: map[string]int{}}, functions: functions{}}
	programs, dynamo := compileAll(t), emulator.DynamoDB(t)
	w.fargate = newFargate(t, filepath.Join(programs, "bastiond"), w.taskChanged)
	w.proxy = newMotoProxy(w.fargate)
	ec2, ecs := serve(t, http.HandlerFunc(w.proxy.serveEC2)), serve(t, http.HandlerFunc(w.proxy.serveECS))
	w.createTables(t, append(credentials(),
		"AWS_ENDPOINT_URL_DYNAMODB="+dynamo, "AWS_ENDPOINT_URL_ECS="+ecs, "AWS_ENDPOINT_URL_EC2="+ec2))
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.lambda = &lambdaAPI{ctx: w.ctx, invoke: w.invoke, bridge: w.events, loseFirst: true}
	w.services = map[string]string{"dynamodb": dynamo, "ecs": ecs, "ec2": ec2, "lambda": serve(t, w.lambda), "ssm": w.fargate.moto.url}
	w.recorder = newRecorder(t, w.fargate.resources, w.services)
	w.fargate.aws = serveTasks(t, w.recorder)
	w.fargate.moto.putSecrets(t)
	w.slack = newSlack(t)
	for name := range functionNames {
		w.functions[name] = startFunction(t, programs, name, serve(t, w.recorder.As(roleOf(name), "")), w.environment(name))
	}
	w.url, w.slack.app = serve(t, gateway{w.functions}), w.slack.serveTLS(t, gateway{w.functions})
	w.startEvents(t, &stream{url: dynamo, client: newHTTPClient(), bridge: w.events})
	return w
}

// invoke is of invokes.
func (w *deployment) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	return w.functions.invoke(ctx, name, event)
}

// settings is the environment that template.yaml gives to a function.
func (w *deployment) environment(name string) []string {
	switch withoutAlias(name) {
	case "slack":
		return slackEnvironment(w.slack)
	case "reaper", "observer":
		return append(functionEnvironment(w.fargate.resources, w.fargate.port), "BASTION_SLACK="+functionARN(slackWork))
	}
	return append(functionEnvironment(w.fargate.resources, w.fargate.port), "BASTION_SLACK=")
}

// client keeps no connection, so that none is left when the test is over.
func newHTTPClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
}

// credentials are what calls are signed with; nothing here checks a signature.
func credentials() []string {
	return []string{"AWS_REGION=" + region, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + accessKey}
}

// operator is a user who is an admin.
const operator = "operator"

// settings is the environment that template.yaml gives to each function but Slack's.
// BASTION_SLACK is not the same for all.
func functionEnvironment(p stackResources, port uint16) []string {
	return []string{
		"BASTION_STACK_ID=" + stackID, "BASTION_TABLE=" + recordTable, "BASTION_LEASE_TABLE=" + leaseTable,
		"BASTION_CLUSTER=" + p.cluster, "BASTION_VPC=" + p.vpc, "BASTION_MEMBER_GROUP=" + p.memberGroup,
		"BASTION_SUBNETS=" + strings.Join(p.subnets[:], ","),
		"BASTION_TASK_DEFINITION=" + p.definition,
		"BASTION_TASK_ROLE_ID=" + taskRoleID, "BASTION_CONTAINER=bastiond", fmt.Sprint("BASTION_SSH_PORT=", port),
		"BASTION_PUBLIC_ADDRESS=true", "BASTION_FAMILIES=ipv4", "BASTION_SPOT=false",
		"BASTION_ALLOWED=" + privateNetwork, "BASTION_SOURCES=", "BASTION_DEFAULT_TTL=1h", "BASTION_MAX_TTL=8h", "BASTION_IDLE=15m",
		"BASTION_QUOTA_OWNER=1", "BASTION_QUOTA_TOTAL=5", "BASTION_TRUSTED_ROLES=AWSReservedSSO_*", "BASTION_ADMINS=arn:aws:iam::" + account + ":user/" + operator,
		"BASTION_JWT_ISSUER=", "BASTION_DRAINING=false", "BASTION_REAPER_PERIOD=1m", "BASTION_WARN=" + warn,
	}
}

// serve serves on loopback until the test is over, and answers the URL.
func serve(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// connect makes the tables, and the test's own way to look at things.
func (w *deployment) createTables(t *testing.T, environ []string) {
	t.Helper()
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	tables := awscloud.Tables{Records: recordTable, Leases: leaseTable, RoleID: taskRoleID, History: time.Hour}
	if err := tables.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	createSlackTable(t)
	var err error
	w.ports, err = awscloud.Connect(t.Context(), w.fargate.stackConfig(), tables, awscloud.Transport{Pacer: awscloud.NewPacer()})
	if err != nil {
		t.Fatal(err)
	}
}

// deliver begins to bring events, from schedules, stream and tasks. They end
// before what they need does.
func (w *deployment) startEvents(t *testing.T, leases *stream) {
	t.Helper()
	if err := leases.locate(t.Context(), leaseTable); err != nil {
		t.Fatal(err)
	}
	ctx := w.ctx
	var running sync.WaitGroup
	running.Go(func() { leases.poll(ctx, w.functions) })
	running.Go(func() { w.events.schedule(ctx, w.functions, "reap", time.Second) })
	running.Go(func() { w.events.schedule(ctx, w.functions, "sweep", 5*time.Second) })
	w.stopEvents = sync.OnceFunc(func() {
		w.cancel()
		running.Wait()
		w.lambda.background.Wait()
	})
	t.Cleanup(func() {
		w.stopEvents()
		w.fargate.close()
		w.lambda.background.Wait() // of what was left after the pause
		if t.Failed() {
			t.Logf("bastiond said:\n%s", w.fargate.log)
			t.Logf("dead letters:\n%s", strings.Join(w.events.deadLetters(), "\n"))
		}
	})
}

// taskChanged is what Fargate calls at each change of a task.
func (w *deployment) taskChanged(t *task, status string) {
	w.events.taskChanged(w.ctx, w.functions, t, w.fargate.resources.cluster, status)
}

// task is the one task of a bastion that is not stopped.
func (w *deployment) task(t *testing.T, id string) *task {
	t.Helper()
	var found []*task
	for _, task := range w.fargate.tasks() {
		if task.startedBy == "bastion/"+id && task.currentState().status != "STOPPED" {
			found = append(found, task)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the bastion %s has %d tasks that are not stopped", id, len(found))
	}
	return found[0]
}
