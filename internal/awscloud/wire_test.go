package awscloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// testStack is the stack of all tests here.
var testStack = Stack{
	ID:          "arn:aws:cloudformation:eu-central-1:123456789012:stack/bastions/5f0c",
	VPC:         "vpc-0123456789abcdef0",
	MemberGroup: "sg-0eeeeeeeeeeeeeee0",
	Cluster:     "arn:aws:ecs:eu-central-1:123456789012:cluster/bastions",
	Container:   "bastiond",
	Port:        2222,
	Public:      true,
	IPv4:        true,
	IPv6:        true,
}

const testID = "abcdefghijklmnop"

// wire is the adapters on the real SDK, on HTTP, on a local cloud.
type wire struct {
	cloud  *localcloud.Cloud
	server *awswire.Server
	ec2    *ec2.Client
	ecs    *ecs.Client
	groups *Groups
	tasks  *Tasks
}

// newWire makes a cloud and adapters of testStack. The SDK does not repeat
// itself, so that a test sees each call.
func newWire(t *testing.T, cloud localcloud.Config, edit func(*awswire.Config)) *wire {
	w := &wire{cloud: localcloud.New(cloud)}
	t.Cleanup(w.cloud.Close)
	cfg := awswire.Config{Cloud: w.cloud, Cluster: testStack.Cluster, Groups: []string{testStack.MemberGroup}, Port: testStack.Port}
	if edit != nil {
		edit(&cfg)
	}
	w.server = awswire.New(cfg)
	listening := httptest.NewServer(w.server)
	t.Cleanup(listening.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: wholeBodies{transport}}
	sdk := testSDK(listening.URL)
	w.ec2 = NewEC2(sdk, unpaced(), func(o *ec2.Options) { o.HTTPClient, o.Retryer = client, aws.NopRetryer{} })
	w.ecs = NewECS(sdk, unpaced(), func(o *ecs.Options) { o.HTTPClient, o.Retryer = client, aws.NopRetryer{} })
	w.groups = NewGroups(w.ec2, testStack)
	w.tasks = NewTasks(w.ecs, w.ec2, testStack, time.Now)
	return w
}

// unpaced lets tests make as many calls as they like.
func unpaced() *Pacer {
	p := NewPacer()
	p.SetShare(1000)
	return p
}

// wholeBodies sends copies of request bodies. The SDK closes a body as soon as it
// has an answer, and on loopback that is there before the transport has seen the
// body's end: it would take the request for broken, and the connection with it.
type wholeBodies struct{ http.RoundTripper }

func (w wholeBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	sent := r.Clone(r.Context())
	sent.Body = io.NopCloser(bytes.NewReader(body))
	return w.RoundTripper.RoundTrip(sent)
}

// testSDK is a configuration that reaches this address only.
func testSDK(url string) aws.Config {
	return aws.Config{
		Region:       "eu-central-1",
		BaseEndpoint: aws.String(url),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: "test"}, nil
		}),
	}
}

// launch makes the bastion's group and answers an attempt in it.
func (w *wire) launch(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
	t.Helper()
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	if err != nil {
		t.Fatal(err)
	}
	return launchIn(group.ID, bastionID, attempt)
}

func launchIn(groupID, bastionID string, attempt int) bastion.TaskSpec {
	return bastion.TaskSpec{
		BastionID: bastionID, Attempt: attempt, GroupID: groupID, Subnet: "subnet-1",
		TaskDefinition: "arn:aws:ecs:eu-central-1:123456789012:task-definition/bastion:7", AttemptCreatedAt: time.Now(),
	}
}

// slowCloud is slow and stale; the suites run on it.
var slowCloud = localcloud.Config{LaunchDelay: 20 * time.Millisecond, Linger: 20 * time.Millisecond, Staleness: 20 * time.Millisecond}

// slowWire has pages of two, and addresses that come late.
func slowWire(t *testing.T) *wire {
	return newWire(t, slowCloud, func(cfg *awswire.Config) { cfg.PageSize, cfg.AddressAfter = 2, 3 })
}

const wirePatience = 10 * time.Second

func TestGroupsConformAtTheWire(t *testing.T) {
	cloudtest.Groups(t, func(t *testing.T) cloudtest.GroupsHarness {
		w := slowWire(t)
		return cloudtest.GroupsHarness{Groups: w.groups, Patience: wirePatience, Occupy: w.occupy}
	})
}

// occupy puts a task into a group, and waits until a StopTask would find it.
func (w *wire) occupy(t *testing.T, bastionID, groupID string) func() {
	task, err := w.tasks.Run(t.Context(), launchIn(groupID, bastionID, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, bastionID, task.ID)
	return func() {
		if err := w.tasks.Stop(t.Context(), task.ID, "released"); err != nil {
			t.Error(err)
		}
	}
}

// await looks until the task shows, with an interface.
func (w *wire) await(t *testing.T, bastionID, taskID string) {
	t.Helper()
	w.look(t, func() error {
		tasks, err := w.tasks.Describe(t.Context(), bastionID, taskID)
		if err == nil && (len(tasks) != 1 || len(tasks[0].Endpoints) == 0) {
			err = fmt.Errorf("the tasks are %+v", tasks)
		}
		return err
	})
}

// look looks until check is content.
func (w *wire) look(t *testing.T, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(wirePatience); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %v", wirePatience, err)
}

func TestTasksConformAtTheWire(t *testing.T) {
	cloudtest.Tasks(t, func(t *testing.T) cloudtest.TasksHarness {
		w := slowWire(t)
		groups := map[string]string{}
		announced := time.Now()
		return cloudtest.TasksHarness{
			Tasks:    w.tasks,
			Patience: wirePatience,
			Launch: func(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
				if groups[bastionID] == "" {
					groups[bastionID] = w.shownGroup(t, bastionID)
				}
				launch := launchIn(groups[bastionID], bastionID, attempt)
				launch.AttemptCreatedAt = announced
				return launch
			},
		}
	})
}

// shownGroup makes a group and waits until it shows.
func (w *wire) shownGroup(t *testing.T, bastionID string) string {
	t.Helper()
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	if err != nil {
		t.Fatal(err)
	}
	w.look(t, func() error {
		_, err := w.groups.Describe(t.Context(), bastionID, group.ID)
		return err
	})
	return group.ID
}

func TestThrottlingDoesNotReachTheCaller(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.patient()
	w.cloud.Throttle(1)
	launch := w.launch(t, testID, 1)
	w.cloud.Throttle(1)
	if _, err := w.tasks.Run(t.Context(), launch); err != nil {
		t.Error(err)
	}
	if want, got := []string{"CreateSecurityGroup", "CreateSecurityGroup", "RunTask", "RunTask"}, w.server.Calls(); !slices.Equal(got, want) {
		t.Errorf("called %q, not %q", got, want)
	}
}

// patient gives the adapters the patience that the clients have on their own.
func (w *wire) patient() {
	w.groups.ec2 = ec2.New(w.ec2.Options(), func(o *ec2.Options) { o.Retryer = newComputeRetryer() })
	w.tasks.ecs = ecs.New(w.ecs.Options(), func(o *ecs.Options) { o.Retryer = newComputeRetryer() })
}

func TestPatienceEndsWithTheCallers(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.patient()
	w.cloud.Throttle(1000)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := w.groups.Create(ctx, bastion.GroupSpec{BastionID: testID})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestEveryCallHasItsRate(t *testing.T) {
	calls := 0
	for _, api := range []reflect.Type{reflect.TypeFor[EC2Groups](), reflect.TypeFor[EC2Interfaces](), reflect.TypeFor[ECSTasks]()} {
		for i := range api.NumMethod() {
			calls++
			name := api.Method(i).Name
			if len(Rates[name]) == 0 {
				t.Errorf("%s has no rate", name)
			}
			for _, r := range Rates[name] {
				if r.Bucket == "" || r.Burst < r.PerSecond || r.PerSecond <= 0 {
					t.Errorf("%s has the rate %+v", name, r)
				}
			}
		}
	}
	if calls != len(Rates) {
		t.Errorf("%d calls have %d rates", calls, len(Rates))
	}
}
