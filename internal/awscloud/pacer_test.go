package awscloud

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
)

func TestCallsWaitForTheirTurn(t *testing.T) {
	for _, test := range []struct {
		name    string
		share   float64
		actions []string // called in turn
		calls   int
		want    time.Duration
	}{
		{"burst", 1, []string{"DeleteSecurityGroup"}, 50, 0},
		{"one more than a burst", 1, []string{"DeleteSecurityGroup"}, 51, 200 * time.Millisecond},
		{"half the rate", 0.5, []string{"DeleteSecurityGroup"}, 25 + 5, 2 * time.Second},
		{"separate buckets", 0.5, []string{"DeleteSecurityGroup", "RevokeSecurityGroupIngress"}, 2 * 25, 0},
		{"shared bucket", 0.5, []string{"ListTasks", "DescribeTasks"}, 50 + 10, time.Second},
		{"two buckets: the slower one limits", 0.5, []string{"RunTask"}, 50 + 10, time.Second},
		{"two buckets: both are used", 0.5, []string{"RunTask", "StopTask"}, 50 + 20, time.Second},
		{"share of less than one token", 0.001, []string{"DeleteSecurityGroup"}, 2, 200 * time.Second},
		{"call without a rate", 0.5, []string{"CreateFleet"}, 1000, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPacer()
			p.SetShare(test.share)
			began := time.Now()
			for i := range test.calls {
				if err := p.wait(t.Context(), test.actions[i%len(test.actions)]); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(began).Round(time.Millisecond); took != test.want {
				t.Errorf("%s: %d calls took %s, want %s", test.name, test.calls, took, test.want)
			}
		})
	}
}

func TestWaitBeyondDeadlineFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer()
		p.empty("DeleteSecurityGroup")
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 199*time.Millisecond)
		defer cancel()
		if err := p.wait(short, "DeleteSecurityGroup"); !errors.Is(err, bastion.ErrNoTime) || time.Since(began) > 0 {
			t.Errorf("%v after %s, want ErrNoTime at once", err, time.Since(began))
		}
		if err := p.wait(t.Context(), "DeleteSecurityGroup"); err != nil || time.Since(began) != 200*time.Millisecond {
			t.Errorf("%v after %s, want the turn after 200ms", err, time.Since(began))
		}
		<-short.Done()
		if err := p.wait(short, "DeleteSecurityGroup"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
	})
}

func TestEmptyingBucketKeepsWaitingCallsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer()
		p.empty("DeleteSecurityGroup")
		for range 3 {
			go func() { _ = p.wait(t.Context(), "DeleteSecurityGroup") }()
		}
		synctest.Wait()
		p.empty("DeleteSecurityGroup")
		began := time.Now()
		if err := p.wait(t.Context(), "DeleteSecurityGroup"); err != nil || time.Since(began) != 800*time.Millisecond {
			t.Errorf("%v after %s, want the fourth turn after 800ms", err, time.Since(began))
		}
	})
}

// pacedWire returns a wire with this pacer, with retries, and without a network, for
// simulated time.
func pacedWire(t *testing.T, p *Pacer) *wire {
	w := &wire{cloud: localcloud.New(localcloud.Config{})}
	t.Cleanup(w.cloud.Close)
	w.server = awswire.New(awswire.Config{Cloud: w.cloud, Cluster: testStack.Cluster, Groups: []string{testStack.MemberGroup}, Port: testStack.Port})
	client := &http.Client{Transport: w.server}
	sdk := testSDK("http://wire.test")
	w.ec2 = NewEC2(sdk, p, func(o *ec2.Options) { o.HTTPClient = client })
	w.ecs = NewECS(sdk, p, func(o *ecs.Options) { o.HTTPClient = client })
	w.groups = NewGroups(w.ec2, testStack)
	w.tasks = NewTasks(w.ecs, w.ec2, testStack, time.Now)
	return w
}

// A throttled call empties its bucket, and each retry waits for its turn.
func TestRetriesStayWithinRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer()
		p.SetShare(0.1) // one DeleteSecurityGroup every two seconds
		w := pacedWire(t, p)
		for range 3 {
			w.server.Fail("DeleteSecurityGroup", "RequestLimitExceeded", "Request limit exceeded.")
		}
		began := time.Now()
		if err := w.groups.Delete(t.Context(), "sg-1"); !errors.Is(err, bastion.ErrNotFound) {
			t.Error(err)
		}
		if took := time.Since(began).Round(time.Millisecond); took < 6*time.Second {
			t.Errorf("three retries within %s", took)
		}
		began = time.Now()
		if _, err := w.groups.List(t.Context()); err != nil || time.Since(began) > 0 {
			t.Errorf("another call waited for %s: %v", time.Since(began), err)
		}
	})
}

func TestFailWhenThrottledDoesNotRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer()
		p.FailWhenThrottled()
		w := pacedWire(t, p)
		w.server.Fail("DescribeSecurityGroups", "RequestLimitExceeded", "Request limit exceeded.")
		w.server.Fail("StopTask", "ThrottlingException", "Rate exceeded")
		_, group := w.groups.Describe(t.Context(), testID, "sg-1")
		for call, err := range map[string]error{"describe": group, "stop": w.tasks.Stop(t.Context(), "1", "")} {
			if !errors.Is(err, bastion.ErrNoTime) {
				t.Errorf("%s: %v", call, err)
			}
			checkNoSDKError(t, err)
		}
		if calls := w.server.Calls(); len(calls) != 2 {
			t.Errorf("calls: %q", calls)
		}
	})
}

func TestThrottlingAfterAllRetriesIsErrNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pacedWire(t, NewPacer())
		for range computeAttempts {
			w.server.Fail("RunTask", "ThrottlingException", "Rate exceeded")
			w.server.Fail("DeleteSecurityGroup", "RequestLimitExceeded", "Request limit exceeded.")
		}
		_, run := w.tasks.Run(t.Context(), specIn("sg-1", testID, 1))
		for call, err := range map[string]error{"run": run, "delete": w.groups.Delete(t.Context(), "sg-1")} {
			if !errors.Is(err, bastion.ErrNoTime) {
				t.Errorf("%s: %v", call, err)
			}
			checkNoSDKError(t, err)
		}
		if calls := w.server.Calls(); len(calls) != 2*computeAttempts {
			t.Errorf("%d calls", len(calls))
		}
	})
}

// A call that ends at its deadline is a failure if AWS did not respond, and a lack of time
// if the call waited: for its turn, or because AWS throttled it.
func TestDeadlineOfWaitingCallIsErrNoTime(t *testing.T) {
	refuse := func(code string) func(*wire) {
		return func(w *wire) {
			for range computeAttempts {
				w.server.Fail("DeleteSecurityGroup", code, "Refused.")
			}
		}
	}
	for name, test := range map[string]struct {
		set    func(*wire)
		waits  bool          // the call waits 200 ms for its turn
		takes  time.Duration // AWS's response
		limit  time.Duration
		noTime bool
	}{
		"throttled":                            {refuse("RequestLimitExceeded"), false, time.Millisecond, time.Second, true},
		"an error of AWS, again and again":     {refuse("InternalError"), false, time.Millisecond, time.Second, false},
		"no response":                          {nil, false, time.Hour, time.Second, false},
		"no response after a short wait":       {nil, true, time.Hour, time.Second, false},
		"a long wait, then too little time":    {nil, true, 60 * time.Millisecond, 250 * time.Millisecond, true},
		"throttled late, then too little time": {refuse("RequestLimitExceeded"), false, 200 * time.Millisecond, 210 * time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := NewPacer()
			w := pacedWire(t, p)
			if test.set != nil {
				test.set(w)
			}
			slow := &http.Client{Transport: slowTransport{w.server, test.takes}}
			groups := NewGroups(NewEC2(testSDK("http://wire.test"), p, func(o *ec2.Options) { o.HTTPClient = slow }), testStack)
			if test.waits {
				p.empty("DeleteSecurityGroup")
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.limit)
			defer cancel()
			err := groups.Delete(ctx, "sg-1")
			if errors.Is(err, bastion.ErrNoTime) != test.noTime || errors.Is(err, context.DeadlineExceeded) == test.noTime {
				t.Errorf("%s: %v", name, err)
			}
			checkNoSDKError(t, err)
		})
	}
}

// slowTransport delays each response.
type slowTransport struct {
	http.RoundTripper
	takes time.Duration
}

func (s slowTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(s.takes):
		return s.RoundTripper.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// The domain handles ErrNoTime, so the SDK must not hide it.
func TestErrNoTimePassesThroughSDK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer()
		w := pacedWire(t, p)
		for action := range Rates {
			p.empty(action)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, groups := w.groups.List(ctx)
		_, tasks := w.tasks.List(ctx)
		_, run := w.tasks.Run(ctx, specIn("sg-1", testID, 1))
		for call, err := range map[string]error{
			"groups": groups, "tasks": tasks, "run": run, "stop": w.tasks.Stop(ctx, "1", ""), "delete": w.groups.Delete(ctx, "sg-1"),
			"revoke": w.groups.Revoke(ctx, "sg-1", bastion.Rule{ID: "sgr-1"}), "authorize": w.groups.Authorize(ctx, "sg-1", testSource),
		} {
			if !errors.Is(err, bastion.ErrNoTime) {
				t.Errorf("%s: %v", call, err)
			}
			checkNoSDKError(t, err)
		}
		if calls := w.server.Calls(); len(calls) > 0 {
			t.Errorf("calls: %q", calls)
		}
	})
}

func TestEveryCallHasRate(t *testing.T) {
	calls := 0
	for _, api := range []reflect.Type{reflect.TypeFor[EC2Groups](), reflect.TypeFor[EC2Interfaces](), reflect.TypeFor[ECSTasks]()} {
		for method := range api.Methods() {
			calls++
			if len(Rates[method.Name]) == 0 {
				t.Errorf("%s has no rate", method.Name)
			}
			for _, r := range Rates[method.Name] {
				if r.Bucket == "" || r.Burst < r.PerSecond || r.PerSecond <= 0 {
					t.Errorf("%s has the rate %+v", method.Name, r)
				}
			}
		}
	}
	if calls != len(Rates) {
		t.Errorf("there are %d calls and %d rates", calls, len(Rates))
	}
}

// limit is a [Rate] without the bucket's name.
type limit struct{ burst, perSecond float64 }

// OPERATIONS.md has the rates too. Both copies were made separately from AWS's pages,
// so that a mistake in one copy is noticed.
func TestRatesMatchOperations(t *testing.T) {
	callsOf := map[string][]string{} // by bucket
	limits := map[string]limit{}
	for _, call := range slices.Sorted(maps.Keys(Rates)) {
		for _, r := range Rates[call] {
			callsOf[r.Bucket] = append(callsOf[r.Bucket], call)
			if l, known := limits[r.Bucket]; known && l != (limit{r.Burst, r.PerSecond}) {
				t.Errorf("%s has another rate for the bucket %s", call, r.Bucket)
			}
			limits[r.Bucket] = limit{r.Burst, r.PerSecond}
		}
	}
	got := map[string]limit{} // by the calls that share a bucket
	for bucket, calls := range callsOf {
		got[strings.Join(calls, " ")] = limits[bucket]
	}
	if want := operationsTable(t); !maps.Equal(got, want) {
		t.Errorf("pacer.go has\n%v\nOPERATIONS.md has\n%v", got, want)
	}
}

// operationsTable returns the rates in OPERATIONS.md by the calls that share a bucket.
func operationsTable(t *testing.T) map[string]limit {
	text, err := os.ReadFile("../../OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]limit{}
	for _, row := range regexp.MustCompile(`(?m)^\| E[CS2]+: (.+) \| (\d+) \| (\d+) \|$`).FindAllStringSubmatch(string(text), -1) {
		var calls []string
		for _, name := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			calls = append(calls, name[1])
		}
		if !strings.HasSuffix(row[1], ", each") {
			slices.Sort(calls)
			calls = []string{strings.Join(calls, " ")}
		}
		burst, _ := strconv.ParseFloat(row[2], 64)
		perSecond, _ := strconv.ParseFloat(row[3], 64)
		for _, call := range calls {
			table[call] = limit{burst, perSecond}
		}
	}
	return table
}
