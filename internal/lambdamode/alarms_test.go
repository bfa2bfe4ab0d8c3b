package lambdamode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// OPERATIONS.md says when each alarm goes off. The test evaluates the alarms' conditions
// on the metrics that the functions write, in periods of the reaper, while AWS refuses
// calls from a moment on.
func TestAlarmsGoOffInTime(t *testing.T) {
	broken := errors.New("AWS does not respond")
	denied := &bastion.RefusedError{Failure: bastion.Failure{Code: bastion.FailureConfig, Message: "Denied."}, Detail: "UnauthorizedOperation", Denied: true}
	never, either := [2]float64{}, [2]float64{-1, -1} // either: the start can end before the alarm's condition holds
	for _, test := range []struct {
		name    string
		err     error
		calls   string // the prefixes of the calls that fail
		request string // what the owner does then: create, or close a bastion that is ready

		// Between how many periods after the request each alarm's condition holds.
		converges, overdue, starts [2]float64
	}{
		{"EC2 is down, a bastion starts", broken, "Groups.", "create", [2]float64{2, 3.25}, [2]float64{5, 6}, never},
		{"EC2 refuses every group", denied, "Groups.Create", "create", either, never, [2]float64{0, 2}},
		{"ECS is down, a bastion starts", broken, "Tasks.", "create", [2]float64{2, 3.25}, [2]float64{5, 6}, never},
		{"ECS is down, a bastion closes", broken, "Tasks.", "close", [2]float64{2, 3.25}, [2]float64{5, 6}, never},
		{"EC2 refuses to remove a group, a bastion closes", denied, "Groups.Revoke Groups.Delete", "close", [2]float64{2, 3.25}, [2]float64{5, 6}, never},
		{"the table of leases is down, a bastion closes", broken, "Leases.", "close", [2]float64{2, 3.25}, [2]float64{5, 6}, never},
	} {
		for _, minutes := range []int{1, 2, 5} {
			period := time.Duration(minutes) * time.Minute
			t.Run(fmt.Sprintf("%s, every %s", test.name, period), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newAlarmWorld(t, period)
					if test.request == "close" {
						w.ready()
					}
					w.fail = func(call string) error {
						for prefix := range strings.FieldsSeq(test.calls) {
							if strings.HasPrefix(call, prefix) {
								return test.err
							}
						}
						return nil
					}
					began := time.Now()
					w.do(test.request)
					w.reap(8)
					for alarm, within := range map[string][2]float64{"converges": test.converges, "overdue": test.overdue, "starts": test.starts} {
						if within == either {
							continue
						}
						at := w.goesOff(alarm)
						after := at.Sub(began).Seconds() / period.Seconds()
						if at.IsZero() != (within == never) || !at.IsZero() && (after < within[0] || after > within[1]) {
							t.Errorf("%s: %v after the request (%.2f periods), want between %g and %g periods", alarm, at.Sub(began), after, within[0], within[1])
						}
					}
				})
			})
		}
	}
}

// alarmWorld is a stack of which some calls fail.
type alarmWorld struct {
	t       *testing.T
	process *process
	period  time.Duration
	fail    func(call string) error
	id      string
}

func newAlarmWorld(t *testing.T, period time.Duration) *alarmWorld {
	w := &alarmWorld{t: t, period: period, fail: func(string) error { return nil }}
	w.process = newRegion(t, &simtask.Runner{}).start("reaper", "BASTION_REAPER_PERIOD="+period.String())
	s := w.process.Service
	ports := cloudtest.Wrap(cloudtest.Ports{Records: s.Records, DueList: s.DueList, Keys: s.Keys, Marks: s.Marks, Groups: s.Groups, Tasks: s.Tasks, Leases: s.Leases},
		func(_ context.Context, call string, do func() error) error {
			if err := w.fail(call); err != nil {
				return err
			}
			return do()
		})
	s.Records, s.Groups, s.Tasks, s.Leases = ports.Records, ports.Groups, ports.Tasks, ports.Leases
	return w
}

var alarmCaller = bastion.Caller{Owner: "iam:111122223333:AIDAEXAMPLE", Address: netip.MustParseAddr("198.51.100.7")}

// do makes the owner's request. It only logs errors, as a function does.
func (w *alarmWorld) do(request string) {
	ctx, cancel := invocation(peopleTimeout)
	defer cancel()
	var err error
	if request == "close" {
		_, err = w.process.Service.Close(ctx, alarmCaller, w.id, 0)
	} else {
		var rec bastion.Record
		rec, _, err = w.process.Service.Create(ctx, bastion.CreateRequest{Caller: alarmCaller, Key: key})
		w.id = rec.ID
	}
	if err != nil {
		w.t.Log(err)
	}
}

// ready creates a bastion, and waits until it is ready and settled.
func (w *alarmWorld) ready() {
	w.do("create")
	w.reap(10)
	if rec, err := w.process.Service.Records.Fetch(w.t.Context(), w.id); err != nil || rec.State() != bastion.Ready {
		w.t.Fatalf("set up: %s, %v", rec.State(), err)
	}
	time.Sleep(w.period / 3) // the request does not come with a run of the reaper
}

// reap runs the reaper n times, once in each period.
func (w *alarmWorld) reap(n int) {
	reaper := w.process.Reaper()
	for range n {
		time.Sleep(w.period)
		ctx, cancel := invocation(backgroundTimeout)
		if err := reaper.Handle(ctx, Schedule{Action: "reap"}); err != nil {
			w.t.Errorf("reap: %v", err)
		}
		cancel()
	}
}

// goesOff returns when the condition of an alarm of template.yaml is first met; zero if
// it never is.
func (w *alarmWorld) goesOff(alarm string) time.Time {
	var failing, starts []time.Time
	for line := range strings.Lines(w.process.output.String()) {
		var metric struct {
			AWS                                      struct{ Timestamp int64 } `json:"_aws"`
			FailedConverges, OldestOverdue, Failures float64
		}
		if err := json.Unmarshal([]byte(line), &metric); err != nil {
			w.t.Fatal(err)
		}
		at := time.UnixMilli(metric.AWS.Timestamp)
		if metric.FailedConverges > 0 {
			failing = append(failing, at)
		}
		for range int(metric.Failures) {
			starts = append(starts, at)
		}
		n := len(failing)
		switch {
		case alarm == "converges" && n >= 3 && failing[n-1].Sub(failing[n-3]) < 5*w.period:
			return failing[n-1]
		case alarm == "overdue" && metric.OldestOverdue > 5*w.period.Seconds():
			return at
		case alarm == "starts" && len(starts) >= 3 && at.Sub(starts[len(starts)-3]) < 15*time.Minute:
			return starts[len(starts)-1]
		}
	}
	return time.Time{}
}
