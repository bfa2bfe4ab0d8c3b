// Package emulator starts the emulators that scripts/emulators installs: DynamoDB
// Local, moto, and Lambda's Runtime Interface Emulator. Each test gets emulators of
// its own, which listen on loopback and end with the test. The package also returns
// template.yaml after the SAM transform.
package emulator

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// untilStdinEnds is a shell script that runs a program and kills it and its children
// when standard input ends. No program outlives its test, however that ends.
const untilStdinEnds = `setsid "$@" </dev/null & pid=$!; cat >/dev/null; kill -s KILL -- -$pid; wait $pid 2>/dev/null`

// root returns the folder of go.mod, above the test's folder.
func root() (string, error) {
	folder, err := os.Getwd()
	for err == nil && !exists(filepath.Join(folder, "go.mod")) {
		if folder == filepath.Dir(folder) {
			return "", errors.New("no go.mod above the test's folder")
		}
		folder = filepath.Dir(folder)
	}
	return folder, err
}

// Tool returns the path of a file that scripts/emulators has installed. The argument
// is a pattern below .tools.
func Tool(t testing.TB, pattern string) string {
	t.Helper()
	folder, err := root()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(folder, ".tools", pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("no .tools/%s: run scripts/emulators first", pattern)
	}
	return found[0]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Output collects the output of a running program.
type Output struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

// String returns all output so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Contains waits until the output contains all words, because a program may print
// later than it responds. It reports whether it found them within a minute.
func (o *Output) Contains(words ...string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(time.Minute); ; <-tick.C {
		text := o.String()
		missing := slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
		if !missing || time.Now().After(giveUp) {
			return !missing
		}
	}
}
