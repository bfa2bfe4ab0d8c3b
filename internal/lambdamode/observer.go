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

// reapEvery is how often the reaper comes; see template.yaml.
const reapEvery = time.Minute

// observers is how many bastions one call looks at at once.
const observers = 8

// Observer is the function behind the events of tasks and the stream of the
// leases' table.
//
// An event only says which bastion to look at. What there is to see is read
// anew, so events may come late, twice or in any order, and need no version to
// tell them apart; one that never comes is made up for by the reaper.
type Observer struct {
	service interface {
		Observe(ctx context.Context, id string) error
	}
	store interface {
		Fetch(ctx context.Context, id string) (bastion.Record, error)
	}
	cluster string                       // the ARN of ours
	taskID  func(leaseKey string) string // the task in a lease's key
	log     *slog.Logger
}

// Observer makes the function.
func (a *App) Observer() *Observer {
	a.pace.SetShare(backgroundShare)
	a.pace.FailWhenThrottled() // there are as many of it as there are events
	a.notifyOwners()
	return &Observer{service: a.Service, store: a.Service.Records, cluster: a.Config.Cloud.ClusterARN, taskID: a.taskID, log: a.log}
}

// taskEvent is what is read of an "ECS Task State Change".
type taskEvent struct {
	Cluster    string             `json:"clusterArn"`
	StartedBy  string             `json:"startedBy"` // the control plane wrote it in RunTask
	TaskARN    string             `json:"taskArn"`
	LastStatus bastion.TaskStatus `json:"lastStatus"`
}

// event is either kind.
type event struct {
	DetailType string          `json:"detail-type"`
	Detail     json.RawMessage `json:"detail"`
	Records    []leaseChange   `json:"Records"`
}

// leaseChange is what is read of a record of the stream. The rest of its image,
// where tasks write what they like, is not looked at, so that no record's form can
// take its batch with it.
type leaseChange struct {
	Change struct {
		SequenceNumber string
		Keys, NewImage map[string]attribute
	} `json:"dynamodb"`
}

// attribute is one of an item's. Text is nil of what is no text.
type attribute struct {
	Text *string `json:"S"`
}

// Handle looks at the bastions of an event. Of a stream's batch it answers the
// records to send again; of a task's event the error, for Lambda to repeat it.
func (o *Observer) Handle(ctx context.Context, payload json.RawMessage) (*events.DynamoDBEventResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	switch {
	case e.Records != nil:
		return o.stream(ctx, e.Records), nil
	case e.DetailType == "ECS Task State Change":
		return nil, o.task(ctx, e.Detail)
	}
	return nil, fmt.Errorf("this is neither an event of a task nor of a stream (detail-type %q): the observer is told of no other", e.DetailType)
}

func (o *Observer) task(ctx context.Context, detail json.RawMessage) error {
	var t taskEvent
	if err := json.Unmarshal(detail, &t); err != nil {
		return fmt.Errorf("read the task of the event: %w", err)
	}
	id, ours := awscloud.BastionID(t.StartedBy)
	if !ours || t.Cluster != o.cluster || ending(t.LastStatus) {
		return nil
	}
	if err := o.service.Observe(ctx, id); err != nil {
		return err
	}
	return o.believed(ctx, id, t)
}

// ending reports whether a task is between running and its end, where nothing is
// to be done: the event of its end follows.
func ending(status bastion.TaskStatus) bool {
	switch status {
	case bastion.TaskDeactivating, bastion.TaskStopping, bastion.TaskDeprovisioning:
		return true
	}
	return false
}

// believed wants the record to know what the event said last of its task. An event
// can be ahead of what ECS's reads show; sent again a minute later, it is not.
func (o *Observer) believed(ctx context.Context, id string, t taskEvent) error {
	if t.LastStatus != bastion.TaskStopped {
		return nil
	}
	rec, err := o.store.Fetch(ctx, id)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read the record of %s: %w", id, err)
	case !rec.DueAt.IsZero() && time.Until(rec.DueAt) < reapEvery:
		return nil // the reaper looks before the event would come again
	case rec.Attempt.TaskID == awscloud.TaskID(t.TaskARN) && rec.Attempt.EndedAt.IsZero():
		return fmt.Errorf("ECS does not show yet that task %s of %s has stopped", rec.Attempt.TaskID, id)
	}
	return nil
}

// stream looks once at each bastion of a batch, whatever becomes of the others.
// The records of those that failed are sent again, a few times.
func (o *Observer) stream(ctx context.Context, records []leaseChange) *events.DynamoDBEventResponse {
	var answer events.DynamoDBEventResponse
	fail := func(number string, err error) {
		o.log.ErrorContext(ctx, "observe", "record", number, "error", err.Error())
		answer.BatchItemFailures = append(answer.BatchItemFailures, events.DynamoDBBatchItemFailure{ItemIdentifier: number})
	}
	latest := map[string]string{} // by bastion: the number of its latest record
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
	slots := make(chan struct{}, observers)
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
	return &answer
}

// bastionOf finds the bastion that a record of the stream is about: by what the
// control plane wrote, and only if the item's task is that bastion's present one.
// Empty: nobody need look, now or when the record is sent again.
func (o *Observer) bastionOf(ctx context.Context, record leaseChange) (string, error) {
	key := record.Change.Keys[awscloud.LeaseKey].Text
	id := record.Change.NewImage[awscloud.LeaseBastion].Text
	if key == nil || id == nil {
		return "", nil // deleted, by the table's TTL
	}
	rec, err := o.store.Fetch(ctx, *id)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find the bastion of %s: %w", *key, err)
	case rec.Attempt.TaskID != "" && rec.Attempt.TaskID != o.taskID(*key):
		return "", nil
	case !rec.Intent.Open: // the last words are read once the task has stopped
		return "", nil
	}
	return *id, nil
}
