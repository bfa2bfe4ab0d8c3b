package emulator

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// untilStdinEnds keeps a program, and what it starts, from outliving the test,
// however that ends.
const untilStdinEnds = `setsid "$@" </dev/null & pid=$!; cat >/dev/null; kill -s KILL -- -$pid; wait $pid 2>/dev/null`

// root is the project's folder, above the test's.
func root() (string, error) {
	folder, err := os.Getwd()
	for err == nil && !there(filepath.Join(folder, "go.mod")) {
		if folder == filepath.Dir(folder) {
			return "", errors.New("no go.mod above the test's folder")
		}
		folder = filepath.Dir(folder)
	}
	return folder, err
}

// tool finds what scripts/emulators has installed.
func tool(t testing.TB, path string) string {
	t.Helper()
	folder, err := root()
	if err != nil {
		t.Fatal(err)
	}
	found := filepath.Join(folder, ".tools", path)
	if !there(found) {
		t.Fatalf("%s is not there: run scripts/emulators first", found)
	}
	return found
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// FreePort is a port of 127.0.0.1 that nothing listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(fmt.Errorf("find a free port: %w", err))
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Output takes what a program prints, while it still does.
type Output struct {
	mu   sync.Mutex
	text []byte
}

// Write adds to it.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

// String is all of it so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Says waits until all of the words are there, for at most ten seconds: what a
// program prints may come later than what it answers.
func (o *Output) Says(words ...string) bool {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(10 * time.Second); ; <-look.C {
		said := o.String()
		missing := slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(said, word) })
		if !missing || time.Now().After(giveUp) {
			return !missing
		}
	}
}
