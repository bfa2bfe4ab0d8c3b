package awscloud

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

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
		Number: a.Number, GroupID: a.GroupID, Subnet: a.Subnet, TaskDefinition: a.TaskDefinition, AnnouncedAt: toStamp(a.AnnouncedAt),
		TaskID: a.TaskID, LaunchedAt: toStamp(a.LaunchedAt), Status: string(a.Status), Endpoints: toTexts(a.Endpoints),
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
		AnnouncedAt: d.time("attempt.announced_at", it.AnnouncedAt),
		TaskID:      it.TaskID, LaunchedAt: d.time("attempt.launched_at", it.LaunchedAt), Status: bastion.TaskStatus(it.Status),
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
