package awscloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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

func TestAnOldAttemptIsNotSent(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	w.tasks.now = func() time.Time { return now }
	launch := w.launch(t, testID, 1)
	for _, announced := range []time.Time{{}, now.Add(-55*time.Minute - time.Second)} {
		launch.AttemptCreatedAt = announced
		_, err := w.tasks.Run(t.Context(), launch)
		wantRefusal(t, err, "")
		if err == nil || slices.Contains(w.server.Calls(), "RunTask") {
			t.Errorf("announced at %s, it is sent: %v", announced, err)
		}
	}
	launch.AttemptCreatedAt = now.Add(-55 * time.Minute)
	if _, err := w.tasks.Run(t.Context(), launch); err != nil {
		t.Error(err)
	}
}

func TestStopIsContentWithAnUnknownTaskOnly(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	for message, fine := range map[string]bool{"The referenced task was not found.": true, "Task Identifier is invalid": false} {
		w.server.Fail("StopTask", "InvalidParameterException", message)
		err := w.tasks.Stop(t.Context(), "0123456789abcdef0123456789abcdef", "closed")
		if (err == nil) != fine {
			t.Errorf("%s: %v", message, err)
		}
		wantNoneOfTheSDK(t, err)
	}
	for _, code := range []string{"ThrottlingException", "ClusterNotFoundException", "AccessDeniedException"} {
		w.server.Fail("StopTask", code, "The referenced task was not found.")
		if err := w.tasks.Stop(t.Context(), "0123456789abcdef0123456789abcdef", "closed"); err == nil {
			t.Errorf("%s is no error", code)
		}
	}
}

func TestAReasonIsCutToWhatECSTakes(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	task, err := w.tasks.Run(t.Context(), w.launch(t, testID, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.tasks.Stop(t.Context(), task.ID, strings.Repeat("ü", 300)); err != nil {
		t.Error(err)
	}
}

func TestReadsFailWithoutTypesOfTheSDK(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	task, err := w.tasks.Run(t.Context(), w.launch(t, testID, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, testID, task.ID) // until its interface is there to be looked at
	for _, action := range []string{"ListTasks", "DescribeTasks", "DescribeNetworkInterfaces"} {
		w.server.Fail(action, "ThrottlingException", "Rate exceeded")
		_, err := w.tasks.Describe(t.Context(), testID)
		if err == nil || !strings.Contains(err.Error(), action) {
			t.Errorf("%s failed, and the error is %v", action, err)
		}
		wantNoneOfTheSDK(t, err)
	}
}

// TestManyTasksAreReadInPages counts the calls: reads come in pages and look-ups
// in batches, whose sizes are AWS's.
func TestManyTasksAreReadInPages(t *testing.T) {
	w := newWire(t, localcloud.Config{}, func(cfg *awswire.Config) { cfg.PageSize = 50 })
	group := w.launch(t, testID, 1)
	const n = 230
	for i := range n {
		if _, err := w.tasks.Run(t.Context(), launchIn(group.GroupID, fmt.Sprintf("bastion%09d", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.look(t, func() error { // until all have interfaces
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
	// Five pages of those to run, and one of those to stop; 230 by 100; 230 by
	// 200, in pages of 50.
	want := map[string]int{"ListTasks": 6, "DescribeTasks": 3, "DescribeNetworkInterfaces": 5}
	for call, times := range want {
		if count[call] != times {
			t.Errorf("%d calls of %s, not %d", count[call], call, times)
		}
	}
}

func TestOnlyTheStacksTasksAreListed(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	foreign := *w.tasks
	foreign.stack.ID = "another"
	if _, err := foreign.Run(t.Context(), launchIn(launch.GroupID, "anotherbastion00", 1)); err != nil {
		t.Fatal(err)
	}
	task, err := w.tasks.Run(t.Context(), launch)
	if err != nil {
		t.Fatal(err)
	}
	if tasks, err := w.tasks.List(t.Context()); err != nil || len(tasks) != 1 || tasks[0].ID != task.ID {
		t.Errorf("listed %+v, %v", tasks, err)
	}
}

func TestEndpoints(t *testing.T) {
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
		{"public, but not yet", true, true, true, early, nil},
		{"nothing", false, true, true, ec2types.NetworkInterface{}, nil},
	} {
		stack := testStack
		stack.Public, stack.IPv4, stack.IPv6 = c.public, c.v4, c.v6
		var want []netip.AddrPort
		for _, endpoint := range c.want {
			want = append(want, netip.MustParseAddrPort(endpoint))
		}
		if got := stack.endpointsOf(c.at); !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", c.name, got, want)
		}
	}
}

func TestAStoppedTaskSaysWhatTheContainerSays(t *testing.T) {
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
		t.Errorf("%+v with exit code %v, not %+v with 10", got, exit, want)
	}
}

// Each look at an address is a call of EC2's.
func TestNobodyLooksForATaskThatIsToEnd(t *testing.T) {
	task := types.Task{LastStatus: aws.String("RUNNING"), Attachments: []types.Attachment{{Type: aws.String("ElasticNetworkInterface"),
		Details: []types.KeyValuePair{{Name: aws.String("networkInterfaceId"), Value: aws.String("eni-1")}}}}}
	for desired, want := range map[string]string{"RUNNING": "eni-1", "STOPPED": ""} {
		task.DesiredStatus = aws.String(desired)
		if got := interfaceOf(task); got != want {
			t.Errorf("a task that is to be %s is looked for at %q", desired, got)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

var testLaunch = bastion.TaskSpec{
	BastionID: testID, Attempt: 3, GroupID: "sg-0123456789abcdef0", Subnet: "subnet-0123456789abcdef0",
	TaskDefinition:   "arn:aws:ecs:eu-central-1:123456789012:task-definition/bastion:7",
	AttemptCreatedAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
}

// TestRunTaskIsSentThis holds every parameter of RunTask: one that changes
// between two sendings of an attempt is a ConflictException.
func TestRunTaskIsSentThis(t *testing.T) {
	private := testStack
	private.Public, private.Spot = false, true
	for name, stack := range map[string]Stack{"public": testStack, "private-spot": private} {
		t.Run(name, func(t *testing.T) {
			got := sentAs(t, stack.runTaskInput(testLaunch))
			file := "testdata/runtask-" + name + ".json"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s (%v): RunTask is sent\n%s", file, err, got)
			}
		})
	}
}

// captured keeps the body of a request that it does not send.
type captured struct{ body bytes.Buffer }

func (c *captured) Do(r *http.Request) (*http.Response, error) {
	_, err := c.body.ReadFrom(r.Body)
	return nil, errors.Join(errors.New("not sent"), err)
}

// sentAs is what the SDK makes of a RunTask, for people to read.
func sentAs(t *testing.T, in *ecs.RunTaskInput) []byte {
	t.Helper()
	var wire captured
	client := ecs.NewFromConfig(testSDK("http://wire.test"), func(o *ecs.Options) { o.HTTPClient, o.Retryer = &wire, aws.NopRetryer{} })
	if _, err := client.RunTask(t.Context(), in); err == nil {
		t.Fatal("it was sent")
	}
	var text bytes.Buffer
	if err := json.Indent(&text, wire.body.Bytes(), "", "  "); err != nil {
		t.Fatalf("%v in %s", err, &wire.body)
	}
	return append(text.Bytes(), '\n')
}

func TestRunTaskFollowsFromTheLaunchAlone(t *testing.T) {
	later := testLaunch
	later.AttemptCreatedAt = later.AttemptCreatedAt.Add(time.Hour)
	if a, b := testStack.runTaskInput(testLaunch), testStack.runTaskInput(later); !reflect.DeepEqual(a, b) {
		t.Errorf("the same attempt is sent as\n%+v and as\n%+v", a, b)
	}
	if bytes := len(*testStack.runTaskInput(testLaunch).ClientToken); bytes > 64 {
		t.Errorf("the clientToken has %d characters", bytes)
	}
}

// What RunTask may err with, and what the port makes of it: a refusal with a
// code, ErrNotFound, or an error that only means "try again".
var runTaskErrors = []struct {
	code, message string
	refused       bastion.FailureCode
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

func TestRunTaskErrors(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	for _, c := range runTaskErrors {
		t.Run(c.code+" "+c.message, func(t *testing.T) {
			w.server.Fail("RunTask", c.code, c.message)
			_, err := w.tasks.Run(t.Context(), launch)
			wantRefusal(t, err, c.refused)
			if errors.Is(err, bastion.ErrNotFound) != c.notFound {
				t.Errorf("not found: %t, of %v", !c.notFound, err)
			}
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%v does not have ECS's words", err)
			}
			wantNoneOfTheSDK(t, err)
		})
	}
}

// wantRefusal checks that an error refuses the task for this reason; empty: that
// it is no refusal.
func wantRefusal(t *testing.T, err error, code bastion.FailureCode) {
	t.Helper()
	var refused *bastion.RefusedError
	switch errors.As(err, &refused); {
	case refused == nil && code != "":
		t.Errorf("%v does not refuse", err)
	case refused != nil && refused.Failure.Code != code:
		t.Errorf("refused as %s, not as %q", refused.Failure.Code, code)
	case refused != nil && (refused.Failure.Message == "" || refused.Detail == ""):
		t.Errorf("the refusal %+v leaves something unsaid", refused)
	}
}

// wantNoneOfTheSDK checks that the SDK's own types stay inside.
func wantNoneOfTheSDK(t *testing.T, err error) {
	t.Helper()
	var api smithy.APIError
	if errors.As(err, &api) {
		t.Errorf("%T comes out of the adapter", api)
	}
}

func TestFailuresOfRunTask(t *testing.T) {
	for _, c := range []struct {
		reason, detail string
		want           bastion.Failure
	}{
		{"Capacity is unavailable at this time. Please try again later or in a different availability zone", "", bastion.CapacityFailure},
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
			t.Errorf("%s is %+v", c.reason, got)
		}
	}
}

func TestNoCapacityEndsTheAttemptForGood(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	w.cloud.RefuseCapacity(1)
	for range 2 { // the second time it is the token's old answer
		_, err := w.tasks.Run(t.Context(), launch)
		wantRefusal(t, err, bastion.FailureCapacity)
	}
	launch.Attempt = 2
	if _, err := w.tasks.Run(t.Context(), launch); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestAConflictNamesTheTaskThatThereIs(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	task, err := w.tasks.Run(t.Context(), launch)
	if err != nil {
		t.Fatal(err)
	}
	w.tasks.stack.Public = false // as after a deployment
	_, err = w.tasks.Run(t.Context(), launch)
	wantRefusal(t, err, "")
	if err == nil || !strings.Contains(err.Error(), testStack.taskARN(task.ID)) {
		t.Errorf("%v does not name task %s", err, task.ID)
	}
	if tasks, err := w.tasks.Describe(t.Context(), testID); err != nil || len(tasks) != 1 || tasks[0].Attempt != 1 {
		t.Errorf("found %+v, %v", tasks, err)
	}
}
