package awscloud

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"

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

// recordItem is a record as its item holds it, in the attribute of that name. What
// indexes, TTL and conditions look at stands beside it; see layout.
type recordItem struct {
	ID             string `dynamodbav:"id"`
	Owner          string `dynamodbav:"owner"`
	Name           string `dynamodbav:"name"`
	CreatedAt      string `dynamodbav:"created_at,omitempty"`
	LatestDeadline string `dynamodbav:"latest_deadline,omitempty"`

	Intent         intentItem  `dynamodbav:"intent"`
	UnsettledUntil string      `dynamodbav:"unsettled_until,omitempty"`
	End            endItem     `dynamodbav:"end"`
	FinishedAt     string      `dynamodbav:"finished_at,omitempty"`
	Group          groupItem   `dynamodbav:"group"`
	Attempt        attemptItem `dynamodbav:"attempt"`
	Failures       int         `dynamodbav:"failures,omitempty"`
	NextAttemptAt  string      `dynamodbav:"next_attempt_at,omitempty"`
	Receipt        receiptItem `dynamodbav:"receipt"`
	Notify         bool        `dynamodbav:"notify,omitempty"`
	Told           *noticeItem `dynamodbav:"told,omitempty"`
	ToldVersion    int64       `dynamodbav:"told_version,omitempty"`
	UntoldSince    string      `dynamodbav:"untold_since,omitempty"`
	DueAt          string      `dynamodbav:"due_at,omitempty"`
}

type intentItem struct {
	Generation int64      `dynamodbav:"generation,omitempty"`
	Open       bool       `dynamodbav:"open"`
	Source     string     `dynamodbav:"source,omitempty"`
	Keys       []string   `dynamodbav:"keys,omitempty"`
	Deadline   string     `dynamodbav:"deadline,omitempty"`
	Reason     string     `dynamodbav:"reason,omitempty"`
	Answer     answerItem `dynamodbav:"answer"`

	DeadlineSetAt string `dynamodbav:"deadline_set_at,omitempty"`
}

type endItem struct {
	Reason  string      `dynamodbav:"reason,omitempty"`
	At      string      `dynamodbav:"at,omitempty"`
	Failure failureItem `dynamodbav:"failure"`
}

type failureItem struct {
	Code    string `dynamodbav:"code,omitempty"`
	Message string `dynamodbav:"message,omitempty"`
}

type groupItem struct {
	ID      string `dynamodbav:"id,omitempty"`
	MadeAt  string `dynamodbav:"made_at,omitempty"`
	Ingress string `dynamodbav:"ingress,omitempty"`
}

type attemptItem struct {
	Number         int    `dynamodbav:"number,omitempty"`
	GroupID        string `dynamodbav:"group_id,omitempty"`
	Subnet         string `dynamodbav:"subnet,omitempty"`
	TaskDefinition string `dynamodbav:"task_definition,omitempty"`
	AnnouncedAt    string `dynamodbav:"announced_at,omitempty"`

	TaskID     string      `dynamodbav:"task_id,omitempty"`
	LaunchedAt string      `dynamodbav:"launched_at,omitempty"`
	Status     string      `dynamodbav:"status,omitempty"`
	Endpoints  []string    `dynamodbav:"endpoints,omitempty"`
	HostKey    string      `dynamodbav:"host_key,omitempty"`
	Generation int64       `dynamodbav:"generation,omitempty"`
	ReadyAt    string      `dynamodbav:"ready_at,omitempty"`
	EndedAt    string      `dynamodbav:"ended_at,omitempty"`
	Failure    failureItem `dynamodbav:"failure"`
}

// noticeItem is only of records whose owner is told something.
type noticeItem struct {
	State    string `dynamodbav:"state,omitempty"`
	Stage    string `dynamodbav:"stage,omitempty"`
	Attempt  int    `dynamodbav:"attempt,omitempty"`
	Source   string `dynamodbav:"source,omitempty"`
	Deadline string `dynamodbav:"deadline,omitempty"`
	Warning  bool   `dynamodbav:"warning,omitempty"`
}

func toNoticeItem(n bastion.Notice) *noticeItem {
	if n == (bastion.Notice{}) {
		return nil
	}
	return &noticeItem{
		State: string(n.State), Stage: n.Stage, Attempt: n.Attempt,
		Source: toPrefix(n.Source), Deadline: toStamp(n.Deadline), Warning: n.Warning,
	}
}

func (it *noticeItem) notice(d *decoder) bastion.Notice {
	if it == nil {
		return bastion.Notice{}
	}
	return bastion.Notice{
		State: bastion.State(it.State), Stage: it.Stage, Attempt: it.Attempt,
		Source: d.prefix("told.source", it.Source), Deadline: d.time("told.deadline", it.Deadline), Warning: it.Warning,
	}
}

func toRecordItem(r bastion.Record) recordItem {
	return recordItem{
		ID: r.ID, Owner: r.Owner, Name: r.Name,
		CreatedAt: toStamp(r.CreatedAt), LatestDeadline: toStamp(r.LatestDeadline),
		Intent: intentItem{
			Generation: r.Intent.Generation, Open: r.Intent.Open, Source: toPrefix(r.Intent.Source),
			Keys: converted[string](r.Intent.Keys), Deadline: toStamp(r.Intent.Deadline), Reason: r.Intent.Reason,
			Answer: toAnswerItem(r.Intent.ConsoleReply), DeadlineSetAt: toStamp(r.Intent.DeadlineSetAt),
		},
		UnsettledUntil: toStamp(r.UnsettledUntil),
		End:            endItem{Reason: string(r.End.Reason), At: toStamp(r.End.At), Failure: toFailureItem(r.End.Failure)},
		FinishedAt:     toStamp(r.FinishedAt),
		Group:          groupItem{ID: r.Group.ID, MadeAt: toStamp(r.Group.FirstSeenAt), Ingress: toPrefix(r.Group.Ingress)},
		Attempt:        toAttemptItem(r.Attempt),
		Failures:       r.Failures, NextAttemptAt: toStamp(r.NextAttemptAt),
		Receipt: toReceiptItem(r.Receipt),
		Notify:  r.Notify, Told: toNoticeItem(r.LastNotice), ToldVersion: r.LastNoticeVersion, UntoldSince: toStamp(r.NotifyPendingSince),
		DueAt: toStamp(r.DueAt),
	}
}

func toAttemptItem(a bastion.Attempt) attemptItem {
	return attemptItem{
		Number: a.Number, GroupID: a.GroupID, Subnet: a.Subnet, TaskDefinition: a.TaskDefinition, AnnouncedAt: toStamp(a.CreatedAt),
		TaskID: a.TaskID, LaunchedAt: toStamp(a.TaskSeenAt), Status: string(a.Status), Endpoints: toTexts(a.Endpoints),
		HostKey: string(a.HostKey), Generation: a.Generation, ReadyAt: toStamp(a.ReadyAt), EndedAt: toStamp(a.EndedAt),
		Failure: toFailureItem(a.Failure),
	}
}

func toFailureItem(f bastion.Failure) failureItem {
	return failureItem{Code: string(f.Code), Message: f.Message}
}

func (f failureItem) failure() bastion.Failure {
	return bastion.Failure{Code: bastion.FailureCode(f.Code), Message: f.Message}
}

func (it recordItem) record(d *decoder) bastion.Record {
	return bastion.Record{
		ID: it.ID, Owner: it.Owner, Name: it.Name,
		CreatedAt: d.time("created_at", it.CreatedAt), LatestDeadline: d.time("latest_deadline", it.LatestDeadline),
		Intent: bastion.Intent{
			Generation: it.Intent.Generation, Open: it.Intent.Open, Source: d.prefix("intent.source", it.Intent.Source),
			Keys: converted[bastion.Key](it.Intent.Keys), Deadline: d.time("intent.deadline", it.Intent.Deadline), Reason: it.Intent.Reason,
			ConsoleReply: it.Intent.Answer.answer(), DeadlineSetAt: d.time("intent.deadline_set_at", it.Intent.DeadlineSetAt),
		},
		UnsettledUntil: d.time("unsettled_until", it.UnsettledUntil),
		End: bastion.End{
			Reason: bastion.EndReason(it.End.Reason), At: d.time("end.at", it.End.At), Failure: it.End.Failure.failure(),
		},
		FinishedAt: d.time("finished_at", it.FinishedAt),
		Group: bastion.GroupStatus{
			ID: it.Group.ID, FirstSeenAt: d.time("group.made_at", it.Group.MadeAt), Ingress: d.prefix("group.ingress", it.Group.Ingress),
		},
		Attempt:  it.Attempt.attempt(d),
		Failures: it.Failures, NextAttemptAt: d.time("next_attempt_at", it.NextAttemptAt),
		Receipt: it.Receipt.receipt(d),
		Notify:  it.Notify, LastNotice: it.Told.notice(d), LastNoticeVersion: it.ToldVersion, NotifyPendingSince: d.time("untold_since", it.UntoldSince),
		DueAt: d.time("due_at", it.DueAt),
	}
}

func (it attemptItem) attempt(d *decoder) bastion.Attempt {
	return bastion.Attempt{
		Number: it.Number, GroupID: it.GroupID, Subnet: it.Subnet, TaskDefinition: it.TaskDefinition,
		CreatedAt: d.time("attempt.announced_at", it.AnnouncedAt),
		TaskID:    it.TaskID, TaskSeenAt: d.time("attempt.launched_at", it.LaunchedAt), Status: bastion.TaskStatus(it.Status),
		Endpoints: parsedAll[netip.AddrPort](d, "attempt.endpoints", it.Endpoints),
		HostKey:   bastion.Key(it.HostKey), Generation: it.Generation,
		ReadyAt: d.time("attempt.ready_at", it.ReadyAt), EndedAt: d.time("attempt.ended_at", it.EndedAt),
		Failure: it.Failure.failure(),
	}
}

// decodeRecord reads a whole item of the table.
func decodeRecord(stored item) (bastion.Record, error) {
	var whole struct {
		Version int64      `dynamodbav:"version"`
		Record  recordItem `dynamodbav:"record"`
	}
	if err := attributevalue.UnmarshalMap(stored, &whole); err != nil {
		return bastion.Record{}, fmt.Errorf("decode the record %s: %w", toText(stored[keyPartition]), opaque(err))
	}
	var d decoder
	rec := whole.Record.record(&d)
	rec.Version = whole.Version
	if d.err != nil {
		return bastion.Record{}, fmt.Errorf("decode the record %s: %w", rec.ID, d.err)
	}
	return rec, nil
}

// dueShards is how many partitions the index of due records has. Every write of a
// record may move it in that index, and one partition takes 1,000 writes a
// second. To change it takes a rewrite of all live records.
const dueShards = 8

func dueShard(id string) string {
	h := fnv.New32a()
	h.Write([]byte(id))
	return strconv.Itoa(int(h.Sum32() % dueShards))
}
