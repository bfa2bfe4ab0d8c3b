package awscloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// A write whose answer is lost is sent again, and then meets its own effect: the
// version has moved, the name is taken, and without more knowledge that looks
// like another's. So each write has a name of its own, the nonce, which stays in
// the record while the next few are written: a refused write that finds its name
// there has taken effect. Transactions carry it as their ClientRequestToken, too.

// writesKept is how many writes' names a record holds. A write that was repeated
// while that many others came in between would be taken for a stranger's.
const writesKept = 8

func nonceAttribute(version int64) string { return fmt.Sprintf("write_%d", version%writesKept) }

// tookEffect reports whether the write of that version and name is in the stored
// record or in its recent past.
func tookEffect(stored item, version int64, nonce string) bool {
	return toText(stored[nonceAttribute(version)]) == nonce
}

// Create writes the record and what it takes, in one transaction.
func (s *Store) Create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	if err := s.create(ctx, rec, quota); err != nil {
		return fmt.Errorf("create %s, %q of %s: %w", rec.ID, rec.Name, rec.Owner, err)
	}
	return nil
}

// createVerdicts is what a failed condition of each action means. The order of the
// actions is the order in which they are judged.
var createVerdicts = []error{bastion.ErrNameTaken, bastion.ErrQuotaOwner, bastion.ErrQuotaTotal, bastion.ErrConflict}

// createRecord is the place of the record among the actions.
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
	record, err := s.update(rec, nonce, "attribute_not_exists("+keyPartition+")", nil)
	if err != nil {
		return err
	}
	pointer := nameKey(rec.Owner, rec.Name)
	pointer[attID] = text(rec.ID)
	absent := aws.String("attribute_not_exists(" + keyPartition + ")")
	_, err = s.api.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
		ClientRequestToken: &nonce,
		TransactItems: []types.TransactWriteItem{
			{Put: &types.Put{TableName: &s.table, Item: pointer, ConditionExpression: absent}},
			{Update: s.countOne(ownerPartition(rec.Owner), quota.PerOwner)},
			{Update: s.countOne(partTotal, quota.Total)},
			{Update: record},
			{Put: &types.Put{TableName: &s.table, Item: listKey(rec.Owner, rec.ID)}},
		},
	})
	reasons := cancellation(err)
	switch {
	case err == nil:
		return nil
	case len(reasons) > createRecord && tookEffect(reasons[createRecord].Item, rec.Version, nonce):
		return nil
	}
	if verdict := createVerdict(reasons); verdict != nil {
		return verdict
	}
	return opaque(err)
}

// createVerdict answers the first action's refusal. Behind an action that ended
// in something else nothing is judged: it may have had the better reason.
func createVerdict(reasons []types.CancellationReason) error {
	for i, verdict := range createVerdicts[:min(len(reasons), len(createVerdicts))] {
		switch aws.ToString(reasons[i].Code) {
		case reasonNone:
		case reasonCondition:
			return verdict
		default:
			return nil
		}
	}
	return nil
}

// countOne counts one more open bastion, below the quota.
func (s *Store) countOne(partition string, quota int) *types.Update {
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

// uncountOne has no condition: the record's, in the same transaction, says that
// it was counted.
func (s *Store) uncountOne(partition string) *types.Update {
	return &types.Update{
		TableName:                 &s.table,
		Key:                       at(partition, sortCount),
		UpdateExpression:          aws.String("ADD #open :less"),
		ExpressionAttributeNames:  map[string]string{"#open": attOpen},
		ExpressionAttributeValues: values{":less": number(-1)},
	}
}

// Replace writes the record, and frees what it gives up in the same transaction.
func (s *Store) Replace(ctx context.Context, prev, next bastion.Record) error {
	if err := s.replace(ctx, prev, next); err != nil {
		return fmt.Errorf("replace version %d of %s: %w", prev.Version, prev.ID, err)
	}
	return nil
}

func (s *Store) replace(ctx context.Context, prev, next bastion.Record) error {
	if err := succeeds(prev, next); err != nil {
		return err
	}
	nonce, err := newNonce(s.rand)
	if err != nil {
		return err
	}
	record, err := s.update(next, nonce, "#"+attVersion+" = :prev", values{":prev": number(prev.Version)})
	if err != nil {
		return err
	}
	stored, refused, err := s.send(ctx, record, s.freed(prev, next), nonce)
	switch {
	case !refused:
		return err
	case tookEffect(stored, next.Version, nonce):
		return nil
	}
	return bastion.ErrConflict
}

// succeeds reports what keeps next from ever being the successor of prev.
func succeeds(prev, next bastion.Record) error {
	switch {
	case next.Version != prev.Version+1:
		return fmt.Errorf("the next version is %d", next.Version)
	case next.ID != prev.ID || next.Owner != prev.Owner || next.Name != prev.Name:
		return fmt.Errorf("id, owner and name of a record cannot change, to %s, %s and %q", next.ID, next.Owner, next.Name)
	case next.Intent.Open && !prev.Intent.Open:
		return errors.New("a closed record cannot be opened")
	case next.FinishedAt.IsZero() && !prev.FinishedAt.IsZero():
		return errors.New("a finished record cannot be unfinished")
	}
	return nil
}

// freed is what goes with the change, beside the record.
func (s *Store) freed(prev, next bastion.Record) []types.TransactWriteItem {
	var actions []types.TransactWriteItem
	if prev.Intent.Open && !next.Intent.Open {
		actions = append(actions,
			types.TransactWriteItem{Delete: &types.Delete{TableName: &s.table, Key: nameKey(next.Owner, next.Name)}},
			types.TransactWriteItem{Update: s.uncountOne(ownerPartition(next.Owner))},
			types.TransactWriteItem{Update: s.uncountOne(partTotal)})
	}
	if prev.FinishedAt.IsZero() && !next.FinishedAt.IsZero() {
		actions = append(actions,
			types.TransactWriteItem{Delete: &types.Delete{TableName: &s.table, Key: listKey(next.Owner, next.ID)}})
	}
	return actions
}

// send writes the record, in a transaction if there is more to it. refused: its
// condition failed, and stored is the item that it met, if any.
func (s *Store) send(ctx context.Context, record *types.Update, more []types.TransactWriteItem, nonce string) (stored item, refused bool, err error) {
	if len(more) == 0 {
		_, err = s.api.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: record.TableName, Key: record.Key,
			UpdateExpression: record.UpdateExpression, ConditionExpression: record.ConditionExpression,
			ExpressionAttributeNames: record.ExpressionAttributeNames, ExpressionAttributeValues: record.ExpressionAttributeValues,
			ReturnValuesOnConditionCheckFailure: record.ReturnValuesOnConditionCheckFailure,
		})
		stored, refused = conditionFailed(err)
	} else {
		_, err = s.api.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
			ClientRequestToken: &nonce,
			TransactItems:      append([]types.TransactWriteItem{{Update: record}}, more...),
		})
		// The record's is the only condition there is.
		if reasons := cancellation(err); len(reasons) > 0 && aws.ToString(reasons[0].Code) == reasonCondition {
			stored, refused = reasons[0].Item, true
		}
	}
	if err != nil && !refused {
		err = opaque(err)
	}
	return stored, refused, err
}

// update writes every attribute of a record's item but the names of other writes.
func (s *Store) update(rec bastion.Record, nonce, condition string, conditionValues values) (*types.Update, error) {
	record, err := attributevalue.Marshal(toRecordItem(rec))
	if err != nil {
		return nil, fmt.Errorf("encode the record: %w", opaque(err))
	}
	e := edit{names: map[string]string{}, values: values{}}
	e.set(attRecord, record)
	e.set(attVersion, number(rec.Version))
	e.set(nonceAttribute(rec.Version), text(nonce))
	s.index(&e, rec)
	for name, value := range conditionValues {
		e.values[name] = value
	}
	return &types.Update{
		TableName: &s.table, Key: recordKey(rec.ID),
		UpdateExpression: aws.String(e.expression()), ConditionExpression: &condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}, nil
}

// index writes what the sparse indexes and the TTL look at.
func (s *Store) index(e *edit, rec bastion.Record) {
	if rec.DueAt.IsZero() {
		e.remove(attDueShard, attDueAt)
	} else {
		e.set(attDueShard, text(dueShard(rec.ID)))
		e.set(attDueAt, text(toStamp(rec.DueAt)))
	}
	if rec.FinishedAt.IsZero() {
		e.set(attUnfinished, text("yes"))
		e.set(attCreatedAt, text(rec.CreatedAt.UTC().Format(stampLayout)))
		e.remove(attExpiresAt)
	} else {
		e.remove(attUnfinished, attCreatedAt)
		e.set(attExpiresAt, number(toTTL(rec.FinishedAt.Add(s.history))))
	}
}
