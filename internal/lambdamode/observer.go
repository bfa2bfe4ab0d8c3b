package lambdamode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// retryAfter is when Lambda sends a failed task event again
// (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html).
const retryAfter = time.Minute

// observeConcurrency is how many bastions one call observes at the same time.
const observeConcurrency = 8

// Observer is the function for task events of ECS and the stream of the lease
// table.
//
// An event only names the bastion to observe. The observer reads the present state,
// so events may arrive late, twice or in any order, and need no version. The reaper
// makes up for an event that never arrives.
type Observer struct {
	service interface {
		Observe(ctx context.Context, id string) error
	}
	store interface {
		Fetch(ctx context.Context, id string) (bastion.Record, error)
	}
	cluster string                       // ARN of the stack's cluster
	period  time.Duration                // between two runs of the reaper
	taskID  func(leaseKey string) string // returns the task in a lease's key
	log     *slog.Logger
}

// Observer returns the function.
func (a *App) Observer() *Observer {
	a.pace.SetShare(backgroundShare)
	a.pace.FailWhenThrottled() // many observers can run at the same time
	a.notifyOwners()
	return &Observer{service: a.Service, store: a.Service.Records, cluster: a.Config.Cloud.ClusterARN, period: a.Config.ReaperPeriod, taskID: a.taskID, log: a.log}
}

// taskEvent holds the fields that are read from an "ECS Task State Change".
type taskEvent struct {
	Cluster    string             `json:"clusterArn"`
	StartedBy  string             `json:"startedBy"` // the control plane wrote it in RunTask
	TaskARN    string             `json:"taskArn"`
	LastStatus bastion.TaskStatus `json:"lastStatus"`
}

// event is a task event or a batch of the stream.
type event struct {
	DetailType string          `json:"detail-type"`
	Detail     json.RawMessage `json:"detail"`
	Records    []leaseChange   `json:"Records"`
}

// leaseChange holds the fields that are read from a record of the stream. The other
// attributes are not decoded. Tasks write some of them, and a value of an unexpected
// type would make the whole batch fail.
type leaseChange struct {
	Change struct {
		SequenceNumber string
		Keys, NewImage map[string]attribute
	} `json:"dynamodb"`
}

// attribute is an attribute of an item. Text is nil if it is not a string.
type attribute struct {
	Text *string `json:"S"`
}

// Handle observes the bastions of an event. For a batch of the stream it returns the
// records that Lambda is to send again; for a task event it returns an error, after
// which Lambda sends the event again.
func (o *Observer) Handle(ctx context.Context, payload json.RawMessage) (*events.DynamoDBEventResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("decode the event: %w", err)
	}
	switch {
	case e.Records != nil:
		return o.stream(ctx, e.Records), nil
	case e.DetailType == "ECS Task State Change":
		return nil, o.task(ctx, e.Detail)
	}
	return nil, fmt.Errorf("neither a task event nor a batch of the stream (detail-type %q)", e.DetailType)
}

func (o *Observer) task(ctx context.Context, detail json.RawMessage) error {
	var t taskEvent
	if err := json.Unmarshal(detail, &t); err != nil {
		return fmt.Errorf("decode the task in the event: %w", err)
	}
	id, ours := awscloud.BastionID(t.StartedBy)
	if !ours || t.Cluster != o.cluster || ending(t.LastStatus) {
		return nil
	}
	if err := o.service.Observe(ctx, id); err != nil {
		return err
	}
	return o.confirm(ctx, id, t)
}

// ending reports whether a task is stopping and has not stopped. There is nothing to
// do then: another event follows when it has.
func ending(status bastion.TaskStatus) bool {
	switch status {
	case bastion.TaskDeactivating, bastion.TaskStopping, bastion.TaskDeprovisioning:
		return true
	}
	return false
}

// confirm returns an error if the event shows that the task has stopped but the
// record does not know it. ECS sends some events before its reads show the change;
// when Lambda sends the event again a minute later, they do.
func (o *Observer) confirm(ctx context.Context, id string, t taskEvent) error {
	if t.LastStatus != bastion.TaskStopped {
		return nil
	}
	rec, err := o.store.Fetch(ctx, id)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read the record of %s: %w", id, err)
	case o.reaperIsSoon(rec):
		return nil
	case rec.Attempt.TaskID == awscloud.TaskID(t.TaskARN) && rec.Attempt.EndedAt.IsZero():
		return fmt.Errorf("ECS does not show yet that task %s of %s has stopped", rec.Attempt.TaskID, id)
	}
	return nil
}

// reaperIsSoon reports whether the reaper converges the record within twice retryAfter,
// so that another event would hardly be sooner. The reaper converges a record at the
// latest one period after its DueAt. A record that is due already is left to the reaper
// whatever the period: the rates may have left no time for this converge, and would leave
// none for the next one.
func (o *Observer) reaperIsSoon(rec bastion.Record) bool {
	left := time.Until(rec.DueAt)
	return !rec.DueAt.IsZero() && (left <= 0 || left+o.period < 2*retryAfter)
}

// stream observes each bastion of a batch once. If one fails, stream still observes the
// others. It returns the stream records of the bastions that failed. Lambda sends these
// again, a few times.
func (o *Observer) stream(ctx context.Context, records []leaseChange) *events.DynamoDBEventResponse {
	var response events.DynamoDBEventResponse
	fail := func(number string, err error) {
		o.log.ErrorContext(ctx, "observe failed", "record", number, "error", err.Error())
		response.BatchItemFailures = append(response.BatchItemFailures, events.DynamoDBBatchItemFailure{ItemIdentifier: number})
	}
	latest := map[string]string{} // sequence number of the latest record of each bastion
	for _, record := range records {
		id, err := o.bastionOf(ctx, record)
		if err != nil {
			fail(record.Change.SequenceNumber, err)
		} else if id != "" {
			latest[id] = record.Change.SequenceNumber
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, observeConcurrency)
	for id, number := range latest {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := o.service.Observe(ctx, id); err != nil {
				mu.Lock()
				defer mu.Unlock()
				fail(number, err)
			}
		})
	}
	wg.Wait()
	return &response
}

// bastionOf returns the ID of the bastion that a record of the stream is about. It
// reads only what the control plane wrote, and accepts only the bastion's present
// task. It returns the empty string if there is nothing to observe.
func (o *Observer) bastionOf(ctx context.Context, record leaseChange) (string, error) {
	key := record.Change.Keys[awscloud.LeaseKeyAttribute].Text
	id := record.Change.NewImage[awscloud.LeaseBastionAttribute].Text
	if key == nil || id == nil {
		return "", nil // the table's TTL deleted the item
	}
	rec, err := o.store.Fetch(ctx, *id)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find the bastion of %s: %w", *key, err)
	case rec.Attempt.TaskID != "" && rec.Attempt.TaskID != o.taskID(*key):
		return "", nil
	case !rec.Intent.Open: // the last report is read once the task has stopped
		return "", nil
	}
	return *id, nil
}
