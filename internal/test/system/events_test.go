//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"fmt"
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
		b.send(ctx, to.invoke, "reaper", []byte(`{"do":"`+do+`"}`))
		b.schedules.RUnlock()
	}
}
