package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// region simulates a region of an account: EC2 and ECS on the wire with the rates
// that AWS publishes, tables, and functions. Each process of a function has its own
// SDK, adapters and domain, as on Lambda.
type region struct {
	t      *testing.T
	cloud  *localcloud.Cloud
	wire   *awswire.Server
	busy   atomic.Bool   // while false, there are no rates and no events, and calls take no time
	events chan *process // observers that are idle
	stream chan string   // lease keys' tasks and bastions, as "TASK BASTION"
	over   chan struct{} // closed when no more events are to be delivered
	down   atomic.Bool   // while true, no call reaches EC2 or ECS, and events may fail

	mu        sync.Mutex
	buckets   map[string]*rate.Limiter
	calls     map[string]int // by action
	refused   map[string]int // by function
	delivered map[string]bastion.TaskStatus
	dead      int           // events that were given up
	slowest   time.Duration // the longest time until a person's bastion was ready
	processes []*process
	invoked   []invoked
}

// callTime is how long a call of EC2 or ECS takes.
const callTime = 100 * time.Millisecond

// staleness is the lag of reads of EC2 and ECS. eventTime is the delay of an event. It is
// longer, so that reads show the change when the event comes.
const (
	staleness = time.Second
	eventTime = 1500 * time.Millisecond
)

// linger is the time for which a network interface uses its group after its task's end.
const linger = time.Minute

// invoked is an invocation of a function, as Lambda counts it.
type invoked struct {
	function string // its logical ID
	at       time.Time
	failed   bool
}

// newRegion returns a region whose tasks are run by the runner.
func newRegion(t *testing.T, tasks *simtask.Runner) *region {
	tasks.Timing.Poll = 5 * time.Second
	return newRegionOf(t, tasks)
}

func newRegionOf(t *testing.T, tasks localcloud.Runner) *region {
	r := &region{t: t, events: make(chan *process, 10_000), stream: make(chan string, 100_000), over: make(chan struct{}),
		buckets: map[string]*rate.Limiter{}, calls: map[string]int{}, refused: map[string]int{}, delivered: map[string]bastion.TaskStatus{}}
	for _, rates := range awscloud.Rates {
		for _, one := range rates {
			r.buckets[one.Bucket] = rate.NewLimiter(rate.Limit(one.PerSecond), int(one.Burst))
		}
	}
	r.cloud = localcloud.New(localcloud.Config{
		LaunchDelay: 30 * time.Second, Linger: linger, StopTimeout: time.Minute, Staleness: staleness,
		Runner: tasks, OnTask: r.onTask, OnReport: r.onReport,
	})
	t.Cleanup(r.cloud.Close)
	settings := settingsOf(environment())
	r.wire = awswire.New(awswire.Config{
		Cloud: r.cloud, Cluster: settings["BASTION_CLUSTER"], Groups: []string{settings["BASTION_MEMBER_GROUP"]}, Port: 2222, Admit: r.admit,
	})
	for name, value := range map[string]string{"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": "/dev/null"} {
		t.Setenv(name, value)
	}
	return r
}

// settingsOf returns an environment as a map.
func settingsOf(environ []string) map[string]string {
	settings := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		settings[name] = value
	}
	return settings
}

// admit reports whether a call is within the rates, and counts it.
func (r *region) admit(action string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy.Load() {
		return true
	}
	r.calls[action]++
	for _, one := range awscloud.Rates[action] {
		if r.buckets[one.Bucket].Tokens() < 1 {
			return false
		}
	}
	for _, one := range awscloud.Rates[action] {
		r.buckets[one.Bucket].Allow()
	}
	return true
}

// process is one execution environment of a function.
type process struct {
	*App
	region *region
	name   string
	output *output // its log and its metrics
}

// output is a log that several goroutines write.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start starts a process of a function. The changes are of its environment.
func (r *region) start(name string, changes ...string) *process {
	r.t.Helper()
	p := &process{region: r, name: name, output: &output{}}
	log := slog.New(slog.NewJSONHandler(p.output, &slog.HandlerOptions{Level: slog.LevelWarn}))
	environ := environment(append([]string{"BASTION_QUOTA_TOTAL=2000", "BASTION_SPOT=false", "BASTION_IDLE=0s"}, changes...)...)
	app, err := wire(r.t.Context(), environ, log, &http.Client{Transport: p})
	if err != nil {
		r.t.Fatal(err)
	}
	app.metrics.out = p.output
	store := r.cloud.Store()
	app.Service.Records, app.Service.Leases = metered{store, app.metrics, app.Config.Bastion.Timing.StableAfter}, r.cloud.Leases()
	app.Service.DueList, app.Service.Keys, app.Service.Marks = store, store, store
	p.App = app
	r.mu.Lock()
	defer r.mu.Unlock()
	r.processes = append(r.processes, p)
	return p
}

// RoundTrip sends the process's requests to EC2 and ECS.
func (p *process) RoundTrip(request *http.Request) (*http.Response, error) {
	if p.region.busy.Load() {
		time.Sleep(callTime)
	}
	if p.region.down.Load() {
		return nil, errors.New("connection reset by peer")
	}
	response, err := p.region.wire.RoundTrip(request)
	if err == nil && (response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusBadRequest) {
		p.region.note(p.name, response)
	}
	return response, err
}

// note counts throttled calls.
func (r *region) note(function string, response *http.Response) {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Error(err)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if bytes.Contains(body, []byte("RequestLimitExceeded")) || bytes.Contains(body, []byte("ThrottlingException")) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused[function]++
	}
}

// invocation returns the context of an invocation with a timeout of template.yaml.
func invocation(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}

// Time-outs in template.yaml.
const (
	backgroundTimeout = 55 * time.Second
	peopleTimeout     = 28 * time.Second
)

// onTask delivers a change of a task to an observer, as EventBridge does: all events
// at once, and each failed one again after one minute and after two more.
func (r *region) onTask(startedBy, taskID string) {
	if !r.busy.Load() {
		return
	}
	time.Sleep(eventTime)
	task, err := r.cloud.Tasks().Fetch(context.Background(), taskID)
	r.mu.Lock()
	known := err != nil || r.delivered[taskID] == task.Status
	r.delivered[taskID] = task.Status
	r.mu.Unlock()
	if known {
		return
	}
	settings := settingsOf(environment())
	arn := strings.Replace(settings["BASTION_CLUSTER"], ":cluster/", ":task/", 1) + "/" + taskID
	payload, _ := json.Marshal(map[string]any{"detail-type": "ECS Task State Change", "detail": map[string]any{
		"clusterArn": settings["BASTION_CLUSTER"], "startedBy": startedBy, "taskArn": arn, "lastStatus": task.Status,
	}})
	for _, pause := range []time.Duration{time.Minute, 2 * time.Minute, 0} {
		if _, err := r.observe(payload); err == nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-r.over:
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead++
}

// observe invokes an idle observer, or a new one.
func (r *region) observe(payload []byte) (failed int, err error) {
	var p *process
	select {
	case p = <-r.events:
	default:
		p = r.start("observer")
	}
	defer func() { r.events <- p }()
	ctx, cancel := invocation(backgroundTimeout)
	defer cancel()
	at := time.Now()
	response, err := p.Observer().Handle(ctx, payload)
	if response != nil {
		failed = len(response.BatchItemFailures)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.invoked = append(r.invoked, invoked{"ObserverFunction", at, err != nil})
	return failed, err
}

func (r *region) onReport(bastionID, taskID string) {
	if r.busy.Load() {
		r.stream <- taskID + " " + bastionID
	}
}

// pump delivers the writes of tasks to one observer, in batches of twenty.
func (r *region) pump() {
	key := settingsOf(environment())["BASTION_TASK_ROLE_ID"]
	for {
		var records []any
		for len(records) < 20 {
			select {
			case one := <-r.stream:
				taskID, bastionID, _ := strings.Cut(one, " ")
				records = append(records, map[string]any{"dynamodb": map[string]any{
					"SequenceNumber": taskID,
					"Keys":           map[string]any{awscloud.LeaseKeyAttribute: map[string]any{"S": key + ":" + taskID}},
					"NewImage":       map[string]any{awscloud.LeaseBastionAttribute: map[string]any{"S": bastionID}},
				}})
				continue
			case <-r.over:
				return
			case <-time.After(200 * time.Millisecond):
			}
			break
		}
		if len(records) == 0 {
			continue
		}
		payload, _ := json.Marshal(map[string]any{"Records": records})
		wasDown := r.down.Load()
		if failed, err := r.observe(payload); (failed > 0 || err != nil) && !wasDown && !r.down.Load() {
			r.t.Errorf("the stream: %d failed, %v", failed, err)
		}
	}
}
