//go:build conformance

package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

const taskRole = "AROAEXAMPLEEXAMPLE123" // as environment has it

// twoBastions holds two bastions and the functions that serve them: domain, observer,
// reaper and API, with tables on DynamoDB Local. Groups and tasks are those of the
// local cloud; the test acts as the tasks.
type twoBastions struct {
	app      *App
	observer *Observer
	gateway  EntryPoints
	cloud    *localcloud.Cloud
	tables   dynamoWire
	records  string // the tables' names
	leases   string

	began time.Time
	later atomic.Int64 // nanoseconds since it began

	honest, hostile testBastion
}

// testBastion is one bastion of twoBastions.
type testBastion struct {
	user    string // the unique ID of the IAM user who owns it
	id      string
	task    string
	hostKey string
}

// leaseKey returns the key of its task's lease.
func (n testBastion) leaseKey() string { return taskRole + ":" + n.task }

// The host keys that two honest bastions would report.
const (
	keyOfHonest  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
	keyOfHostile = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC"
)

var tableSets atomic.Int64

// newTwoBastions creates two bastions that are ready and settled, in new tables. The
// environment holds the URL of DynamoDB Local.
func newTwoBastions(t *testing.T, url string) *twoBastions {
	t.Helper()
	number := tableSets.Add(1)
	w := &twoBastions{
		tables: dynamoWire{url}, records: fmt.Sprint("records-", number), leases: fmt.Sprint("leases-", number),
		began: time.Now().UTC().Truncate(time.Second),
	}
	made := awscloud.Tables{Records: w.records, Leases: w.leases}
	must(t, made.Create(t.Context()))
	app, err := wire(t.Context(), environment("BASTION_TABLE="+w.records, "BASTION_LEASE_TABLE="+w.leases), slog.New(slog.DiscardHandler), nil)
	must(t, err)
	w.app, app.metrics.out = app, io.Discard
	w.cloud = localcloud.New(localcloud.Config{Now: w.now})
	t.Cleanup(w.cloud.Close)
	app.Service.Now, app.Service.Groups, app.Service.Tasks = w.now, w.cloud.Groups(), w.cloud.Tasks()
	w.observer, w.gateway = app.Observer(), app.API()
	w.honest = w.start(t, "AIDAHONESTHONEST0001", keyOfHonest)
	w.hostile = w.start(t, "AIDAHOSTILEHOSTILE01", keyOfHostile)
	w.pass(app.Config.Bastion.Timing.Settle)
	w.reap(t)
	for _, n := range []testBastion{w.honest, w.hostile} {
		if rec := w.fetch(t, n); rec.State() != bastion.Ready || !rec.UnsettledUntil.IsZero() {
			t.Fatalf("not ready and settled: %+v", rec)
		}
	}
	return w
}

func (w *twoBastions) now() time.Time       { return w.began.Add(time.Duration(w.later.Load())) }
func (w *twoBastions) pass(d time.Duration) { w.later.Add(int64(d)) }

// start creates a bastion of the user, whose task reports as bastiond does.
func (w *twoBastions) start(t *testing.T, user, hostKey string) testBastion {
	t.Helper()
	caller := bastion.Caller{Owner: "iam:111122223333:" + user, Address: netip.MustParseAddr("192.0.2.1")}
	rec, _, err := w.app.Service.Create(t.Context(), bastion.CreateRequest{Caller: caller, Key: keyOfHonest})
	must(t, err)
	poll := time.NewTicker(5 * time.Millisecond) // the local cloud's tasks start by themselves
	defer poll.Stop()
	for rec.Attempt.Status != bastion.TaskRunning {
		<-poll.C
		rec, err = w.app.Service.Converge(t.Context(), rec.ID, bastion.ReaperSteps)
		must(t, err)
	}
	own, err := awscloud.ConnectTaskLease(t.Context(), w.leases, taskRole, rec.Attempt.TaskID)
	must(t, err)
	must(t, own.Report(t.Context(), bastion.Report{
		HostKey: bastion.Key(hostKey), Generation: rec.Intent.Generation, Connections: 1,
		Receipt: bastion.Receipt{StartedAt: w.now(), Connections: 1, Forwards: 1},
	}))
	must(t, w.app.Service.Observe(t.Context(), rec.ID))
	return testBastion{user, rec.ID, rec.Attempt.TaskID, hostKey}
}

func (w *twoBastions) fetch(t *testing.T, n testBastion) bastion.Record {
	t.Helper()
	rec, err := w.app.Service.Records.Fetch(t.Context(), n.id)
	must(t, err)
	return rec
}

// reap and sweep run as the schedules do. Errors about the hostile bastion are
// allowed.
func (w *twoBastions) reap(t *testing.T) {
	t.Helper()
	_, err := w.app.Service.Reap(t.Context())
	w.hostileOnly(t, err)
}

func (w *twoBastions) sweep(t *testing.T) {
	t.Helper()
	_, err := w.app.Service.Sweep(t.Context())
	must(t, err)
}

// hostileOnly accepts errors about the hostile bastion, and fails the test for an error
// about the honest one.
func (w *twoBastions) hostileOnly(t *testing.T, err error) {
	t.Helper()
	if err != nil && (bytes.Contains([]byte(err.Error()), []byte(w.honest.id)) || bytes.Contains([]byte(err.Error()), []byte(w.honest.task))) {
		t.Errorf("an error about the honest bastion: %v", err)
	}
}

// get returns the API's response to a bastion's owner.
func (w *twoBastions) get(t *testing.T, n testBastion, path, accept string) string {
	t.Helper()
	event := events.APIGatewayV2HTTPRequest{Version: "2.0", RawPath: path, Headers: map[string]string{"accept": accept}}
	event.RequestContext.APIID, event.RequestContext.RequestID = "api", "request"
	event.RequestContext.AccountID = "111122223333"
	event.RequestContext.HTTP.Method, event.RequestContext.HTTP.SourceIP = http.MethodGet, "192.0.2.1"
	event.RequestContext.Authorizer = &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{
		IAM: &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{
			AccountID: "111122223333", UserID: n.user, UserARN: "arn:aws:iam::111122223333:user/" + n.user,
		},
	}
	payload, err := json.Marshal(event)
	must(t, err)
	response, err := w.gateway.Handle(invokedBy(t, functionARN), payload)
	must(t, err)
	got := response.(events.APIGatewayV2HTTPResponse)
	if got.StatusCode != http.StatusOK {
		t.Fatalf("GET %s as %s: %d %s", path, n.user, got.StatusCode, got.Body)
	}
	return got.Body
}

// dynamoWire calls DynamoDB Local with requests that the product never sends.
type dynamoWire struct{ url string }

func (d dynamoWire) call(t *testing.T, target string, in, out any) {
	t.Helper()
	must(t, d.try(t.Context(), target, in, out))
}

func (d dynamoWire) try(ctx context.Context, target string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.0")
	request.Header.Set("X-Amz-Target", target)
	// DynamoDB Local reads the access key and does not check the signature.
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=local/20300102/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=none")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", target, response.Status, text)
	}
	return json.Unmarshal(text, out)
}

const (
	dynamoTables  = "DynamoDB_20120810."
	dynamoStreams = "DynamoDBStreams_20120810."
)

// wireItem is an item in DynamoDB's JSON.
type wireItem map[string]json.RawMessage

// scan returns the items of a table by key.
func (d dynamoWire) scan(t *testing.T, table string) map[string]wireItem {
	t.Helper()
	var page struct {
		Items            []wireItem
		LastEvaluatedKey wireItem
	}
	d.call(t, dynamoTables+"Scan", map[string]any{"TableName": table, "ConsistentRead": true}, &page)
	if page.LastEvaluatedKey != nil {
		t.Fatalf("%s is too large for one page", table)
	}
	items := map[string]wireItem{}
	for _, one := range page.Items {
		items[string(one["pk"])+string(one["sk"])+string(one["task"])] = one
	}
	return items
}

// stream returns all records of a table's stream in order, as Lambda sends them.
func (d dynamoWire) stream(t *testing.T, table string) []json.RawMessage {
	t.Helper()
	var described struct {
		Table struct{ LatestStreamArn string }
	}
	d.call(t, dynamoTables+"DescribeTable", map[string]string{"TableName": table}, &described)
	arn := described.Table.LatestStreamArn
	var found struct {
		StreamDescription struct{ Shards []struct{ ShardId string } }
	}
	d.call(t, dynamoStreams+"DescribeStream", map[string]string{"StreamArn": arn}, &found)
	var records []json.RawMessage
	for _, shard := range found.StreamDescription.Shards {
		var begun struct{ ShardIterator string }
		d.call(t, dynamoStreams+"GetShardIterator", map[string]string{"StreamArn": arn, "ShardId": shard.ShardId, "ShardIteratorType": "TRIM_HORIZON"}, &begun)
		var got struct{ Records []json.RawMessage }
		d.call(t, dynamoStreams+"GetRecords", map[string]any{"ShardIterator": begun.ShardIterator, "Limit": 1000}, &got)
		records = append(records, got.Records...)
	}
	return slices.Clip(records)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
