//go:build conformance

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventBridge plays EventBridge: it delivers task events to the observer and runs the
// schedules. It also counts all asynchronous events and keeps those that failed.
type eventBridge struct {
	schedules sync.RWMutex // while locked for writing, no schedule runs
	all       sync.RWMutex // while locked for writing, no task event is delivered, no stream is read, and no schedule runs

	mu     sync.Mutex
	count  map[string]int // events by kind
	dead   []string       // events that a dead-letter queue would hold
	serial int
}

// pause stops the delivery of all events until resume is called, or the test ends.
func (b *eventBridge) pause(t *testing.T) (resume func()) {
	t.Helper()
	b.all.Lock()
	resume = sync.OnceFunc(b.all.Unlock)
	t.Cleanup(resume)
	return resume
}

// delivered returns how many events of a kind were delivered.
func (b *eventBridge) delivered(kind string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[kind]
}

// deadLetters returns the events of which every attempt failed.
func (b *eventBridge) deadLetters() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.dead...)
}

func (b *eventBridge) countEvent(kind string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count[kind]++
	b.serial++
	return b.serial
}

func (b *eventBridge) addDeadLetter(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = append(b.dead, fmt.Sprintf(format, args...))
}

// maxAttempts is how often Lambda tries an asynchronous event.
const maxAttempts = 3

// invokeFunc invokes a function by its name or its name and alias.
type invokeFunc func(ctx context.Context, name string, event []byte) (response []byte, err error)

// send invokes a function asynchronously, with Lambda's retries.
func (b *eventBridge) send(ctx context.Context, to invokeFunc, name string, event []byte) {
	var why string
	for range maxAttempts {
		response, err := to(context.WithoutCancel(ctx), name, event) // Lambda completes an invocation
		if ctx.Err() != nil {
			return
		}
		if why = functionError(response); err == nil && why == "" {
			return
		}
		if err != nil {
			why = err.Error()
		}
	}
	b.addDeadLetter("%s of %s: %s", name, event, why)
}

// eventDelay is the delay of EventBridge. After it, ECS shows the state of the event.
const eventDelay = 500 * time.Millisecond

// taskChanged delivers an "ECS Task State Change" event if it matches the rule of
// template.yaml. For its form, see "Amazon ECS task state change events" in the ECS
// developer guide.
func (b *eventBridge) taskChanged(ctx context.Context, to functions, t *task, cluster, status string) {
	if !strings.HasPrefix(t.startedBy, "bastion/") {
		return
	}
	n := b.countEvent("task")
	event, err := json.Marshal(map[string]any{
		"version": "0", "id": fmt.Sprintf("event-%d", n), "detail-type": "ECS Task State Change", "source": "aws.ecs",
		"account": account, "region": region, "time": time.Now().UTC().Format(time.RFC3339), "resources": []string{t.arn},
		"detail": map[string]any{
			"clusterArn": cluster, "taskArn": t.arn, "startedBy": t.startedBy,
			"lastStatus": status, "group": "family:way-in", "launchType": "FARGATE", "version": n,
		},
	})
	if err != nil {
		b.addDeadLetter("event of task %s: %v", t.id, err)
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(eventDelay):
		b.all.RLock()
		defer b.all.RUnlock()
		b.send(ctx, to.invoke, "observer", event)
	}
}

// schedule invokes the reaper with the input of a schedule of template.yaml, until ctx is
// done.
func (b *eventBridge) schedule(ctx context.Context, to functions, action string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.all.RLock()
		b.schedules.RLock()
		b.countEvent(action)
		b.send(ctx, to.invoke, "reaper", []byte(`{"action":"`+action+`"}`))
		b.schedules.RUnlock()
		b.all.RUnlock()
	}
}

// stream plays the event source mapping from the lease table's stream to the observer.
type stream struct {
	url    string // of DynamoDB Local
	client *http.Client
	events *eventBridge

	arn, shard string
	last       string // the sequence number of the last record read
}

// record is a record of the stream, with the fields that the test reads.
type record struct {
	raw      json.RawMessage
	DynamoDB struct {
		SequenceNumber string
		NewImage       map[string]struct{ S string }
	} `json:"dynamodb"`
}

// call calls DynamoDB Local. Its stream records have the form that Lambda passes on.
func (s *stream) call(ctx context.Context, target string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.0")
	request.Header.Set("X-Amz-Target", target)
	// DynamoDB Local selects the tables by the access key and does not check the signature.
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+accessKey+"/20300102/"+region+"/dynamodb/aws4_request, SignedHeaders=host, Signature=none")
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", target, response.Status, content)
	}
	return json.Unmarshal(content, out)
}

const streamsTarget = "DynamoDBStreams_20120810."

// locate looks up the stream of a table and its shard.
func (s *stream) locate(ctx context.Context, table string) error {
	var described struct {
		Table struct{ LatestStreamArn string }
	}
	if err := s.call(ctx, "DynamoDB_20120810.DescribeTable", map[string]string{"TableName": table}, &described); err != nil {
		return err
	}
	s.arn = described.Table.LatestStreamArn
	var found struct {
		StreamDescription struct{ Shards []struct{ ShardId string } }
	}
	if err := s.call(ctx, streamsTarget+"DescribeStream", map[string]string{"StreamArn": s.arn}, &found); err != nil {
		return err
	}
	shards := found.StreamDescription.Shards
	if len(shards) != 1 {
		return fmt.Errorf("the stream of %s has %d shards, want 1", table, len(shards))
	}
	s.shard = shards[0].ShardId
	return nil
}

// iterator returns an iterator that starts after the last record read, or at the oldest
// record.
func (s *stream) iterator(ctx context.Context) (string, error) {
	in := map[string]string{"StreamArn": s.arn, "ShardId": s.shard, "ShardIteratorType": "TRIM_HORIZON"}
	if s.last != "" {
		in["ShardIteratorType"], in["SequenceNumber"] = "AFTER_SEQUENCE_NUMBER", s.last
	}
	var response struct{ ShardIterator string }
	err := s.call(ctx, streamsTarget+"GetShardIterator", in, &response)
	return response.ShardIterator, err
}

// poll delivers records until ctx is done. Lambda polls four times a second.
func (s *stream) poll(ctx context.Context, to functions) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.events.all.RLock()
		batch, err := s.read(ctx)
		if err != nil && ctx.Err() == nil {
			s.events.addDeadLetter("%v", err)
		}
		s.deliver(ctx, to, s.filter(batch))
		s.events.all.RUnlock()
	}
}

// read returns the records since the last call. It gets a new iterator each time, because
// DynamoDB Local refuses an iterator that is older than the first record.
func (s *stream) read(ctx context.Context) ([]record, error) {
	iterator, err := s.iterator(ctx)
	if err != nil {
		return nil, err
	}
	var got struct{ Records []json.RawMessage }
	err = s.call(ctx, streamsTarget+"GetRecords", map[string]any{"ShardIterator": iterator, "Limit": 20}, &got)
	if s.last == "" && err != nil && strings.Contains(err.Error(), "TrimmedDataAccessException") {
		return nil, nil // the first record is newer than the iterator; the next iterator starts there
	}
	if err != nil {
		return nil, err
	}
	var batch []record
	for _, raw := range got.Records {
		r := record{raw: raw}
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, fmt.Errorf("decode the record %s: %w", raw, err)
		}
		batch, s.last = append(batch, r), r.DynamoDB.SequenceNumber
	}
	return batch, nil
}

// filter keeps the records that match template.yaml's filter: those that tasks wrote.
func (s *stream) filter(all []record) []record {
	return slices.DeleteFunc(all, func(r record) bool { return r.DynamoDB.NewImage["by"].S != "task" })
}

// deliver invokes the observer with a batch. If the observer reports a failed record, that
// record and all later ones are sent again.
func (s *stream) deliver(ctx context.Context, to functions, batch []record) {
	for range maxAttempts {
		if len(batch) == 0 || ctx.Err() != nil {
			return
		}
		s.events.countEvent("stream")
		var records []json.RawMessage
		for _, r := range batch {
			records = append(records, r.raw)
		}
		event, err := json.Marshal(map[string]any{"Records": records})
		if err != nil {
			s.events.addDeadLetter("%v", err)
			return
		}
		response, err := to["observer"].Invoke(context.WithoutCancel(ctx), event)
		if err == nil && functionError(response) == "" {
			batch = s.remaining(response, batch)
		}
	}
	if len(batch) > 0 && ctx.Err() == nil {
		s.events.addDeadLetter("stream: %d records: %s", len(batch), batch[0].raw)
	}
}

// remaining returns the part of a batch that the observer's response asks for again.
func (s *stream) remaining(response []byte, batch []record) []record {
	var partly struct {
		BatchItemFailures []struct{ ItemIdentifier string } `json:"batchItemFailures"`
	}
	if err := json.Unmarshal(response, &partly); err != nil {
		return batch
	}
	for i, r := range batch {
		if slices.ContainsFunc(partly.BatchItemFailures, func(f struct{ ItemIdentifier string }) bool { return f.ItemIdentifier == r.DynamoDB.SequenceNumber }) {
			return batch[i:]
		}
	}
	return nil
}
