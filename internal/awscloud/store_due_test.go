//go:build conformance

package awscloud

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// metered counts queries and what they consume.
type metered struct {
	*dynamodb.Client
	mu       *sync.Mutex
	requests *int
	units    *float64
}

func (m metered) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	asked := *in
	asked.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
	out, err := m.Client.Query(ctx, &asked, o...)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		*m.requests++
		*m.units += *out.ConsumedCapacity.CapacityUnits
	}
	return out, err
}

// What Due costs follows from what is due, not from what exists.
func TestDueCostsWhatIsDue(t *testing.T) {
	r := startDynamoDB(t)
	few, many := r.dueCost(t, 100, 100), r.dueCost(t, 10_000, 100)
	if few.requests != many.requests || math.Abs(few.units-many.units) > 0.05*few.units {
		t.Errorf("100 of 100 live: %+v; 100 of 10,000 live: %+v", few, many)
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
		t.Fatalf("%d are due, not %d", len(got), len(want))
	}
	t.Logf("%d live, %d due: %d requests, %.1f capacity units", live, overdue, c.requests, c.units)
	return c
}

// seed puts records into the table as they would be after their first write,
// without what stands beside them: ten thousand transactions take too long.
func (s *Store) seed(t *testing.T, client *dynamodb.Client, recs []bastion.Record) {
	t.Helper()
	for batch := range slices.Chunk(recs, 25) {
		var puts []types.WriteRequest
		for _, rec := range batch {
			puts = append(puts, types.WriteRequest{PutRequest: &types.PutRequest{Item: s.itemOf(t, rec)}})
		}
		for left := map[string][]types.WriteRequest{s.table: puts}; len(left) > 0; {
			out, err := client.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: left})
			must(t, err)
			left = out.UnprocessedItems
		}
	}
}

// itemOf is the item that the record's own update makes.
func (s *Store) itemOf(t *testing.T, rec bastion.Record) item {
	t.Helper()
	update, err := s.update(rec, "nonce", "", nil)
	must(t, err)
	whole := maps.Clone(update.Key)
	for placeholder, name := range update.ExpressionAttributeNames {
		if value, ok := update.ExpressionAttributeValues[":"+placeholder[1:]]; ok {
			whole[name] = value
		}
	}
	return whole
}

// countedBatches counts how often records were asked for.
type countedBatches struct {
	*dynamodb.Client
	batches *int
}

func (c countedBatches) BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	*c.batches++
	return c.Client.BatchGetItem(ctx, in, o...)
}

// A hundred records of 200 kB are more than the 16 MB of one answer.
func TestTwentyMegabytesOfRecords(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	batches := 0
	s := r.store(t, countedBatches{client, &batches})
	large := string(make([]byte, 200_000))
	const records = 100
	for n := range records {
		rec := newRecord("local:owner", fmt.Sprint("name-", n))
		rec.Intent.Reason = large
		must(t, s.Create(t.Context(), rec, plenty))
	}
	recs, err := s.ListByOwner(t.Context(), "local:owner")
	must(t, err)
	if len(recs) != records || batches < 2 {
		t.Errorf("%d of %d records in %d answers", len(recs), records, batches)
	}
}

// An index holds what it is asked for and nothing else, so that years of finished
// records cost nothing but their place.
func TestIndexesAreSparse(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	s := r.store(t, client)
	holds := func(stage string, due, unfinished int) {
		t.Helper()
		for index, want := range map[string]int{indexDue: due, indexUnfinished: unfinished} {
			out, err := client.Scan(t.Context(), &dynamodb.ScanInput{TableName: &s.table, IndexName: &index})
			must(t, err)
			if len(out.Items) != want {
				t.Errorf("%s: the index %s holds %v, not %d", stage, index, out.Items, want)
			}
		}
	}
	rec := newRecord("local:owner", "default")
	rec.DueAt = epoch
	must(t, s.Create(t.Context(), rec, plenty))
	holds("open and due", 1, 1)
	closed := changed(rec, func(r *bastion.Record) { closing(r); r.DueAt = time.Time{} })
	must(t, s.Replace(t.Context(), rec, closed))
	holds("closed and not due", 0, 1)
	finished := changed(closed, finishing)
	must(t, s.Replace(t.Context(), closed, finished))
	holds("finished", 0, 0)
}
