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

// If the response to a write is lost, the SDK sends the write again. Its condition
// then fails on the write's own effect, which looks like another caller's write:
// the version has moved, the name is in use. Therefore each write has a nonce that
// stays in the record for the next few writes. If a refused write finds its own
// nonce, it has taken effect. A transaction also uses the nonce as its
// ClientRequestToken.

// noncesKept is how many nonces a record holds. If a write is retried after that
// many other writes, it counts as a conflict.
const noncesKept = 8

func nonceAttribute(version int64) string { return fmt.Sprintf("write_%d", version%noncesKept) }

// tookEffect reports whether the stored record is the result of the write of that
// version and nonce, or of at most a few writes after it.
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

// createErrors are what a failed condition of each action means. DynamoDB
// evaluates the actions in this order.
var createErrors = []error{bastion.ErrNameTaken, bastion.ErrQuotaOwner, bastion.ErrQuotaTotal, bastion.ErrConflict}

// createRecord is the position of the record among the actions.
const createRecord = 3

func (s *Store) create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	if rec.Version != 1 || !rec.Intent.Open || !rec.FinishedAt.IsZero() {
		return fmt.Errorf("version %d, open %t, finished %t: a new record is open and has version 1",
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
	case len(reasons) > createRecord && tookEffect(reasons[createRecord].Item, rec.Version, nonce):
		return nil
	}
	if known := createError(reasons); known != nil {
		return known
	}
	return opaque(err)
}

// createError returns the error of the first action whose condition failed. It
// returns nil if an earlier action failed for any other reason, because DynamoDB
// may not have evaluated that action's condition.
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

// increment counts one more open bastion, on condition that the count is below the
// quota.
func (s *Store) increment(partition string, quota int) *types.Update {
	condition := "#open < :quota"
	if quota > 0 {
		condition = "attribute_not_exists(#open) OR " + condition
	}
	return &types.Update{
		TableName:                 &s.table,
		Key:                       at(partition, sortCount),
		UpdateExpression:          aws.String("ADD #open :one"),
		ConditionExpression:       &condition,
		ExpressionAttributeNames:  map[string]string{"#open": attOpen},
		ExpressionAttributeValues: values{":one": number(1), ":quota": number(int64(quota))},
	}
}

// decrement counts one open bastion less. It needs no condition of its own: the
// condition on the record, in the same transaction, ensures that it was counted.
func (s *Store) decrement(partition string) *types.Update {
	return &types.Update{
		TableName:                 &s.table,
		Key:                       at(partition, sortCount),
		UpdateExpression:          aws.String("ADD #open :less"),
		ExpressionAttributeNames:  map[string]string{"#open": attOpen},
		ExpressionAttributeValues: values{":less": number(-1)},
	}
}

// Replace writes the record. In the same transaction, it removes the name, counts
// and list entry that the new version no longer needs.
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

// checkSuccessor returns an error if next cannot follow prev, whatever is stored.
func checkSuccessor(prev, next bastion.Record) error {
	switch {
	case next.Version != prev.Version+1:
		return fmt.Errorf("the next version is %d", next.Version)
	case next.ID != prev.ID || next.Owner != prev.Owner || next.Name != prev.Name:
		return fmt.Errorf("id, owner and name of a record cannot change, to %s, %s and %q", next.ID, next.Owner, next.Name)
	case next.Intent.Open && !prev.Intent.Open:
		return errors.New("a closed record cannot be opened")
	case next.FinishedAt.IsZero() && !prev.FinishedAt.IsZero():
		return errors.New("a finished record cannot become unfinished")
	}
	return nil
}

// releases returns the actions that belong to a change, besides the record's.
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

// send writes the record, in a transaction if there are more actions. If the
// record's condition failed, refused is true and stored is the item, if there is
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

// asAction returns the update as an action of a transaction.
func asAction(u *dynamodb.UpdateItemInput) *types.Update {
	return &types.Update{
		TableName: u.TableName, Key: u.Key,
		UpdateExpression: u.UpdateExpression, ConditionExpression: u.ConditionExpression,
		ExpressionAttributeNames: u.ExpressionAttributeNames, ExpressionAttributeValues: u.ExpressionAttributeValues,
		ReturnValuesOnConditionCheckFailure: u.ReturnValuesOnConditionCheckFailure,
	}
}

// recordUpdate returns the update that writes all attributes of a record's item
// except the nonces of other writes.
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

// decodeRecord decodes a record's item. The version is the attribute's, because
// that is what the next write's condition compares.
func decodeRecord(stored item) (bastion.Record, error) {
	id, _ := idOf(stored)
	var rec bastion.Record
	err := fromDocument(stored[attRecord], &rec)
	if err == nil && rec.ID != id {
		err = fmt.Errorf("the document is of record %q", rec.ID)
	}
	if err == nil {
		rec.Version, err = toNumber(stored[attVersion])
	}
	if err != nil {
		return bastion.Record{}, fmt.Errorf("decode record %s: %w", id, err)
	}
	return rec, nil
}

// dueShards is how many partitions the index of due records has. Each write of a
// record can move its entry, and a partition accepts 1,000 writes a second. To
// change this number, rewrite all records that are not finished.
const dueShards = 8

func dueShard(id string) string {
	h := fnv.New32a()
	h.Write([]byte(id))
	return strconv.Itoa(int(h.Sum32() % dueShards))
}
