package awscloud

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// failing fails every call.
type failing struct{ err error }

func (f failing) GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	return nil, f.err
}

func (f failing) BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	return nil, f.err
}

func (f failing) Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	return nil, f.err
}

func (f failing) Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	return nil, f.err
}

func (f failing) PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return nil, f.err
}

func (f failing) UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	return nil, f.err
}

func (f failing) DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error) {
	return nil, f.err
}

func (f failing) TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error) {
	return nil, f.err
}

// recordingTask takes a task's update.
type recordingTask struct {
	failing
	update *dynamodb.UpdateItemInput
}

func (r *recordingTask) UpdateItem(_ context.Context, in *dynamodb.UpdateItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	r.update = in
	return &dynamodb.UpdateItemOutput{}, nil
}

// repeating is DynamoDB as the second try of a write sees it, when the answer to
// the first was lost and no token helps: the condition fails, on an item that
// meanwhile has made of the first.
type repeating struct {
	failing
	meanwhile func(item) item
}

func (r repeating) UpdateItem(_ context.Context, in *dynamodb.UpdateItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	first := stored(in.Key, in.ExpressionAttributeNames, in.ExpressionAttributeValues)
	return nil, &types.ConditionalCheckFailedException{Item: r.meanwhile(first)}
}

func (r repeating) TransactWriteItems(_ context.Context, in *dynamodb.TransactWriteItemsInput, _ ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error) {
	if in.ClientRequestToken == nil {
		return nil, errors.New("no token: the repeat is another transaction")
	}
	var reasons []types.CancellationReason
	for _, action := range in.TransactItems {
		reason := types.CancellationReason{Code: aws.String(reasonNone)}
		if u := action.Update; u != nil && u.ReturnValuesOnConditionCheckFailure != "" {
			first := stored(u.Key, u.ExpressionAttributeNames, u.ExpressionAttributeValues)
			reason = types.CancellationReason{Code: aws.String(reasonCondition), Item: r.meanwhile(first)}
		} else if action.Put != nil && action.Put.ConditionExpression != nil {
			reason.Code = aws.String(reasonCondition)
		}
		reasons = append(reasons, reason)
	}
	return nil, &types.TransactionCanceledException{CancellationReasons: reasons}
}

func TestARepeatKnowsItsOwnEffect(t *testing.T) {
	same := func(i item) item { return i }
	later := func(i item) item { i[attVersion], i["write_3"] = number(3), text("another"); return i }
	others := func(i item) item {
		return item{attVersion: number(2), "write_1": text("another"), "write_2": text("another"), attLeaseNonce: text("another")}
	}
	missing := func(item) item { return nil }
	for name, c := range map[string]struct {
		meanwhile        func(item) item
		record, creation error
		lease            error
	}{
		"its own":            {same, nil, nil, nil},
		"its own, and later": {later, nil, nil, nil},
		"another's":          {others, bastion.ErrConflict, bastion.ErrNameTaken, bastion.ErrConflict},
		"none":               {missing, bastion.ErrConflict, bastion.ErrNameTaken, bastion.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			api := repeating{meanwhile: c.meanwhile}
			s, prev := NewStore(api, "records", time.Hour, rand.Reader), openRecord()
			next, closed := prev, prev
			next.Version, closed.Version, closed.Intent.Open = 2, 2, false
			is(t, "replace", s.Replace(t.Context(), prev, next), c.record)
			is(t, "close", s.Replace(t.Context(), prev, closed), c.record)
			is(t, "create", s.Create(t.Context(), prev, bastion.Quota{PerOwner: 1, Total: 1}), c.creation)
			l := NewLeases(api, "leases", "AROA", rand.Reader)
			is(t, "lease", l.Write(t.Context(), "task", bastion.Lease{Generation: 1}), c.lease)
			i := NewItems(api, "items", time.Now, rand.Reader)
			is(t, "first value", i.Write(t.Context(), "a", 0, nil, time.Time{}), c.record)
			is(t, "next value", i.Write(t.Context(), "a", 1, nil, time.Time{}), c.record)
		})
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, not %v", what, err, want)
	}
}

// What can never be written is refused before anything is sent.
func TestImpossibleWrites(t *testing.T) {
	s := NewStore(nil, "records", time.Hour, rand.Reader) // a call would panic
	first := openRecord()
	change := func(edit func(*bastion.Record)) bastion.Record {
		rec := first
		edit(&rec)
		return rec
	}
	for name, rec := range map[string]bastion.Record{
		"version":  change(func(r *bastion.Record) { r.Version = 2 }),
		"closed":   change(func(r *bastion.Record) { r.Intent.Open = false }),
		"finished": change(func(r *bastion.Record) { r.FinishedAt = time.Now() }),
	} {
		if err := s.Create(t.Context(), rec, bastion.Quota{PerOwner: 1, Total: 1}); err == nil {
			t.Errorf("created: %s", name)
		}
	}
	closed := change(func(r *bastion.Record) { r.Intent.Open, r.FinishedAt = false, time.Now() })
	for name, c := range map[string][2]bastion.Record{
		"version":    {first, first},
		"id":         {first, change(func(r *bastion.Record) { r.Version, r.ID = 2, "other" })},
		"owner":      {first, change(func(r *bastion.Record) { r.Version, r.Owner = 2, "other" })},
		"name":       {first, change(func(r *bastion.Record) { r.Version, r.Name = 2, "other" })},
		"opened":     {closed, change(func(r *bastion.Record) { r.Version, r.FinishedAt = 2, time.Now() })},
		"unfinished": {closed, change(func(r *bastion.Record) { r.Version, r.Intent.Open = 2, false })},
	} {
		if err := s.Replace(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("replaced: %s", name)
		}
	}
}
