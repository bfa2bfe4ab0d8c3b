package awscloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// forms is a transport that stores the parameters of EC2's requests. Its response is
// the error of the action, or body.
type forms struct {
	body   string
	failed string // the action that fails
	sent   []url.Values
}

func (f *forms) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	f.sent = append(f.sent, form)
	response := &http.Response{StatusCode: http.StatusOK, Request: r, Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(f.body))}
	if form.Get("Action") == f.failed {
		response.StatusCode = http.StatusForbidden
		response.Body = io.NopCloser(strings.NewReader(`<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors><RequestID>r</RequestID></Response>`))
	}
	return response, err
}

func (f *forms) groups() *Groups {
	client := ec2.NewFromConfig(testSDK("http://wire.test"), func(o *ec2.Options) { o.HTTPClient, o.Retryer = f, aws.NopRetryer{} })
	return NewGroups(client, testStack)
}

// The golden file has the parameters of each request to EC2. If you change a request,
// run the test with -update and read the diff.
func TestGroupRequests(t *testing.T) {
	f := &forms{body: `<R><groupId>sg-1</groupId><return>true</return></R>`}
	groups, ctx := f.groups(), t.Context()
	created, err := groups.Create(ctx, bastion.GroupSpec{BastionID: testID})
	if err != nil || created.ID != "sg-1" || created.BastionID != testID {
		t.Errorf("created %+v, %v", created, err)
	}
	if _, err := groups.Create(ctx, bastion.GroupSpec{BastionID: testID, Tags: testTags}); err != nil {
		t.Error(err)
	}
	must(t, groups.Authorize(ctx, "sg-1", testSource))
	must(t, groups.Authorize(ctx, "sg-1", netip.MustParsePrefix("2001:db8::7/128")))
	must(t, groups.Revoke(ctx, "sg-1", bastion.Rule{ID: "sgr-1"}))
	must(t, groups.Revoke(ctx, "sg-1", bastion.Rule{ID: "sgr-2", Egress: true}))
	must(t, groups.Delete(ctx, "sg-1"))
	for _, id := range []string{"", "sg-1"} {
		if _, err := groups.Describe(ctx, testID, id); !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	f.body = `<R><securityGroupInfo><item><groupId>sg-1</groupId><ipPermissions><item><ipProtocol>tcp</ipProtocol></item></ipPermissions></item></securityGroupInfo></R>`
	if _, err := groups.List(ctx); err != nil {
		t.Error(err)
	}
	checkGolden(t, "testdata/requests-ec2.json", f.sent)
}

func TestFailedReadOfRulesIsError(t *testing.T) {
	f := &forms{failed: "DescribeSecurityGroupRules",
		body: `<R><securityGroupInfo><item><groupId>sg-1</groupId><ipPermissions><item><ipProtocol>tcp</ipProtocol></item></ipPermissions></item></securityGroupInfo></R>`}
	if found, err := f.groups().List(t.Context()); err == nil || !strings.Contains(err.Error(), "DescribeSecurityGroupRules") {
		t.Errorf("%+v, %v", found, err)
	}
}

// lists is an ECS that has these tasks. It stores the requests of ListTasks, and the ARNs
// in the requests of DescribeTasks.
type lists struct {
	ECSTasks  // the other calls panic
	listed    []ecs.ListTasksInput
	described []string
	tasks     []types.Task
}

func (l *lists) ListTasks(_ context.Context, in *ecs.ListTasksInput, _ ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	l.listed = append(l.listed, *in)
	return &ecs.ListTasksOutput{TaskArns: []string{testStack.taskARN("b")}}, nil
}

func (l *lists) DescribeTasks(_ context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	l.described = append(l.described, in.Tasks...)
	return &ecs.DescribeTasksOutput{Tasks: l.tasks}, nil
}

// A task that is stopped between the two lists must be in one of them, so the list of
// running tasks comes first. A task that is in both is described once.
func TestTasksAreListedRunningThenStopped(t *testing.T) {
	created := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	task := func(id, bastionID string, created time.Time) types.Task {
		return types.Task{TaskArn: aws.String(testStack.taskARN(id)), StartedBy: aws.String(StartedBy(bastionID)), CreatedAt: &created, LastStatus: aws.String("PENDING")}
	}
	l := &lists{tasks: []types.Task{task("a", testID, created.Add(time.Second)), task("c", testID, created), task("b", testID, created), task("x", "another", created)}}
	found, err := NewTasks(l, nil, testStack, time.Now).Describe(t.Context(), testID, "c", "a")
	var ids []string
	for _, task := range found {
		ids = append(ids, task.ID)
	}
	if err != nil || !slices.Equal(ids, []string{"b", "c", "a"}) {
		t.Errorf("%q, %v, want the tasks of the bastion, oldest first", ids, err)
	}
	if want := []string{testStack.taskARN("a"), testStack.taskARN("b"), testStack.taskARN("c")}; !slices.Equal(l.described, want) {
		t.Errorf("described %q, want %q", l.described, want)
	}
	var statuses []types.DesiredStatus
	for _, in := range l.listed {
		statuses = append(statuses, in.DesiredStatus)
		if aws.ToString(in.StartedBy) != StartedBy(testID) || aws.ToString(in.Cluster) != testStack.Cluster {
			t.Errorf("the list is %+v", in)
		}
	}
	if !slices.Equal(statuses, []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped}) {
		t.Errorf("listed %q", statuses)
	}
}

// noRandom is a reader that fails.
type noRandom struct{}

func (noRandom) Read([]byte) (int, error) { return 0, errors.New("no random bytes") }

func TestNothingIsWrittenWithoutNonce(t *testing.T) {
	ctx := t.Context()
	s := NewStore(nil, "records", time.Hour, noRandom{}) // a call would panic
	for name, err := range map[string]error{
		"create":  s.Create(ctx, requestRecord(1), bastion.Quota{PerOwner: 1, Total: 1}),
		"replace": s.Replace(ctx, requestRecord(1), requestRecord(2)),
		"lease":   NewLeases(nil, "leases", "AROA", noRandom{}).Write(ctx, "task", requestLease),
		"item":    NewItems(nil, "items", time.Now, noRandom{}).Write(ctx, "k", 0, nil, time.Time{}),
	} {
		if err == nil || !strings.Contains(err.Error(), "no random bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnreadableResultsAreErrors(t *testing.T) {
	a := &transcript{responses: map[string][]string{
		"Query":        {`200 {"Items":[{"sk":{"S":"list#id-1"}}]}`},
		"BatchGetItem": {refused("ResourceNotFoundException")},
		"UpdateItem":   {`200 {"Attributes":{"first_seen":{"S":"yesterday"}}}`},
	}}
	store := newAdapters(a).store
	if found, err := store.ListByOwner(t.Context(), "local:alice"); err == nil {
		t.Errorf("the records cannot be read, but the list is %+v", found)
	}
	if at, err := store.Mark(t.Context(), "task/x", requestTime); err == nil {
		t.Errorf("the mark cannot be decoded, but its time is %s", at)
	}
}
