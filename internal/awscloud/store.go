package awscloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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

// RecordsAPI is what [Store] calls.
type RecordsAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error)
	TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error)
}

// Store is a [bastion.Store] on the record table. The table's partition keys (pk)
// and sort keys (sk):
//
//	B#<id>     record       the record
//	O#<owner>  name#<name>  the id of the open bastion of that name
//	           list#<id>    a bastion that is not finished
//	           count        the number of the owner's open bastions
//	           key          the remembered public key
//	total      count        the number of all open bastions
//	marks      <orphan>     when the sweep first saw the orphan
//
// A record's item holds the record as one JSON document. Other attributes beside
// it are only those that keys, indexes, conditions and the TTL use, and the nonces
// of the latest writes.
//
// A change of a record and the changes of names, counts and lists that follow from
// it are one transaction, on condition of the record's version. So the counts
// cannot drift. Each create and close writes the total, which is a single item.
// That limits both to the transaction rate of one item, which is far more than the
// rate at which tasks can be started, and it keeps the quota exact, which a sharded
// counter would not. The client retries transactions that collide there.
type Store struct {
	api     RecordsAPI
	table   string
	history time.Duration
	rand    io.Reader
}

var _ bastion.Store = (*Store)(nil)

// NewStore returns a store on a table of [RecordsSchema]. A finished record expires
// after history. Nonces come from rand, which must be safe for concurrent use, as
// the reader of crypto/rand is.
func NewStore(api RecordsAPI, table string, history time.Duration, rand io.Reader) *Store {
	return &Store{api: api, table: table, history: history, rand: rand}
}

// Parts of keys, and the attributes that are not in the schema.
const (
	partTotal = "total"
	partMarks = "marks"

	recordPrefix = "B#"
	sortRecord   = "record"
	sortCount    = "count"
	sortKey      = "key"
	listPrefix   = "list#"

	attRecord  = "record" // the document
	attVersion = "version"
	attOpen    = "open"
	attID      = "id"
	attKey     = "key"
	attMarked  = "first_seen"
)

func at(partition, sort string) item {
	return item{keyPartition: text(partition), keySort: text(sort)}
}

func ownerPartition(owner string) string { return "O#" + owner }
func recordKey(id string) item           { return at(recordPrefix+id, sortRecord) }
func nameKey(owner, name string) item    { return at(ownerPartition(owner), "name#"+name) }
func listKey(owner, id string) item      { return at(ownerPartition(owner), listPrefix+id) }

// idOf returns the bastion's id from a record's partition key, and false for any
// other key.
func idOf(found item) (string, bool) {
	return strings.CutPrefix(toText(found[keyPartition]), recordPrefix)
}

// get reads one item with strong consistency. It returns ErrNotFound if there is
// none.
func (s *Store) get(ctx context.Context, key item) (item, error) {
	out, err := s.api.GetItem(ctx, &dynamodb.GetItemInput{TableName: &s.table, Key: key, ConsistentRead: aws.Bool(true)})
	switch {
	case err != nil:
		return nil, opaque(err)
	case len(out.Item) == 0:
		return nil, bastion.ErrNotFound
	}
	return out.Item, nil
}

// maxID is far longer than any id. DynamoDB rejects a key of 2 KB as malformed,
// but an unknown id must always be not found.
const maxID = 256

// Fetch reads the record of an id.
func (s *Store) Fetch(ctx context.Context, id string) (bastion.Record, error) {
	if len(id) > maxID {
		return bastion.Record{}, fmt.Errorf("fetch record with an id of %d bytes: %w", len(id), bastion.ErrNotFound)
	}
	stored, err := s.get(ctx, recordKey(id))
	if err != nil {
		return bastion.Record{}, fmt.Errorf("fetch record %s: %w", id, err)
	}
	return decodeRecord(stored)
}

// FetchByName reads the id of a name, then the record. If the bastion is closed
// between the two reads, it returns ErrNotFound, because the name was free then.
func (s *Store) FetchByName(ctx context.Context, owner, name string) (bastion.Record, error) {
	pointer, err := s.get(ctx, nameKey(owner, name))
	if err != nil {
		return bastion.Record{}, fmt.Errorf("fetch bastion %q of %s: %w", name, owner, err)
	}
	rec, err := s.Fetch(ctx, toText(pointer[attID]))
	if err == nil && !rec.Intent.Open {
		err = fmt.Errorf("fetch bastion %q of %s: %w", name, owner, bastion.ErrNotFound)
	}
	if err != nil {
		return bastion.Record{}, err
	}
	return rec, nil
}

// ListByOwner reads the list entries in the owner's partition, then their records.
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
	return s.fetchUnfinished(ctx, ids)
}

// List reads the index of unfinished records, then the records.
func (s *Store) List(ctx context.Context) ([]bastion.Record, error) {
	var ids []string
	err := s.query(ctx, dynamodb.QueryInput{
		IndexName:                 aws.String(indexUnfinished),
		KeyConditionExpression:    aws.String(attUnfinished + " = :yes"),
		ExpressionAttributeValues: values{":yes": text("yes")},
	}, func(entry item) bool {
		if id, ok := idOf(entry); ok {
			ids = append(ids, id)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list all bastions: %w", err)
	}
	return s.fetchUnfinished(ctx, ids)
}

// maxBatch is the most items that one BatchGetItem accepts.
const maxBatch = 100

// fetchUnfinished reads the records of the ids with strong consistency and returns
// them oldest first. It leaves out those that were finished meanwhile, and those
// that cannot be decoded: one such record must not hide the others, and the reaper
// reports it, because it stays due.
func (s *Store) fetchUnfinished(ctx context.Context, ids []string) ([]bastion.Record, error) {
	var recs []bastion.Record
	for batch := range slices.Chunk(ids, maxBatch) {
		found, err := s.fetchBatch(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("fetch %d records: %w", len(batch), err)
		}
		for _, stored := range found {
			if rec, err := decodeRecord(stored); err == nil && rec.FinishedAt.IsZero() {
				recs = append(recs, rec)
			}
		}
	}
	slices.SortFunc(recs, func(a, b bastion.Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return recs, nil
}

// fetchBatch repeats the request for items that DynamoDB left out: one response
// holds at most 16 MB.
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

// dueEntry is one entry of the index of due records.
type dueEntry struct {
	at string // a stamp
	id string
}

// Due reads up to limit entries from each shard of the index and returns the most
// overdue ones.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	var shards [dueShards][]dueEntry
	var errs [dueShards]error
	var all sync.WaitGroup
	for i := range shards {
		all.Go(func() { shards[i], errs[i] = s.dueIn(ctx, strconv.Itoa(i), now, limit) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("list due records: %w", err)
	}
	merged := slices.Concat(shards[:]...)
	slices.SortFunc(merged, func(a, b dueEntry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id))
	})
	var ids []string
	for _, entry := range merged[:min(limit, len(merged))] {
		ids = append(ids, entry.id)
	}
	return ids, nil
}

func (s *Store) dueIn(ctx context.Context, shard string, now time.Time, limit int) ([]dueEntry, error) {
	if limit <= 0 {
		return nil, nil
	}
	var found []dueEntry
	err := s.query(ctx, dynamodb.QueryInput{
		IndexName:                 aws.String(indexDue),
		KeyConditionExpression:    aws.String(attDueShard + " = :shard AND " + attDueAt + " <= :now"),
		ExpressionAttributeValues: values{":shard": text(shard), ":now": stamp(now)},
		Limit:                     aws.Int32(int32(limit)),
	}, func(entry item) bool {
		if id, ok := idOf(entry); ok {
			found = append(found, dueEntry{toText(entry[attDueAt]), id})
		}
		return len(found) < limit
	})
	return found, err
}

// query calls each with every item that a query finds, page by page, until each
// returns false.
func (s *Store) query(ctx context.Context, input dynamodb.QueryInput, each func(item) bool) error {
	input.TableName = &s.table
	for {
		page, err := s.api.Query(ctx, &input)
		if err != nil {
			return opaque(err)
		}
		for _, found := range page.Items {
			if !each(found) {
				return nil
			}
		}
		if len(page.LastEvaluatedKey) == 0 {
			return nil
		}
		input.ExclusiveStartKey = page.LastEvaluatedKey
	}
}

// RememberKey stores the owner's public key.
func (s *Store) RememberKey(ctx context.Context, owner string, key bastion.Key) error {
	remembered := at(ownerPartition(owner), sortKey)
	remembered[attKey] = text(string(key))
	if _, err := s.api.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.table, Item: remembered}); err != nil {
		return fmt.Errorf("store the public key of %s: %w", owner, opaque(err))
	}
	return nil
}

// RememberedKey reads the owner's public key.
func (s *Store) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	stored, err := s.get(ctx, at(ownerPartition(owner), sortKey))
	if err != nil {
		return "", fmt.Errorf("fetch the public key of %s: %w", owner, err)
	}
	return bastion.Key(toText(stored[attKey])), nil
}

// markLifetime is how long a mark stays after a sweep last wrote it.
const markLifetime = 7 * 24 * time.Hour

// Mark stores when the sweep first saw an orphan, and keeps an earlier time.
func (s *Store) Mark(ctx context.Context, orphan string, seen time.Time) (time.Time, error) {
	out, err := s.api.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:                 &s.table,
		Key:                       at(partMarks, orphan),
		UpdateExpression:          aws.String("SET " + attMarked + " = if_not_exists(" + attMarked + ", :seen), " + attExpiresAt + " = :expires"),
		ExpressionAttributeValues: values{":seen": stamp(seen), ":expires": ttl(seen.Add(markLifetime))},
		ReturnValues:              types.ReturnValueAllNew,
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("mark %s: %w", orphan, opaque(err))
	}
	first, err := time.Parse(stampLayout, toText(out.Attributes[attMarked]))
	if err != nil {
		return time.Time{}, fmt.Errorf("decode the mark of %s: %w", orphan, err)
	}
	return first, nil
}

// Unmark deletes a mark, if there is one.
func (s *Store) Unmark(ctx context.Context, orphan string) error {
	_, err := s.api.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &s.table, Key: at(partMarks, orphan)})
	if err != nil {
		return fmt.Errorf("unmark %s: %w", orphan, opaque(err))
	}
	return nil
}

// Marks lists the marked orphans with strong consistency.
func (s *Store) Marks(ctx context.Context) ([]string, error) {
	var orphans []string
	err := s.query(ctx, dynamodb.QueryInput{
		KeyConditionExpression:    aws.String(keyPartition + " = :marks"),
		ExpressionAttributeValues: values{":marks": text(partMarks)},
		ConsistentRead:            aws.Bool(true),
	}, func(found item) bool {
		orphans = append(orphans, toText(found[keySort]))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list marks: %w", err)
	}
	return orphans, nil
}
