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

// RecordsAPI has the calls that [Store] makes.
type RecordsAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error)
	TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error)
}

// Store implements [bastion.Store] on the record table. The table's partition keys
// (pk), sort keys (sk) and items:
//
//	B#<id>     record       the record
//	O#<owner>  name#<name>  the id of the open bastion of that name
//	           list#<id>    a bastion that is not finished
//	           count        the number of the owner's open bastions
//	           key          the remembered public key
//	total      count        the number of all open bastions
//	marks      <orphan>     when the sweep first saw the orphan
//
// A record's item holds the record as one JSON document. Besides the document, the
// item has only the attributes that keys, indexes, conditions and the TTL use, and the
// nonces of the latest writes.
//
// A change of a record and the changes of names, counts and lists that follow from it
// are one transaction, on condition of the record's version. So the counts always
// agree with the records. Each create and each close writes the total, which is a
// single item. DynamoDB's transaction rate for one item therefore limits creates and
// closes, but it is far higher than the rate at which ECS starts tasks. A sharded
// counter would be faster, but the quota would not be exact. If two transactions on
// the total conflict, the client retries.
type Store struct {
	api     RecordsAPI
	table   string
	history time.Duration
	rand    io.Reader
}

var _ bastion.Store = (*Store)(nil)

// NewStore returns a store on a table with the schema [RecordsSchema]. A record expires
// when history has passed since it was finished. Nonces come from rand, which must be
// safe for concurrent use, as the reader of crypto/rand is.
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

// itemKey returns the key of an item.
func itemKey(partition, sort string) item {
	return item{keyPartition: text(partition), keySort: text(sort)}
}

func ownerPartition(owner string) string { return "O#" + owner }
func recordKey(id string) item           { return itemKey(recordPrefix+id, sortRecord) }
func nameKey(owner, name string) item    { return itemKey(ownerPartition(owner), "name#"+name) }
func listKey(owner, id string) item      { return itemKey(ownerPartition(owner), listPrefix+id) }

// idOf returns the bastion's id from the partition key of a record's item. It returns
// false for any other item.
func idOf(found item) (string, bool) {
	return strings.CutPrefix(toText(found[keyPartition]), recordPrefix)
}

// get returns one item; the read is strongly consistent. If there is no item, it
// returns ErrNotFound.
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

// maxID is a number of bytes that no id of a bastion reaches. For a longer id, Fetch
// returns ErrNotFound without a call, because DynamoDB rejects a partition key of more
// than 2 KB as invalid.
const maxID = 256

// Fetch returns the record with this id.
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

// FetchByName reads the bastion's id by the name, then the record by the id. If the
// bastion is closed between the two reads, FetchByName returns ErrNotFound, because
// no open bastion had the name at that moment.
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

// CountOpen reads the number of all open bastions.
func (s *Store) CountOpen(ctx context.Context) (int, error) {
	stored, err := s.get(ctx, itemKey(partTotal, sortCount))
	if errors.Is(err, bastion.ErrNotFound) { // no bastion was ever created
		return 0, nil
	}
	var open int64
	if err == nil {
		open, err = toNumber(stored[attOpen])
	}
	if err != nil {
		return 0, fmt.Errorf("count the open bastions: %w", err)
	}
	return int(open), nil
}

// maxBatch is the largest number of items that one BatchGetItem accepts.
const maxBatch = 100

// fetchUnfinished returns the records with these ids, oldest first; the reads are
// strongly consistent. It leaves out records that were finished meanwhile, and records
// that cannot be decoded. A record that cannot be decoded must not hide the others. It
// stays due, so the reaper reports it.
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

// fetchBatch returns the items of at most maxBatch records. One response holds at most
// 16 MB. If a response leaves out items, fetchBatch sends another request for them.
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
	dueAt string // see stamp
	id    string
}

// Due reads up to limit entries from each shard of the index, and returns the ids of
// the most overdue entries.
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
		return cmp.Or(cmp.Compare(a.dueAt, b.dueAt), cmp.Compare(a.id, b.id))
	})
	var ids []string
	for _, entry := range merged[:min(limit, len(merged))] {
		ids = append(ids, entry.id)
	}
	return ids, nil
}

// dueIn returns up to limit entries from one shard, the most overdue first.
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

// query runs a query page by page and calls visit with every item. It stops early if
// visit returns false.
func (s *Store) query(ctx context.Context, input dynamodb.QueryInput, visit func(item) bool) error {
	input.TableName = &s.table
	for {
		page, err := s.api.Query(ctx, &input)
		if err != nil {
			return opaque(err)
		}
		for _, found := range page.Items {
			if !visit(found) {
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
	remembered := itemKey(ownerPartition(owner), sortKey)
	remembered[attKey] = text(string(key))
	if _, err := s.api.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.table, Item: remembered}); err != nil {
		return fmt.Errorf("store the public key of %s: %w", owner, opaque(err))
	}
	return nil
}

// RememberedKey returns the owner's public key.
func (s *Store) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	stored, err := s.get(ctx, itemKey(ownerPartition(owner), sortKey))
	if err != nil {
		return "", fmt.Errorf("fetch the public key of %s: %w", owner, err)
	}
	return bastion.Key(toText(stored[attKey])), nil
}

// markLifetime is how long a mark is kept after a sweep last wrote it.
const markLifetime = 7 * 24 * time.Hour

// Mark stores the time at which the sweep saw an orphan, unless the orphan has a mark
// already. It returns the stored time and renews the mark's TTL.
func (s *Store) Mark(ctx context.Context, orphan string, seen time.Time) (time.Time, error) {
	out, err := s.api.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:                 &s.table,
		Key:                       itemKey(partMarks, orphan),
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

// Unmark deletes a mark. If there is none, it does nothing.
func (s *Store) Unmark(ctx context.Context, orphan string) error {
	_, err := s.api.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &s.table, Key: itemKey(partMarks, orphan)})
	if err != nil {
		return fmt.Errorf("unmark %s: %w", orphan, opaque(err))
	}
	return nil
}

// Marks lists the orphans that have a mark; the read is strongly consistent.
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
