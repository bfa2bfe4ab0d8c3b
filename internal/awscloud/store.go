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

// Store is the table of records, a [bastion.Store]. Its partitions (pk) and what
// sorts in them (sk):
//
//	B#<id>     record       the record, its version, the names of its latest writes
//	O#<owner>  name#<name>  the id of the open bastion of that name
//	           list#<id>    a bastion that is not finished
//	           count        how many are open
//	           key          the remembered key
//	total      count        how many are open, of all owners
//	marks      <orphan>     when the sweep first saw it
//
// What a record's change frees or takes is written in the same transaction as
// the record, whose version is the condition; so the counts cannot drift. The
// total is one item that every create and close writes. That is as many
// transactions a second as one item takes, far more than tasks can be started,
// and a quota that shards could only approximate. Those that meet there are
// repeated by the client, not reported.
type Store struct {
	api     RecordsAPI
	table   string
	history time.Duration
	rand    io.Reader
}

var _ bastion.Store = (*Store)(nil)

// NewStore makes a store on a table of [RecordsSchema]. A finished record stays
// for as long as history says. The names of writes come from rand, which must be
// safe for concurrent use, as crypto/rand's is.
func NewStore(api RecordsAPI, table string, history time.Duration, rand io.Reader) *Store {
	return &Store{api: api, table: table, history: history, rand: rand}
}

// The parts of keys, and the attributes beside those of the schema.
const (
	partTotal = "total"
	partMarks = "marks"

	sortRecord = "record"
	sortCount  = "count"
	sortKey    = "key"
	listPrefix = "list#"

	attRecord  = "record"
	attVersion = "version"
	attOpen    = "open"
	attID      = "id"
	attKey     = "key"
	attMarked  = "first_seen"
)

func at(partition, sort string) item {
	return item{keyPartition: text(partition), keySort: text(sort)}
}

func recordPartition(id string) string   { return "B#" + id }
func ownerPartition(owner string) string { return "O#" + owner }
func recordKey(id string) item           { return at(recordPartition(id), sortRecord) }
func nameKey(owner, name string) item    { return at(ownerPartition(owner), "name#"+name) }
func listKey(owner, id string) item      { return at(ownerPartition(owner), listPrefix+id) }

// get reads one item, strongly consistent; ErrNotFound if there is none.
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

// maxID is far longer than any id. DynamoDB refuses a key of 2 kB as malformed,
// where an id that somebody made up is just not found.
const maxID = 256

// Fetch reads the record of an id.
func (s *Store) Fetch(ctx context.Context, id string) (bastion.Record, error) {
	if len(id) > maxID {
		return bastion.Record{}, fmt.Errorf("fetch an id of %d bytes: %w", len(id), bastion.ErrNotFound)
	}
	stored, err := s.get(ctx, recordKey(id))
	if err != nil {
		return bastion.Record{}, fmt.Errorf("fetch %s: %w", id, err)
	}
	return decodeRecord(stored)
}

// FetchByName follows the pointer of a name. One that was closed between the two
// reads is not found: there was a moment when the name was free.
func (s *Store) FetchByName(ctx context.Context, owner, name string) (bastion.Record, error) {
	pointer, err := s.get(ctx, nameKey(owner, name))
	if err != nil {
		return bastion.Record{}, fmt.Errorf("fetch %q of %s: %w", name, owner, err)
	}
	rec, err := s.Fetch(ctx, toText(pointer[attID]))
	if err == nil && !rec.Intent.Open {
		err = fmt.Errorf("fetch %q of %s: %w", name, owner, bastion.ErrNotFound)
	}
	if err != nil {
		return bastion.Record{}, err
	}
	return rec, nil
}

// RememberKey replaces the remembered key.
func (s *Store) RememberKey(ctx context.Context, owner string, key bastion.Key) error {
	remembered := at(ownerPartition(owner), sortKey)
	remembered[attKey] = text(string(key))
	if _, err := s.api.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.table, Item: remembered}); err != nil {
		return fmt.Errorf("remember the key of %s: %w", owner, opaque(err))
	}
	return nil
}

// RememberedKey reads the remembered key.
func (s *Store) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	stored, err := s.get(ctx, at(ownerPartition(owner), sortKey))
	if err != nil {
		return "", fmt.Errorf("find the remembered key of %s: %w", owner, err)
	}
	return bastion.Key(toText(stored[attKey])), nil
}

// markLife is for how long a mark stays that no sweep has renewed.
const markLife = 7 * 24 * time.Hour

// Mark writes when the orphan was first seen, unless that is written already.
func (s *Store) Mark(ctx context.Context, orphan string, seen time.Time) (time.Time, error) {
	out, err := s.api.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName:        &s.table,
		Key:              at(partMarks, orphan),
		UpdateExpression: aws.String("SET " + attMarked + " = if_not_exists(" + attMarked + ", :seen), " + attExpiresAt + " = :expires"),
		ExpressionAttributeValues: values{
			":seen": text(toStamp(seen)), ":expires": number(toTTL(seen.Add(markLife))),
		},
		ReturnValues: types.ReturnValueAllNew,
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("mark %s: %w", orphan, opaque(err))
	}
	var d decoder
	first := d.time(attMarked, toText(out.Attributes[attMarked]))
	if d.err != nil {
		return time.Time{}, fmt.Errorf("decode the mark of %s: %w", orphan, d.err)
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

// Marks lists the marks, consistently.
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

// query hands every item that a query finds to each, page by page, until each
// has had enough.
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

// idOf is the id in a record's partition key.
func idOf(found item) (string, error) {
	id, ok := strings.CutPrefix(toText(found[keyPartition]), "B#")
	if !ok {
		return "", errors.New("an index holds something that is no record: " + toText(found[keyPartition]))
	}
	return id, nil
}

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
