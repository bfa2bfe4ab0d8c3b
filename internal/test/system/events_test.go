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
	"time"
)

// eventBridge brings states of tasks to the observer, and runs the schedules.
type eventBridge struct {
	schedules sync.RWMutex // held for writing, no schedule runs

	mu     sync.Mutex
	count  map[string]int // of events, by what they are
	dead   []string       // what a dead-letter queue would hold
	serial int
}

// delivered is how many events of a kind have been brought.
func (b *eventBridge) delivered(kind string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[kind]
}

// deadLetters are the events that failed for good.
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

// tries is how often Lambda tries an asynchronous event.
const maxAttempts = 3

// invokes invokes a function by its name, which may have an alias.
type invokeFunc func(ctx context.Context, name string, event []byte) (answer []byte, err error)

// send brings an event to a function, as Lambda does for those who do not wait.
func (b *eventBridge) send(ctx context.Context, to invokeFunc, name string, event []byte) {
	var why string
	for range maxAttempts {
		answer, err := to(context.WithoutCancel(ctx), name, event) // which Lambda ends, too
		if ctx.Err() != nil {
			return
		}
		if why = functionError(answer); err == nil && why == "" {
			return
		}
		if err != nil {
			why = err.Error()
		}
	}
	b.addDeadLetter("%s of %s: %s", name, event, why)
}

// latency is how long EventBridge takes. By then ECS shows what the event is about.
const eventDelay = 500 * time.Millisecond

// taskChanged is an "ECS Task State Change" ("Amazon ECS task state change
// events" in the ECS developer guide), if the rule of template.yaml wants it.
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
		b.send(ctx, to.invoke, "observer", event)
	}
}

// schedule sends the reaper what template.yaml's schedules do, until ctx is done.
func (b *eventBridge) schedule(ctx context.Context, to functions, do string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.schedules.RLock()
		b.countEvent(do)
		b.send(ctx, to.invoke, "reaper", []byte(`{"action":"`+do+`"}`))
		b.schedules.RUnlock()
	}
}

// stream is the mapping from the stream of the leases' table to the observer.
type stream struct {
	url    string // of DynamoDB Local
	client *http.Client
	bridge *eventBridge

	arn, shard string
	last       string // the sequence number of the last record read
}

// record is one of a stream's, with what is read of it here.
type record struct {
	raw      json.RawMessage
	DynamoDB struct {
		SequenceNumber string
		NewImage       map[string]struct{ S string }
	} `json:"dynamodb"`
}

// call calls DynamoDB's streams, whose records come in the very form in which
// Lambda hands them on.
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
	// DynamoDB Local reads whose tables are meant, and checks no signature.
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+accessKey+"/20300102/"+region+"/dynamodb/aws4_request, SignedHeaders=host, Signature=none")
	response, err := s.client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", target, response.Status, answer)
	}
	return json.Unmarshal(answer, out)
}

const streamsTarget = "DynamoDBStreams_20120810."

// find finds the stream of a table, and its shard.
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
		return fmt.Errorf("the stream of %s has %d shards; this reads one", table, len(shards))
	}
	s.shard = shards[0].ShardId
	return nil
}

// iterator begins behind the last record read; before the first, at the oldest.
func (s *stream) iterator(ctx context.Context) (string, error) {
	in := map[string]string{"StreamArn": s.arn, "ShardId": s.shard, "ShardIteratorType": "TRIM_HORIZON"}
	if s.last != "" {
		in["ShardIteratorType"], in["SequenceNumber"] = "AFTER_SEQUENCE_NUMBER", s.last
	}
	var begun struct{ ShardIterator string }
	err := s.call(ctx, streamsTarget+"GetShardIterator", in, &begun)
	return begun.ShardIterator, err
}

// pump hands the records on, until ctx is done. Lambda looks four times a second.
func (s *stream) poll(ctx context.Context, to functions) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		batch, err := s.read(ctx)
		if err != nil && ctx.Err() == nil {
			s.bridge.addDeadLetter("%v", err)
		}
		s.deliver(ctx, to, s.filter(batch))
	}
}

// read reads the records that came since the last time. It asks for an iterator
// each time: DynamoDB Local refuses one that is older than the first record.
func (s *stream) read(ctx context.Context) ([]record, error) {
	iterator, err := s.iterator(ctx)
	if err != nil {
		return nil, err
	}
	var got struct{ Records []json.RawMessage }
	err = s.call(ctx, streamsTarget+"GetRecords", map[string]any{"ShardIterator": iterator, "Limit": 20}, &got)
	if s.last == "" && err != nil && strings.Contains(err.Error(), "TrimmedDataAccessException") {
		return nil, nil // the first record came in between: the next iterator begins there
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

// filter is template.yaml's: what tasks wrote.
func (s *stream) filter(all []record) []record {
	return slices.DeleteFunc(all, func(r record) bool { return r.DynamoDB.NewImage["by"].S != "task" })
}

// hand gives a batch to the observer. What it says that failed, and all that came
// after, is sent again.
func (s *stream) deliver(ctx context.Context, to functions, batch []record) {
	for range maxAttempts {
		if len(batch) == 0 || ctx.Err() != nil {
			return
		}
		s.bridge.countEvent("stream")
		var records []json.RawMessage
		for _, r := range batch {
			records = append(records, r.raw)
		}
		event, err := json.Marshal(map[string]any{"Records": records})
		if err != nil {
			s.bridge.addDeadLetter("%v", err)
			return
		}
		answer, err := to["observer"].Invoke(context.WithoutCancel(ctx), event)
		if err == nil && functionError(answer) == "" {
			batch = s.remaining(answer, batch)
		}
	}
	if len(batch) > 0 && ctx.Err() == nil {
		s.bridge.addDeadLetter("stream: %d records: %s", len(batch), batch[0].raw)
	}
}

func (s *stream) remaining(answer []byte, batch []record) []record {
	var partly struct {
		BatchItemFailures []struct{ ItemIdentifier string } `json:"batchItemFailures"`
	}
	if err := json.Unmarshal(answer, &partly); err != nil {
		return batch
	}
	for i, r := range batch {
		if slices.ContainsFunc(partly.BatchItemFailures, func(f struct{ ItemIdentifier string }) bool { return f.ItemIdentifier == r.DynamoDB.SequenceNumber }) {
			return batch[i:]
		}
	}
	return nil
}
