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
	"github.com/bastion-on-demand/bastion/internal/test/template"
)

// What a stack of template.yaml has, apart from the resources whose IDs moto chooses.
const (
	account     = "123456789012" // moto's
	region      = "eu-west-1"
	accessKey   = "local" // DynamoDB Local keeps tables by access key; moto accepts any
	stackID     = "arn:aws:cloudformation:" + region + ":" + account + ":stack/way-in/5f1c"
	recordTable = "way-in-RecordsTable-1"
	leaseTable  = "way-in-LeasesTable-1"
	taskRoleID  = "AROAEXAMPLEEXAMPLE123"
)

// privateNetwork contains the private host. Bastions may connect to no other network, but
// TestUpgrade allows otherNetwork.
const (
	privateNetwork  = "127.99.0.0/16"
	otherNetwork    = "127.98.0.0/16"
	privateNetworks = privateNetwork + "," + otherNetwork
)

// firstTask is the address of the first task. Each later task has the next address.
var firstTask = netip.MustParseAddr("127.65.0.1")

func taskARN(cluster, id string) string {
	return strings.Replace(cluster, ":cluster/", ":task/", 1) + "/" + id
}

func taskID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// deployment is the whole system: all programs, emulators and played parts.
type deployment struct {
	url       string // of the API, without a path
	functions functions
	endpoints map[string]string // the URL of AWS for each function
	fargate   *fargate
	proxy     *motoProxy
	events    *eventBridge
	lambda    *lambdaAPI
	slack     *fakeSlack
	services  map[string]string // the URL of each AWS service
	ports     awscloud.Ports    // for checks of what is stored
	recorder  *privilege.Recorder

	ctx        context.Context // of events and schedules
	cancel     func()          // of ctx
	stopEvents func()          // stops events and schedules, and waits for the last
}

// startDeployment starts everything, with the programs and the template of a version. The
// parameters are changes of those in evaluate.
func startDeployment(t *testing.T, v version, parameters ...string) *deployment {
	t.Helper()
	d := prepareDeployment(t, v)
	d.start(t, v, parameters...)
	return d
}

// prepareDeployment starts the emulators and all played parts, but no function: what an
// account has before the stack is created, and the stack's tables.
func prepareDeployment(t *testing.T, v version) *deployment {
	t.Helper()
	d := &deployment{events: &eventBridge{count: map[string]int{}}, functions: functions{}, endpoints: map[string]string{}}
	dynamo := emulator.DynamoDB(t)
	d.fargate = newFargate(t, filepath.Join(v.programs, "bastiond"), d.taskChanged)
	d.proxy = newMotoProxy(d.fargate)
	ec2, ecs := serve(t, http.HandlerFunc(d.proxy.serveEC2)), serve(t, http.HandlerFunc(d.proxy.serveECS))
	d.createTables(t, append(credentials(),
		"AWS_ENDPOINT_URL_DYNAMODB="+dynamo, "AWS_ENDPOINT_URL_ECS="+ecs, "AWS_ENDPOINT_URL_EC2="+ec2))
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.lambda = &lambdaAPI{ctx: d.ctx, invoke: d.functions.invoke, events: d.events, loseFirst: true}
	d.services = map[string]string{"dynamodb": dynamo, "ecs": ecs, "ec2": ec2, "lambda": serve(t, d.lambda), "ssm": d.fargate.moto.url}
	d.recorder = newRecorder(t, d.fargate.resources, d.services)
	d.fargate.aws = serveTasks(t, d.recorder)
	d.fargate.moto.putSecrets(t)
	d.slack = newSlack(t)
	return d
}

// start starts the functions, API Gateway and the events, with the programs and the template
// of a version. The parameters are changes of those in evaluate.
func (d *deployment) start(t *testing.T, v version, parameters ...string) {
	t.Helper()
	resources := v.evaluate(t, d.fargate.resources, append([]string{"SshPort", fmt.Sprint(d.fargate.port)}, parameters...)...)
	d.fargate.moto.putSettings(t, resources)
	d.fargate.define(d.fargate.resources.definition, v.taskDefinition(t, resources))
	for name := range functionNames {
		d.endpoints[name] = serve(t, d.recorder.As(roleOf(name), ""))
		d.functions[name] = startFunction(t, v.programs, name, d.endpoints[name], functionEnvironment(resources, name, d.slack))
	}
	d.url, d.slack.app = serve(t, gateway{d.functions}), d.slack.serveTLS(t, gateway{d.functions})
	d.startEvents(t, &stream{url: d.services["dynamodb"], client: newHTTPClient(), events: d.events})
}

// version is a version of the project.
type version struct {
	programs string // the folder of bastiond and the functions
	template []byte // template.yaml after the SAM transform
}

// thisVersion compiles packages of this version.
func thisVersion(t testing.TB, packages ...string) version {
	t.Helper()
	transformed, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	return version{compile(t, packages...), transformed}
}

// evaluate evaluates the template of a version for a stack. The parameters are changes of
// those that all deployments of these tests have.
func (v version) evaluate(t testing.TB, r stackResources, parameters ...string) map[string]map[string]any {
	t.Helper()
	references := map[string]string{
		"AWS::StackId": stackID, "AWS::StackName": "way-in", "AWS::Region": region, "AWS::AccountId": account, "AWS::Partition": "aws",
		"RecordsTable": recordTable, "LeasesTable": leaseTable, "SlackTable": slackTable,
		"Cluster.Arn": r.cluster, "MemberGroup.GroupId": r.memberGroup, "TaskDefinition": r.definition, "TaskRole.RoleId": taskRoleID,
		"SlackQueue": functionARN(slackQueue), "CreateSlackAlias": functionARN("create:slack"), "DescribeSlackAlias": functionARN("describe:slack"),
		"ExtendSlackAlias": functionARN("extend:slack"), "DestroySlackAlias": functionARN("destroy:slack"),
	}
	return template.Evaluate(t, v.template, references, append([]string{
		"VpcId", r.vpc, "SubnetIds", strings.Join(r.subnets[:], ","),
		"AllowedDestinations", privateNetwork, "QuotaPerOwner", "1", "QuotaTotal", "5", "WarningTime", warn,
		"Admins", "arn:aws:iam::" + account + ":user/" + operator,
		"SlackTeams", team, "SlackChannels", channel, "SlackSigningSecretParameter", secretName, "SlackBotTokenParameter", tokenName,
	}, parameters...)...)
}

// functionEnvironment returns the environment of a function in an evaluated template.
func functionEnvironment(resources map[string]map[string]any, name string, s *fakeSlack) (environ []string) {
	name = withoutAlias(name)
	properties := resources[strings.ToUpper(name[:1])+name[1:]+"Function"]["Properties"].(map[string]any)
	for variable, value := range properties["Environment"].(map[string]any)["Variables"].(map[string]any) {
		environ = append(environ, fmt.Sprint(variable, "=", value))
	}
	if name == "slack" {
		environ = append(environ, s.environment()...)
	}
	return environ
}

// taskDefinition returns the task definition of an evaluated template.
func (v version) taskDefinition(t *testing.T, resources map[string]map[string]any) taskDefinition {
	t.Helper()
	d := taskDefinition{program: filepath.Join(v.programs, "bastiond")}
	properties := resources["TaskDefinition"]["Properties"].(map[string]any)
	container := properties["ContainerDefinitions"].([]any)[0].(map[string]any)
	for _, variable := range container["Environment"].([]any) {
		variable := variable.(map[string]any)
		d.environ = append(d.environ, fmt.Sprint(variable["Name"], "=", variable["Value"]))
		if variable["Name"] == "BASTIOND_LISTEN" {
			listen, err := netip.ParseAddrPort(variable["Value"].(string))
			if err != nil {
				t.Fatal(err)
			}
			d.port = listen.Port()
		}
	}
	return d
}

// update does what CloudFormation does when a stack gets another version or other
// parameters: it registers a new revision of the task definition, and replaces the code and
// the environment of functions. Another revision stays for the tasks that refer to it.
func (d *deployment) update(t *testing.T, v version, names []string, parameters ...string) {
	t.Helper()
	stack := d.fargate.resources
	stack.definition = d.fargate.moto.registerTaskDefinition(t)
	resources := v.evaluate(t, stack, append([]string{"SshPort", fmt.Sprint(d.fargate.port)}, parameters...)...)
	d.fargate.moto.putSettings(t, resources)
	d.fargate.define(stack.definition, v.taskDefinition(t, resources))
	for name := range functionNames {
		if slices.Contains(names, withoutAlias(name)) {
			d.functions[name].Update(t, filepath.Join(v.programs, withoutAlias(name)), lambdaEnvironment(name, d.endpoints[name], functionEnvironment(resources, name, d.slack)))
		}
	}
}

// operatorTag is the tag that the operator wants on groups and tasks.
const operatorTag = "CostCenter=42 / data"

// newHTTPClient returns a client without keep-alive, so that no connection is left when
// the test ends.
func newHTTPClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
}

// credentials returns the AWS environment that calls are signed with. No emulator checks
// the signature.
func credentials() []string {
	return []string{"AWS_REGION=" + region, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + accessKey}
}

// operator is an IAM user who is an admin.
const operator = "operator"

// serve starts an HTTP server on loopback for the time of the test and returns its URL.
func serve(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// createTables creates the tables and connects the test's own ports.
func (d *deployment) createTables(t *testing.T, environ []string) {
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
	d.ports, err = awscloud.Connect(t.Context(), d.fargate.stackConfig(), tables, awscloud.Transport{Pacer: awscloud.NewPacer()})
	if err != nil {
		t.Fatal(err)
	}
}

// startEvents starts the schedules and the stream's mapping. Cleanup stops them before the
// servers that they use.
func (d *deployment) startEvents(t *testing.T, leases *stream) {
	t.Helper()
	if err := leases.locate(t.Context(), leaseTable); err != nil {
		t.Fatal(err)
	}
	ctx := d.ctx
	var running sync.WaitGroup
	running.Go(func() { leases.poll(ctx, d.functions) })
	running.Go(func() { d.events.schedule(ctx, d.functions, "reap", time.Second) })
	running.Go(func() { d.events.schedule(ctx, d.functions, "sweep", 5*time.Second) })
	d.stopEvents = sync.OnceFunc(func() {
		d.cancel()
		running.Wait()
		d.lambda.background.Wait()
	})
	t.Cleanup(func() {
		d.stopEvents()
		d.fargate.close()
		d.lambda.background.Wait() // for calls made after stopEvents
		if t.Failed() {
			t.Logf("bastiond's log:\n%s", d.fargate.log)
			t.Logf("dead letters:\n%s", strings.Join(d.events.deadLetters(), "\n"))
		}
	})
}

// taskChanged handles each state change of a task.
func (d *deployment) taskChanged(t *task, status string) {
	d.events.taskChanged(d.ctx, d.functions, t, d.fargate.resources.cluster, status)
}

// task returns the only task of a bastion that has not stopped.
func (d *deployment) task(t *testing.T, id string) *task {
	t.Helper()
	var found []*task
	for _, task := range d.fargate.tasks() {
		if task.startedBy == "bastion/"+id && task.currentState().status != "STOPPED" {
			found = append(found, task)
		}
	}
	if len(found) != 1 {
		t.Fatalf("bastion %s has %d tasks that have not stopped, want 1", id, len(found))
	}
	return found[0]
}

// functionNames has the timeout in seconds of each function and of each alias by which
// functions call each other.
var functionNames = map[string]int{
	"create": 28, "describe": 28, "extend": 28, "destroy": 28, "reaper": 55, "observer": 55, "slack": 55,
	"create:slack": 28, "describe:slack": 28, "extend:slack": 28, "destroy:slack": 28, slackQueue: 55,
}

// functions has an emulator for each function and alias. The emulator reports that name
// as the one by which the function was invoked.
type functions map[string]*emulator.Lambda

// withoutAlias returns a function's name without its alias.
func withoutAlias(name string) string {
	name, _, _ = strings.Cut(name, ":")
	return name
}

// invoke is an invokeFunc.
func (f functions) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	return f[name].Invoke(ctx, event)
}

// compile builds programs of this module for this machine and returns their folder.
func compile(t testing.TB, packages ...string) string {
	t.Helper()
	folder, err := programFolder()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", append([]string{"build", "-trimpath", "-tags", "lambda.norpc", "-o", folder}, packages...)...)
	build.Dir = filepath.Join("..", "..", "..")
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return folder
}

// programs returns the packages of bastiond and every function.
func programs() []string {
	packages := []string{"./cmd/bastiond"}
	for name := range functionNames {
		if name == withoutAlias(name) {
			packages = append(packages, "./functions/"+name)
		}
	}
	return packages
}

// startFunction starts a function with its environment. It calls AWS at the URL.
func startFunction(t testing.TB, programs, name, aws string, settings []string) *emulator.Lambda {
	t.Helper()
	return emulator.Emulate(t, filepath.Join(programs, withoutAlias(name)), lambdaEnvironment(name, aws, settings))
}

// lambdaEnvironment returns a function's settings with the variables that Lambda adds.
func lambdaEnvironment(name, aws string, settings []string) []string {
	return slices.Concat([]string{
		"AWS_LAMBDA_FUNCTION_NAME=" + name, fmt.Sprint("AWS_LAMBDA_FUNCTION_TIMEOUT=", functionNames[name]), "AWS_ENDPOINT_URL=" + aws,
	}, credentials(), settings)
}

// functionError returns the error in a function's response, or "" if there is none.
func functionError(response []byte) string {
	var failed struct {
		ErrorMessage, ErrorType string
	}
	if err := json.Unmarshal(response, &failed); err != nil || failed.ErrorMessage+failed.ErrorType == "" {
		return ""
	}
	return failed.ErrorType + ": " + failed.ErrorMessage
}

// slackQueue is the alias of the Slack function that receives jobs and notices.
const slackQueue = "slack:queue"

const slackTable = "way-in-SlackTable-1"

// warn is how long before the deadline an owner is warned. It is so long that the warning
// is sent 15 seconds after the button has extended the deadline to one hour.
const warn = "59m45s"

func functionARN(name string) string {
	return "arn:aws:lambda:" + region + ":" + account + ":function:" + name
}

// environment returns the variables by which the Slack function reaches the test's Slack.
func (s *fakeSlack) environment() []string {
	// net/http does not use the proxy for loopback, where all other servers are.
	return []string{"HTTPS_PROXY=" + s.proxy, "SSL_CERT_FILE=" + s.certificateFile}
}

// awsConfig returns the configuration of the test's own AWS clients.
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

// putSecrets stores Slack's credentials, and another parameter, in Parameter Store.
func (m *moto) putSecrets(t testing.TB) {
	t.Helper()
	for name, value := range map[string]string{secretName: signingSecret, tokenName: botToken, "/another": "another"} {
		m.putParameter(t, name, value, "SecureString")
	}
}

// putSettings stores the parameters of an evaluated template, by their logical IDs.
func (m *moto) putSettings(t testing.TB, resources map[string]map[string]any) {
	t.Helper()
	for name, resource := range resources {
		if resource["Type"] == "AWS::SSM::Parameter" {
			p := resource["Properties"].(map[string]any)
			m.putParameter(t, name, p["Value"].(string), p["Type"].(string))
		}
	}
}

func (m *moto) putParameter(t testing.TB, name, value, kind string) {
	t.Helper()
	in, err := json.Marshal(map[string]any{"Name": name, "Value": value, "Type": kind, "Overwrite": true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.call(t.Context(), "ssm", map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutParameter"}, in); err != nil {
		t.Fatal(err)
	}
}
