//go:build conformance

package soak

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// measured is what the process uses.
type measured struct {
	goroutines, files int
	heap              uint64
}

func measure() measured {
	runtime.GC()
	runtime.GC() // the first one frees what finalizers held
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return measured{runtime.NumGoroutine(), openFiles(), memory.HeapAlloc}
}

// openFiles returns the number of open files, sockets included; 0 on systems without /proc.
func openFiles() int {
	links, _ := filepath.Glob("/proc/self/fd/*")
	return len(links)
}

func command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

func sorted(all []api.Bastion) []api.Bastion {
	slices.SortFunc(all, func(a, b api.Bastion) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all
}

// audit compares the receipts of the bastions that have ended and that no client uses
// with what the clients have done.
func (s *soak) audit() {
	ended := map[string]*usage{}
	s.mu.Lock()
	for id, k := range s.bastions {
		if !k.audited && k.users == 0 && progress[k.state] == 2 {
			ended[id] = k.usage
		}
	}
	s.mu.Unlock()
	if len(ended) == 0 {
		return
	}
	for _, rec := range s.local.Cloud.Inventory().Records {
		u := ended[rec.ID]
		if u == nil || rec.FinishedAt.IsZero() {
			continue
		}
		for _, wrong := range u.compare(rec.Receipt, s.target.address(), int(s.strays.Load())) {
			s.fail("the receipt of %s, which ended as %s: %s: %+v", rec.ID, rec.End, wrong, rec.Receipt)
		}
		s.audits.Add(1)
		s.mu.Lock()
		s.bastions[rec.ID].audited = true
		s.bastions[rec.ID].usage = &usage{} // frees the transfers
		s.mu.Unlock()
	}
}

// closeEverything closes all bastions of all owners.
func (s *soak) closeEverything() {
	for _, p := range s.people {
		for until := time.Now().Add(patience); ; {
			got, ok := s.call(p, request{method: "DELETE", path: "/bastions", wait: 5}, http.StatusOK, http.StatusAccepted)
			if !ok || got.status == http.StatusOK {
				break
			}
			if time.Now().After(until) {
				s.fail("the bastions of %s are not closed after %s: %s", p, patience, got.text)
				break
			}
		}
	}
	// Bastions that ended before are not in the responses.
	for _, rec := range s.local.Cloud.Inventory().Records {
		for _, p := range s.people {
			if "local:"+p.owner.name == rec.Owner {
				p.get(rec.ID, 5)
				break
			}
		}
	}
}

// leftovers checks that nothing is left.
func (s *soak) leftovers(before measured) {
	s.eventually("something is left in the cloud", s.inCloud)
	s.audit()
	if n := int64(len(s.local.Cloud.Inventory().Records)); n != s.audits.Load() && !s.failed() {
		s.fail("%d receipts of %d bastions were checked", s.audits.Load(), n)
	}
	s.mu.Lock()
	for _, client := range s.http {
		client.CloseIdleConnections()
	}
	s.mu.Unlock()
	s.eventually("a process is left", func() string { return strings.Join(processes(s.mark), ", ") })
	s.eventually("something is left in this process", func() string {
		now := measure()
		// The line of progress and its timer use a goroutine and no file.
		if now.files <= before.files && now.goroutines <= before.goroutines+1 {
			return ""
		}
		return fmt.Sprintf("%+v, before %+v", now, before)
	})
	if s.failed() {
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		s.log.Info("goroutines", "stacks", stacks.String())
	}
	// Local mode keeps the record, the receipt and, for an hour, the task of each bastion.
	now, limit := measure(), before.heap+16<<20+uint64(s.created.Load())*64<<10
	if now.heap > limit {
		s.fail("%d bytes of heap are in use, %d before; the limit is %d", now.heap, before.heap, limit)
	}
	s.log.Info("measured", "before", before, "after", now)
	fmt.Printf("soak: before %+v, after %+v\n", before, now)
}

// inCloud returns what is left in the cloud.
func (s *soak) inCloud() string {
	all := s.local.Cloud.Inventory()
	var left []string
	for _, rec := range all.Records {
		if rec.FinishedAt.IsZero() || rec.Intent.Open {
			left = append(left, fmt.Sprintf("record %s, %s", rec.ID, cmp.Or(rec.State(), "?")))
		}
	}
	for _, task := range all.Live() {
		left = append(left, fmt.Sprintf("task %s of %s, %s", task.ID, task.BastionID, task.Status))
	}
	for _, group := range all.Groups {
		left = append(left, "group "+group.ID)
	}
	for _, lease := range all.Leases {
		if !lease.Ended {
			left = append(left, "lease of "+lease.TaskID)
		}
	}
	return strings.Join(left, "; ")
}

// eventually fails if left still returns something after a long time.
func (s *soak) eventually(what string, left func() string) {
	text := left()
	for until := time.Now().Add(patience); text != "" && time.Now().Before(until); text = left() {
		time.Sleep(50 * time.Millisecond)
	}
	if text != "" {
		s.fail("%s: %s", what, text)
	}
}

// processes returns the processes that have the mark in their environment, other than
// zombies. It finds none on systems without /proc.
func processes(mark string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		environment, err := os.ReadFile(file)
		if err == nil && slices.Contains(strings.Split(string(environment), "\x00"), marker+"="+mark) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			found = append(found, filepath.Base(filepath.Dir(file))+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// killProcesses kills the processes that have the mark.
func killProcesses(mark string) {
	for _, process := range processes(mark) {
		id, _, _ := strings.Cut(process, " ")
		if pid, err := strconv.Atoi(id); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
