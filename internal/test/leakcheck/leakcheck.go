// Package leakcheck fails a test binary that leaves goroutines or open files,
// sockets included. Every package with tests calls Main from its TestMain.
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

// Main runs a package's tests and calls after, checks for leaks if the tests pass, and exits.
func Main(m *testing.M, after ...func()) {
	before := openFiles()
	code := m.Run()
	for _, do := range after {
		do()
	}
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
	// The runtime may close a descriptor shortly after its goroutine has ended.
	var left []string
	for range 500 {
		if left = added(before, openFiles()); len(left) == 0 {
			return 0
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "leakcheck: files left open:", strings.Join(left, ", "))
	return 1
}

// openFiles counts this process's open files by kind or path. It returns an empty
// map on systems without /proc.
func openFiles() map[string]int {
	open := map[string]int{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") {
			continue // closed already, or the runtime's poller
		}
		if kind, _, found := strings.Cut(target, ":["); found {
			target = kind // socket:[123]
		}
		open[target]++
	}
	return open
}

// added lists the files that are open more often than before.
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
