package awscloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// dynamoRequest is a request to DynamoDB, as the SDK sends it.
type dynamoRequest struct {
	Operation string          `json:"operation"`
	Body      json.RawMessage `json:"body"`
}

// transcript is a transport that stores each request and returns the next response for
// the request's operation; "{}" if there is none. A response has the form that scripted
// uses.
type transcript struct {
	mu        sync.Mutex
	responses map[string][]string // by operation
	requests  []dynamoRequest
}

func (a *transcript) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	_, operation, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	a.requests = append(a.requests, dynamoRequest{operation, body})
	response := "200 {}"
	if all := a.responses[operation]; len(all) > 0 {
		response, a.responses[operation] = all[0], all[1:]
	}
	return (&scripted{responses: []string{response}}).RoundTrip(req)
}

// sameNonce is a reader that makes every nonce the same.
type sameNonce struct{}

func (sameNonce) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0xab
	}
	return len(p), nil
}

// outcome is what a golden file contains: the requests of one call of an adapter, and
// the result that the adapter returns.
type outcome struct {
	Requests []dynamoRequest `json:"requests"`
	Result   any             `json:"result,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// errorName returns the name of the error of package bastion that errors.Is finds in err,
// "other" for any other error, or "" for nil.
func errorName(err error) string {
	for name, known := range map[string]error{
		"ErrNotFound": bastion.ErrNotFound, "ErrConflict": bastion.ErrConflict, "ErrNameTaken": bastion.ErrNameTaken,
		"ErrQuotaOwner": bastion.ErrQuotaOwner, "ErrQuotaTotal": bastion.ErrQuotaTotal,
	} {
		if errors.Is(err, known) {
			return name
		}
	}
	if err != nil {
		return "other"
	}
	return ""
}

// adapters are the adapters of DynamoDB, with tables named the-records, the-leases and
// the-items, and a clock that stands still.
type adapters struct {
	store  *Store
	leases *Leases
	task   *TaskLease
	items  *Items
}

var requestTime = time.Date(2030, 1, 2, 3, 4, 5, 600_000_000, time.UTC)

func newAdapters(a *transcript) adapters {
	api := (&scripted{}).client()
	api = dynamodb.New(api.Options(), func(o *dynamodb.Options) {
		o.HTTPClient, o.Retryer = &http.Client{Transport: a}, aws.NopRetryer{}
	})
	return adapters{
		NewStore(api, "the-records", 48*time.Hour, sameNonce{}), NewLeases(api, "the-leases", "AROATASK", sameNonce{}),
		NewTaskLease(api, "the-leases", "AROATASK", "task-1"), NewItems(api, "the-items", func() time.Time { return requestTime }, sameNonce{}),
	}
}

// The records, leases and reports of the golden requests are small: testdata/items has
// complete ones.
func requestRecord(version int64, edits ...func(*bastion.Record)) bastion.Record {
	rec := bastion.Record{
		ID: "id-1", Owner: "local:alice", Name: "default", Version: version, CreatedAt: requestTime,
		Intent: bastion.Intent{Generation: version, Open: true}, DueAt: requestTime.Add(time.Minute),
	}
	for _, edit := range edits {
		edit(&rec)
	}
	return rec
}

func closed(rec *bastion.Record) { rec.Intent.Open = false }
func finished(rec *bastion.Record) {
	rec.FinishedAt, rec.DueAt = requestTime.Add(time.Hour), time.Time{}
}
func withID(id string) func(*bastion.Record) {
	return func(rec *bastion.Record) { rec.ID = id }
}

var requestLease = bastion.Lease{BastionID: "id-1", Generation: 2, Open: true, Source: netip.MustParsePrefix("192.0.2.7/32")}

// requestCase is a call of an adapter. DynamoDB's responses are by operation.
type requestCase struct {
	name      string
	responses map[string][]string
	call      func(context.Context, adapters) (any, error)
}

// requestCases are calls of the adapters. The golden files testdata/requests/NAME.json
// have their requests and results. The conformance tests check on DynamoDB Local what
// the requests do, and run with `make conformance` only. The golden files find a change
// of a request without DynamoDB Local. If you change a request, run
//
//	go test ./internal/awscloud -run TestRequests -update
//
// and the conformance tests, and read the diff.
var requestCases = []requestCase{
	{"create", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Create(ctx, requestRecord(1), bastion.Quota{PerOwner: 3, Total: 20})
	}},
	{"create-without-quota", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Create(ctx, requestRecord(1), bastion.Quota{})
	}},
	{"fetch", responses("GetItem", storedRecord(requestRecord(7))), func(ctx context.Context, a adapters) (any, error) {
		return a.store.Fetch(ctx, "id-1")
	}},
	{"fetch-missing", nil, func(ctx context.Context, a adapters) (any, error) { return a.store.Fetch(ctx, "id-1") }},
	{"fetch-longest-id", nil, func(ctx context.Context, a adapters) (any, error) {
		return a.store.Fetch(ctx, strings.Repeat("i", maxID))
	}},
	{"fetch-too-long-id", nil, func(ctx context.Context, a adapters) (any, error) {
		return a.store.Fetch(ctx, strings.Repeat("i", maxID+1))
	}},
	{"fetch-by-name", responses("GetItem", `200 {"Item":{"id":{"S":"id-1"}}}`, storedRecord(requestRecord(7))),
		func(ctx context.Context, a adapters) (any, error) {
			return a.store.FetchByName(ctx, "local:alice", "default")
		}},
	{"fetch-by-name-closed", responses("GetItem", `200 {"Item":{"id":{"S":"id-1"}}}`, storedRecord(requestRecord(7, closed))),
		func(ctx context.Context, a adapters) (any, error) {
			return a.store.FetchByName(ctx, "local:alice", "default")
		}},
	{"fetch-by-name-missing", nil, func(ctx context.Context, a adapters) (any, error) {
		return a.store.FetchByName(ctx, "local:alice", "default")
	}},
	{"replace", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8))
	}},
	{"replace-not-due", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8, func(rec *bastion.Record) { rec.DueAt = time.Time{} }))
	}},
	{"replace-refused", responses("UpdateItem", refused("ConditionalCheckFailedException")), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8))
	}},
	{"close", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8, closed))
	}},
	{"close-refused", responses("TransactWriteItems", cancelled("ConditionalCheckFailed", "None", "None", "None")),
		func(ctx context.Context, a adapters) (any, error) {
			return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8, closed))
		}},
	{"close-cancelled", responses("TransactWriteItems", cancelled("ValidationError", "None", "None", "None")),
		func(ctx context.Context, a adapters) (any, error) {
			return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8, closed))
		}},
	{"replace-closed", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7, closed), requestRecord(8, closed))
	}},
	{"finish", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7, closed), requestRecord(8, closed, finished))
	}},
	{"replace-finished", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7, closed, finished), requestRecord(8, closed, finished))
	}},
	{"close-and-finish", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.Replace(ctx, requestRecord(7), requestRecord(8, closed, finished))
	}},
	// The second page has an entry whose record is finished meanwhile, and the first
	// BatchGetItem leaves one record out.
	{"list-by-owner", map[string][]string{
		"Query": {
			`200 {"Items":[{"sk":{"S":"list#id-1"}}],"LastEvaluatedKey":{"pk":{"S":"p"},"sk":{"S":"list#id-1"}}}`,
			`200 {"Items":[{"sk":{"S":"list#id-2"}},{"sk":{"S":"list#id-3"}}]}`,
		},
		"BatchGetItem": {
			`200 {"Responses":{"the-records":[` + recordJSON(requestRecord(7, withID("id-2"))) + `,` + recordJSON(requestRecord(7, withID("id-3"), closed, finished)) +
				`]},"UnprocessedKeys":{"the-records":{"ConsistentRead":true,"Keys":[{"pk":{"S":"B#id-1"},"sk":{"S":"record"}}]}}}`,
			`200 {"Responses":{"the-records":[` + recordJSON(requestRecord(7)) + `]}}`,
		},
	}, func(ctx context.Context, a adapters) (any, error) { return a.store.ListByOwner(ctx, "local:alice") }},
	{"list", map[string][]string{
		"Query": {
			`200 {"Items":[{"pk":{"S":"B#id-1"}},{"pk":{"S":"total"}}],"LastEvaluatedKey":{"pk":{"S":"B#id-1"}}}`,
			`200 {"Items":[{"pk":{"S":"B#id-2"}}]}`,
		},
		"BatchGetItem": {`200 {"Responses":{"the-records":[` + recordJSON(requestRecord(7, withID("id-2"), later)) + `,` + recordJSON(requestRecord(7)) +
			`,{"pk":{"S":"B#id-3"},"record":{"S":"{"}}]}}`},
	}, func(ctx context.Context, a adapters) (any, error) { return a.store.List(ctx) }},
	{"list-nothing", nil, func(ctx context.Context, a adapters) (any, error) { return a.store.List(ctx) }},
	// Each of the eight queries gets one response, in an order that is not determined.
	{"due", responses("Query",
		`200 {"Items":[{"pk":{"S":"B#id-4"},"due_at":{"S":"2030-01-02T03:04:04.000000000Z"}},{"pk":{"S":"total"},"due_at":{"S":"2030-01-01T00:00:00.000000000Z"}}]}`,
		`200 {"Items":[{"pk":{"S":"B#id-2"},"due_at":{"S":"2030-01-02T03:04:03.000000000Z"}},{"pk":{"S":"B#id-3"},"due_at":{"S":"2030-01-02T03:04:04.000000000Z"}}]}`,
		`200 {"Items":[{"pk":{"S":"B#id-1"},"due_at":{"S":"2030-01-02T03:04:04.000000000Z"}}]}`,
	), func(ctx context.Context, a adapters) (any, error) { return a.store.Due(ctx, requestTime, 3) }},
	{"due-one-page-is-enough", responses("Query", slices.Repeat([]string{
		`200 {"Items":[{"pk":{"S":"B#id-1"},"due_at":{"S":"2030-01-02T03:04:03.000000000Z"}}],"LastEvaluatedKey":{"pk":{"S":"B#id-1"}}}`}, 8)...,
	), func(ctx context.Context, a adapters) (any, error) { return a.store.Due(ctx, requestTime, 1) }},
	{"due-none-wanted", nil, func(ctx context.Context, a adapters) (any, error) { return a.store.Due(ctx, requestTime, 0) }},

	{"remember-key", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.store.RememberKey(ctx, "local:alice", "ssh-ed25519 AAAA")
	}},
	{"remembered-key", responses("GetItem", `200 {"Item":{"key":{"S":"ssh-ed25519 AAAA"}}}`), func(ctx context.Context, a adapters) (any, error) {
		return a.store.RememberedKey(ctx, "local:alice")
	}},
	{"remembered-key-missing", nil, func(ctx context.Context, a adapters) (any, error) { return a.store.RememberedKey(ctx, "local:alice") }},
	{"mark", responses("UpdateItem", `200 {"Attributes":{"first_seen":{"S":"2030-01-01T00:00:00.000000000Z"}}}`), func(ctx context.Context, a adapters) (any, error) {
		return a.store.Mark(ctx, "task/x", requestTime)
	}},
	{"unmark", nil, func(ctx context.Context, a adapters) (any, error) { return nil, a.store.Unmark(ctx, "task/x") }},
	{"marks", responses("Query",
		`200 {"Items":[{"sk":{"S":"task/x"}}],"LastEvaluatedKey":{"pk":{"S":"marks"},"sk":{"S":"task/x"}}}`, `200 {"Items":[{"sk":{"S":"group/y"}}]}`,
	), func(ctx context.Context, a adapters) (any, error) { return a.store.Marks(ctx) }},

	{"lease-fetch", responses("GetItem", `200 {"Item":`+storedLease+`}`), func(ctx context.Context, a adapters) (any, error) {
		return a.leases.Fetch(ctx, "task-1")
	}},
	{"lease-fetch-missing", nil, func(ctx context.Context, a adapters) (any, error) { return a.leases.Fetch(ctx, "task-1") }},
	{"lease-fetch-of-earlier-role", nil, func(ctx context.Context, a adapters) (any, error) { return a.leases.Fetch(ctx, "AROAOLD:task-1") }},
	{"lease-list", responses("Scan",
		`200 {"Items":[`+storedLease+`],"LastEvaluatedKey":{"task":{"S":"AROATASK:task-1"}}}`,
		`200 {"Items":[{"task":{"S":"AROAOLD:task-2"},"bastion":{"S":"id-2"},"ended":{"BOOL":true}}]}`,
	), func(ctx context.Context, a adapters) (any, error) { return a.leases.List(ctx) }},
	{"lease-write", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.leases.Write(ctx, "task-1", requestLease)
	}},
	{"lease-write-closed", nil, func(ctx context.Context, a adapters) (any, error) {
		lease := requestLease
		lease.Open, lease.EndReason = false, bastion.EndClosed
		return nil, a.leases.Write(ctx, "task-1", lease)
	}},
	{"lease-write-refused", responses("UpdateItem", refused("ConditionalCheckFailedException")), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.leases.Write(ctx, "task-1", requestLease)
	}},
	// DynamoDB has only this message for an item that is too large.
	{"lease-write-too-large", responses("UpdateItem",
		`400 {"__type":"com.amazon.coral.validate#ValidationException","message":"Item size to update has exceeded the maximum allowed size"}`,
	), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.leases.Write(ctx, "task-1", requestLease)
	}},
	{"lease-write-invalid", responses("UpdateItem",
		`400 {"__type":"com.amazon.coral.validate#ValidationException","message":"Invalid UpdateExpression"}`,
	), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.leases.Write(ctx, "task-1", requestLease)
	}},
	{"lease-end", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.leases.End(ctx, "task-1", "id-1", requestTime)
	}},

	{"task-read", responses("GetItem", `200 {"Item":{"lease":{"S":"{\"bastion_id\":\"id-1\",\"generation\":2,\"open\":true}"}}}`),
		func(ctx context.Context, a adapters) (any, error) { return a.task.Read(ctx) }},
	{"task-read-tombstone", responses("GetItem", `200 {"Item":{}}`), func(ctx context.Context, a adapters) (any, error) { return a.task.Read(ctx) }},
	{"task-read-invalid", responses("GetItem", `200 {"Item":{"lease":{"S":"{"}}}`), func(ctx context.Context, a adapters) (any, error) { return a.task.Read(ctx) }},
	{"task-report", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.task.Report(ctx, bastion.Report{Generation: 2, Connections: 1})
	}},
	{"task-report-refused", responses("UpdateItem", refused("ConditionalCheckFailedException")), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.task.Report(ctx, bastion.Report{Generation: 2})
	}},
	{"task-report-ending", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.task.Report(ctx, bastion.Report{Generation: 2, Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: 2}})
	}},
	{"task-report-ending-refused", map[string][]string{
		"UpdateItem": {refused("ConditionalCheckFailedException")}, "GetItem": {`200 {"Item":{"lease":{"S":"{}"}}}`},
	}, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.task.Report(ctx, bastion.Report{Generation: 2, Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: 2}})
	}},
	{"task-report-ending-after-tombstone", responses("UpdateItem", refused("ConditionalCheckFailedException")), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.task.Report(ctx, bastion.Report{Generation: 2, Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: 2}})
	}},

	{"item-fetch", responses("GetItem", `200 {"Item":{"value":{"B":"AQI="},"version":{"N":"7"},"expires_at":{"N":"1893553446"}}}`), fetchItem},
	{"item-fetch-without-expiry", responses("GetItem", `200 {"Item":{"value":{"B":"AQI="},"version":{"N":"7"}}}`), fetchItem},
	{"item-fetch-expired", responses("GetItem", `200 {"Item":{"value":{"B":"AQI="},"version":{"N":"7"},"expires_at":{"N":"1893553445"}}}`), fetchItem},
	{"item-fetch-missing", nil, fetchItem},
	{"item-fetch-invalid-version", responses("GetItem", `200 {"Item":{"value":{"B":"AQI="},"version":{"S":"7"}}}`), fetchItem},
	{"item-fetch-invalid-expiry", responses("GetItem", `200 {"Item":{"value":{"B":"AQI="},"version":{"N":"7"},"expires_at":{"S":"x"}}}`), fetchItem},
	{"item-write-first", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.items.Write(ctx, "k", 0, []byte{1, 2}, time.Time{})
	}},
	{"item-write-next", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.items.Write(ctx, "k", 7, nil, requestTime.Add(time.Hour))
	}},
	{"item-write-expiring-at-whole-second", nil, func(ctx context.Context, a adapters) (any, error) {
		return nil, a.items.Write(ctx, "k", 7, nil, requestTime.Truncate(time.Second))
	}},
	{"item-write-refused", responses("UpdateItem", refused("ConditionalCheckFailedException")), func(ctx context.Context, a adapters) (any, error) {
		return nil, a.items.Write(ctx, "k", 7, nil, time.Time{})
	}},
	{"item-delete", nil, func(ctx context.Context, a adapters) (any, error) { return nil, a.items.Delete(ctx, "k") }},
}

func responses(operation string, all ...string) map[string][]string {
	return map[string][]string{operation: all}
}

func later(rec *bastion.Record) { rec.CreatedAt = rec.CreatedAt.Add(time.Second) }

func fetchItem(ctx context.Context, a adapters) (any, error) {
	value, version, err := a.items.Fetch(ctx, "k")
	return fmt.Sprintf("%v, version %d", value, version), err
}

const storedLease = `{"task":{"S":"AROATASK:task-1"},"bastion":{"S":"id-1"},"lease":{"S":"{\"bastion_id\":\"id-1\",\"generation\":2,\"open\":true}"},"report":{"S":"{\"generation\":1}"}}`

// recordJSON returns a record's item in DynamoDB's JSON, with the attributes that a
// read uses. The document always says version 1: a read must use the version of the
// attribute.
func recordJSON(rec bastion.Record) string {
	version := rec.Version
	rec.Version = 1
	document, err := json.Marshal(rec)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"pk":{"S":"B#%s"},"sk":{"S":"record"},"version":{"N":"%d"},"record":{"S":%q}}`, rec.ID, version, document)
}

func storedRecord(rec bastion.Record) string { return `200 {"Item":` + recordJSON(rec) + `}` }

func TestRequests(t *testing.T) {
	for _, c := range requestCases {
		t.Run(c.name, func(t *testing.T) {
			a := &transcript{responses: map[string][]string{}}
			for operation, all := range c.responses {
				a.responses[operation] = slices.Clone(all)
			}
			result, err := c.call(t.Context(), newAdapters(a))
			got := outcome{Requests: a.requests, Error: errorName(err)}
			if err == nil {
				got.Result = result
			}
			if strings.HasPrefix(c.name, "due") { // the queries run concurrently
				slices.SortFunc(got.Requests, func(a, b dynamoRequest) int { return bytes.Compare(shard(t, a), shard(t, b)) })
			}
			checkGolden(t, filepath.Join("testdata", "requests", c.name+".json"), got)
			for operation, left := range a.responses {
				if len(left) > 0 {
					t.Errorf("%d responses of %s are not used", len(left), operation)
				}
			}
		})
	}
}

// shard returns the value of a query's first condition.
func shard(t *testing.T, r dynamoRequest) []byte {
	t.Helper()
	var query struct {
		ExpressionAttributeValues map[string]json.RawMessage
	}
	must(t, json.Unmarshal(r.Body, &query))
	return query.ExpressionAttributeValues[":shard"]
}

// checkGolden compares a value with a golden file of indented JSON with sorted keys.
func checkGolden(t *testing.T, file string, value any) {
	t.Helper()
	encoded, err := json.Marshal(value)
	must(t, err)
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	var sorted any
	must(t, decoder.Decode(&sorted))
	var got bytes.Buffer
	encoder := json.NewEncoder(&got)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	must(t, encoder.Encode(sorted))
	if *update {
		must(t, os.WriteFile(file, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s (%v): now\n%s", file, err, got.String())
	}
}

// Each golden file has a case, so that no file is left behind.
func TestEachGoldenRequestHasCase(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "requests", "*.json"))
	must(t, err)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if !slices.ContainsFunc(requestCases, func(c requestCase) bool { return c.name == name }) {
			t.Errorf("%s has no case", file)
		}
	}
	if len(files) != len(requestCases) {
		t.Errorf("%d files and %d cases", len(files), len(requestCases))
	}
}
