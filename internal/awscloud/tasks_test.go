package awscloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

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
		launch.AnnouncedAt = announced
		_, err := w.tasks.Run(t.Context(), launch)
		wantRefusal(t, err, "")
		if err == nil || slices.Contains(w.server.Calls(), "RunTask") {
			t.Errorf("announced at %s, it is sent: %v", announced, err)
		}
	}
	launch.AnnouncedAt = now.Add(-55 * time.Minute)
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
