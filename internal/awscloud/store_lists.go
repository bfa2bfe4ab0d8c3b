package awscloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// ListByOwner reads the owner's partition, and the records that it names.
func (s *Store) ListByOwner(ctx context.Context, owner string) ([]bastion.Record, error) {
	var ids []string
	err := s.query(ctx, dynamodb.QueryInput{
		KeyConditionExpression: aws.String(keyPartition + " = :owner AND begins_with(" + keySort + ", :list)"),
		ExpressionAttributeValues: values{
			":owner": text(ownerPartition(owner)), ":list": text(listPrefix),
		},
		ConsistentRead: aws.Bool(true),
	}, func(found item) bool {
		ids = append(ids, strings.TrimPrefix(toText(found[keySort]), listPrefix))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list the bastions of %s: %w", owner, err)
	}
	return s.unfinished(ctx, ids)
}

// List reads the index of what is not finished, and the records that it names.
func (s *Store) List(ctx context.Context) ([]bastion.Record, error) {
	ids, err := s.ids(ctx, dynamodb.QueryInput{
		IndexName:                 aws.String(indexUnfinished),
		KeyConditionExpression:    aws.String(attUnfinished + " = :yes"),
		ExpressionAttributeValues: values{":yes": text("yes")},
	})
	if err != nil {
		return nil, fmt.Errorf("list all bastions: %w", err)
	}
	return s.unfinished(ctx, ids)
}

// ids reads the ids in a page after page of an index.
func (s *Store) ids(ctx context.Context, input dynamodb.QueryInput) ([]string, error) {
	var ids []string
	var wrong error
	err := s.query(ctx, input, func(found item) bool {
		var id string
		id, wrong = idOf(found)
		ids = append(ids, id)
		return wrong == nil
	})
	return ids, errors.Join(err, wrong)
}

// maxBatch is how many items one BatchGetItem takes.
const maxBatch = 100

// unfinished reads the records of the ids, consistently, oldest first. Those that
// were finished meanwhile are left out.
func (s *Store) unfinished(ctx context.Context, ids []string) ([]bastion.Record, error) {
	var recs []bastion.Record
	for batch := range slices.Chunk(ids, maxBatch) {
		found, err := s.fetchBatch(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("fetch %d records: %w", len(batch), err)
		}
		for _, stored := range found {
			rec, err := decodeRecord(stored)
			if err != nil {
				return nil, err
			}
			if rec.FinishedAt.IsZero() {
				recs = append(recs, rec)
			}
		}
	}
	slices.SortFunc(recs, func(a, b bastion.Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return recs, nil
}

// fetchBatch asks until nothing is left over: one answer holds 16 MB at most.
func (s *Store) fetchBatch(ctx context.Context, ids []string) ([]item, error) {
	var keys []map[string]types.AttributeValue
	for _, id := range ids {
		keys = append(keys, recordKey(id))
	}
	left := map[string]types.KeysAndAttributes{s.table: {Keys: keys, ConsistentRead: aws.Bool(true)}}
	var found []item
	for len(left) > 0 {
		out, err := s.api.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: left})
		if err != nil {
			return nil, opaque(err)
		}
		found = append(found, out.Responses[s.table]...)
		left = out.UnprocessedKeys
	}
	return found, nil
}

// due is one entry of the index of due records.
type due struct {
	at string // a stamp
	id string
}

// Due asks every shard of the index for as many as the limit, and keeps the most
// overdue.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	var shards [dueShards][]due
	var errs [dueShards]error
	var all sync.WaitGroup
	for i := range shards {
		all.Go(func() { shards[i], errs[i] = s.dueIn(ctx, strconv.Itoa(i), now, limit) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("list what is due: %w", err)
	}
	merged := slices.Concat(shards[:]...)
	slices.SortFunc(merged, func(a, b due) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id))
	})
	var ids []string
	for _, one := range merged[:min(limit, len(merged))] {
		ids = append(ids, one.id)
	}
	return ids, nil
}

func (s *Store) dueIn(ctx context.Context, shard string, now time.Time, limit int) ([]due, error) {
	if limit <= 0 {
		return nil, nil
	}
	var found []due
	var wrong error
	err := s.query(ctx, dynamodb.QueryInput{
		IndexName:              aws.String(indexDue),
		KeyConditionExpression: aws.String(attDueShard + " = :shard AND " + attDueAt + " <= :now"),
		ExpressionAttributeValues: values{
			":shard": text(shard), ":now": text(now.UTC().Format(stampLayout)),
		},
		Limit: aws.Int32(int32(limit)),
	}, func(entry item) bool {
		var id string
		id, wrong = idOf(entry)
		found = append(found, due{toText(entry[attDueAt]), id})
		return wrong == nil && len(found) < limit
	})
	return found, errors.Join(err, wrong)
}
