package sshd

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience limits how long a test waits for an event.
const patience = 5 * time.Minute

// line is one line of the log.
type line map[string]any

func (l line) text(key string) string {
	if l[key] == nil {
		return ""
	}
	return fmt.Sprint(l[key])
}

func (l line) number(key string) int64 {
	n, _ := l[key].(float64)
	return int64(n)
}

// testLog holds what the server logged.
type testLog struct {
	mu      sync.Mutex
	lines   []line
	raw     strings.Builder
	changed chan struct{}
}

func newTestLog() *testLog { return &testLog{changed: make(chan struct{})} }

func (j *testLog) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return 0, fmt.Errorf("parse log line %q: %w", b, err)
	}
	j.raw.Write(b)
	j.lines = append(j.lines, l)
	close(j.changed)
	j.changed = make(chan struct{})
	return len(b), nil
}

// all returns the lines with a message.
func (j *testLog) all(message string) (found []line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if l.text("msg") == message {
			found = append(found, l)
		}
	}
	return found
}

func (j *testLog) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.raw.String()
}

// await waits for count lines with a message, and returns the last of them.
func (j *testLog) await(t testing.TB, message string, count int) line {
	t.Helper()
	late := time.After(patience)
	for {
		j.mu.Lock()
		changed := j.changed
		j.mu.Unlock()
		if found := j.all(message); len(found) >= count {
			return found[count-1]
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("fewer than %d lines %q; the log is:\n%s", count, message, j.text())
		}
	}
}
