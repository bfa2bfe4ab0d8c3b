package awscloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// refusingAWS refuses every call, and stores which calls were made: the operation, and
// the body of the request.
type refusingAWS struct {
	mu    sync.Mutex
	calls []string
}

func (a *refusingAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	operation := form.Get("Action")
	if _, target, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		operation = target
	} else if strings.HasSuffix(r.URL.Path, "/invocations") {
		operation = "Invoke"
		body = []byte(r.URL.Path)
	}
	a.mu.Lock()
	a.calls = append(a.calls, operation+" "+string(body))
	a.mu.Unlock()
	w.WriteHeader(http.StatusBadRequest)
}

// RoundTrip serves a call that comes through the HTTP client of [Transport].
func (a *refusingAWS) RoundTrip(r *http.Request) (*http.Response, error) {
	response := httptest.NewRecorder()
	a.ServeHTTP(response, r)
	return response.Result(), nil
}

// take returns the calls since the last take.
func (a *refusingAWS) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

// awsEnvironment sets the environment of a function. Calls that do not use the HTTP
// client of [Transport] reach the server that it returns.
func awsEnvironment(t *testing.T) *refusingAWS {
	t.Helper()
	aws := &refusingAWS{}
	server := httptest.NewServer(aws)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": server.URL,
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	return aws
}

// portCall is a call of a port, and texts that the one request it makes must contain.
type portCall struct {
	call func(context.Context) error
	want []string
}

func checkPortCalls(t *testing.T, aws *refusingAWS, calls map[string]portCall) {
	t.Helper()
	for name, c := range calls {
		err := c.call(t.Context())
		requests := aws.take()
		if err == nil || len(requests) != 1 {
			t.Errorf("%s: %v after the requests %q", name, err, requests)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(requests[0], part) {
				t.Errorf("%s: the request %s does not contain %q", name, requests[0], part)
			}
		}
	}
}

func TestConnectedPortsCallTheirServices(t *testing.T) {
	direct, shared := awsEnvironment(t), &refusingAWS{}
	tables := Tables{Records: "the-records", Leases: "the-leases", RoleID: "AROATASK", History: 48 * time.Hour}
	ports, err := Connect(t.Context(), testStack, tables, Transport{Pacer: unpaced(), HTTP: &http.Client{Transport: shared}})
	if err != nil {
		t.Fatal(err)
	}
	checkPortCalls(t, shared, map[string]portCall{
		"store": {func(ctx context.Context) error { _, err := ports.Store.Fetch(ctx, "id-1"); return err },
			[]string{"GetItem ", "the-records", "B#id-1"}},
		"history": {func(ctx context.Context) error {
			return ports.Store.Replace(ctx, requestRecord(7, closed), requestRecord(8, closed, finished))
		}, []string{"TransactWriteItems ", `":expires_at":{"N":"1893729845"}`}}, // 48 hours after the end
		"groups": {func(ctx context.Context) error { _, err := ports.Groups.List(ctx); return err },
			[]string{"DescribeSecurityGroups ", url.QueryEscape(testStack.ID)}},
		"tasks": {func(ctx context.Context) error { return ports.Tasks.Stop(ctx, "1", "closed") },
			[]string{"StopTask ", testStack.Cluster}},
		"addresses of tasks": {func(ctx context.Context) error {
			_, err := ports.Tasks.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{})
			return err
		}, []string{"DescribeNetworkInterfaces "}},
		"leases": {func(ctx context.Context) error { _, err := ports.Leases.Fetch(ctx, "task-1"); return err },
			[]string{"GetItem ", "the-leases", "AROATASK:task-1"}},
	})
	checkPortCalls(t, direct, map[string]portCall{
		"functions": {func(ctx context.Context) error { return ports.Functions.InvokeAsync(ctx, "slack", nil) }, []string{"Invoke ", "slack"}},
	})
	first, second := nonceOf(t, ports), nonceOf(t, ports)
	if first == second || len(first) != 32 {
		t.Errorf("nonces %q and %q", first, second)
	}
}

// nonceOf returns a nonce of the lease port.
func nonceOf(t *testing.T, ports Ports) string {
	t.Helper()
	nonce, err := newNonce(ports.Leases.rand)
	must(t, err)
	return nonce
}

func TestConnectWithoutHTTPClientUsesClientsOfSDK(t *testing.T) {
	direct := awsEnvironment(t)
	ports, err := Connect(t.Context(), testStack, Tables{}, Transport{Pacer: unpaced()})
	if err != nil {
		t.Fatal(err)
	}
	checkPortCalls(t, direct, map[string]portCall{
		"store":  {func(ctx context.Context) error { _, err := ports.Store.Fetch(ctx, "id-1"); return err }, []string{"GetItem "}},
		"groups": {func(ctx context.Context) error { _, err := ports.Groups.List(ctx); return err }, []string{"DescribeSecurityGroups "}},
		"tasks":  {func(ctx context.Context) error { return ports.Tasks.Stop(ctx, "1", "") }, []string{"StopTask "}},
	})
	for name, client := range map[string]any{
		"DynamoDB": ports.Store.api.(*dynamodb.Client).Options().HTTPClient,
		"EC2":      ports.Groups.ec2.(*ec2.Client).Options().HTTPClient,
		"ECS":      ports.Tasks.ecs.(*ecs.Client).Options().HTTPClient,
	} {
		c, ok := client.(*awshttp.BuildableClient)
		if !ok {
			t.Errorf("%s: the HTTP client is a %T", name, client)
			continue
		}
		c.GetTransport().CloseIdleConnections()
	}
}

func TestConnectedPortsArePaced(t *testing.T) {
	awsEnvironment(t)
	pacer, shared := NewPacer(), &refusingAWS{}
	pacer.SetShare(0.001)
	ports, err := Connect(t.Context(), testStack, Tables{}, Transport{Pacer: pacer, HTTP: &http.Client{Transport: shared}})
	if err != nil {
		t.Fatal(err)
	}
	pacer.empty("DescribeSecurityGroups")
	pacer.empty("StopTask")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, groups := ports.Groups.List(ctx)
	for name, err := range map[string]error{"groups": groups, "tasks": ports.Tasks.Stop(ctx, "1", "")} {
		if !errors.Is(err, bastion.ErrNoTime) {
			t.Errorf("%s: %v, want ErrNoTime", name, err)
		}
	}
	if calls := shared.take(); len(calls) > 0 {
		t.Errorf("calls %q", calls)
	}
}

func TestConnectedSlackPortsCallTheirServices(t *testing.T) {
	direct := awsEnvironment(t)
	ports, err := ConnectSlack(t.Context(), "the-items", "/secret")
	if err != nil {
		t.Fatal(err)
	}
	checkPortCalls(t, direct, map[string]portCall{
		"items": {func(ctx context.Context) error { return ports.Items.Write(ctx, "k", 0, nil, time.Time{}) },
			[]string{"UpdateItem ", "the-items"}},
		"secrets": {func(ctx context.Context) error { _, err := ports.Secrets.Get(ctx, "/secret"); return err },
			[]string{"GetParameters ", "/secret"}},
		"functions": {func(ctx context.Context) error { return ports.Functions.InvokeAsync(ctx, "create", nil) }, []string{"Invoke ", "create"}},
	})
	ports.Items.api.(*dynamodb.Client).Options().HTTPClient.(*awshttp.BuildableClient).GetTransport().CloseIdleConnections()
}

func TestConnectedTaskLeaseReadsItsItem(t *testing.T) {
	direct := awsEnvironment(t)
	lease, err := ConnectTaskLease(t.Context(), "the-leases", "AROATASK", "task-1")
	if err != nil {
		t.Fatal(err)
	}
	checkPortCalls(t, direct, map[string]portCall{
		"lease": {func(ctx context.Context) error { _, err := lease.Read(ctx); return err }, []string{"GetItem ", "the-leases", "AROATASK:task-1"}},
	})
}

func TestInvalidEnvironmentIsError(t *testing.T) {
	awsEnvironment(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "many")
	_, connect := Connect(t.Context(), testStack, Tables{}, Transport{Pacer: unpaced()})
	_, slack := ConnectSlack(t.Context(), "items")
	_, lease := ConnectTaskLease(t.Context(), "leases", "AROA", "task")
	for name, err := range map[string]error{
		"Connect": connect, "ConnectSlack": slack, "ConnectTaskLease": lease, "Create": Tables{}.Create(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), "AWS configuration") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The clients have their own limits, whatever the environment says.
func TestClientsLimitAttemptsAndPauses(t *testing.T) {
	cfg := testSDK("https://wire.test")
	cfg.RetryMaxAttempts = 1
	table := NewDynamoDB(cfg).Options()
	groups, tasks := NewEC2(cfg, unpaced()).Options(), NewECS(cfg, unpaced()).Options()
	for name, c := range map[string]struct {
		http     aws.HTTPClient
		retryer  aws.Retryer
		timeout  time.Duration
		attempts int
		pause    time.Duration
	}{
		"DynamoDB": {table.HTTPClient, table.Retryer, 5 * time.Second, 30, time.Second},
		"EC2":      {groups.HTTPClient, groups.Retryer, 10 * time.Second, 10, time.Second},
		"ECS":      {tasks.HTTPClient, tasks.Retryer, 10 * time.Second, 10, time.Second},
	} {
		client, ok := c.http.(*awshttp.BuildableClient)
		if !ok || client.GetTimeout() != c.timeout || c.retryer.MaxAttempts() != c.attempts {
			t.Errorf("%s: the HTTP client is a %T, %d attempts", name, c.http, c.retryer.MaxAttempts())
		}
		var pauses []time.Duration
		for range 100 {
			pause, err := c.retryer.RetryDelay(c.attempts-1, errors.New("connection reset"))
			must(t, err)
			pauses = append(pauses, pause)
		}
		if longest := slices.Max(pauses); longest > c.pause || longest < c.pause/2 {
			t.Errorf("%s: the longest of 100 late pauses is %s, want about %s", name, longest, c.pause)
		}
		// A budget that all calls share would end after about a hundred retries.
		for range 1000 {
			if _, err := c.retryer.GetRetryToken(t.Context(), errors.New("connection reset")); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	for range 100 {
		if pause, err := table.Retryer.RetryDelay(1, errors.New("connection reset")); err != nil || pause > 25*time.Millisecond {
			t.Fatalf("the first pause of DynamoDB is %s, %v", pause, err)
		}
	}
	called := NewLambda(cfg).Options().Retryer
	if n := called.MaxAttempts(); n != 3 {
		t.Errorf("%d attempts of Lambda", n)
	}
	for range 100 {
		if pause, err := called.RetryDelay(lambdaAttempts, errors.New("connection reset")); err != nil || pause > 500*time.Millisecond {
			t.Fatalf("a pause of Lambda is %s, %v", pause, err)
		}
	}
	read, ok := NewSSM(cfg).Options().HTTPClient.(*awshttp.BuildableClient)
	if !ok || read.GetTimeout() != time.Second || !read.GetTransport().DisableKeepAlives {
		t.Errorf("the HTTP client of Parameter Store is a %T", NewSSM(cfg).Options().HTTPClient)
	}
}

func TestChecksumIsCheckedOverTLSOnly(t *testing.T) {
	for endpoint, want := range map[string]bool{"http://127.0.0.1:8000": true, "https://dynamodb.test": false, "": false} {
		cfg := testSDK(endpoint)
		if endpoint == "" {
			cfg.BaseEndpoint = nil
		}
		if got := NewDynamoDB(cfg).Options().DisableValidateResponseChecksum; got != want {
			t.Errorf("endpoint %q: the check is off: %t, want %t", endpoint, got, want)
		}
	}
}

func TestTemporaryRefusals(t *testing.T) {
	reasons := func(codes ...string) error {
		var all []types.CancellationReason
		for _, code := range codes {
			all = append(all, types.CancellationReason{Code: aws.String(code)})
		}
		return &smithy.OperationError{Err: &types.TransactionCanceledException{CancellationReasons: all}}
	}
	for want, errs := range map[aws.Ternary][]error{
		aws.TrueTernary: {
			&types.TransactionConflictException{}, reasons("TransactionConflict"), reasons("ThrottlingError"), reasons("ProvisionedThroughputExceeded"),
			reasons("None", "TransactionConflict"), reasons("ConditionalCheckFailed", "TransactionConflict"),
		},
		aws.UnknownTernary: {
			nil, errors.New("connection reset"), reasons(), reasons("None"), reasons("ConditionalCheckFailed"), reasons("ValidationError"),
			reasons("ItemCollectionSizeLimitExceeded"), &types.ConditionalCheckFailedException{},
		},
	} {
		for _, err := range errs {
			if got := isTemporaryRefusal(err); got != want {
				t.Errorf("%v: %v, want %v", err, got, want)
			}
		}
	}
}

// The golden files have the schemas of the tables in an emulator. A test of
// internal/test/template compares the schemas with the tables of template.yaml.
func TestSchemas(t *testing.T) {
	a := &transcript{}
	api := newAdapters(a).store.api.(*dynamodb.Client)
	for name, schema := range map[string]dynamodb.CreateTableInput{"records": RecordsSchema(), "leases": LeasesSchema(), "items": ItemsSchema()} {
		a.requests = nil
		must(t, CreateTable(t.Context(), api, "the-"+name, schema))
		checkGolden(t, "testdata/schemas/"+name+".json", a.requests)
	}
	for _, operation := range []string{"CreateTable", "UpdateTimeToLive"} {
		a.responses = responses(operation, refused("LimitExceededException"))
		if err := CreateTable(t.Context(), api, "the-records", RecordsSchema()); err == nil || !strings.Contains(err.Error(), operation) {
			t.Errorf("%s fails, but CreateTable returns %v", operation, err)
		}
	}
}

func TestTablesCreateMakesBothTables(t *testing.T) {
	server := awsEnvironment(t)
	err := Tables{Records: "the-records", Leases: "the-leases"}.Create(t.Context())
	if calls := server.take(); err == nil || len(calls) != 1 || !strings.Contains(calls[0], `"the-records"`) {
		t.Errorf("%v after the calls %q", err, calls)
	}
}
