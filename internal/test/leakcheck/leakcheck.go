// Package leakcheck fails a test binary that holds a goroutine or a file
// (sockets are files) that it did not start with. Every package that has tests
// runs them through Main.
package leakcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs a package's tests, then looks for what they left, and exits.
func Main(m *testing.M) {
	before := openFiles()
	code := m.Run()
	if code == 0 {
		code = report(before)
	}
	os.Exit(code)
}

func report(before map[string]int) int {
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "leakcheck:", err)
		return 1
	}
	// The runtime closes descriptors a moment after the goroutine that used
	// them has gone.
	var left []string
	for range 50 {
		if left = added(before, openFiles()); len(left) == 0 {
			return 0
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "leakcheck: files left open:", strings.Join(left, ", "))
	return 1
}

// openFiles counts this process's open files by what they are. It is empty where
// /proc is not there to tell.
func openFiles() map[string]int {
	open := map[string]int{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") {
			continue // gone already, or the runtime's own poller
		}
		if kind, _, found := strings.Cut(target, ":["); found {
			target = kind // socket:[123]
		}
		open[target]++
	}
	return open
}

func added(before, after map[string]int) []string {
	var left []string
	for target, n := range after {
		if n > before[target] {
			left = append(left, fmt.Sprintf("%s (%d more)", target, n-before[target]))
		}
	}
	sort.Strings(left)
	return left
}
