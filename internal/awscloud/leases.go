package awscloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The attributes of a task's item, besides its key. The lease and the report are
// JSON documents. The other attributes are those that conditions, the stream's
// filter and the observer use.
//
// IAM allows the task's updates to name the attributes of the second group only. This
// applies to the attributes that an update writes and to those in its condition, so
// the task's conditions can use this group only. The control plane trusts no value in
// this group, and decodes only the report.
const (
	attBastion    = "bastion"
	attLease      = "lease"      // missing in a tombstone
	attGeneration = "generation" // the generation of the lease; the next lease must have a higher one
	attLeaseNonce = "written"    // the nonce of the write that wrote the lease
	attEnded      = "ended"      // exists if the item is a tombstone

	attReport = "report"  // exists after the first lease is written; missing in a tombstone
	attInHand = "in_hand" // a copy of generation, because a task's condition cannot use generation
	attEnding = "ending"  // exists if the task has decided to end; see toEnding
	attBy     = "by"      // the side that wrote the item last: byControl or byTask
)

// Values of the attribute attBy. The stream's filter compares it, so that the control
// plane's own writes do not invoke the observer.
const (
	byControl = "control"
	byTask    = "task"
)

// TaskAttributes are all attributes that a task's UpdateItem can name. The task role
// allows no others (dynamodb:Attributes).
var TaskAttributes = []string{keyTask, attReport, attInHand, attEnding, attBy}

// Names of attributes, for a reader of the lease table's stream: the bastion's id and
// the item's key. A task can change neither.
const (
	LeaseBastionAttribute = attBastion
	LeaseKeyAttribute     = keyTask
)

// taskItemKey returns the key of a task's item: the id of the task role, a colon, and
// the task's id. In the policy of the task role, ${aws:userid} has the same value.
func taskItemKey(roleID, taskID string) string {
	if strings.Contains(taskID, ":") {
		return taskID // it is the whole key already, with the id of an earlier role; see Leases.TaskID
	}
	return roleID + ":" + taskID
}

// LeasesAPI has the calls that [Leases] makes.
type LeasesAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Leases implements [bastion.Leases]: the control plane's side of the lease table.
type Leases struct {
	api    LeasesAPI
	table  string
	roleID string
	rand   io.Reader
}

var _ bastion.Leases = (*Leases)(nil)

// NewLeases returns the control plane's side of a table with the schema
// [LeasesSchema]. roleID is the unique id of the task role (AROA…). Nonces come from
// rand, which must be safe for concurrent use.
func NewLeases(api LeasesAPI, table, roleID string, rand io.Reader) *Leases {
	return &Leases{api: api, table: table, roleID: roleID, rand: rand}
}

// TaskID returns the task's id from an item's key. If the stack's task role was
// replaced, the keys of earlier items begin with the id of the earlier role. For such
// a key, TaskID returns the whole key. No record has a task with that id, so the sweep
// replaces the item with a tombstone.
func (l *Leases) TaskID(key string) string {
	if id, ok := strings.CutPrefix(key, l.roleID+":"); ok {
		return id
	}
	return key
}

func (l *Leases) key(taskID string) item { return item{keyTask: text(taskItemKey(l.roleID, taskID))} }

// Fetch returns a task's item; the read is strongly consistent.
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

// List returns all items except tombstones; the read is strongly consistent.
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

// Write writes the first lease of an item, or a newer lease.
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
	update, err := l.leaseUpdate(taskID, lease, nonce, false)
	if err != nil {
		return err
	}
	_, err = l.api.UpdateItem(ctx, update)
	if isTooLarge(err) {
		// The task has filled its item. The lease must be written nevertheless, so
		// discard the attributes that the task has written.
		if update, err = l.leaseUpdate(taskID, lease, nonce, true); err != nil {
			return err
		}
		_, err = l.api.UpdateItem(ctx, update)
	}
	stored, refused := conditionFailed(err)
	switch {
	case err == nil:
		return nil
	case !refused:
		return opaque(err)
	case toText(stored[attLeaseNonce]) == nonce:
		return nil // the response to an earlier attempt was lost
	}
	return bastion.ErrConflict
}

// leaseUpdate returns the update that writes a lease. If discard is true, the update
// also replaces everything that the task has written.
func (l *Leases) leaseUpdate(taskID string, lease bastion.Lease, nonce string, discard bool) (*dynamodb.UpdateItemInput, error) {
	document, err := toDocument(lease)
	if err != nil {
		return nil, fmt.Errorf("encode the lease: %w", err)
	}
	e := newEdit()
	e.set(attBastion, text(lease.BastionID))
	e.set(attLease, document)
	e.set(attGeneration, number(lease.Generation))
	e.set(attLeaseNonce, text(nonce))
	e.set(attInHand, number(lease.Generation))
	e.set(attBy, text(byControl))
	if discard {
		e.set(attReport, text("{}"))
		e.remove(attEnding)
	} else {
		e.setIfMissing(attReport, text("{}"))
	}
	e.use(attEnded)
	condition := "attribute_not_exists(#ended) AND (attribute_not_exists(#generation) OR #generation < :generation)"
	if lease.Open {
		e.use(attEnding)
		condition += " AND attribute_not_exists(#ending)"
	}
	return e.update(l.table, l.key(taskID), condition), nil
}

// isTooLarge reports whether DynamoDB refused a write because the item would exceed
// the limit of 400 KB. DynamoDB has no error code for that, only a message. Only the
// lease table needs this check, because only there a task writes a part of the item.
func isTooLarge(err error) bool {
	var refused smithy.APIError
	return errors.As(err, &refused) && refused.ErrorCode() == "ValidationException" &&
		strings.Contains(refused.ErrorMessage(), "maximum allowed size")
}

// End replaces the item with a tombstone. It has no condition on the stored item.
func (l *Leases) End(ctx context.Context, taskID, bastionID string, until time.Time) error {
	_, err := l.api.PutItem(ctx, &dynamodb.PutItemInput{TableName: &l.table, Item: l.tombstone(taskID, bastionID, until)})
	if err != nil {
		return fmt.Errorf("end the lease of task %s: %w", taskID, opaque(err))
	}
	return nil
}

func (l *Leases) tombstone(taskID, bastionID string, until time.Time) item {
	tombstone := l.key(taskID)
	tombstone[attBastion] = text(bastionID)
	tombstone[attEnded] = &types.AttributeValueMemberBOOL{Value: true}
	tombstone[attExpiresAt] = ttl(until)
	tombstone[attBy] = text(byControl)
	return tombstone
}

// decode decodes an item. The task and the bastion come from attributes that only the
// control plane writes, not from the report. If a document cannot be decoded, decode
// treats it as missing, so that no item can stop the sweep or prevent its bastion from
// being closed.
func (l *Leases) decode(stored item) bastion.LeaseItem {
	lease, _ := decodeLease(stored[attLease])
	_, ended := stored[attEnded]
	return bastion.LeaseItem{
		TaskID: l.TaskID(toText(stored[keyTask])), BastionID: toText(stored[attBastion]),
		Lease: lease, Report: decodeReport(stored[attReport]), Ended: ended,
	}
}

// decodeLease decodes a lease. If any part of the document is invalid, for example a
// destination of an unknown kind, it returns an error and an empty lease.
func decodeLease(stored types.AttributeValue) (bastion.Lease, error) {
	var lease bastion.Lease
	if err := fromDocument(stored, &lease); err != nil {
		return bastion.Lease{}, err
	}
	return lease, nil
}

// decodeReport decodes a report. If the document is not a report, it returns an empty
// report, so that a compromised task cannot make its own item unreadable. It does not
// check the values of a report; see [bastion.Report.Bounded].
func decodeReport(stored types.AttributeValue) bastion.Report {
	var r bastion.Report
	if fromDocument(stored, &r) != nil {
		return bastion.Report{}
	}
	return r
}

// TaskLeaseAPI has the calls that [TaskLease] makes.
type TaskLeaseAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
}

// TaskLease implements [bastion.TaskLease]: a task's side of its own item. It reads
// and updates only the item whose key is the task's ${aws:userid}.
type TaskLease struct {
	api   TaskLeaseAPI
	table string
	key   string
}

var _ bastion.TaskLease = (*TaskLease)(nil)

// NewTaskLease returns a task's side of a table with the schema [LeasesSchema]. roleID
// is the unique id of the task role (AROA…).
func NewTaskLease(api TaskLeaseAPI, table, roleID, taskID string) *TaskLease {
	return &TaskLease{api: api, table: table, key: taskItemKey(roleID, taskID)}
}

// Read returns the lease; the read is strongly consistent. For a tombstone, Read
// returns bastion.ErrNotFound; see [readError] for the errors of DynamoDB.
func (t *TaskLease) Read(ctx context.Context) (bastion.Lease, error) {
	out, err := t.api.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &t.table, Key: item{keyTask: text(t.key)}, ConsistentRead: aws.Bool(true),
		ProjectionExpression:     aws.String("#lease"),
		ExpressionAttributeNames: map[string]string{"#lease": attLease},
	})
	if err != nil {
		return bastion.Lease{}, fmt.Errorf("read lease %s: %w", t.key, readError(err))
	}
	stored, ok := out.Item[attLease]
	if !ok {
		return bastion.Lease{}, fmt.Errorf("read lease %s: %w", t.key, bastion.ErrNotFound)
	}
	lease, err := decodeLease(stored)
	if err != nil {
		return bastion.Lease{}, fmt.Errorf("decode lease %s: %w", t.key, err)
	}
	return lease, nil
}

// deniedCodes are DynamoDB's error codes for a call that the caller's credentials do not
// allow (DynamoDB developer guide, "Error handling with DynamoDB"). DynamoDB also denies a
// call if it may not use the table's KMS key.
var deniedCodes = []string{"AccessDeniedException", "UnrecognizedClientException", "MissingAuthenticationTokenException"}

// readError converts an error of GetItem.
func readError(err error) error {
	var response *awshttp.ResponseError
	var api smithy.APIError
	hasCode := errors.As(err, &api)
	hasResponse := errors.As(err, &response) && response.HTTPStatusCode() != 0 // 0: the request was not sent, or got no response
	switch {
	case hasCode && slices.Contains(deniedCodes, api.ErrorCode()):
		return fmt.Errorf("%v: %w", err, bastion.ErrDenied)
	case hasCode && api.ErrorCode() == "ResourceNotFoundException":
		return fmt.Errorf("%v: %w", err, bastion.ErrNoTable)
	case hasCode || hasResponse || errors.Is(err, context.Canceled):
		return opaque(err)
	}
	return fmt.Errorf("%w: %w", opaque(err), bastion.ErrUnreachable)
}

// Report replaces the report and the ending. The condition for an ending is that the
// lease still has the generation that the task read, or that the same ending is
// already stored. The second part is for a retry. If the response to the first attempt
// was lost, the ending may be stored already, and a newer lease may have followed it.
func (t *TaskLease) Report(ctx context.Context, report bastion.Report) error {
	update, err := t.reportUpdate(report)
	if err != nil {
		return fmt.Errorf("write the report of lease %s: %w", t.key, err)
	}
	_, err = t.api.UpdateItem(ctx, update)
	if _, refused := conditionFailed(err); refused {
		err = t.refusal(ctx, report)
	} else if err != nil {
		err = opaque(err)
	}
	if err != nil {
		return fmt.Errorf("write the report of lease %s: %w", t.key, err)
	}
	return nil
}

func (t *TaskLease) reportUpdate(report bastion.Report) (*dynamodb.UpdateItemInput, error) {
	document, err := toDocument(report)
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	e := newEdit()
	e.set(attReport, document)
	e.set(attBy, text(byTask))
	condition := "attribute_exists(#report)"
	if report.Ending.Reason == "" {
		e.remove(attEnding)
	} else {
		e.use(attInHand)
		e.values[":in_hand"] = number(report.Ending.Generation)
		e.set(attEnding, toEnding(report.Ending))
		condition += " AND (#in_hand = :in_hand OR #ending = :ending)"
	}
	update := e.update(t.table, item{keyTask: text(t.key)}, condition)
	update.ReturnValuesOnConditionCheckFailure = "" // the task role does not allow an update to return attributes
	return update, nil
}

// toEnding returns the attribute for an ending, for example "idle/3". Conditions
// compare this attribute; no code decodes it.
func toEnding(e bastion.Ending) types.AttributeValue {
	return text(string(e.Reason) + "/" + strconv.FormatInt(e.Generation, 10))
}

// refusal returns the error for a report whose condition failed. It reads the item
// again, because the task role does not allow an update to return attributes.
func (t *TaskLease) refusal(ctx context.Context, report bastion.Report) error {
	if report.Ending.Reason == "" {
		return bastion.ErrNotFound
	}
	if _, err := t.Read(ctx); err != nil {
		return err
	}
	return bastion.ErrConflict
}
