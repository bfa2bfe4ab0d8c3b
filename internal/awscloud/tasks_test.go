package awscloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
)

func TestRunTaskIsNotSentAfterReplayWindow(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	w.tasks.now = func() time.Time { return now }
	spec := w.specWithGroup(t, testID, 1)
	for _, created := range []time.Time{{}, now.Add(-bastion.RunTaskReplayWindow - time.Second)} {
		spec.AttemptCreatedAt = created
		_, err := w.tasks.Run(t.Context(), spec)
		checkRefusal(t, err, "")
		if err == nil || slices.Contains(w.server.Calls(), "RunTask") {
			t.Errorf("created at %s: %v after calls %q", created, err, w.server.Calls())
		}
	}
	spec.AttemptCreatedAt = now.Add(-bastion.RunTaskReplayWindow)
	if _, err := w.tasks.Run(t.Context(), spec); err != nil {
		t.Error(err)
	}
}

func TestStopIgnoresUnknownTaskOnly(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	for message, ignored := range map[string]bool{"The referenced task was not found.": true, "Task Identifier is invalid": false} {
		w.server.Fail("StopTask", "InvalidParameterException", message)
		err := w.tasks.Stop(t.Context(), "0123456789abcdef0123456789abcdef", "closed")
		if (err == nil) != ignored {
			t.Errorf("%s: %v", message, err)
		}
		checkNoSDKError(t, err)
	}
	for _, code := range []string{"ThrottlingException", "ClusterNotFoundException", "AccessDeniedException"} {
		w.server.Fail("StopTask", code, "The referenced task was not found.")
		if err := w.tasks.Stop(t.Context(), "0123456789abcdef0123456789abcdef", "closed"); err == nil {
			t.Errorf("%s is ignored", code)
		}
	}
}

func TestLongStopReasonIsTruncated(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	task, err := w.tasks.Run(t.Context(), w.specWithGroup(t, testID, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.tasks.Stop(t.Context(), task.ID, strings.Repeat("ü", 300)); err != nil {
		t.Error(err)
	}
}

func TestReadErrorOfTasksNamesFailedCall(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	task, err := w.tasks.Run(t.Context(), w.specWithGroup(t, testID, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, testID, task.ID) // until it has a network interface
	for _, action := range []string{"ListTasks", "DescribeTasks", "DescribeNetworkInterfaces"} {
		w.server.Fail(action, "ThrottlingException", "Rate exceeded")
		tasks, err := w.tasks.Describe(t.Context(), testID)
		if action == "DescribeNetworkInterfaces" && err == nil && len(tasks) == 1 && tasks[0].ID == task.ID && len(tasks[0].Endpoints) == 0 {
			err = tasks[0].EndpointsErr // the task itself is known
		}
		if err == nil || !strings.Contains(err.Error(), action) {
			t.Errorf("%s failed, but the error is %v", action, err)
		}
		checkNoSDKError(t, err)
	}
}

// The number of tasks exceeds AWS's sizes of batches and filters.
func TestManyTasksAreReadInPages(t *testing.T) {
	w := newWire(t, localcloud.Config{}, func(cfg *awswire.Config) { cfg.PageSize = 50 })
	spec := w.specWithGroup(t, testID, 1)
	const n = 230
	for i := range n {
		if _, err := w.tasks.Run(t.Context(), specIn(spec.GroupID, fmt.Sprintf("bastion%09d", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.retry(t, func() error { // until all tasks have interfaces
		tasks, err := w.tasks.List(t.Context())
		if i := slices.IndexFunc(tasks, func(task bastion.Task) bool { return len(task.Endpoints) == 0 }); err == nil && i >= 0 {
			err = fmt.Errorf("%+v has no address", tasks[i])
		}
		return err
	})
	before := len(w.server.Calls())
	tasks, err := w.tasks.List(t.Context())
	if err != nil || len(tasks) != n {
		t.Fatalf("%d of %d tasks: %v", len(tasks), n, err)
	}
	count := map[string]int{}
	for _, call := range w.server.Calls()[before:] {
		count[call]++
	}
	// ListTasks: five pages of running tasks and one of stopped tasks. DescribeTasks: 100
	// tasks in a call. DescribeNetworkInterfaces: four pages for a filter of 200
	// interfaces, and one for a filter of 30.
	want := map[string]int{"ListTasks": 6, "DescribeTasks": 3, "DescribeNetworkInterfaces": 5}
	for call, times := range want {
		if count[call] != times {
			t.Errorf("%d calls of %s, want %d", count[call], call, times)
		}
	}
}

func TestOnlyTasksOfTheStackAreListed(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	spec := w.specWithGroup(t, testID, 1)
	other := *w.tasks
	other.stack.ID = "another"
	if _, err := other.Run(t.Context(), specIn(spec.GroupID, "anotherbastion00", 1)); err != nil {
		t.Fatal(err)
	}
	task, err := w.tasks.Run(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if tasks, err := w.tasks.List(t.Context()); err != nil || len(tasks) != 1 || tasks[0].ID != task.ID {
		t.Errorf("listed %+v, %v", tasks, err)
	}
}

func TestEndpointsOfInterface(t *testing.T) {
	attached := ec2types.NetworkInterface{
		PrivateIpAddress: aws.String("10.0.0.7"),
		Association:      &ec2types.NetworkInterfaceAssociation{PublicIp: aws.String("198.51.100.7")},
		Ipv6Addresses:    []ec2types.NetworkInterfaceIpv6Address{{Ipv6Address: aws.String("2001:db8::7")}, {Ipv6Address: aws.String("2001:db8::8")}},
	}
	early := attached
	early.Association, early.Ipv6Addresses = nil, nil
	for _, c := range []struct {
		name           string
		public, v4, v6 bool
		at             ec2types.NetworkInterface
		want           []string
	}{
		{"public", true, true, false, attached, []string{"198.51.100.7:2222"}},
		{"public in both families", true, true, true, attached, []string{"198.51.100.7:2222", "[2001:db8::7]:2222"}},
		{"private", false, true, false, attached, []string{"10.0.0.7:2222"}},
		{"IPv6 only", false, false, true, attached, []string{"[2001:db8::7]:2222"}},
		{"public, before it is associated", true, true, true, early, nil},
		{"without addresses", false, true, true, ec2types.NetworkInterface{}, nil},
	} {
		stack := testStack
		stack.Public, stack.IPv4, stack.IPv6 = c.public, c.v4, c.v6
		var want []netip.AddrPort
		for _, endpoint := range c.want {
			want = append(want, netip.MustParseAddrPort(endpoint))
		}
		if got := stack.endpointsOf(c.at); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
}

func TestStopReasonIncludesReasonOfContainer(t *testing.T) {
	stopped := types.Task{
		TaskArn: aws.String(testStack.taskARN("0123456789abcdef0123456789abcdef")), StartedBy: aws.String(StartedBy(testID)),
		LastStatus: aws.String("STOPPED"), StopCode: types.TaskStopCodeTaskFailedToStart, StoppedReason: aws.String("Task failed to start"),
		Tags: []types.Tag{{Key: aws.String(TagAttempt), Value: aws.String("2")}},
		Containers: []types.Container{
			{Name: aws.String("sidecar"), Reason: aws.String("a sidecar's"), ExitCode: aws.Int32(1)},
			{Name: aws.String("bastiond"), Reason: aws.String("CannotPullContainerError: not found"), ExitCode: aws.Int32(10)},
		},
	}
	got := testStack.task(stopped)
	exit := got.ExitCode
	got.ExitCode = nil
	want := bastion.Task{ID: "0123456789abcdef0123456789abcdef", BastionID: testID, Attempt: 2, Status: bastion.TaskStopped,
		StopCode: "TaskFailedToStart", StopReason: "Task failed to start: CannotPullContainerError: not found"}
	if fmt.Sprint(got) != fmt.Sprint(want) || exit == nil || *exit != 10 {
		t.Errorf("%+v with exit code %v, want %+v with 10", got, exit, want)
	}
}

// No client should connect to a task that is being stopped, and the read of its address
// would take a call of EC2.
func TestAddressOfTaskThatIsBeingStoppedIsNotRead(t *testing.T) {
	task := types.Task{LastStatus: aws.String("RUNNING"), Attachments: []types.Attachment{{Type: aws.String("AmazonElasticBlockStorage")}, {Type: aws.String("ElasticNetworkInterface"),
		Details: []types.KeyValuePair{{Name: aws.String("networkInterfaceId"), Value: aws.String("eni-1")}}}}}
	for desired, want := range map[string]string{"RUNNING": "eni-1", "STOPPED": ""} {
		task.DesiredStatus = aws.String(desired)
		if got := interfaceOf(task); got != want {
			t.Errorf("desired status %s: interface %q, want %q", desired, got, want)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

var testSpec = bastion.TaskSpec{
	BastionID: testID, Attempt: 3, GroupID: "sg-0123456789abcdef0", Subnet: "subnet-0123456789abcdef0",
	TaskDefinition:   "arn:aws:ecs:eu-central-1:123456789012:task-definition/bastion:7",
	AttemptCreatedAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
}

// testTags are tags of the operator.
var testTags = []bastion.Tag{{Key: "CostCenter", Value: "a=42"}, {Key: "team/data owner"}}

// If a parameter changes between two calls for the same attempt, ECS returns a
// ConflictException. So if the golden files change, the attempts that are in progress
// during the deploy can fail.
func TestRunTaskParameters(t *testing.T) {
	private := testStack
	private.Public, private.Spot = false, true
	tagged := testSpec
	tagged.Tags = testTags
	for name, in := range map[string]*ecs.RunTaskInput{
		"public": testStack.runTaskInput(testSpec), "private-spot": private.runTaskInput(testSpec), "tags": testStack.runTaskInput(tagged),
	} {
		t.Run(name, func(t *testing.T) {
			got := requestBody(t, in)
			file := "testdata/runtask-" + name + ".json"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s (%v): the request is\n%s", file, err, got)
			}
		})
	}
}

// captured stores the body of a request instead of sending it.
type captured struct{ body bytes.Buffer }

func (c *captured) Do(r *http.Request) (*http.Response, error) {
	_, err := c.body.ReadFrom(r.Body)
	return nil, errors.Join(errors.New("not sent"), err)
}

// requestBody returns the indented body of the SDK's request for RunTask.
func requestBody(t *testing.T, in *ecs.RunTaskInput) []byte {
	t.Helper()
	var wire captured
	client := ecs.NewFromConfig(testSDK("http://wire.test"), func(o *ecs.Options) { o.HTTPClient, o.Retryer = &wire, aws.NopRetryer{} })
	if _, err := client.RunTask(t.Context(), in); err == nil {
		t.Fatal("the request was sent")
	}
	var text bytes.Buffer
	if err := json.Indent(&text, wire.body.Bytes(), "", "  "); err != nil {
		t.Fatalf("%v in %s", err, &wire.body)
	}
	return append(text.Bytes(), '\n')
}

// lostResponse is an ECS whose lists are stale, so that they show no task. The response to
// the first RunTask is lost.
type lostResponse struct {
	ECSTasks
	t    *testing.T
	sent [][]byte
}

func (l *lostResponse) ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	return &ecs.ListTasksOutput{}, nil
}

func (l *lostResponse) RunTask(ctx context.Context, in *ecs.RunTaskInput, options ...func(*ecs.Options)) (*ecs.RunTaskOutput, error) {
	l.sent = append(l.sent, requestBody(l.t, in))
	out, err := l.ECSTasks.RunTask(ctx, in, options...)
	if err == nil && len(l.sent) == 1 {
		return nil, errors.New("connection reset by peer")
	}
	return out, err
}

// If a deployment changes the settings of new tasks between two tries of RunTask, the
// second try sends the settings with which the attempt began. With others, ECS would
// refuse it, because it knows the clientToken.
func TestRepeatedRunTaskSendsTheSameBytes(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	lost := &lostResponse{ECSTasks: w.ecs, t: t}
	store := w.cloud.Store()
	service := &bastion.Service{
		Config: bastion.Config{
			DefaultTTL: time.Hour, MaxTTL: time.Hour, IPv4: true, Quota: bastion.Quota{PerOwner: 1, Total: 1}, MaxAttempts: 5,
			Subnets: []string{"subnet-1"}, TaskDefinition: "bastion:7", Tags: testTags,
			Timing: bastion.Timing{CallTimeout: time.Minute, StepTimeout: time.Minute, Settle: time.Hour, ReadLag: time.Minute, WatchInterval: time.Minute, CheckInterval: time.Minute, GiveUpAfter: time.Hour},
		},
		Records: store, DueList: store, Keys: store, Marks: store, Leases: w.cloud.Leases(),
		Groups: w.groups, Tasks: NewTasks(lost, w.ec2, testStack, time.Now),
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
	}
	create := func() bastion.Record {
		rec, _, err := service.Create(t.Context(), bastion.CreateRequest{
			Caller: bastion.Caller{Owner: "local:alice", Address: testSource.Addr()},
			Key:    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		})
		must(t, err)
		return rec
	}
	if rec := create(); rec.Attempt.Number != 1 || rec.Attempt.TaskID != "" || len(lost.sent) == 0 {
		t.Fatalf("the attempt is %+v, after %d calls", rec.Attempt, len(lost.sent))
	}
	first := len(lost.sent)
	service.Config.Tags, service.Config.TaskDefinition, service.Config.Subnets = []bastion.Tag{{Key: "CostCenter", Value: "43"}}, "bastion:8", []string{"subnet-2"}
	if rec := create(); rec.Attempt.Number != 1 || rec.Attempt.TaskID == "" || len(lost.sent) == first {
		t.Errorf("the attempt is %+v, after %d more calls", rec.Attempt, len(lost.sent)-first)
	}
	for i, body := range lost.sent {
		if !bytes.Equal(body, lost.sent[0]) || !bytes.Contains(body, []byte("a=42")) {
			t.Errorf("call %d sent\n%s\nand the first one\n%s", i+1, body, lost.sent[0])
		}
	}
}

func TestRunTaskDoesNotDependOnTime(t *testing.T) {
	later := testSpec
	later.AttemptCreatedAt = later.AttemptCreatedAt.Add(time.Hour)
	if a, b := testStack.runTaskInput(testSpec), testStack.runTaskInput(later); !reflect.DeepEqual(a, b) {
		t.Errorf("two requests for one attempt:\n%+v\n%+v", a, b)
	}
	if bytes := len(*testStack.runTaskInput(testSpec).ClientToken); bytes > 64 {
		t.Errorf("the clientToken has %d characters", bytes)
	}
}

// runTaskErrors are errors of RunTask, and the errors that Run returns for them: a
// refusal with a code, ErrNotFound, or an error after which the domain retries.
var runTaskErrors = []struct {
	code, message string
	refused       bastion.FailureCode // "" if it is not a refusal
	notFound      bool
}{
	{"InvalidParameterException", "Error retrieving security group information for [sg-1, " + testStack.MemberGroup + "]: The security group 'sg-1' does not exist (ErrorCode: InvalidGroup.NotFound)", "", true},
	{"InvalidParameterException", "Error retrieving security group information for [sg-1, " + testStack.MemberGroup + "]: The security group '" + testStack.MemberGroup + "' does not exist (ErrorCode: InvalidGroup.NotFound)", bastion.FailureConfig, false},
	{"InvalidParameterException", "Error retrieving subnet information for [subnet-1]: The subnet ID 'subnet-1' does not exist (ErrorCode: InvalidSubnetID.NotFound)", bastion.FailureConfig, false},
	{"InvalidParameterException", "Unable to assume the service linked role. Please verify that the ECS service linked role exists.", bastion.FailureConfig, false},
	{"ClientException", "TaskDefinition is inactive", bastion.FailureConfig, false},
	{"ClientException", "Capacity is unavailable at this time. Please try again later or in a different availability zone", bastion.FailureCapacity, false},
	{"ClientException", "You've reached the limit on the number of vCPUs you can run concurrently", bastion.FailureCapacity, false},
	{"ClientException", "Too many concurrent attempts", "", false},
	{"ClientException", "Rate exceeded", "", false},
	{"AccessDeniedException", "not authorized to perform: iam:PassRole", bastion.FailureConfig, false},
	{"BlockedException", "Your account has been blocked.", bastion.FailureConfig, false},
	{"ClusterNotFoundException", "Cluster not found.", bastion.FailureConfig, false},
	{"PlatformUnknownException", "no such platform version", bastion.FailureConfig, false},
	{"PlatformTaskDefinitionIncompatibilityException", "not on this platform", bastion.FailureConfig, false},
	{"UnsupportedFeatureException", "not in this region", bastion.FailureConfig, false},
	{"ConflictException", "The provided clientToken is already in use with a different RunTask request.", "", false},
	{"ThrottlingException", "Rate exceeded", "", false},
	{"ServerException", "Service Unavailable. Please try again later.", "", false},
	{"ExpiredTokenException", "The security token included in the request is expired", "", false},
}

func TestRunTaskErrorsAreConverted(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	spec := w.specWithGroup(t, testID, 1)
	for _, c := range runTaskErrors {
		t.Run(c.code+" "+c.message, func(t *testing.T) {
			w.server.Fail("RunTask", c.code, c.message)
			_, err := w.tasks.Run(t.Context(), spec)
			checkRefusal(t, err, c.refused)
			if errors.Is(err, bastion.ErrNotFound) != c.notFound {
				t.Errorf("%v: ErrNotFound is %t, want %t", err, !c.notFound, c.notFound)
			}
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%v does not contain the message of ECS", err)
			}
			checkNoSDKError(t, err)
		})
	}
}

// checkRefusal checks that an error is a refusal with this code, or, if the code is
// empty, that it is not a refusal.
func checkRefusal(t *testing.T, err error, code bastion.FailureCode) {
	t.Helper()
	var refused *bastion.RefusedError
	switch errors.As(err, &refused); {
	case refused == nil && code != "":
		t.Errorf("%v is not a refusal", err)
	case refused != nil && refused.Failure.Code != code:
		t.Errorf("refused with %s, want %q", refused.Failure.Code, code)
	case refused != nil && (refused.Failure.Message == "" || refused.Detail == ""):
		t.Errorf("the refusal %+v has no message or no detail", refused)
	}
}

// checkNoSDKError checks that err has no error type of the SDK.
func checkNoSDKError(t *testing.T, err error) {
	t.Helper()
	var api smithy.APIError
	if errors.As(err, &api) {
		t.Errorf("the adapter returns a %T", api)
	}
}

func TestFailuresOfRunTaskAreRefusals(t *testing.T) {
	for _, c := range []struct {
		reason, detail string
		want           bastion.Failure
	}{
		{"Capacity is unavailable at this time. Please try again later or in a different availability zone", "", bastion.CapacityFailure},
		{"capacity is unavailable in this zone", "", bastion.CapacityFailure},
		{"You've Reached the Limit on the number of vCPUs", "", quotaFailure},
		{"Resource:ENI", "", interfaceFailure},
		{"RESOURCE:MEMORY", "", bastion.CapacityFailure},
		{"RESOURCE:ENI", "", interfaceFailure},
		{"You've reached the limit on the number of Fargate Spot vCPUs you can run concurrently", "", quotaFailure},
		{"MISSING", "what is missing", otherFailure},
	} {
		failure := types.Failure{Reason: aws.String(c.reason)}
		if c.detail != "" {
			failure.Detail = aws.String(c.detail)
		}
		got := refusedBy(failure)
		if got.Failure != c.want || !strings.Contains(got.Detail, c.reason) || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %+v", c.reason, got)
		}
	}
}

func TestAttemptWithoutCapacityIsRefusedAgain(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	spec := w.specWithGroup(t, testID, 1)
	w.cloud.RefuseCapacity(1)
	for range 2 { // ECS repeats its response, because the clientToken is the same
		_, err := w.tasks.Run(t.Context(), spec)
		checkRefusal(t, err, bastion.FailureCapacity)
	}
	spec.Attempt = 2
	if _, err := w.tasks.Run(t.Context(), spec); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestConflictNamesExistingTask(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	spec := w.specWithGroup(t, testID, 1)
	task, err := w.tasks.Run(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w.tasks.stack.Public = false // a deployment changed the parameters
	_, err = w.tasks.Run(t.Context(), spec)
	checkRefusal(t, err, "")
	if err == nil || !strings.Contains(err.Error(), testStack.taskARN(task.ID)) {
		t.Errorf("%v does not contain task %s", err, task.ID)
	}
	if tasks, err := w.tasks.Describe(t.Context(), testID); err != nil || len(tasks) != 1 || tasks[0].Attempt != 1 {
		t.Errorf("found %+v, %v", tasks, err)
	}
}
