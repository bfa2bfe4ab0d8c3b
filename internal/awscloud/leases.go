package awscloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
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

// leaseItem is the attribute "lease".
type leaseItem struct {
	BastionID  string     `dynamodbav:"bastion_id,omitempty"`
	Owner      string     `dynamodbav:"owner,omitempty"`
	Name       string     `dynamodbav:"name,omitempty"`
	Generation int64      `dynamodbav:"generation,omitempty"`
	Open       bool       `dynamodbav:"open"`
	EndReason  string     `dynamodbav:"end_reason,omitempty"`
	Source     string     `dynamodbav:"source,omitempty"`
	Keys       []string   `dynamodbav:"keys,omitempty"`
	Deadline   string     `dynamodbav:"deadline,omitempty"`
	IdleNanos  int64      `dynamodbav:"idle_ns,omitempty"`
	Allowed    []string   `dynamodbav:"allowed,omitempty"`
	Answer     answerItem `dynamodbav:"answer"`
}

func toLeaseItem(l bastion.Lease) leaseItem {
	return leaseItem{
		BastionID: l.BastionID, Owner: l.Owner, Name: l.Name, Generation: l.Generation,
		Open: l.Open, EndReason: string(l.EndReason), Source: toPrefix(l.Source),
		Keys: converted[string](l.Keys), Deadline: toStamp(l.Deadline), IdleNanos: int64(l.IdleTimeout),
		Allowed: toTexts(l.AllowedDestinations), Answer: toAnswerItem(l.ConsoleReply),
	}
}

func (it leaseItem) lease(d *decoder) bastion.Lease {
	return bastion.Lease{
		BastionID: it.BastionID, Owner: it.Owner, Name: it.Name, Generation: it.Generation,
		Open: it.Open, EndReason: bastion.EndReason(it.EndReason), Source: d.prefix("lease.source", it.Source),
		Keys: converted[bastion.Key](it.Keys), Deadline: d.time("lease.deadline", it.Deadline), IdleTimeout: time.Duration(it.IdleNanos),
		AllowedDestinations: parsedAll[netip.Prefix](d, "lease.allowed", it.Allowed), ConsoleReply: it.Answer.answer(),
	}
}

// reportItem is the attribute "report". Its ending is missing until the task ends:
// conditions look at that.
type reportItem struct {
	HostKey     string      `dynamodbav:"host_key,omitempty"`
	Generation  int64       `dynamodbav:"generation,omitempty"`
	Connections int         `dynamodbav:"connections,omitempty"`
	LastUse     string      `dynamodbav:"last_use,omitempty"`
	Request     requestItem `dynamodbav:"request"`
	Ending      *endingItem `dynamodbav:"ending,omitempty"`
	Receipt     receiptItem `dynamodbav:"receipt"`
}

type requestItem struct {
	Number   int    `dynamodbav:"number,omitempty"`
	Verb     string `dynamodbav:"verb,omitempty"`
	TTLNanos int64  `dynamodbav:"ttl_ns,omitempty"`
}

type endingItem struct {
	Reason     string `dynamodbav:"reason"`
	Generation int64  `dynamodbav:"generation"`
}

func toReportItem(r bastion.Report) reportItem {
	it := reportItem{
		HostKey: string(r.HostKey), Generation: r.Generation, Connections: r.Connections, LastUse: toStamp(r.LastUsedAt),
		Request: requestItem{Number: r.ConsoleRequest.Number, Verb: string(r.ConsoleRequest.Verb), TTLNanos: int64(r.ConsoleRequest.TTL)},
		Receipt: toReceiptItem(r.Receipt),
	}
	if r.Ending.Reason != "" {
		it.Ending = &endingItem{Reason: string(r.Ending.Reason), Generation: r.Ending.Generation}
	}
	return it
}

func (it reportItem) report(d *decoder) bastion.Report {
	r := bastion.Report{
		HostKey: bastion.Key(it.HostKey), Generation: it.Generation, Connections: it.Connections,
		LastUsedAt:     d.time("report.last_use", it.LastUse),
		ConsoleRequest: bastion.ConsoleRequest{Number: it.Request.Number, Verb: bastion.Verb(it.Request.Verb), TTL: time.Duration(it.Request.TTLNanos)},
		Receipt:        it.Receipt.receipt(d),
	}
	if it.Ending != nil {
		r.Ending = bastion.Ending{Reason: bastion.EndReason(it.Ending.Reason), Generation: it.Ending.Generation}
	}
	return r
}

// decode reads a whole item of the table. Whose it is comes from the key and from
// what the control plane wrote, never from the report. What cannot be read is as if
// it were missing: no item's form keeps the sweep from the others, or its own
// bastion from being closed.
func (l *Leases) decode(stored item) bastion.LeaseItem {
	lease, _ := decodeLease(stored[attLease])
	_, ended := stored[attEnded]
	return bastion.LeaseItem{
		TaskID: l.TaskID(toText(stored[keyTask])), BastionID: toText(stored[attBastion]),
		Lease: lease, Report: decodeReport(stored[attReport]), Ended: ended,
	}
}

// decodeLease reads what the control plane wrote. With an error comes no part of it.
func decodeLease(stored types.AttributeValue) (bastion.Lease, error) {
	var encoded leaseItem
	if err := attributevalue.Unmarshal(stored, &encoded); err != nil {
		return bastion.Lease{}, opaque(err)
	}
	var d decoder
	lease := encoded.lease(&d)
	if d.err != nil {
		return bastion.Lease{}, d.err
	}
	return lease, nil
}

// decodeReport reads what a task wrote. What bastiond cannot have written counts
// as no report at all: a task that was taken over must not make its own item, or
// the record that the report is copied to, unreadable or too large to write.
func decodeReport(stored types.AttributeValue) bastion.Report {
	var encoded reportItem
	if stored == nil || attributevalue.Unmarshal(stored, &encoded) != nil {
		return bastion.Report{}
	}
	var d decoder
	report := encoded.report(&d)
	if d.err != nil || !plausible(report) {
		return bastion.Report{}
	}
	return report
}

// maxWord is longer, in bytes, than any verb or reason that bastiond writes.
const maxWord = 32

var hostKeyForm = regexp.MustCompile(`^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}$`)

func plausible(r bastion.Report) bool {
	if r.HostKey != "" && (len(r.HostKey) > bastion.MaxHostKey || !hostKeyForm.MatchString(string(r.HostKey))) {
		return false
	}
	if len(r.ConsoleRequest.Verb) > maxWord || len(r.Ending.Reason) > maxWord || len(r.Receipt.Destinations) > bastion.MaxDestinations {
		return false
	}
	for _, d := range r.Receipt.Destinations {
		if len(d.Name) > bastion.MaxDestinationName {
			return false
		}
	}
	return true
}
