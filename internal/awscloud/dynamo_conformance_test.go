//go:build conformance

package awscloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// smallPages limits every page to three items.
type smallPages struct{ *dynamodb.Client }

func (s smallPages) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	page := *in
	page.Limit = aws.Int32(3)
	return s.Client.Query(ctx, &page, o...)
}

func (s smallPages) Scan(ctx context.Context, in *dynamodb.ScanInput, o ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	page := *in
	page.Limit = aws.Int32(3)
	return s.Client.Scan(ctx, &page, o...)
}

// BatchGetItem returns three items at a time, as if the rest were too large.
func (s smallPages) BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	first, rest := map[string]types.KeysAndAttributes{}, map[string]types.KeysAndAttributes{}
	for table, want := range in.RequestItems {
		now, later := want, want
		if len(want.Keys) > 3 {
			now.Keys, later.Keys = want.Keys[:3], want.Keys[3:]
			rest[table] = later
		}
		first[table] = now
	}
	out, err := s.Client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: first}, o...)
	if err == nil && len(out.UnprocessedKeys) == 0 {
		out.UnprocessedKeys = rest
	}
	return out, err
}

func TestOnDynamoDBLocal(t *testing.T) {
	r := startDynamoDB(t)
	t.Run("Store", func(t *testing.T) {
		cloudtest.Store(t, func(t *testing.T) bastion.Store { return r.allowedStore(t) })
	})
	t.Run("Store in small pages", func(t *testing.T) {
		cloudtest.Store(t, func(t *testing.T) bastion.Store { return r.store(t, smallPages{r.client(t, nil)}) })
	})

	t.Run("Leases", func(t *testing.T) {
		cloudtest.Leases(t, r.allowedLeases)
	})
	t.Run("Leases in small pages", func(t *testing.T) {
		cloudtest.Leases(t, func(t *testing.T) cloudtest.LeasesHarness {
			leases, start := r.leases(t, smallPages{r.client(t, nil)})
			return cloudtest.LeasesHarness{Leases: leases, Start: func(*testing.T) (string, bastion.TaskLease) { return start() }}
		})
	})
	t.Run("Items", func(t *testing.T) {
		cloudtest.Items(t, func(t *testing.T, now func() time.Time) cloudtest.Table { return r.items(t, r.client(t, nil), now) })
	})
}

// dynamo is a DynamoDB Local process for one test.
type dynamo struct {
	cfg aws.Config
	url string
}

func startDynamoDB(t *testing.T) dynamo {
	t.Helper()
	return dynamo{url: emulator.DynamoDB(t), cfg: aws.Config{
		Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "local", SecretAccessKey: "local"}, nil
		}),
	}}
}

// client returns a client from NewDynamoDB for DynamoDB Local. If wrap is not nil, the
// client uses the transport that wrap returns.
func (r dynamo) client(t *testing.T, wrap func(http.RoundTripper) http.RoundTripper) *dynamodb.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	var wrapped http.RoundTripper = transport
	if wrap != nil {
		wrapped = wrap(transport)
	}
	return NewDynamoDB(r.cfg, func(o *dynamodb.Options) {
		o.BaseEndpoint = &r.url
		o.HTTPClient = &http.Client{Transport: wrapped, Timeout: 20 * time.Second} // the machine can be busy
	})
}

var tables atomic.Int64

// table creates a table and returns its name.
func (r dynamo) table(t *testing.T, schema dynamodb.CreateTableInput) string {
	t.Helper()
	name := fmt.Sprint("table-", tables.Add(1))
	must(t, CreateTable(t.Context(), r.client(t, nil), name, schema))
	return name
}

const (
	history = 90 * 24 * time.Hour
	roleID  = "AROAEXAMPLE"
)

func (r dynamo) store(t *testing.T, api RecordsAPI) *Store {
	t.Helper()
	return NewStore(api, r.table(t, RecordsSchema()), history, rand.Reader)
}

// leases returns the control plane's side of a new table, and a function that returns
// the id and the side of a new task.
func (r dynamo) leases(t *testing.T, api LeasesAPI) (*Leases, func() (string, *TaskLease)) {
	t.Helper()
	l := NewLeases(api, r.table(t, LeasesSchema()), roleID, rand.Reader)
	client := r.client(t, nil)
	n := 0
	return l, func() (string, *TaskLease) {
		n++
		taskID := fmt.Sprintf("%032x", n)
		return taskID, NewTaskLease(client, l.table, roleID, taskID)
	}
}

// items returns Items on a new table.
func (r dynamo) items(t *testing.T, api ItemsAPI, now func() time.Time) *Items {
	t.Helper()
	return NewItems(api, r.table(t, ItemsSchema()), now, rand.Reader)
}

var (
	_ RecordsAPI   = (*dynamodb.Client)(nil)
	_ LeasesAPI    = (*dynamodb.Client)(nil)
	_ TaskLeaseAPI = (*dynamodb.Client)(nil)
)

// epoch is the time at which the records of the tests were created.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 678900001, time.UTC)

var lastID atomic.Int64

func newRecord(owner, name string) bastion.Record {
	return bastion.Record{
		ID: fmt.Sprintf("bastion%09d", lastID.Add(1)), Owner: owner, Name: name, CreatedAt: epoch, Version: 1,
		Intent: bastion.Intent{Generation: 1, Open: true},
	}
}

// changed returns the next version of the record.
func changed(rec bastion.Record, change func(*bastion.Record)) bastion.Record {
	rec.Version++
	change(&rec)
	return rec
}
