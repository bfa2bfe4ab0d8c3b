package awscloud

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// If the response to a write is lost, the SDK sends the write again. If the first
// attempt took effect, the condition of the second attempt fails: the version is not
// the expected one, or the name is in use. The condition fails in the same way if
// another caller has written the item. To tell these cases apart, each write stores a
// nonce, and an item keeps the nonces of its latest writes. If a write is refused and
// the item has the nonce of this write, the write took effect. A transaction also uses
// the nonce as its ClientRequestToken.

// noncesKept is how many nonces an item keeps. If a write is retried after that many
// other writes, the retry returns an error such as ErrConflict although the write took
// effect.
const noncesKept = 8

// nonceAttribute returns the name of the attribute that stores the nonce of the write
// with this version.
func nonceAttribute(version int64) string { return fmt.Sprintf("write_%d", version%noncesKept) }

// tookEffect reports whether the write of this version with this nonce is among the
// latest writes of a stored item.
func tookEffect(stored item, version int64, nonce string) bool {
	return toText(stored[nonceAttribute(version)]) == nonce
}

// Create writes the record, its name, its counts and its list entry in one
// transaction.
func (s *Store) Create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	if err := s.create(ctx, rec, quota); err != nil {
		return fmt.Errorf("create record %s, %q of %s: %w", rec.ID, rec.Name, rec.Owner, err)
	}
	return nil
}

// createErrors has the error for each action of create whose condition can fail, in the
// order of the actions.
var createErrors = []error{bastion.ErrNameTaken, bastion.ErrQuotaOwner, bastion.ErrQuotaTotal, bastion.ErrConflict}

// createRecordIndex is the index of the action that writes the record.
const createRecordIndex = 3

func (s *Store) create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	if rec.Version != 1 || !rec.Intent.Open || !rec.FinishedAt.IsZero() {
		return fmt.Errorf("version %d, open %t, finished %t: a new record must be open and unfinished, and have version 1",
			rec.Version, rec.Intent.Open, !rec.FinishedAt.IsZero())
	}
	nonce, err := newNonce(s.rand)
	if err != nil {
		return err
	}
	const absent = "attribute_not_exists(" + keyPartition + ")"
	record, err := s.recordUpdate(rec, nonce, absent, nil)
	if err != nil {
		return err
	}
	name := nameKey(rec.Owner, rec.Name)
	name[attID] = text(rec.ID)
	_, err = s.api.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
		ClientRequestToken: &nonce,
		TransactItems: []types.TransactWriteItem{
			{Put: &types.Put{TableName: &s.table, Item: name, ConditionExpression: aws.String(absent)}},
			{Update: s.increment(ownerPartition(rec.Owner), quota.PerOwner)},
			{Update: s.increment(partTotal, quota.Total)},
			{Update: asAction(record)},
			{Put: &types.Put{TableName: &s.table, Item: listKey(rec.Owner, rec.ID)}},
		},
	})
	reasons := cancellationReasons(err)
	switch {
	case err == nil:
		return nil
	case len(reasons) > createRecordIndex && tookEffect(reasons[createRecordIndex].Item, rec.Version, nonce):
		return nil
	}
	if known := createError(reasons); known != nil {
		return known
	}
	return opaque(err)
}

// createError returns the error for the first action that failed. If that action failed
// for a reason other than its condition, createError returns nil. DynamoDB may not have
// evaluated that condition, so it is not known which error of createErrors is right.
func createError(reasons []types.CancellationReason) error {
	for i, known := range createErrors[:min(len(reasons), len(createErrors))] {
		switch aws.ToString(reasons[i].Code) {
		case reasonNone:
		case reasonCondition:
			return known
		default:
			return nil
		}
	}
	return nil
}

// increment returns the action that adds one to a count of open bastions, on condition
// that the count is below the quota. A count that does not exist yet is 0.
func (s *Store) increment(partition string, quota int) *types.Update {
	condition := "#open < :quota"
	if quota > 0 {
		condition = "attribute_not_exists(#open) OR " + condition
	}
	return &types.Update{
		TableName:                 &s.table,
		Key:                       itemKey(partition, sortCount),
		UpdateExpression:          aws.String("ADD #open :one"),
		ConditionExpression:       &condition,
		ExpressionAttributeNames:  map[string]string{"#open": attOpen},
		ExpressionAttributeValues: values{":one": number(1), ":quota": number(int64(quota))},
	}
}

// decrement returns the action that subtracts one from a count of open bastions. It has
// no condition: the condition on the record, in the same transaction, ensures that the
// bastion was counted.
func (s *Store) decrement(partition string) *types.Update {
	return &types.Update{
		TableName:                 &s.table,
		Key:                       itemKey(partition, sortCount),
		UpdateExpression:          aws.String("ADD #open :minus_one"),
		ExpressionAttributeNames:  map[string]string{"#open": attOpen},
		ExpressionAttributeValues: values{":minus_one": number(-1)},
	}
}

// Replace writes the record. If next closes the bastion, the same transaction frees
// its name and reduces the counts. If next finishes it, the same transaction removes
// its list entry.
func (s *Store) Replace(ctx context.Context, prev, next bastion.Record) error {
	if err := s.replace(ctx, prev, next); err != nil {
		return fmt.Errorf("replace version %d of record %s: %w", prev.Version, prev.ID, err)
	}
	return nil
}

func (s *Store) replace(ctx context.Context, prev, next bastion.Record) error {
	if err := checkSuccessor(prev, next); err != nil {
		return err
	}
	nonce, err := newNonce(s.rand)
	if err != nil {
		return err
	}
	record, err := s.recordUpdate(next, nonce, "#"+attVersion+" = :prev", values{":prev": number(prev.Version)})
	if err != nil {
		return err
	}
	stored, refused, err := s.send(ctx, record, s.releases(prev, next), nonce)
	switch {
	case !refused:
		return err
	case tookEffect(stored, next.Version, nonce):
		return nil
	}
	return bastion.ErrConflict
}

// checkSuccessor returns an error if next cannot be the version that follows prev. It
// does not look at the stored record.
func checkSuccessor(prev, next bastion.Record) error {
	switch {
	case next.Version != prev.Version+1:
		return fmt.Errorf("the new record has version %d instead of %d", next.Version, prev.Version+1)
	case next.ID != prev.ID || next.Owner != prev.Owner || next.Name != prev.Name:
		return fmt.Errorf("a record cannot change its id, owner or name: next has %s, %s, %q", next.ID, next.Owner, next.Name)
	case next.Intent.Open && !prev.Intent.Open:
		return errors.New("a closed record cannot be opened")
	case next.FinishedAt.IsZero() && !prev.FinishedAt.IsZero():
		return errors.New("a finished record cannot become unfinished")
	}
	return nil
}

// releases returns the actions that belong in the same transaction as next. If next
// closes the bastion, they free its name and reduce the counts. If next finishes the
// bastion, they delete its list entry.
func (s *Store) releases(prev, next bastion.Record) []types.TransactWriteItem {
	var actions []types.TransactWriteItem
	if prev.Intent.Open && !next.Intent.Open {
		actions = append(actions,
			types.TransactWriteItem{Delete: &types.Delete{TableName: &s.table, Key: nameKey(next.Owner, next.Name)}},
			types.TransactWriteItem{Update: s.decrement(ownerPartition(next.Owner))},
			types.TransactWriteItem{Update: s.decrement(partTotal)})
	}
	if prev.FinishedAt.IsZero() && !next.FinishedAt.IsZero() {
		actions = append(actions,
			types.TransactWriteItem{Delete: &types.Delete{TableName: &s.table, Key: listKey(next.Owner, next.ID)}})
	}
	return actions
}

// send writes the record, in a transaction if there are more actions. If the condition
// on the record failed, refused is true and stored is the record's item, if there is
// one.
func (s *Store) send(ctx context.Context, record *dynamodb.UpdateItemInput, more []types.TransactWriteItem, nonce string) (stored item, refused bool, err error) {
	if len(more) == 0 {
		_, err = s.api.UpdateItem(ctx, record)
		stored, refused = conditionFailed(err)
	} else {
		_, err = s.api.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
			ClientRequestToken: &nonce,
			TransactItems:      append([]types.TransactWriteItem{{Update: asAction(record)}}, more...),
		})
		// No other action has a condition.
		if reasons := cancellationReasons(err); len(reasons) > 0 && aws.ToString(reasons[0].Code) == reasonCondition {
			stored, refused = reasons[0].Item, true
		}
	}
	if err != nil && !refused {
		err = opaque(err)
	}
	return stored, refused, err
}

// asAction converts an update to an action of a transaction.
func asAction(u *dynamodb.UpdateItemInput) *types.Update {
	return &types.Update{
		TableName: u.TableName, Key: u.Key,
		UpdateExpression: u.UpdateExpression, ConditionExpression: u.ConditionExpression,
		ExpressionAttributeNames: u.ExpressionAttributeNames, ExpressionAttributeValues: u.ExpressionAttributeValues,
		ReturnValuesOnConditionCheckFailure: u.ReturnValuesOnConditionCheckFailure,
	}
}

// recordUpdate returns the update that writes all attributes of a record's item, except
// the nonces of other writes.
func (s *Store) recordUpdate(rec bastion.Record, nonce, condition string, conditionValues values) (*dynamodb.UpdateItemInput, error) {
	document, err := toDocument(rec)
	if err != nil {
		return nil, fmt.Errorf("encode the record: %w", err)
	}
	e := newEdit()
	e.set(attRecord, document)
	e.set(attVersion, number(rec.Version))
	e.set(nonceAttribute(rec.Version), text(nonce))
	if rec.DueAt.IsZero() {
		e.remove(attDueShard, attDueAt)
	} else {
		e.set(attDueShard, text(dueShard(rec.ID)))
		e.set(attDueAt, stamp(rec.DueAt))
	}
	if rec.FinishedAt.IsZero() {
		e.set(attUnfinished, text("yes"))
		e.set(attCreatedAt, stamp(rec.CreatedAt))
		e.remove(attExpiresAt)
	} else {
		e.remove(attUnfinished, attCreatedAt)
		e.set(attExpiresAt, ttl(rec.FinishedAt.Add(s.history)))
	}
	maps.Copy(e.values, conditionValues)
	return e.update(s.table, recordKey(rec.ID), condition), nil
}

// decodeRecord decodes a record's item. The version comes from the attribute, because
// the condition of the next write compares the attribute.
func decodeRecord(stored item) (bastion.Record, error) {
	id, _ := idOf(stored)
	var rec bastion.Record
	err := fromDocument(stored[attRecord], &rec)
	if err == nil && rec.ID != id {
		err = fmt.Errorf("the document has the id %q", rec.ID)
	}
	if err == nil {
		rec.Version, err = toNumber(stored[attVersion])
	}
	if err != nil {
		return bastion.Record{}, fmt.Errorf("decode record %s: %w", id, err)
	}
	return rec, nil
}

// dueShards is how many partitions the index of due records has. Each write of a record
// can move its entry in the index, and a partition accepts 1,000 writes a second. If you
// change dueShards, rewrite all records that are not finished.
const dueShards = 8

// dueShard returns the partition of a bastion in the index of due records.
func dueShard(id string) string {
	h := fnv.New32a()
	h.Write([]byte(id))
	return strconv.Itoa(int(h.Sum32() % dueShards))
}
