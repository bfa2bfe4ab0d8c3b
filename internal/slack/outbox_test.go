package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// limitedSlack is Slack with its limits: one message a second for a channel, and a
// number of messages and of edits a minute for a workspace. Beyond them it replies 429
// with the time until it accepts more. See
// https://docs.slack.dev/apis/web-api/rate-limits/.
type limitedSlack struct {
	latency time.Duration
	// spread is the largest time that is added to the latency. With it, requests that
	// begin at the same time get their replies one after another, so their senders seldom
	// write to the outbox at the same time. Without it, all of them write at the same time.
	spread         time.Duration
	posts, updates int // a minute

	mu       sync.Mutex
	windows  map[string]*rateWindow
	messages map[posted]string // as they look now
	accepted []acceptedRequest // in the order in which they were accepted
	requests int
	refused  int
}

// acceptedRequest is a post or an edit that limitedSlack accepted.
type acceptedRequest struct {
	at      time.Time
	channel string
	url     string
	text    string
}

// rateWindow counts the requests since a window of time began.
type rateWindow struct {
	begun time.Time
	used  int
}

func newLimitedSlack() *limitedSlack {
	return &limitedSlack{
		latency: 100 * time.Millisecond, posts: 300, updates: 50,
		windows: map[string]*rateWindow{}, messages: map[posted]string{},
	}
}

// use counts a request in a window. If the window has no requests left, use returns the
// time until the next window begins.
func (s *limitedSlack) use(name string, most int, length time.Duration) time.Duration {
	now := time.Now()
	w := s.windows[name]
	if w == nil || now.Sub(w.begun) >= length {
		w = &rateWindow{begun: now}
		s.windows[name] = w
	}
	if w.used++; w.used <= most {
		return 0
	}
	return length - now.Sub(w.begun)
}

func (s *limitedSlack) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(s.nextLatency()):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var at posted
	if err := json.Unmarshal(body, &at); err != nil {
		return nil, err
	}
	url := r.URL.String()
	wait := time.Duration(0)
	if url == updateMessage {
		wait = s.use(url, s.updates, time.Minute)
	} else if wait = s.use(at.Channel, 1, time.Second); wait == 0 {
		wait = s.use(url, s.posts, time.Minute)
	}
	if wait > 0 {
		s.refused++
		seconds := fmt.Sprint(int((wait + time.Second - 1) / time.Second))
		return reply(r, http.StatusTooManyRequests, http.Header{"Retry-After": {seconds}}, `{"ok":false,"error":"ratelimited"}`), nil
	}
	text := readable(body)
	if url == postMessage {
		at = posted{"D" + at.Channel[1:], fmt.Sprint(len(s.messages) + 1)}
	}
	s.messages[at] = text
	s.accepted = append(s.accepted, acceptedRequest{time.Now(), at.Channel, url, text})
	return reply(r, http.StatusOK, http.Header{}, fmt.Sprintf(`{"ok":true,"channel":%q,"ts":%q}`, at.Channel, at.TS)), nil
}

// nextLatency returns the latency of the next request. With a spread, 1,000 successive
// requests have 1,000 different latencies.
func (s *limitedSlack) nextLatency() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	return s.latency + s.spread*time.Duration(s.requests%1000)/1000
}

func reply(r *http.Request, status int, header http.Header, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}
}

// lambdaQueue runs jobs and notices as Lambda runs events: each in its own goroutine, for
// at most 53 seconds. If one fails, the queue runs it again after one minute, and once
// more after two minutes.
type lambdaQueue struct {
	app     *App
	ctx     context.Context
	running sync.WaitGroup

	mu     sync.Mutex
	jobs   int
	active int // invocations at this time
	most   int
	failed []error
}

func (q *lambdaQueue) Enqueue(_ context.Context, job Job) error {
	q.mu.Lock()
	q.jobs++
	q.mu.Unlock()
	q.run(func(ctx context.Context) error { return q.app.RunJob(ctx, job) })
	return nil
}

func (q *lambdaQueue) notify(n Notice) {
	q.run(func(ctx context.Context) error { return q.app.Notify(ctx, n) })
}

func (q *lambdaQueue) run(do func(context.Context) error) {
	q.running.Go(func() {
		for _, pause := range []time.Duration{time.Minute, 2 * time.Minute, 0} {
			if q.invoke(do) == nil {
				return
			}
			time.Sleep(pause)
		}
	})
}

func (q *lambdaQueue) invoke(do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(q.ctx, 53*time.Second)
	defer cancel()
	q.mu.Lock()
	q.active++
	q.most = max(q.most, q.active)
	q.mu.Unlock()
	err := do(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
	if err != nil {
		q.failed = append(q.failed, err)
	}
	return err
}

// simulate returns an app with a queue like Lambda's and a Slack with limits, which all
// use the time of the synctest bubble.
func simulate(t *testing.T) (*lambdaQueue, *limitedSlack, *fixture) {
	d := newFixture(t)
	slack, queue := newLimitedSlack(), &lambdaQueue{app: d.App, ctx: t.Context()}
	d.Now, d.Transport, d.Queue = time.Now, slack, queue
	d.table.now = time.Now
	return queue, slack, d
}

// numbered returns a bastion with an ID, a name and an owner of its own.
func numbered(i int, state string) *Bastion {
	b := closedBastion()
	if state != "closed" {
		b = aBastion("web")
		b.Ended = nil
	}
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	b.ID = "aaaaaaaaaaaaa" + string([]byte{digits[i/1024%32], digits[i/32%32], digits[i%32]})
	b.Owner = fmt.Sprintf("slack:T0ANN:U%07d", i)
	b.CreatedAt, b.Deadline, b.LatestDeadline = time.Now(), time.Now().Add(time.Hour), time.Now().Add(8*time.Hour)
	b.Name = fmt.Sprintf("web-%d", i)
	return b
}

// 1,000 bastions of 1,000 people end at the same time. Each has a status message. Slack
// accepts 300 new messages and 50 edits a minute. Each owner gets one receipt within five
// minutes, and each status message says within 22 minutes that the bastion is closed.
// After two minutes, at most one invocation runs.
func TestThousandBastionsThatEndAtOnce(t *testing.T) {
	const many = 1000
	synctest.Test(t, func(t *testing.T) {
		queue, slack, d := simulate(t)
		// Without a spread, most of the test's time goes into conflicting writes.
		slack.spread = 100 * time.Millisecond
		for i := range many {
			b := numbered(i, "ready")
			c := conversation{Notice: noticeOf(1, b), Channel: fmt.Sprintf("D%07d", i), TS: fmt.Sprint("old-", i)}
			c.Ready = newOutgoing(kindReady, readyMessage(*b)).digest
			c.Status = newOutgoing(kindStatus, statusMessage(*b)).digest
			if err := d.write(t.Context(), conversationKey(b.ID), 0, c, time.Now().Add(24*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		for i := range many {
			n := noticeOf(2, numbered(i, "closed"))
			n.Receipt = aReceipt()
			queue.notify(n)
		}
		time.Sleep(2 * time.Minute)
		queue.mu.Lock()
		if queue.active > 1 {
			t.Errorf("%d invocations run after two minutes, want one for the workspace", queue.active)
		}
		queue.mu.Unlock()
		queue.running.Wait()

		receipts := map[string]int{}
		var lastReceipt, lastEdit time.Duration
		for _, m := range slack.accepted {
			if m.url == postMessage {
				receipts[m.channel]++
				lastReceipt = m.at.Sub(begun)
			} else {
				lastEdit = m.at.Sub(begun)
			}
		}
		t.Logf("the last receipt came after %s, the last edit after %s; %d replies of 429, %d jobs, at most %d invocations at once",
			lastReceipt, lastEdit, slack.refused, queue.jobs, queue.most)
		if lastReceipt > 5*time.Minute || lastEdit > 22*time.Minute {
			t.Errorf("the last receipt came after %s, the last edit after %s", lastReceipt, lastEdit)
		}
		for i := range many {
			channel := fmt.Sprintf("D%07d", i)
			if receipts[channel] != 1 {
				t.Errorf("owner %d got %d receipts", i, receipts[channel])
			}
			if text := slack.messages[posted{channel, fmt.Sprint("old-", i)}]; !strings.Contains(text, "is closed") {
				t.Errorf("the status message of owner %d is %q", i, text)
			}
		}
		// After the first burst, each request waits for the time that Slack has requested.
		if burst := 2 * many; slack.refused > burst {
			t.Errorf("%d requests were refused, want at most %d", slack.refused, burst)
		}
		if len(queue.failed) > 0 {
			t.Errorf("%d invocations failed: %v", len(queue.failed), queue.failed[0])
		}
		var o outbox
		if _, err := d.fetch(t.Context(), outboxKey("T0ANN"), &o); err != nil || len(o.Waiting) != 0 || !o.HeldUntil.IsZero() {
			t.Errorf("the outbox holds %d, held until %s: %v", len(o.Waiting), o.HeldUntil, err)
		}
	})
}

// Ready messages, warnings and receipts are sent before status messages. Of the stages
// that pass while a status message waits, only the newest is sent.
func TestUrgentMessagesGoBeforeStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue, slack, _ := simulate(t)
		slack.posts, slack.updates = 20, 10
		for i := range 40 { // the first status messages use all posts of this minute
			b := numbered(i, "ready")
			b.State, b.Stage, b.SSHConfig, b.Host = "starting", "capacity", "", ""
			queue.notify(noticeOf(1, b))
		}
		time.Sleep(time.Second)
		for stage, name := range []string{"image", "network", "host key"} {
			b := numbered(39, "ready")
			b.State, b.Stage, b.SSHConfig, b.Host = "starting", name, "", ""
			queue.notify(noticeOf(int64(stage+2), b))
		}
		for i := range 10 {
			n := noticeOf(1, numbered(100+i, "closed"))
			n.Receipt = aReceipt()
			queue.notify(n)
		}
		queue.running.Wait()
		var kinds []string
		for _, m := range slack.accepted[20:] {
			kind := "status"
			if strings.Contains(m.text, "is closed") {
				kind = "receipt"
			}
			if m.url == postMessage {
				kinds = append(kinds, kind)
			}
		}
		if len(kinds) != 30 || slices.Index(kinds, "status") != 10 {
			t.Errorf("after the first minute these were posted: %v; want 10 receipts first, then 20 status messages", kinds)
		}
		shown := ""
		for at, text := range slack.messages {
			if at.Channel == fmt.Sprintf("D%07d", 39) {
				shown = text
			}
		}
		if !strings.Contains(shown, "waiting for the host key") || strings.Contains(fmt.Sprint(slack.accepted), "web-39 is starting: pulling the image") {
			t.Errorf("the status message is %q, want the newest stage, and no message with an earlier one", shown)
		}
	})
}

// Slack is down for an hour. No message is lost, and one invocation at a time tries again.
func TestNothingIsLostWhileSlackIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue, slack, d := simulate(t)
		up := time.Now().Add(time.Hour)
		var tries atomic.Int64 // deliveries run at the same time
		d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if time.Now().Before(up) {
				tries.Add(1)
				return reply(r, http.StatusServiceUnavailable, http.Header{}, ""), nil
			}
			return slack.RoundTrip(r)
		})
		for i := range 5 {
			n := noticeOf(1, numbered(i, "closed"))
			n.Receipt = aReceipt()
			queue.notify(n)
		}
		queue.running.Wait()
		if len(slack.accepted) != 5 || time.Since(up) > time.Minute {
			t.Errorf("%d receipts, %s after Slack was back", len(slack.accepted), time.Since(up))
		}
		if n := tries.Load(); n > 5+130 {
			t.Errorf("%d tries in an hour, want about two a minute", n)
		}
	})
}

// A message that Slack has not accepted for six hours is dropped, so that no job runs for
// ever.
func TestMessagesAreDroppedAfterSixHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue, _, d := simulate(t)
		d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			return reply(r, http.StatusServiceUnavailable, http.Header{"Retry-After": {"600"}}, ""), nil
		})
		begun := time.Now()
		queue.notify(noticeOf(1, numbered(1, "closed")))
		queue.running.Wait()
		if took := time.Since(begun); took < maxWait || took > maxWait+time.Hour {
			t.Errorf("the message was dropped after %s, want %s", took, maxWait)
		}
		wantContains(t, d.log.String(), "message dropped")
	})
}

// A fault ends the job of an outbox at each call in turn. Lambda runs the job again. Each
// owner gets a receipt.
func TestOutboxSurvivesTheLossOfAnyCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for _, crash := range []bool{false, true} {
			for at := 1; ; at++ {
				hit := false
				synctest.Test(t, func(t *testing.T) {
					queue, slack, d := simulate(t)
					waiting := outbox{PostAfter: time.Now().Add(10 * time.Second), Holder: start, HeldUntil: time.Now().Add(holdStart)}
					for i := range 3 {
						n := noticeOf(1, numbered(i, "closed"))
						n.Receipt = aReceipt()
						if err := d.storeNotice(t.Context(), n); err != nil {
							t.Fatal(err)
						}
						waiting.Waiting = append(waiting.Waiting, outboxEntry(n.Bastion.ID, i))
					}
					if err := d.write(t.Context(), outboxKey("T0ANN"), 0, waiting, time.Now().Add(outboxLife)); err != nil {
						t.Fatal(err)
					}
					d.faults.calls, d.faults.at, d.faults.after, d.faults.crash = 0, at, after, crash
					queue.run(func(ctx context.Context) error {
						return untilCrash(func() error { return d.RunJob(ctx, Job{Action: JobSend, Team: "T0ANN", At: start}) })
					})
					queue.running.Wait()
					hit = d.faults.failedPort != ""
					receipts := map[string]int{}
					for _, m := range slack.accepted {
						receipts[m.channel]++
					}
					for i := range 3 {
						if n := receipts[fmt.Sprintf("D%07d", i)]; n < 1 || n > 2 {
							t.Errorf("fault in call %d (%s), after %t, crash %t: owner %d got %d receipts", at, d.faults.failedPort, after, crash, i, n)
						}
					}
				})
				if !hit || t.Failed() {
					break
				}
			}
		}
	}
}

func outboxEntry(id string, serial int) waiting {
	return waiting{ID: id, Urgent: true, Serial: int64(serial), Since: time.Now()}
}

// If a bastion is added to the outbox again while the job sends its message, the entry
// stays in the outbox.
func TestAdditionDuringSendingIsKept(t *testing.T) {
	o := outbox{Waiting: []waiting{{ID: "a", Serial: 1, Since: start}, {ID: "b", Serial: 2, Since: start}}, Serial: 2}
	done := newProgress()
	done.sent["a"], done.sent["b"] = 1, 2
	o.Waiting[0].Serial = 3 // added again
	if dropped := done.applyTo(&o, start); len(o.Waiting) != 1 || o.Waiting[0].ID != "a" || len(dropped) != 0 {
		t.Errorf("%+v wait, %v dropped", o.Waiting, dropped)
	}
}

// While one job holds the outbox, a second job does nothing.
func TestOneJobWorksOnAnOutbox(t *testing.T) {
	d := newFixture(t)
	o := outbox{Waiting: []waiting{{ID: "a", Since: start}}, Holder: start, HeldUntil: start.Add(holdTime)}
	if err := d.write(t.Context(), outboxKey("T0ANN"), 0, o, start.Add(outboxLife)); err != nil {
		t.Fatal(err)
	}
	if err := d.RunJob(t.Context(), Job{Action: JobSend, Team: "T0ANN", At: start.Add(time.Second)}); err != nil {
		t.Error(err)
	}
	if d.table.writes != 1 {
		t.Errorf("%d writes", d.table.writes)
	}
	if err := d.RunJob(t.Context(), Job{Action: JobSend, Team: "T0OTHER", At: start}); err != nil || d.table.writes != 1 {
		t.Errorf("a job for a workspace that is not allowed: %v, %d writes", err, d.table.writes)
	}
}

// waitUntil stores an outbox in which one receipt must wait until the given time, and
// returns the job that holds the outbox.
func (d *fixture) waitUntil(t *testing.T, until time.Time) Job {
	t.Helper()
	n := noticeOf(1, numbered(0, "closed"))
	n.Receipt = aReceipt()
	if err := d.storeNotice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	job := Job{Action: JobSend, Team: "T0ANN", At: time.Now()}
	o := outbox{PostAfter: until, Holder: job.At, HeldUntil: time.Now().Add(holdStart), Waiting: []waiting{outboxEntry(n.Bastion.ID, 0)}}
	if err := d.write(t.Context(), outboxKey("T0ANN"), 0, o, time.Now().Add(outboxLife)); err != nil {
		t.Fatal(err)
	}
	return job
}

// While all messages must wait, HeldUntil is always at least lookAgain in the future. The
// jobs read the outbox more often than they write it.
func TestIdleJobHoldsTheOutboxWithFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue, slack, d := simulate(t)
		const idle = 10 * time.Minute
		job := d.waitUntil(t, time.Now().Add(idle))
		queue.run(func(ctx context.Context) error { return d.RunJob(ctx, job) })
		var last int64
		for range idle / time.Second {
			time.Sleep(time.Second - time.Millisecond)
			var o outbox
			version, err := d.fetch(t.Context(), outboxKey("T0ANN"), &o)
			if err != nil || time.Until(o.HeldUntil) < lookAgain {
				t.Errorf("at %s, the outbox is held until %s: %v", time.Now(), o.HeldUntil, err)
				break
			}
			last = version
			time.Sleep(time.Millisecond)
		}
		t.Logf("%d writes in %s", last, idle)
		// A job works for 53 seconds minus reservedTime. It writes when it begins, about
		// every 15 seconds, and when it ends.
		if most := int64(idle / (8 * time.Second)); last > most {
			t.Errorf("%d writes in %s, want at most %d", last, idle, most)
		}
		queue.running.Wait()
		if len(slack.accepted) != 1 || len(queue.failed) > 0 {
			t.Errorf("%d receipts, failures %v", len(slack.accepted), queue.failed)
		}
	})
}

// If the job of an outbox dies at any time, the outbox is free at most holdTime later,
// and the next notice starts another job.
func TestDeadJobIsReplacedWithinHoldTime(t *testing.T) {
	for died := time.Second; died <= 2*holdTime; died += time.Second {
		synctest.Test(t, func(t *testing.T) {
			queue, slack, d := simulate(t)
			job := d.waitUntil(t, time.Now().Add(3*holdTime+time.Minute))
			ctx, die := context.WithCancel(t.Context())
			time.AfterFunc(died, die)
			if err := d.RunJob(ctx, job); !errors.Is(err, context.Canceled) {
				t.Fatalf("the job died with %v", err)
			}
			time.Sleep(holdTime)
			jobs := queue.jobs
			n := noticeOf(1, numbered(1, "closed"))
			n.Receipt = aReceipt()
			if err := d.Notify(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			queue.mu.Lock()
			if started := queue.jobs - jobs; started != 1 {
				t.Errorf("the job died after %s; %s later, a notice enqueued %d jobs, want one", died, holdTime, started)
			}
			queue.mu.Unlock()
			queue.running.Wait()
			if len(slack.accepted) != 2 {
				t.Errorf("the job died after %s: %d receipts, want 2", died, len(slack.accepted))
			}
		})
	}
}

// A bastion whose stored conversation cannot be decoded does not delay the messages of
// other bastions.
func TestBrokenConversationDoesNotBlockTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue, slack, d := simulate(t)
		o := outbox{Holder: start, HeldUntil: time.Now().Add(holdStart)}
		for i := range 3 {
			n := noticeOf(1, numbered(i, "closed"))
			if err := d.storeNotice(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			o.Waiting = append(o.Waiting, outboxEntry(n.Bastion.ID, i))
		}
		broken := d.table.items[conversationKey(o.Waiting[0].ID)]
		broken.value = []byte("{")
		d.table.items[conversationKey(o.Waiting[0].ID)] = broken
		if err := d.write(t.Context(), outboxKey("T0ANN"), 0, o, time.Now().Add(outboxLife)); err != nil {
			t.Fatal(err)
		}
		queue.run(func(ctx context.Context) error {
			return d.RunJob(ctx, Job{Action: JobSend, Team: "T0ANN", At: start})
		})
		queue.running.Wait()
		if len(slack.accepted) != 2 {
			t.Errorf("%d receipts, want those of the other two", len(slack.accepted))
		}
		if len(queue.failed) != 3 {
			t.Errorf("the job failed %d times, want 3, so that it becomes a dead letter", len(queue.failed))
		}
	})
}

var errEnqueue = errors.New("throttled")

// If the job cannot be enqueued, the notice fails. The repeated notice enqueues the job.
func TestOutboxWithoutAJobIsStartedAgain(t *testing.T) {
	d := newFixture(t)
	d.slack.status, d.slack.header = 429, http.Header{"Retry-After": {"5"}}
	d.queue.down = errEnqueue
	if err := d.Notify(t.Context(), endOf(1)); !errors.Is(err, errEnqueue) {
		t.Errorf("%v", err)
	}
	d.queue.down, d.slack.status = nil, 0
	d.clock = d.clock.Add(time.Minute)
	d.slack.status = 429
	d.notify(endOf(1))
	if len(d.queue.jobs) != 1 || d.queue.jobs[0].Action != JobSend {
		t.Fatalf("jobs: %+v", d.queue.jobs)
	}
	d.slack.status = 0
	d.runJobs()
	d.wantShown("in the end", "It was closed because it was idle")
}
