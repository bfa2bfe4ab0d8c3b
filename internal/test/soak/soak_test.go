//go:build conformance

package soak

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localmode"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

const (
	privateHost = "private.internal"

	// patience is how long one operation may take. It is long, so that the soak does not
	// fail because the machine is busy.
	patience = 3 * time.Minute

	// progressInterval is the time between two lines of progress.
	progressInterval = 5 * time.Second

	owners = 4

	// maxFailures is the number of failures that are printed.
	maxFailures = 20
)

// soak is one run.
type soak struct {
	t      *testing.T
	seed   uint64
	length time.Duration
	began  time.Time
	ctx    context.Context // ends after length, or at the first failure
	stop   context.CancelFunc
	log    *slog.Logger
	local  *localmode.Local
	target *target
	people []*person
	mark   string // the value of marker
	phase  atomic.Value

	failures                                                        atomic.Int64
	steps, requests, created, logins, keptOut, transfers, bytes     atomic.Int64
	garbage, killedClients, kills, processes, hands, audits, strays atomic.Int64

	mu       sync.Mutex
	http     map[netip.Addr]*http.Client
	bastions map[string]*known
}

// settings returns the length and the seed from SOAK_TIME and SOAK_SEED.
func settings(t *testing.T) (time.Duration, uint64) {
	length, seed := time.Minute, uint64(rand.Uint32())
	var err error
	if text := os.Getenv("SOAK_TIME"); text != "" {
		if length, err = time.ParseDuration(text); err != nil || length <= 0 {
			t.Fatalf("TIME=%s is not a duration such as 90s or 10m", text)
		}
	}
	if text := os.Getenv("SOAK_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SEED=%s is not a number such as 7", text)
		}
	}
	return length, seed
}

func TestSoak(t *testing.T) {
	length, seed := settings(t)
	s := &soak{t: t, seed: seed, length: length, began: time.Now(), http: map[netip.Addr]*http.Client{}, bastions: map[string]*known{}}
	command := fmt.Sprintf("make soak TIME=%s SEED=%d", length, seed)
	fmt.Printf("soak: %s with seed %d; to repeat it: %s\n", length, seed, command)
	s.phase.Store("starting")
	s.mark = fmt.Sprintf("%d-%d", os.Getpid(), seed)
	file, err := os.CreateTemp("", "soak-*.log")
	if err != nil {
		t.Fatal(err)
	}
	s.log = slog.New(slog.NewJSONHandler(file, nil))
	t.Cleanup(func() {
		_ = file.Close()
		if t.Failed() {
			fmt.Printf("soak: FAILED after %s; the log is in %s; to repeat it: %s\n", time.Since(s.began).Round(time.Second), file.Name(), command)
			return
		}
		_ = os.Remove(file.Name())
	})
	s.ctx, s.stop = context.WithCancel(t.Context())
	defer s.stop()
	s.run()
}

func (s *soak) run() {
	program := buildBastiond(s.t)
	var err error
	if s.target, err = newTarget(s.fail); err != nil {
		s.t.Fatal(err)
	}
	defer s.target.close()
	o := localmode.Defaults()
	o.Listen = "127.0.0.1:0"
	o.LaunchDelay = 200 * time.Millisecond
	o.DefaultTTL, o.MaxTTL, o.Idle = 30*time.Second, 2*time.Minute, 8*time.Second
	o.ReapEvery = 200 * time.Millisecond
	o.Allow = []string{fmt.Sprintf("127.0.0.1/32:%d", s.target.port())}
	o.Log = s.log
	if s.local, err = localmode.Start(o); err != nil {
		s.t.Fatal(err)
	}
	defer s.local.Close()
	s.people = newPeople(s, owners)
	before := measure()

	s.phase.Store("running")
	finished := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() { s.report(finished) })
	end := time.AfterFunc(s.length, s.stop)
	var living sync.WaitGroup
	for _, p := range s.people {
		living.Go(p.live)
	}
	living.Go(s.chaos)
	living.Go(func() { s.byHand(program) })
	living.Go(func() { s.every(2*time.Second, s.audit) })
	living.Wait()
	end.Stop()

	s.phase.Store("closing everything")
	s.closeEverything()
	s.phase.Store("looking for what is left")
	s.leftovers(before)
	close(finished)
	reporting.Wait()
	fmt.Println(s.line("finished"))
	if s.length >= time.Minute && !s.failed() && (s.logins.Load() == 0 || s.transfers.Load() == 0 || s.keptOut.Load() == 0 || s.audits.Load() == 0) {
		s.fail("there were no logins, no transfers, no attacks or no receipts, so the soak has shown nothing")
	}
}

// fail reports a failure and ends the soak.
func (s *soak) fail(format string, args ...any) {
	if s.failures.Add(1) <= maxFailures {
		text := fmt.Sprintf(format, args...)
		s.log.Error("soak failure", "failure", text)
		fmt.Printf("soak: FAILURE after %s: %s\n", time.Since(s.began).Round(time.Second), text)
	}
	s.t.Fail()
	s.stop()
}

func (s *soak) failed() bool { return s.failures.Load() > 0 }

// sleep waits for d, or until the soak ends.
func (s *soak) sleep(d time.Duration) { _ = bastion.Sleep(s.ctx, d) }

// every calls do in each period until the soak ends.
func (s *soak) every(period time.Duration, do func()) {
	for s.ctx.Err() == nil {
		s.sleep(period)
		do()
	}
}

// report prints a line in each interval until finished is closed. If nothing ends long
// after the end of the soak, it ends the program with the stacks of all goroutines.
func (s *soak) report(finished <-chan struct{}) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Println(s.line(s.phase.Load().(string)))
			if time.Since(s.began) > s.length+5*patience {
				stacks := make([]byte, 8<<20)
				fmt.Printf("soak: it does not end\n%s\n", stacks[:runtime.Stack(stacks, true)])
				killProcesses(s.mark)
				panic(fmt.Sprintf("the soak does not end; to repeat it: make soak TIME=%s SEED=%d", s.length, s.seed))
			}
		case <-finished:
			return
		}
	}
}

// line returns a line of progress.
func (s *soak) line(phase string) string {
	open, ready := s.open()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return fmt.Sprintf("soak %s of %s, seed %d, %s: %d steps, %d requests, %d bastions (%d open, %d ready, %d receipts checked), %d logins, %d kept out, "+
		"%d transfers, %d MB, %d garbage, killed: %d tasks %d clients, processes: %d bastiond %d ssh, %d goroutines, %d files, %d MB heap, %d failures",
		time.Since(s.began).Round(time.Second), s.length, s.seed, phase, s.steps.Load(), s.requests.Load(), s.created.Load(), open, ready, s.audits.Load(),
		s.logins.Load(), s.keptOut.Load(), s.transfers.Load(), s.bytes.Load()>>20, s.garbage.Load(), s.kills.Load(), s.killedClients.Load(),
		s.hands.Load(), s.processes.Load(), runtime.NumGoroutine(), openFiles(), memory.HeapAlloc>>20, s.failures.Load())
}

// open returns the number of bastions that are open, and that are ready.
func (s *soak) open() (open, ready int) {
	for _, rec := range s.local.Cloud.Inventory().Records {
		if rec.Intent.Open {
			open++
		}
		if rec.State() == bastion.Ready {
			ready++
		}
	}
	return open, ready
}

// usage keeps a bastion from being audited until the returned function is called.
func (s *soak) usage(id string) (done func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bastions[id].users += n
	}
	add(1)
	return func() { add(-1) }
}

// some returns a random bastion that matches.
func (s *soak) some(random *rand.Rand, match func(known) bool) api.Bastion {
	var all []api.Bastion
	for _, k := range s.snapshot() {
		if match(k) {
			all = append(all, k.latest)
		}
	}
	return pick(random, sorted(all))
}

// chaos kills tasks, and lets the cloud run out of capacity. While few bastions are ready,
// it does nothing, so that there is something to use on a busy machine too.
func (s *soak) chaos() {
	for n := uint64(0); s.ctx.Err() == nil; n++ {
		random := rand.New(rand.NewPCG(s.seed, 1<<63|n))
		s.sleep(2*time.Second + time.Duration(random.IntN(4000))*time.Millisecond)
		if _, ready := s.open(); ready < 3 {
			continue
		}
		if random.IntN(5) == 0 {
			s.local.Cloud.RefuseCapacity(1 + random.IntN(2))
		}
		task := pick(random, s.local.Cloud.Inventory().Live())
		if task.ID == "" || s.ctx.Err() != nil {
			continue
		}
		s.log.Info("kill", "bastion", task.BastionID, "task", task.ID)
		s.killed(task.BastionID)
		s.local.Cloud.Kill(task.ID)
		s.kills.Add(1)
	}
}

// alive reports whether a task of the bastion is running and has not begun to end.
func (s *soak) alive(id string) bool {
	all := s.local.Cloud.Inventory()
	for _, task := range all.Live() {
		for _, lease := range all.Leases {
			if task.BastionID == id && task.Status == bastion.TaskRunning && lease.TaskID == task.ID && !lease.Ended && lease.Lease.Open && lease.Report.Ending == (bastion.Ending{}) {
				return true
			}
		}
	}
	return false
}

// buildBastiond compiles bastiond with the race detector.
func buildBastiond(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bastiond")
	build := command("go", "build", "-race", "-o", program, "github.com/bastion-on-demand/bastion/cmd/bastiond")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return program
}
