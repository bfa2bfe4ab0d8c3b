package cloudtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// request sends alice's request to the HTTP API, which uses the service. It returns the
// status code and the document.
func (w *world) request(s *bastion.Service, method, path, body string, wait int) (int, api.Bastion) {
	w.t.Helper()
	ctx, cancel := invocation()
	defer cancel()
	handler := httpapi.New(httpapi.Options{
		Service: s, Now: time.Now, MaxWait: 25 * time.Second, Log: slog.New(slog.DiscardHandler),
		Identify: func(*http.Request) (bastion.Caller, error) { return alice(home), nil },
	})
	req := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	req.Header.Set("Prefer", fmt.Sprint("wait=", wait))
	reply := httptest.NewRecorder()
	handler.ServeHTTP(reply, req)
	var document api.Bastion
	if err := json.Unmarshal(reply.Body.Bytes(), &document); err != nil {
		w.t.Fatalf("%s %s: %d, %v:\n%s", method, path, reply.Code, err, reply.Body)
	}
	return reply.Code, document
}

// A POST or PATCH that cannot see the group, the task or the lease does not return ready
// from the record, whether the task still runs or ended a quarter of an hour ago. A GET
// returns the record and when the bastion was last seen ready, and reads nothing else.
func TestReadyMeansSeen(t *testing.T) {
	requests := map[string]struct {
		path, body string
		want       int // the status code
	}{
		"POST":  {"/bastions", `{"public_key": "` + string(keyA) + `"}`, http.StatusOK},
		"PATCH": {"/bastions/ID", `{"ttl": "1m"}`, http.StatusOK}, // the deadline is later already, so the intent stays
	}
	cases := 0
	for _, port := range []string{"Groups.", "Tasks.", "Leases."} {
		for _, fault := range []cloudtest.Fault{cloudtest.Faults()[0], cloudtest.Faults()[2]} {
			for _, dead := range []bool{false, true} {
				for method, r := range requests {
					cases++
					simulate(t, func(t *testing.T, w *world) {
						name := fmt.Sprintf("%s, %s* %s, task dead: %v", method, port, fault.Name, dead)
						rec := w.ready()
						path := strings.Replace(r.path, "ID", rec.ID, 1)
						if dead {
							w.cloud.Kill(rec.Attempt.TaskID)
							time.Sleep(15 * time.Minute)
						}
						var recorder cloudtest.Recorder
						down := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.Chain(recorder.Hook, func(ctx context.Context, call string, do func() error) error {
							if strings.HasPrefix(call, port) {
								return fault.Hook(ctx, call, do)
							}
							return do()
						})))

						stored, err := w.service.Records.Fetch(context.Background(), rec.ID)
						if err != nil {
							t.Fatal(err)
						}
						code, got := w.request(down, "GET", "/bastions/"+rec.ID, "", 0)
						if code != http.StatusOK || got.State != bastion.Ready || !got.SeenAt.Equal(stored.SeenAt) {
							t.Errorf("%s: GET returns %d %s, seen at %s, want ready, seen at %s", name, code, got.State, got.SeenAt, stored.SeenAt)
						}
						if calls := recorder.Calls(); !slices.Equal(calls, []string{"Records.Fetch"}) {
							t.Errorf("%s: GET makes the calls %q", name, calls)
						}

						code, got = w.request(down, method, path, r.body, 0)
						if code != r.want || got.State != bastion.Starting || got.Stage != "delayed" || !got.SeenAt.IsZero() {
							t.Errorf("%s: %d %s/%s, seen at %s, want %d starting/delayed", name, code, got.State, got.Stage, got.SeenAt, r.want)
						}

						w.reap(10 * time.Minute) // the service responds again
						code, got = w.request(w.service, method, path, r.body, 20)
						if code != http.StatusOK || got.State != bastion.Ready || !got.SeenAt.Equal(time.Now()) {
							t.Errorf("%s: afterwards %d %s/%s, seen at %s", name, code, got.State, got.Stage, got.SeenAt)
						}
						w.rest(name)
					})
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}

// A POST that starts a bastion and a DELETE say that AWS does not carry them out, with the
// same status codes as without the delay. When the service responds again, both take
// effect without another request.
func TestDelayedStartAndCloseSayItAndTakeEffectLater(t *testing.T) {
	down := func(w *world, port string) *bastion.Service {
		return w.serviceOn(cloudtest.Wrap(w.ports(), func(ctx context.Context, call string, do func() error) error {
			if strings.HasPrefix(call, port) {
				return cloudtest.FailBefore(ctx, call, do)
			}
			return do()
		}))
	}
	for _, port := range []string{"Groups.", "Tasks.", "Leases."} {
		simulate(t, func(t *testing.T, w *world) {
			code, got := w.request(down(w, port), "POST", "/bastions", `{"public_key": "`+string(keyA)+`"}`, 20)
			if code != http.StatusCreated || got.State != bastion.Starting || got.Stage != "delayed" {
				t.Errorf("POST without %s*: %d %s/%s, want 201 starting/delayed", port, code, got.State, got.Stage)
			}
			path := "/bastions/" + got.ID
			w.reap(5 * time.Minute)
			if _, got = w.request(w.service, "GET", path, "", 0); got.State != bastion.Ready {
				t.Errorf("POST without %s*: later %s/%s, want ready", port, got.State, got.Stage)
			}
			code, got = w.request(down(w, port), "DELETE", path, "", 20)
			if code != http.StatusAccepted || got.State != bastion.Closing || got.Stage != "delayed" {
				t.Errorf("DELETE without %s*: %d %s/%s, want 202 closing/delayed", port, code, got.State, got.Stage)
			}
			w.reap(10 * time.Minute)
			if _, got = w.request(w.service, "GET", path, "", 0); got.State != bastion.Closed || got.Stage != "" {
				t.Errorf("DELETE without %s*: later %s/%s, want closed", port, got.State, got.Stage)
			}
			w.rest("delayed without " + port)
		})
	}
}

// SeenAt costs at most one write of the record for each regular check, also if events lead
// to more converges, and is never much older than the interval between two checks.
func TestSeenAtCostsOneWriteForEachCheck(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), recorder.Hook))
		service.Config.WarnBefore = 0 // a notice needs writes of its own
		oldest := time.Duration(0)
		for range 60 {
			time.Sleep(time.Minute)
			ctx, cancel := invocation()
			if _, err := service.Reap(ctx); err != nil {
				t.Error(err)
			}
			if err := service.Observe(ctx, rec.ID); err != nil { // as after an event
				t.Error(err)
			}
			cancel()
			_, got := w.request(w.service, "GET", "/bastions/"+rec.ID, "", 0)
			oldest = max(oldest, time.Since(got.SeenAt))
		}
		calls := recorder.Calls()
		writes := len(slices.DeleteFunc(slices.Clone(calls), func(call string) bool { return call != "Records.Replace" }))
		t.Logf("in one hour: %d calls, %d writes, oldest seen_at %s", len(calls), writes, oldest)
		if limit := int(time.Hour / timing.CheckInterval); writes > limit || writes == 0 {
			t.Errorf("%d writes, want at most %d", writes, limit)
		}
		if limit := timing.CheckInterval + time.Minute; oldest > limit {
			t.Errorf("seen_at was %s old, want at most %s", oldest, limit)
		}
		w.rest("seen for an hour")
	})
}
