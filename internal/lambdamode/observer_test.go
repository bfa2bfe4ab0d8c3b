package lambdamode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

const ourCluster = "arn:aws:ecs:eu-west-1:111122223333:cluster/way-in"

// fakeObserve records which bastions were observed.
type fakeObserve struct {
	mu   sync.Mutex
	ids  []string
	fail string // observing this one fails
}

func (f *fakeObserve) Observe(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, id)
	if id == f.fail {
		return errors.New("broken")
	}
	return nil
}

// records is a store of bastions and their present tasks.
type records map[string]string

func (r records) Fetch(_ context.Context, id string) (bastion.Record, error) {
	task, ok := r[id]
	switch {
	case id == "unreadable":
		return bastion.Record{}, errors.New("broken")
	case !ok:
		return bastion.Record{}, fmt.Errorf("fetch %s: %w", id, bastion.ErrNotFound)
	}
	rec := bastion.Record{ID: id, Intent: bastion.Intent{Open: id != "closing"}, Attempt: bastion.Attempt{TaskID: task}}
	switch id {
	case "due":
		rec.DueAt = time.Now().Add(15 * time.Second)
	case "two":
		rec.DueAt = time.Now().Add(5 * time.Minute)
	}
	return rec, nil
}

func newObserver(fail string) (*Observer, *fakeObserve) {
	service := &fakeObserve{fail: fail}
	return &Observer{
		service: service, cluster: ourCluster, log: slog.New(slog.DiscardHandler),
		period: time.Minute,
		store:  records{"one": "task1", "two": "task2", "starting": "", "closing": "task4", "due": "task5"},
		taskID: func(key string) string { return strings.TrimPrefix(key, "AROAEXAMPLE:") },
	}, service
}

func taskEventOf(cluster, startedBy string) string {
	return fmt.Sprintf(`{"version":"0","source":"aws.ecs","detail-type":"ECS Task State Change",
		"detail":{"clusterArn":%q,"startedBy":%q,"taskArn":"arn:aws:ecs:eu-west-1:111122223333:task/way-in/task1","lastStatus":"RUNNING","version":3}}`, cluster, startedBy)
}

// stopped returns the event of a task that has stopped, which the record does not
// know yet.
func stopped(id, task string) string {
	return strings.Replace(in(id, bastion.TaskStopped), "task/way-in/task1", "task/way-in/"+task, 1)
}

// in returns the event of a task in this status.
func in(id string, status bastion.TaskStatus) string {
	return strings.Replace(taskEventOf(ourCluster, "bastion/"+id), "RUNNING", string(status), 1)
}

func TestTaskEventsAreObserved(t *testing.T) {
	for name, test := range map[string]struct {
		event string
		want  string // the observed bastion
		fails bool
	}{
		"of a bastion":            {taskEventOf(ourCluster, "bastion/one"), "one", false},
		"of an unknown one":       {taskEventOf(ourCluster, "bastion/three"), "three", false}, // Observe knows
		"of another cluster":      {taskEventOf(ourCluster+"2", "bastion/one"), "", false},
		"of a service's task":     {taskEventOf(ourCluster, "ecs-svc/123"), "", false},
		"of a task by hand":       {taskEventOf(ourCluster, ""), "", false},
		"that ECS does not show":  {stopped("one", "task1"), "one", true},
		"nor the reaper, soon":    {stopped("two", "task2"), "two", true},
		"that the reaper will":    {stopped("due", "task5"), "due", false},
		"of an earlier attempt":   {stopped("one", "task0"), "one", false},
		"that its end follows":    {in("one", bastion.TaskDeactivating), "", false},
		"that it is at its end":   {in("one", bastion.TaskStopping), "", false},
		"that its network goes":   {in("one", bastion.TaskDeprovisioning), "", false},
		"that fails":              {taskEventOf(ourCluster, "bastion/broken"), "broken", true},
		"with another detail":     {`{"detail-type":"ECS Task State Change","detail":"one"}`, "", true},
		"of another kind":         {`{"detail-type":"ECS Deployment State Change","detail":{}}`, "", true},
		"of a schedule":           {`{"action":"reap"}`, "", true},
		"of API Gateway":          {`{"version":"2.0","rawPath":"/bastions","requestContext":{}}`, "", true},
		"that is nothing":         {`null`, "", true},
		"that is something other": {`[1]`, "", true},
	} {
		o, service := newObserver("broken")
		_, err := o.Handle(t.Context(), json.RawMessage(test.event))
		if got := strings.Join(service.ids, " "); got != test.want || (err != nil) != test.fails {
			t.Errorf("an event %s: observed %q, %v", name, got, err)
		}
	}
}

// dueRecord is a store of one record of the task task1, which is due at a time.
type dueRecord time.Time

func (d dueRecord) Fetch(_ context.Context, id string) (bastion.Record, error) {
	return bastion.Record{ID: id, DueAt: time.Time(d), Intent: bastion.Intent{Open: true}, Attempt: bastion.Attempt{Number: 1, TaskID: "task1"}}, nil
}

// ECS may still show a stopped task as running. Lambda must then send the event again,
// unless the reaper converges the record about as soon. With every period, a ready bastion
// (due after CheckInterval) needs the event again.
func TestUnconfirmedStopIsSentAgainUnlessTheReaperIsSoon(t *testing.T) {
	for _, test := range []struct {
		period time.Duration
		due    time.Duration // from now
		fails  bool
	}{
		{time.Minute, -time.Second, false}, {time.Minute, 0, false}, {time.Minute, 15 * time.Second, false}, {time.Minute, 59 * time.Second, false},
		{time.Minute, time.Minute, true}, {time.Minute, 5 * time.Minute, true},
		{2 * time.Minute, -time.Second, false}, {2 * time.Minute, 0, false}, {2 * time.Minute, 30 * time.Second, true}, {2 * time.Minute, 5 * time.Minute, true},
		{5 * time.Minute, -time.Second, false}, {5 * time.Minute, 0, false}, {5 * time.Minute, 75 * time.Second, true}, {5 * time.Minute, 5 * time.Minute, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			o, _ := newObserver("")
			o.period, o.store = test.period, dueRecord(time.Now().Add(test.due))
			if _, err := o.Handle(t.Context(), json.RawMessage(stopped("one", "task1"))); (err != nil) != test.fails {
				t.Errorf("the reaper runs every %s, the record is due in %s: %v", test.period, test.due, err)
			}
		})
	}
}

func TestObserverKnowsTheReapersPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := newRegion(t, &simtask.Runner{}).start("observer").App
		app.Config.ReaperPeriod = 5 * time.Minute
		if got := app.Observer().period; got != 5*time.Minute {
			t.Errorf("the period is %s", got)
		}
	})
}

// streamRecord returns a record of the stream of leases, as DynamoDB writes it.
func streamRecord(number, task, bastionID string) string {
	return fmt.Sprintf(`{"eventID":"e%[1]s","eventName":"MODIFY","eventSource":"aws:dynamodb","dynamodb":{"SequenceNumber":%[1]q,
		"Keys":{"task":{"S":"AROAEXAMPLE:%[2]s"}},
		"NewImage":{"task":{"S":"AROAEXAMPLE:%[2]s"},"bastion":{"S":%[3]q},"by":{"S":"task"},
			"lease":{"M":{"bastion_id":{"S":%[3]q}}},"report":{"M":{"bastion_id":{"S":"two"},"host_key":{"S":"ssh-ed25519 AAAA"}}}}}}`, number, task, bastionID)
}

func TestStreamRecordsAreObserved(t *testing.T) {
	const removed = `{"eventID":"e9","eventName":"REMOVE","dynamodb":{"SequenceNumber":"9","Keys":{"task":{"S":"AROAEXAMPLE:task1"}}}}`
	const oddImage = `{"eventID":"e8","eventName":"MODIFY","dynamodb":{"SequenceNumber":"8","Keys":{"task":{"S":"AROAEXAMPLE:task1"}},"NewImage":{"bastion":{"N":"1"}}}}`
	const oddKey = `{"eventID":"e7","eventName":"MODIFY","dynamodb":{"SequenceNumber":"7","Keys":{"task":{"NULL":true}},"NewImage":{"bastion":{"S":"one"}}}}`
	const empty = `{}`
	// As DynamoDB Local writes an empty map; nothing may depend on what a report holds.
	const oddReport = `{"eventID":"e6","eventName":"MODIFY","dynamodb":{"SequenceNumber":"6","Keys":{"task":{"S":"AROAEXAMPLE:task1"}},
		"NewImage":{"bastion":{"S":"one"},"report":{"M":{"receipt":{}}},"more":{"L":[7]}}}}`
	for name, test := range map[string]struct {
		records  []string
		want     string // the observed bastions, sorted
		failures string
	}{
		"a report":                                    {[]string{streamRecord("1", "task1", "one")}, "one", ""},
		"two of one bastion, and one of another":      {[]string{streamRecord("1", "task1", "one"), streamRecord("2", "task1", "one"), streamRecord("3", "task2", "two")}, "one two", ""},
		"of a task that the record does not know yet": {[]string{streamRecord("1", "task3", "starting")}, "starting", ""},
		"of a task that was replaced":                 {[]string{streamRecord("1", "task0", "one")}, "", ""},
		"of an unknown bastion":                       {[]string{streamRecord("1", "task1", "three")}, "", ""},
		"unreadable records are skipped":              {[]string{oddImage, oddKey, empty, removed, streamRecord("1", "task1", "one")}, "one", ""},
		"the content of a report is ignored":          {[]string{oddReport}, "one", ""},
		"of a closing bastion":                        {[]string{streamRecord("1", "task4", "closing")}, "", ""},
		"nothing":                                     {nil, "", ""},
		"one fails, the others do not":                {[]string{streamRecord("1", "task2", "two"), streamRecord("2", "task1", "one")}, "one two", "1"},
		"a record that cannot be fetched comes again": {[]string{streamRecord("1", "task1", "one"), streamRecord("2", "task9", "unreadable")}, "one", "2"},
	} {
		o, service := newObserver("two")
		if !strings.Contains(name, "fails") {
			service.fail = ""
		}
		response, err := o.Handle(t.Context(), json.RawMessage(`{"Records":[`+strings.Join(test.records, ",")+`]}`))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		slices.Sort(service.ids)
		var failures []string
		for _, failure := range response.BatchItemFailures {
			failures = append(failures, failure.ItemIdentifier)
		}
		if got := strings.Join(service.ids, " "); got != test.want || strings.Join(failures, " ") != test.failures {
			t.Errorf("%s: observed %q, failures %v", name, got, failures)
		}
	}
}

// Lambda takes a response without a list, or with an empty one, for success, and an
// empty name in the list for a failed batch.
func TestResponseWithoutFailures(t *testing.T) {
	o, _ := newObserver("")
	response, err := o.Handle(t.Context(), json.RawMessage(`{"Records":[{}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(response); err != nil || strings.Contains(string(text), "itemIdentifier") {
		t.Errorf("%s, %v", text, err)
	}
}
