//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

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

// functionNames are all functions, and the aliases by which they call each other,
// each with its time-out in seconds.
var functionNames = map[string]int{
	"create": 28, "describe": 28, "extend": 28, "destroy": 28, "reaper": 55, "observer": 55, "slack": 55,
	"create:slack": 28, "describe:slack": 28, "extend:slack": 28, "destroy:slack": 28, slackWork: 55,
}

// functions are functions and aliases, each under an emulator of its own, which
// says that it was invoked by that name.
type functions map[string]*emulator.Lambda

// bare is a function's name without an alias.
func withoutAlias(name string) string {
	name, _, _ = strings.Cut(name, ":")
	return name
}

// invoke is of invokes.
func (f functions) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	return f[name].Invoke(ctx, event)
}

// compile builds programs of ours for this machine, all at once, into a folder.
func compile(t testing.TB, packages ...string) string {
	t.Helper()
	folder := t.TempDir()
	build := exec.Command("go", append([]string{"build", "-trimpath", "-tags", "lambda.norpc", "-o", folder}, packages...)...)
	build.Dir = filepath.Join("..", "..", "..")
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return folder
}

// compileAll builds bastiond and every function.
func compileAll(t testing.TB) string {
	t.Helper()
	packages := []string{"./cmd/bastiond"}
	for name := range functionNames {
		if name == withoutAlias(name) {
			packages = append(packages, "./functions/"+name)
		}
	}
	return compile(t, packages...)
}

// emulate starts a function with its settings. What it calls of AWS it calls at the
// URL.
func startFunction(t testing.TB, programs, name, aws string, settings []string) *emulator.Lambda {
	t.Helper()
	return emulator.Emulate(t, filepath.Join(programs, withoutAlias(name)), append([]string{
		"AWS_LAMBDA_FUNCTION_NAME=" + name, fmt.Sprint("AWS_LAMBDA_FUNCTION_TIMEOUT=", functionNames[name]), "AWS_ENDPOINT_URL=" + aws,
	}, slices.Concat(credentials(), settings)...))
}

// failure is what a function's answer says of its failure; empty if it did not
// fail.
func functionError(answer []byte) string {
	var failed struct {
		ErrorMessage, ErrorType string
	}
	if err := json.Unmarshal(answer, &failed); err != nil || failed.ErrorMessage+failed.ErrorType == "" {
		return ""
	}
	return failed.ErrorType + ": " + failed.ErrorMessage
}

// slackWork is the alias by which the Slack function is given work.
const slackWork = "slack:queue"

const slackTable = "way-in-SlackTable-1"

// warn is how long before its deadline an owner is warned: so long that the button
// which extends by an hour leads to a warning a quarter of a minute later.
const warn = "59m45s"

func functionARN(name string) string {
	return "arn:aws:lambda:" + region + ":" + account + ":function:" + name
}

// slackSettings is the environment that template.yaml gives to the Slack function,
// and by which it comes to Slack.
func slackEnvironment(s *fakeSlack) []string {
	return []string{
		"SLACK_TABLE=" + slackTable, "SLACK_SIGNING_SECRET_PARAMETER=" + secretName, "SLACK_BOT_TOKEN_PARAMETER=" + tokenName,
		"SLACK_TEAMS=" + team, "SLACK_CHANNELS=" + channel, "SLACK_USERS=", "SLACK_DEFAULT_TTL=1h", "SLACK_MAX_TTL=8h",
		"SLACK_CREATE=" + functionARN("create:slack"), "SLACK_DESCRIBE=" + functionARN("describe:slack"),
		"SLACK_EXTEND=" + functionARN("extend:slack"), "SLACK_DESTROY=" + functionARN("destroy:slack"),
		// net/http proxies nothing that is on loopback, where all else is.
		"HTTPS_PROXY=" + s.proxy, "SSL_CERT_FILE=" + s.certificateFile,
	}
}

// awsConfig is how the test itself calls what is there in AWS's place.
func awsConfig(t testing.TB) aws.Config {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func createSlackTable(t testing.TB) {
	t.Helper()
	if err := awscloud.CreateTable(t.Context(), awscloud.NewDynamoDB(awsConfig(t)), slackTable, awscloud.ItemsSchema()); err != nil {
		t.Fatal(err)
	}
}

// keepSecrets puts what was agreed with Slack, and something else, where it is read
// from.
func (m *moto) putSecrets(t testing.TB) {
	t.Helper()
	for name, value := range map[string]string{secretName: signingSecret, tokenName: botToken, "/another": "another"} {
		in, err := json.Marshal(map[string]string{"Name": name, "Value": value, "Type": "SecureString"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.call(t.Context(), "ssm", map[string]string{
			"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutParameter"}, in); err != nil {
			t.Fatal(err)
		}
	}
}
