package awscloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
