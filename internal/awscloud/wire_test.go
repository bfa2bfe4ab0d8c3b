package awscloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// wire has the adapters with the real SDK, which calls a local cloud over HTTP.
type wire struct {
	cloud  *localcloud.Cloud
	server *awswire.Server
	ec2    *ec2.Client
	ecs    *ecs.Client
	groups *Groups
	tasks  *Tasks
}

// newWire returns a local cloud and adapters for testStack. The SDK does not retry,
// so that a test controls each call.
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

// unpaced returns a pacer with such high rates that no call waits.
func unpaced() *Pacer {
	p := NewPacer()
	p.SetShare(1000)
	return p
}

// wholeBodies is a transport that sends copies of request bodies. The SDK closes a body
// as soon as it has a response. On loopback, the transport may not have read the end of
// the body by then, and would close the connection.
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

// testSDK returns a configuration that calls this address only.
func testSDK(url string) aws.Config {
	return aws.Config{
		Region:       "eu-central-1",
		BaseEndpoint: aws.String(url),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: "test"}, nil
		}),
	}
}

// specWithGroup creates the bastion's group and returns the spec of a task in it.
func (w *wire) specWithGroup(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
	t.Helper()
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	if err != nil {
		t.Fatal(err)
	}
	return specIn(group.ID, bastionID, attempt)
}

// specIn returns the spec of a task in an existing group.
func specIn(groupID, bastionID string, attempt int) bastion.TaskSpec {
	return bastion.TaskSpec{
		BastionID: bastionID, Attempt: attempt, GroupID: groupID, Subnet: "subnet-1",
		TaskDefinition: "arn:aws:ecs:eu-central-1:123456789012:task-definition/bastion:7", AttemptCreatedAt: time.Now(),
	}
}

// slowCloud is the configuration for the conformance suites: with delays and stale reads.
var slowCloud = localcloud.Config{LaunchDelay: 20 * time.Millisecond, Linger: 20 * time.Millisecond, Staleness: 20 * time.Millisecond}

// slowWire returns a wire to slowCloud, with two items on a page and with public
// addresses that appear late.
func slowWire(t *testing.T) *wire {
	return newWire(t, slowCloud, func(cfg *awswire.Config) { cfg.PageSize, cfg.AddressAfter = 2, 3 })
}

const wireTimeout = 10 * time.Second

func TestGroupsConformOverHTTP(t *testing.T) {
	cloudtest.Groups(t, func(t *testing.T) cloudtest.GroupsHarness {
		w := slowWire(t)
		w.groups.stack.WidestIPv4, w.groups.stack.WidestIPv6 = 28, 64
		return cloudtest.GroupsHarness{Groups: w.groups, Patience: wireTimeout, Occupy: w.occupy,
			Refuse: func() { w.cloud.RefuseGroups(1) }}
	})
}

// occupy starts a task in a group and waits until the task has an address. It returns a
// function that stops the task.
func (w *wire) occupy(t *testing.T, bastionID, groupID string) func() {
	task, err := w.tasks.Run(t.Context(), specIn(groupID, bastionID, 1))
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

// await waits until Describe returns the task with an address.
func (w *wire) await(t *testing.T, bastionID, taskID string) {
	t.Helper()
	w.retry(t, func() error {
		tasks, err := w.tasks.Describe(t.Context(), bastionID, taskID)
		if err == nil && (len(tasks) != 1 || len(tasks[0].Endpoints) == 0) {
			err = fmt.Errorf("the tasks are %+v", tasks)
		}
		return err
	})
}

// retry calls check until it returns no error.
func (w *wire) retry(t *testing.T, check func() error) {
	t.Helper()
	var err error
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(wireTimeout); time.Now().Before(deadline); <-tick.C {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("no success within %s: %v", wireTimeout, err)
}

func TestTasksConformOverHTTP(t *testing.T) {
	cloudtest.Tasks(t, func(t *testing.T) cloudtest.TasksHarness {
		w := slowWire(t)
		groups := map[string]string{}
		created := time.Now()
		return cloudtest.TasksHarness{
			Tasks:    w.tasks,
			Patience: wireTimeout,
			Spec: func(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
				if groups[bastionID] == "" {
					groups[bastionID] = w.visibleGroup(t, bastionID)
				}
				spec := specIn(groups[bastionID], bastionID, attempt)
				spec.AttemptCreatedAt = created
				return spec
			},
		}
	})
}

// visibleGroup creates a group, waits until Describe finds it, and returns its id.
func (w *wire) visibleGroup(t *testing.T, bastionID string) string {
	t.Helper()
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	if err != nil {
		t.Fatal(err)
	}
	w.retry(t, func() error {
		_, err := w.groups.Describe(t.Context(), bastionID, group.ID)
		return err
	})
	return group.ID
}

func TestThrottledCallIsRetried(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.withRetries()
	w.cloud.Throttle(1)
	spec := w.specWithGroup(t, testID, 1)
	w.cloud.Throttle(1)
	if _, err := w.tasks.Run(t.Context(), spec); err != nil {
		t.Error(err)
	}
	if want, got := []string{"CreateSecurityGroup", "CreateSecurityGroup", "RunTask", "RunTask"}, w.server.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}

// withRetries gives the adapters clients that retry, as in production.
func (w *wire) withRetries() {
	w.groups.ec2 = ec2.New(w.ec2.Options(), func(o *ec2.Options) { o.Retryer = newComputeRetryer() })
	w.tasks.ecs = ecs.New(w.ecs.Options(), func(o *ecs.Options) { o.Retryer = newComputeRetryer() })
}

func TestComputeRetriesEndWithContext(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.withRetries()
	w.cloud.Throttle(1000)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := w.groups.Create(ctx, bastion.GroupSpec{BastionID: testID})
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, bastion.ErrNoTime) { // ErrNoTime: most of the time was a pause
		t.Error(err)
	}
}
