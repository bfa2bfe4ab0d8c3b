package awscloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The attributes of a task's item. IAM lets the task write the second group only,
// and whether a request writes an attribute or merely names it in a condition is
// the same to IAM: so what the task's own conditions look at is in that group. The
// control plane believes nothing that stands there but the report itself.
const (
	attBastion    = "bastion"
	attLease      = "lease"
	attGeneration = "generation" // of the lease; the condition of the next one
	attLeaseNonce = "written"    // the name of the write that made the lease
	attEnded      = "ended"      // a tombstone

	attReport = "report"  // there from the first lease on; a tombstone has none
	attInHand = "in_hand" // the lease's generation again, for the task to compare
	attBy     = "by"      // who wrote last: byControl or byTask
)

// Who wrote an item last: the stream's reader filters by it, so that the control
// plane's own writes do not wake it.
const (
	byControl = "control"
	byTask    = "task"
)

// LeasesAPI is what [Leases] calls.
type LeasesAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Leases is the control plane's side of the table of leases, a [bastion.Leases].
// An item's key is what ${aws:userid} is inside its task: the task role's id, a
// colon, and the task's id.
type Leases struct {
	api    LeasesAPI
	table  string
	roleID string
	rand   io.Reader
}

var _ bastion.Leases = (*Leases)(nil)

// NewLeases makes the control plane's side of a table of [LeasesSchema]. roleID is
// the unique id of the tasks' role (AROA…). The names of writes come from rand,
// which must be safe for concurrent use.
func NewLeases(api LeasesAPI, table, roleID string, rand io.Reader) *Leases {
	return &Leases{api: api, table: table, roleID: roleID, rand: rand}
}

// leaseOf is the key of a task's item.
func leaseOf(roleID, taskID string) string {
	if strings.Contains(taskID, ":") {
		return taskID // of a role that the stack had before
	}
	return roleID + ":" + taskID
}

// TaskID is the id of the task that an item's key is of. That of a task with
// another role, which the stack had before, is the whole key: no record knows a
// task of that id, so that the sweep ends the item.
func (l *Leases) TaskID(key string) string {
	if id, ok := strings.CutPrefix(key, l.roleID+":"); ok {
		return id
	}
	return key
}

func (l *Leases) key(taskID string) item { return item{keyTask: text(leaseOf(l.roleID, taskID))} }

// Fetch reads a task's item, strongly consistent.
func (l *Leases) Fetch(ctx context.Context, taskID string) (bastion.LeaseItem, error) {
	out, err := l.api.GetItem(ctx, &dynamodb.GetItemInput{TableName: &l.table, Key: l.key(taskID), ConsistentRead: aws.Bool(true)})
	switch {
	case err != nil:
		return bastion.LeaseItem{}, fmt.Errorf("fetch the lease of task %s: %w", taskID, opaque(err))
	case len(out.Item) == 0:
		return bastion.LeaseItem{}, fmt.Errorf("fetch the lease of task %s: %w", taskID, bastion.ErrNotFound)
	}
	return l.decode(out.Item), nil
}

// Write writes a newer lease into the item, or the first.
func (l *Leases) Write(ctx context.Context, taskID string, lease bastion.Lease) error {
	if err := l.write(ctx, taskID, lease); err != nil {
		return fmt.Errorf("write generation %d of the lease of task %s: %w", lease.Generation, taskID, err)
	}
	return nil
}

func (l *Leases) write(ctx context.Context, taskID string, lease bastion.Lease) error {
	nonce, err := newNonce(l.rand)
	if err != nil {
		return err
	}
	update, err := l.update(taskID, lease, nonce)
	if err != nil {
		return err
	}
	_, err = l.api.UpdateItem(ctx, update)
	if tooLarge(err) {
		// The task has filled its item up. That must not keep it from being told.
		update.UpdateExpression = aws.String(strings.Replace(*update.UpdateExpression, onceReport, "#report = :report", 1))
		_, err = l.api.UpdateItem(ctx, update)
	}
	stored, refused := conditionFailed(err)
	switch {
	case err == nil:
		return nil
	case !refused:
		return opaque(err)
	case toText(stored[attLeaseNonce]) == nonce:
		return nil // the answer to the first try was lost
	}
	return bastion.ErrConflict
}

// onceReport is the part of the update that leaves a report as it is.
const onceReport = "#report = if_not_exists(#report, :report)"

func (l *Leases) update(taskID string, lease bastion.Lease, nonce string) (*dynamodb.UpdateItemInput, error) {
	encoded, err := attributevalue.Marshal(toLeaseItem(lease))
	if err != nil {
		return nil, fmt.Errorf("encode the lease: %w", opaque(err))
	}
	e := edit{names: map[string]string{"#ended": attEnded, "#report": attReport}}
	e.values = values{":report": &types.AttributeValueMemberM{}}
	e.sets = []string{onceReport}
	e.set(attBastion, text(lease.BastionID))
	e.set(attLease, encoded)
	e.set(attGeneration, number(lease.Generation))
	e.set(attLeaseNonce, text(nonce))
	e.set(attInHand, number(lease.Generation))
	e.set(attBy, text(byControl))
	condition := "attribute_not_exists(#ended) AND (attribute_not_exists(#generation) OR #generation < :generation)"
	if lease.Open {
		condition += " AND attribute_not_exists(#report.#ending)"
		e.names["#ending"] = "ending"
	}
	return &dynamodb.UpdateItemInput{
		TableName: &l.table, Key: l.key(taskID),
		UpdateExpression: aws.String(e.expression()), ConditionExpression: &condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}, nil
}

// tooLarge reports whether the item would have passed DynamoDB's 400 kB. There is
// no code of its own for that, only the words; no other request of ours depends
// on what somebody else has put into the item.
func tooLarge(err error) bool {
	var refused smithy.APIError
	return errors.As(err, &refused) && refused.ErrorCode() == "ValidationException" &&
		strings.Contains(refused.ErrorMessage(), "maximum allowed size")
}

// End puts the tombstone, whatever was there.
func (l *Leases) End(ctx context.Context, taskID, bastionID string, until time.Time) error {
	tombstone := l.key(taskID)
	tombstone[attBastion] = text(bastionID)
	tombstone[attEnded] = &types.AttributeValueMemberBOOL{Value: true}
	tombstone[attExpiresAt] = number(toTTL(until))
	tombstone[attBy] = text(byControl)
	if _, err := l.api.PutItem(ctx, &dynamodb.PutItemInput{TableName: &l.table, Item: tombstone}); err != nil {
		return fmt.Errorf("end the lease of task %s: %w", taskID, opaque(err))
	}
	return nil
}

// List reads the whole table, consistently.
func (l *Leases) List(ctx context.Context) ([]bastion.LeaseItem, error) {
	input := dynamodb.ScanInput{
		TableName: &l.table, ConsistentRead: aws.Bool(true),
		FilterExpression:         aws.String("attribute_not_exists(#ended)"),
		ExpressionAttributeNames: map[string]string{"#ended": attEnded},
	}
	var items []bastion.LeaseItem
	for {
		page, err := l.api.Scan(ctx, &input)
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", opaque(err))
		}
		for _, stored := range page.Items {
			items = append(items, l.decode(stored))
		}
		if len(page.LastEvaluatedKey) == 0 {
			return items, nil
		}
		input.ExclusiveStartKey = page.LastEvaluatedKey
	}
}
