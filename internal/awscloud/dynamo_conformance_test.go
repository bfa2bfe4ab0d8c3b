//go:build conformance

package awscloud

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// smallPages has every list come in pages of three.
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

// BatchGetItem answers three at a time, as if the rest were too large.
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
	suite := func(t *testing.T, api LeasesAPI) cloudtest.LeasesHarness {
		leases, start := r.leases(t, api)
		return cloudtest.LeasesHarness{Leases: leases, Start: func(*testing.T) (string, bastion.TaskLease) { return start() }}
	}
	t.Run("Leases", func(t *testing.T) {
		cloudtest.Leases(t, r.allowedLeases)
	})
	t.Run("Leases in small pages", func(t *testing.T) {
		cloudtest.Leases(t, func(t *testing.T) cloudtest.LeasesHarness { return suite(t, smallPages{r.client(t, nil)}) })
	})
	t.Run("Items", func(t *testing.T) {
		cloudtest.Items(t, func(t *testing.T, now func() time.Time) cloudtest.Table { return r.items(t, r.client(t, nil), now) })
	})
}
