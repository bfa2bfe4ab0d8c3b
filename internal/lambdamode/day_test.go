//go:build conformance

package lambdamode

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/monitoring"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// The simulated day: twelve hours in which people start bastions, and four times in which
// something fails.
const (
	dayLength = 12 * time.Hour
	dayVisits = 130
)

// period is a time of the day, from its beginning.
type period struct{ from, to time.Duration }

func (p period) contains(at time.Duration) bool { return p.from <= at && at < p.to }

var (
	noCapacity  = period{2*time.Hour + 30*time.Minute, 2*time.Hour + 50*time.Minute} // Fargate has none
	noTable     = period{5 * time.Hour, 5*time.Hour + 15*time.Minute}                // tasks do not reach the table of leases
	brokenImage = period{9*time.Hour + 10*time.Minute, 9*time.Hour + 25*time.Minute} // bastiond exits at once
	noCloud     = period{7*time.Hour + 10*time.Minute, 7*time.Hour + 40*time.Minute} // EC2 and ECS do not respond
)

// dayRunner runs the tasks of the day. A task's image takes a different time to extract
// each time.
type dayRunner struct {
	tasks simtask.Runner
	began time.Time

	mu     sync.Mutex
	random *rand.Rand
}

func (d *dayRunner) Run(ctx context.Context, task localcloud.Process) int {
	d.mu.Lock()
	extraction := time.Duration(d.random.ExpFloat64() * float64(6*time.Second))
	d.mu.Unlock()
	select {
	case <-time.After(extraction):
	case <-ctx.Done():
		return bastion.ExitTerminated
	}
	switch at := time.Since(d.began); {
	case noTable.contains(at):
		return bastion.ExitUnreachable
	case brokenImage.contains(at):
		return bastion.ExitFailure
	}
	return d.tasks.Run(ctx, task)
}

// visit is a person's use of a bastion.
type visit struct {
	at, stay time.Duration
}

// visits returns the visits of the day. More people come around the third and the eighth
// hour, and in the last hour nobody comes.
func visits(random *rand.Rand) []visit {
	var all []visit
	for len(all) < dayVisits {
		peak := []float64{2.8, 7.9}[random.IntN(2)]
		at := peak + 1.6*random.NormFloat64() // hours
		if at < 0 || at > 11 {
			continue
		}
		stay := time.Duration(8+random.ExpFloat64()*25) * time.Minute
		all = append(all, visit{time.Duration(at * float64(time.Hour)), stay})
	}
	return all
}

// TestDashboardOfASimulatedDay draws the dashboard of template.yaml from the lines that
// the functions write in a simulated day. With DASHBOARD=FILE it writes the picture that
// OPERATIONS.md shows: make dashboard.
func TestDashboardOfASimulatedDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(11, 10))
		tasks := &dayRunner{began: time.Now(), random: rand.New(rand.NewPCG(10, 11))}
		tasks.tasks.Timing.Poll = 15 * time.Second
		r := newRegionOf(t, tasks)
		r.busy.Store(true)
		var running sync.WaitGroup
		running.Go(r.pump)
		running.Go(func() { r.failAtTimes(tasks.began) })
		for i, v := range visits(random) {
			running.Go(func() {
				time.Sleep(v.at)
				r.visit(i, v.stay)
			})
		}
		r.runSchedules(tasks.began.Add(dayLength))
		time.Sleep(5 * time.Minute)
		close(r.over)
		running.Wait()

		var log bytes.Buffer
		r.mu.Lock() // events of tasks can still be on their way
		for _, p := range r.processes {
			log.WriteString(p.output.String())
		}
		r.mu.Unlock()
		samples, err := monitoring.Samples(&log)
		if err != nil {
			t.Fatal(err)
		}
		r.draw(t, append(samples, r.lambdaSamples()...), tasks.began)
	})
}

// failAtTimes makes calls fail at the times of the day.
func (r *region) failAtTimes(began time.Time) {
	time.Sleep(noCapacity.from)
	for time.Since(began) < noCapacity.to {
		r.cloud.RefuseCapacity(1_000)
		time.Sleep(time.Minute)
	}
	r.cloud.RefuseCapacity(0)
	time.Sleep(time.Until(began.Add(noCloud.from)))
	r.down.Store(true)
	time.Sleep(time.Until(began.Add(noCloud.to)))
	r.down.Store(false)
}

// runSchedules runs the reaper every minute and the sweep every ten minutes.
func (r *region) runSchedules(end time.Time) {
	reaper, sweeper := r.start("reaper").Reaper(), r.start("sweep").Reaper()
	var running sync.WaitGroup
	run := func(function *Reaper, action string) {
		ctx, cancel := invocation(backgroundTimeout)
		defer cancel()
		at, wasDown := time.Now(), r.down.Load()
		err := function.Handle(ctx, Schedule{Action: action})
		if err != nil && !wasDown && !r.down.Load() {
			r.t.Errorf("%s at %s: %v", action, at, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.invoked = append(r.invoked, invoked{"ReaperFunction", at, err != nil})
	}
	for minute := 0; time.Now().Before(end); minute++ {
		running.Go(func() { run(reaper, "reap") })
		if minute%10 == 0 {
			running.Go(func() { run(sweeper, "sweep") })
		}
		time.Sleep(time.Minute)
	}
	running.Wait()
}

// visit creates a bastion, extends it after half of the time, and closes it. While
// something fails, requests fail, too; their functions do not, because they respond.
func (r *region) visit(n int, stay time.Duration) {
	caller := bastion.Caller{Owner: fmt.Sprint("iam:111122223333:person", n), Address: netip.MustParseAddr("198.51.100.7")}
	call := func(function string, do func(context.Context, *bastion.Service) error) {
		p := r.start(function)
		ctx, cancel := invocation(peopleTimeout)
		defer cancel()
		at := time.Now()
		_ = do(ctx, p.Service)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.invoked = append(r.invoked, invoked{function, at, false})
	}
	var id string
	call("CreateFunction", func(ctx context.Context, s *bastion.Service) error {
		rec, _, err := s.Create(ctx, bastion.CreateRequest{Caller: caller, Key: key, Wait: 20 * time.Second})
		id = rec.ID
		return err
	})
	call("DescribeFunction", func(ctx context.Context, s *bastion.Service) error {
		_, err := s.Get(ctx, caller, id, 20*time.Second)
		return err
	})
	time.Sleep(stay / 2)
	call("ExtendFunction", func(ctx context.Context, s *bastion.Service) error {
		_, err := s.Extend(ctx, caller, id, 2*time.Hour, 0)
		return err
	})
	time.Sleep(stay / 2)
	call("DestroyFunction", func(ctx context.Context, s *bastion.Service) error {
		_, err := s.Close(ctx, caller, id, 20*time.Second)
		return err
	})
}

// lambdaSamples returns what Lambda publishes for the invocations. The simulation has no
// limit of concurrent executions, so no invocation is throttled.
func (r *region) lambdaSamples() (samples []monitoring.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.invoked {
		dimensions := map[string]string{"FunctionName": one.function}
		errors := 0.0
		if one.failed {
			errors = 1
		}
		samples = append(samples,
			monitoring.Sample{Metric: monitoring.Metric{Namespace: "AWS/Lambda", Name: "Errors", Dimensions: dimensions}, Unit: "Count", At: one.at, Value: errors},
			monitoring.Sample{Metric: monitoring.Metric{Namespace: "AWS/Lambda", Name: "Throttles", Dimensions: dimensions}, Unit: "Count", At: one.at})
	}
	return samples
}

// checkFailures checks that each failure of the day is counted, by its code and by the
// metric of the alarm.
func checkFailures(t *testing.T, samples []monitoring.Sample) {
	t.Helper()
	counts := map[string]float64{}
	for _, s := range samples {
		if s.Metric.Name == metricFailures {
			counts[s.Metric.Dimensions[dimensionCode]] += s.Value
		}
	}
	all := 0.0
	for _, code := range []bastion.FailureCode{bastion.FailureCapacity, bastion.FailureLease, bastion.FailureCrash} {
		if counts[string(code)] == 0 {
			t.Errorf("no start failed with %s", code)
		}
		all += counts[string(code)]
	}
	if counts[string(bastion.FailureUnavailable)] == 0 || counts[""] != all || len(counts) != 5 {
		t.Errorf("the failures are %v", counts)
	}
}

// draw draws the dashboard, and checks that no chart is empty.
func (r *region) draw(t *testing.T, samples []monitoring.Sample, from time.Time) {
	template, err := monitoring.Read("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	widgets, err := template.Dashboard("way-in", "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range widgets {
		if !slices.ContainsFunc(w.Series, func(series monitoring.Series) bool {
			return slices.ContainsFunc(samples, func(s monitoring.Sample) bool { return s.Metric.String() == series.Metric.String() })
		}) {
			t.Errorf("the day has no value of %q", w.Title)
		}
	}
	checkFailures(t, samples)
	picture, err := monitoring.Draw(widgets, samples, from, from.Add(dayLength))
	if err != nil {
		t.Fatal(err)
	}
	if file := os.Getenv("DASHBOARD"); file != "" {
		if err := os.WriteFile(file, picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
