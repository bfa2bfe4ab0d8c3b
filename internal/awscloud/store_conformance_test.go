//go:build conformance

package awscloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// losing is a transport that loses the response to the next request of an operation,
// after the request took effect. meanwhile runs before the client retries.
type losing struct {
	next      http.RoundTripper
	operation atomic.Value // string; "" for none
	meanwhile func()
	lost      atomic.Int64
}

func (l *losing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	_, operation, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	if err != nil || !l.operation.CompareAndSwap(operation, "") {
		return resp, err
	}
	l.lost.Add(1)
	if l.meanwhile != nil {
		l.meanwhile()
	}
	return nil, lose(resp)
}

// lose discards a response and returns the error of a reset connection.
func lose(resp *http.Response) error {
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
}

// losingClient returns a client on a losing transport.
func (r dynamo) losingClient(t *testing.T) (*dynamodb.Client, *losing) {
	l := &losing{}
	l.operation.Store("")
	return r.client(t, func(next http.RoundTripper) http.RoundTripper { l.next = next; return l }), l
}

// These functions change a record; changed calls them.

func nothing(*bastion.Record)                 {}
func closing(rec *bastion.Record)             { rec.Intent.Open = false }
func finishing(rec *bastion.Record)           { rec.FinishedAt = epoch }
func closingAndFinishing(rec *bastion.Record) { closing(rec); finishing(rec) }
func withReason(reason string) func(*bastion.Record) {
	return func(rec *bastion.Record) { rec.Intent.Reason = reason }
}

var plenty = bastion.Quota{PerOwner: 1000, Total: 100_000}

func TestRecordWriteIsRetriedAfterLostResponse(t *testing.T) {
	r := startDynamoDB(t)
	const owner = "local:owner"
	replaced := func(changes ...func(*bastion.Record)) func(*testing.T, *Store, *bastion.Record) {
		return func(t *testing.T, s *Store, rec *bastion.Record) {
			for _, change := range changes {
				next := changed(*rec, change)
				must(t, s.Replace(t.Context(), *rec, next))
				*rec = next
			}
		}
	}
	for name, c := range map[string]struct {
		before    []func(*bastion.Record) // changes before the write; nil if the write is Create
		operation string
		change    func(*bastion.Record)
		meanwhile func(*testing.T, *Store, *bastion.Record) // writes of another caller
		open      int
	}{
		"create":                 {operation: "TransactWriteItems", open: 1},
		"create, then change":    {operation: "TransactWriteItems", meanwhile: replaced(withReason("other")), open: 1},
		"create, then close":     {operation: "TransactWriteItems", meanwhile: replaced(closing, finishing)},
		"change":                 {before: changes(nothing), operation: "UpdateItem", change: withReason("mine"), open: 1},
		"change, then change":    {before: changes(nothing), operation: "UpdateItem", change: withReason("mine"), meanwhile: replaced(withReason("other")), open: 1},
		"change, then change 7×": {before: changes(nothing), operation: "UpdateItem", change: withReason("mine"), meanwhile: replaced(changes(nothing, nothing, nothing, nothing, nothing, nothing, nothing)...), open: 1},
		"change, then close":     {before: changes(nothing), operation: "UpdateItem", change: withReason("mine"), meanwhile: replaced(closing)},
		"close":                  {before: changes(nothing), operation: "TransactWriteItems", change: closing},
		"close, then finish":     {before: changes(nothing), operation: "TransactWriteItems", change: closing, meanwhile: replaced(finishing)},
		"finish":                 {before: changes(closing), operation: "TransactWriteItems", change: finishing},
		"close and finish":       {before: changes(nothing), operation: "TransactWriteItems", change: closingAndFinishing},
	} {
		t.Run(name, func(t *testing.T) {
			client, losing := r.losingClient(t)
			s := r.store(t, client)
			rec := newRecord(owner, "default")
			want := rec
			if c.before != nil {
				must(t, s.Create(t.Context(), rec, plenty))
				replaced(c.before...)(t, s, &rec)
				want = changed(rec, c.change)
			}
			next := want
			losing.meanwhile = func() {
				if c.meanwhile != nil {
					c.meanwhile(t, s, &want)
				}
			}
			losing.operation.Store(c.operation)
			if c.before == nil {
				must(t, s.Create(t.Context(), next, plenty))
			} else {
				must(t, s.Replace(t.Context(), rec, next))
			}
			if n := losing.lost.Load(); n != 1 {
				t.Fatalf("%d responses were lost, want 1", n)
			}
			got, err := s.Fetch(t.Context(), rec.ID)
			if must(t, err); got.Version != want.Version || got.Intent.Reason != want.Intent.Reason {
				t.Errorf("the record is %+v, want %+v", got, want)
			}
			checkTable(t, r, s, c.open)
		})
	}
}

func changes(all ...func(*bastion.Record)) []func(*bastion.Record) { return all }

// If a request is lost before it takes effect, and another caller makes the same
// change, the retry must return ErrConflict.
func TestRecordWriteIsConflictAfterLostRequest(t *testing.T) {
	r := startDynamoDB(t)
	for name, change := range map[string]func(*bastion.Record){"change": withReason("same"), "close": closing} {
		t.Run(name, func(t *testing.T) {
			s := r.store(t, r.client(t, nil))
			rec := newRecord("local:owner", "default")
			must(t, s.Create(t.Context(), rec, plenty))
			other := NewStore(r.client(t, func(next http.RoundTripper) http.RoundTripper {
				return &neverSent{next: next, meanwhile: func() { must(t, s.Replace(t.Context(), rec, changed(rec, change))) }}
			}), s.table, history, s.rand)
			if err := other.Replace(t.Context(), rec, changed(rec, change)); !errors.Is(err, bastion.ErrConflict) {
				t.Errorf("%v, want %v", err, bastion.ErrConflict)
			}
		})
	}
}

// neverSent is a transport that loses the first request: it calls meanwhile, and does not
// send the request.
type neverSent struct {
	next      http.RoundTripper
	once      sync.Once
	meanwhile func()
}

func (n *neverSent) RoundTrip(req *http.Request) (*http.Response, error) {
	lost := false
	n.once.Do(func() { n.meanwhile(); lost = true })
	if lost {
		return nil, &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n.next.RoundTrip(req)
}

// flaky is a transport that loses every third response.
type flaky struct {
	next http.RoundTripper
	n    atomic.Int64
}

func (f *flaky) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(req)
	if err == nil && f.n.Add(1)%3 == 0 {
		return nil, lose(resp)
	}
	return resp, err
}

// Counts, names and list entries must agree with the records even if responses are lost
// and many callers write at once.
func TestCountsNamesAndListsAgreeWithRecords(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, func(next http.RoundTripper) http.RoundTripper { return &flaky{next: next} })
	s := r.store(t, client)
	var all sync.WaitGroup
	var open atomic.Int64
	for i := range 16 {
		all.Go(func() {
			owner := fmt.Sprint("local:owner-", i%4)
			for n := range 6 {
				rec := newRecord(owner, fmt.Sprint("name-", n%2))
				err := s.Create(t.Context(), rec, bastion.Quota{PerOwner: 2, Total: 6})
				if errors.Is(err, bastion.ErrNameTaken) || errors.Is(err, bastion.ErrQuotaTotal) || errors.Is(err, bastion.ErrQuotaOwner) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				open.Add(1)
				for step, change := range changes(nothing, closing, finishing)[:1+(i+n)%3] {
					next := changed(rec, change)
					if err := s.Replace(t.Context(), rec, next); err != nil {
						t.Errorf("step %d: %v", step, err)
						return
					}
					if rec.Intent.Open && !next.Intent.Open {
						open.Add(-1)
					}
					rec = next
				}
			}
		})
	}
	all.Wait()
	checkTable(t, r, s, int(open.Load()))
}

// checkTable compares all counts, names and list entries with the records.
func checkTable(t *testing.T, r dynamo, s *Store, open int) {
	t.Helper()
	got, want := map[string]string{}, map[string]string{}
	counts := map[string]int{partTotal: 0}
	client := r.client(t, nil)
	out, err := client.Scan(t.Context(), &dynamodb.ScanInput{TableName: &s.table, ConsistentRead: aws.Bool(true)})
	must(t, err)
	for _, stored := range out.Items {
		place := toText(stored[keyPartition]) + " " + toText(stored[keySort])
		switch toText(stored[keySort]) {
		case sortRecord:
			rec, err := decodeRecord(stored)
			must(t, err)
			if counts[ownerPartition(rec.Owner)] += 0; rec.Intent.Open {
				want[ownerPartition(rec.Owner)+" name#"+rec.Name] = rec.ID
				counts[ownerPartition(rec.Owner)]++
				counts[partTotal]++
			}
			if rec.FinishedAt.IsZero() {
				want[ownerPartition(rec.Owner)+" "+listPrefix+rec.ID] = ""
			}
		case sortCount:
			got[place] = numberIn(t, stored[attOpen])
		default:
			got[place] = toText(stored[attID])
		}
	}
	for partition, n := range counts {
		want[partition+" "+sortCount] = fmt.Sprint(n)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("besides the records, the table has\n%v, want\n%v", got, want)
	}
	if counts[partTotal] != open {
		t.Errorf("%d records are open, want %d", counts[partTotal], open)
	}
}

// metered counts queries and their capacity units.
type metered struct {
	*dynamodb.Client
	mu       *sync.Mutex
	requests *int
	units    *float64
}

func (m metered) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	query := *in
	query.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
	out, err := m.Client.Query(ctx, &query, o...)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		*m.requests++
		*m.units += *out.ConsumedCapacity.CapacityUnits
	}
	return out, err
}

// The cost of Due depends on how many records are due, not on how many exist.
func TestCostOfDueDependsOnDueRecords(t *testing.T) {
	r := startDynamoDB(t)
	few, many := r.dueCost(t, 100, 100), r.dueCost(t, 10_000, 100)
	if few.requests != many.requests || math.Abs(few.units-many.units) > 0.05*few.units {
		t.Errorf("100 due of 100: %+v; 100 due of 10,000: %+v", few, many)
	}
}

type cost struct {
	requests int
	units    float64
}

func (r dynamo) dueCost(t *testing.T, live, overdue int) cost {
	t.Helper()
	var c cost
	client := r.client(t, nil)
	s := r.store(t, metered{client, &sync.Mutex{}, &c.requests, &c.units})
	now := epoch
	var want []string
	var recs []bastion.Record
	for n := range live {
		rec := newRecord("local:owner", fmt.Sprint("name-", n))
		rec.ID = fmt.Sprintf("cost%012d", n)
		rec.DueAt = now.Add(time.Duration(n-overdue+1) * time.Second)
		if n < overdue {
			want = append(want, rec.ID)
		}
		recs = append(recs, rec)
	}
	s.seed(t, client, recs)
	got, err := s.Due(t.Context(), now, 200)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Fatalf("%d records are due, want %d", len(got), len(want))
	}
	t.Logf("%d live, %d due: %d requests, %.1f capacity units", live, overdue, c.requests, c.units)
	return c
}

// seed writes the items of records, without their names, counts and list entries. It
// uses no transactions, because ten thousand of them would take too long.
func (s *Store) seed(t *testing.T, client *dynamodb.Client, recs []bastion.Record) {
	t.Helper()
	for batch := range slices.Chunk(recs, 25) {
		var puts []types.WriteRequest
		for _, rec := range batch {
			puts = append(puts, types.WriteRequest{PutRequest: &types.PutRequest{Item: recordItem(t, rec)}})
		}
		for left := map[string][]types.WriteRequest{s.table: puts}; len(left) > 0; {
			out, err := client.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: left})
			must(t, err)
			left = out.UnprocessedItems
		}
	}
}

// countedBatches counts calls of BatchGetItem.
type countedBatches struct {
	*dynamodb.Client
	batches *int
}

func (c countedBatches) BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	*c.batches++
	return c.Client.BatchGetItem(ctx, in, o...)
}

// One response holds at most 16 MB, so the records take at least two.
func TestListOfTwentyMegabytes(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	batches := 0
	s := r.store(t, countedBatches{client, &batches})
	large := strings.Repeat("x", 200_000)
	const records = 100
	for n := range records {
		rec := newRecord("local:owner", fmt.Sprint("name-", n))
		rec.Intent.Reason = large
		must(t, s.Create(t.Context(), rec, plenty))
	}
	recs, err := s.ListByOwner(t.Context(), "local:owner")
	must(t, err)
	if len(recs) != records || batches < 2 {
		t.Errorf("%d of %d records in %d responses", len(recs), records, batches)
	}
}

// Finished records are in no index, so they cost storage only.
func TestIndexesAreSparse(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	s := r.store(t, client)
	checkIndexes := func(stage string, due, unfinished int) {
		t.Helper()
		for index, want := range map[string]int{indexDue: due, indexUnfinished: unfinished} {
			out, err := client.Scan(t.Context(), &dynamodb.ScanInput{TableName: &s.table, IndexName: &index})
			must(t, err)
			if len(out.Items) != want {
				t.Errorf("%s: index %s holds %v, want %d", stage, index, out.Items, want)
			}
		}
	}
	rec := newRecord("local:owner", "default")
	rec.DueAt = epoch
	must(t, s.Create(t.Context(), rec, plenty))
	checkIndexes("open and due", 1, 1)
	closed := changed(rec, func(r *bastion.Record) { closing(r); r.DueAt = time.Time{} })
	must(t, s.Replace(t.Context(), rec, closed))
	checkIndexes("closed and not due", 0, 1)
	finished := changed(closed, finishing)
	must(t, s.Replace(t.Context(), closed, finished))
	checkIndexes("finished", 0, 0)
}

// A record that cannot be decoded must not hide other records in lists. Fetch and
// FetchByName return an error for it. It stays due, so the reaper reports it.
func TestListsLeaveOutRecordThatCannotBeDecoded(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	s := r.store(t, client)
	const owner = "local:owner"
	broken, intact := newRecord(owner, "broken"), newRecord(owner, "intact")
	for _, rec := range []bastion.Record{broken, intact} {
		rec.DueAt = epoch
		must(t, s.Create(t.Context(), rec, plenty))
	}
	e := newEdit()
	e.set(attRecord, text(`{"id":"`+broken.ID+`","intent":{"open":true,"source":"everywhere"}}`))
	_, err := client.UpdateItem(t.Context(), e.update(s.table, recordKey(broken.ID), "attribute_exists(#record)"))
	must(t, err)
	for name, list := range map[string]func() ([]bastion.Record, error){
		"ListByOwner": func() ([]bastion.Record, error) { return s.ListByOwner(t.Context(), owner) },
		"List":        func() ([]bastion.Record, error) { return s.List(t.Context()) },
	} {
		if recs, err := list(); err != nil || len(recs) != 1 || recs[0].ID != intact.ID {
			t.Errorf("%s: %+v, %v", name, recs, err)
		}
	}
	if due, err := s.Due(t.Context(), epoch, 10); err != nil || len(due) != 2 {
		t.Errorf("due: %q, %v", due, err)
	}
	if rec, err := s.Fetch(t.Context(), broken.ID); err == nil || errors.Is(err, bastion.ErrNotFound) {
		t.Errorf("fetched %+v, %v", rec, err)
	}
	if rec, err := s.FetchByName(t.Context(), owner, "broken"); err == nil || errors.Is(err, bastion.ErrNotFound) {
		t.Errorf("fetched by name %+v, %v", rec, err)
	}
}
