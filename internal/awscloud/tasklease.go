package awscloud

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// TaskLeaseAPI is what [TaskLease] calls.
type TaskLeaseAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
}

// TaskAttributes are all attributes that a task's UpdateItem names. The task's
// role allows no others (dynamodb:Attributes).
var TaskAttributes = []string{keyTask, attReport, attInHand, attBy}

// TaskLease is a task's own side of its item, a [bastion.TaskLease]. It reads and
// updates the one item whose key is the task's identity.
type TaskLease struct {
	api   TaskLeaseAPI
	table string
	key   string
}

var _ bastion.TaskLease = (*TaskLease)(nil)

// NewTaskLease makes a task's side of a table of [LeasesSchema]. roleID is the
// unique id of the task's role (AROA…).
func NewTaskLease(api TaskLeaseAPI, table, roleID, taskID string) *TaskLease {
	return &TaskLease{api: api, table: table, key: leaseOf(roleID, taskID)}
}

// Read reads the lease, strongly consistent. A tombstone holds none.
func (t *TaskLease) Read(ctx context.Context) (bastion.Lease, error) {
	out, err := t.api.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &t.table, Key: item{keyTask: text(t.key)}, ConsistentRead: aws.Bool(true),
		ProjectionExpression:     aws.String("#lease"),
		ExpressionAttributeNames: map[string]string{"#lease": attLease},
	})
	if err != nil {
		return bastion.Lease{}, fmt.Errorf("read the lease %s: %w", t.key, opaque(err))
	}
	stored, ok := out.Item[attLease]
	if !ok {
		return bastion.Lease{}, fmt.Errorf("read the lease %s: %w", t.key, bastion.ErrNotFound)
	}
	lease, err := decodeLease(stored)
	if err != nil {
		return bastion.Lease{}, fmt.Errorf("decode the lease %s: %w", t.key, err)
	}
	return lease, nil
}

// Report replaces the report. A repeat of a report whose answer was lost meets its
// own ending, which is no conflict.
func (t *TaskLease) Report(ctx context.Context, report bastion.Report) error {
	encoded, err := attributevalue.Marshal(toReportItem(report))
	if err != nil {
		return fmt.Errorf("encode the report to %s: %w", t.key, opaque(err))
	}
	e := edit{names: map[string]string{}, values: values{}}
	e.set(attReport, encoded)
	e.set(attBy, text(byTask))
	condition := "attribute_exists(#report)"
	ending := report.Ending.Reason != ""
	if ending {
		condition += " AND (#in_hand = :in_hand OR #report.#ending.#reason = :reason AND #report.#ending.#generation = :in_hand)"
		e.names["#in_hand"], e.values[":in_hand"] = attInHand, number(report.Ending.Generation)
		e.names["#ending"], e.names["#generation"] = "ending", "generation"
		e.names["#reason"], e.values[":reason"] = "reason", text(string(report.Ending.Reason))
	}
	_, err = t.api.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &t.table, Key: item{keyTask: text(t.key)},
		UpdateExpression: aws.String(e.expression()), ConditionExpression: &condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	})
	if _, refused := conditionFailed(err); refused {
		err = t.refusal(ctx, ending)
	} else if err != nil {
		err = opaque(err)
	}
	if err != nil {
		return fmt.Errorf("report to %s: %w", t.key, err)
	}
	return nil
}

// refusal tells the two conditions of a report apart. It reads the item instead of
// having the refused write answer it, because that would answer attributes which
// the task's role may not ask an update for.
func (t *TaskLease) refusal(ctx context.Context, ending bool) error {
	if !ending {
		return bastion.ErrNotFound
	}
	if _, err := t.Read(ctx); err != nil {
		return err
	}
	return bastion.ErrConflict
}
