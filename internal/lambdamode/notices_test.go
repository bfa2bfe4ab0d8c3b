package lambdamode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const slackWork = "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack:queue"

// asyncInvoker records the last asynchronous invocation.
type asyncInvoker struct {
	to, payload string
	err         error
}

func (h *asyncInvoker) InvokeAsync(_ context.Context, function string, payload []byte) error {
	h.to, h.payload = function, string(payload)
	return h.err
}

// readyRecord returns the record of a ready bastion of a Slack user.
func readyRecord() bastion.Record {
	rec := bastion.Record{
		ID: "2kq7vmx2p4hzr6ta", Owner: "slack:T0123ABCD:U0123ABCD", Name: "default", CreatedAt: noon, LatestDeadline: noon.Add(8 * time.Hour),
		Intent: bastion.Intent{
			Generation: 1, Open: true, Source: netip.MustParsePrefix("203.0.113.7/32"), Deadline: noon.Add(time.Hour), Reason: "a <b> & c",
			Keys: []bastion.Key{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		},
		SeenAt: noon.Add(time.Minute),
		Attempt: bastion.Attempt{
			Number: 1, ReadyAt: noon.Add(time.Minute), Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.24:2222")}, Generation: 1,
			HostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
		},
		Notify: true, Version: 12,
	}
	rec.Group.Ingress = rec.Intent.Source
	return rec
}

// endedRecord returns the record of that bastion after its end.
func endedRecord(destinations int) bastion.Record {
	rec := readyRecord()
	rec.Intent.Open, rec.FinishedAt = false, noon.Add(time.Hour)
	rec.End = bastion.End{Reason: bastion.EndIdle, At: noon.Add(30 * time.Minute)}
	rec.Receipt = bastion.Receipt{
		StartedAt: noon.Add(time.Minute), EndedAt: noon.Add(31 * time.Minute), Connections: 1, Forwards: 2, Refusals: 3, BytesIn: 4, BytesOut: 5, Unnamed: 6,
	}
	for i := range destinations {
		rec.Receipt.Destinations = append(rec.Receipt.Destinations, bastion.Destination{Name: fmt.Sprint("host-", i, ":22"), Forwards: 2})
	}
	return rec
}

// send sends a notice and returns it as the Slack function receives it.
func send(t *testing.T, rec bastion.Record, notice bastion.Notice) api.Notice {
	t.Helper()
	h := &asyncInvoker{}
	if err := (notices{h, slackWork}).Notify(t.Context(), rec, notice); err != nil {
		t.Fatal(err)
	}
	var event map[string]api.Notice
	if err := json.Unmarshal([]byte(h.payload), &event); err != nil || len(event) != 1 || h.to != slackWork {
		t.Fatalf("payload for %s: %s, %v", h.to, h.payload, err)
	}
	return event["notice"]
}

// The Slack function needs the refusal of a move, and not only its code.
func TestNoticeHoldsTheRefusalOfAMove(t *testing.T) {
	rec := readyRecord()
	rec.Group.Ingress = netip.Prefix{}
	rec.Failing = bastion.Failing{Since: noon, Refusal: bastion.CapacityFailure}
	got := send(t, rec, bastion.Notice{State: bastion.Starting, Stage: "address", Failure: bastion.CapacityFailure.Code})
	if want := (api.Failure{Code: bastion.CapacityFailure.Code, Message: bastion.CapacityFailure.Message}); got.Bastion.Failure == nil || *got.Bastion.Failure != want {
		t.Errorf("got %+v, want %+v", got.Bastion.Failure, want)
	}
}

func TestNoticeHoldsTheDocumentOfTheAPI(t *testing.T) {
	got := send(t, readyRecord(), bastion.Notice{State: bastion.Ready, Warning: true})
	if got.Version != 12 || !got.Warning || got.Receipt != nil {
		t.Errorf("%+v", got)
	}
	config := got.Bastion.SSHConfig
	if !strings.Contains(config, "HostName 198.51.100.24") || !strings.Contains(got.Bastion.SSH, "bastion@198.51.100.24") {
		t.Errorf("the configuration is %q, the command %q", config, got.Bastion.SSH)
	}
	if keys := got.Bastion.HostKeys; len(keys) != 1 || keys[0] != string(readyRecord().Attempt.HostKey) {
		t.Errorf("the host keys are %q", keys)
	}
	got.Bastion.SSHConfig, got.Bastion.SSH, got.Bastion.HostKey, got.Bastion.KnownHosts, got.Bastion.HostKeys = "", "", "", "", nil
	key := readyRecord().Intent.Keys[0].Fingerprint()
	want := api.Bastion{
		ID: "2kq7vmx2p4hzr6ta", Name: "default", Owner: "slack:T0123ABCD:U0123ABCD", State: "ready", Reason: "a <b> & c",
		Source: "203.0.113.7/32", Sources: []string{"203.0.113.7/32"}, Keys: []string{key}, Admissions: []api.Admission{{Key: key, Sources: []string{"203.0.113.7/32"}}},
		Host: "198.51.100.24", Port: 2222, Endpoints: []api.Endpoint{{Host: "198.51.100.24", Port: 2222}}, User: "bastion",
		CreatedAt: noon, ReadyAt: noon.Add(time.Minute), SeenAt: noon.Add(time.Minute), Deadline: noon.Add(time.Hour), LatestDeadline: noon.Add(8 * time.Hour),
	}
	if !reflect.DeepEqual(got.Bastion, want) {
		t.Errorf("got  %+v\nwant %+v", got.Bastion, want)
	}
	failed := endedRecord(0)
	failed.End = bastion.End{Reason: bastion.EndFailed, At: noon, Failure: bastion.CapacityFailure}
	got = send(t, failed, bastion.Notice{State: bastion.Failed})
	if got.Bastion.Failure == nil || got.Bastion.Failure.Code != bastion.FailureCapacity || got.Warning || got.Receipt == nil {
		t.Errorf("failed: %+v", got)
	}
}

func TestNoticeOfAnEndHasTheReceipt(t *testing.T) {
	for destinations, unnamed := range map[int]int{0: 6, 3: 6, api.MaxDestinations: 6, api.MaxDestinations + 2: 10} {
		rec := endedRecord(destinations)
		got := send(t, rec, bastion.Notice{State: bastion.Closed}).Receipt
		want := &api.Receipt{
			StartedAt: noon.Add(time.Minute), EndedAt: noon.Add(31 * time.Minute), Connections: 1, Forwards: 2, Refusals: 3, BytesIn: 4, BytesOut: 5, Unnamed: unnamed,
		}
		for _, d := range rec.Receipt.Destinations[:min(destinations, api.MaxDestinations)] {
			want.Destinations = append(want.Destinations, d.Name)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d destinations:\n got %+v\nwant %+v", destinations, got, want)
		}
	}
	if got := send(t, endedRecord(1), bastion.Notice{State: bastion.Closing}); got.Receipt != nil {
		t.Errorf("a receipt before the end: %+v", got.Receipt)
	}
	never := endedRecord(0)
	never.Receipt = bastion.Receipt{}
	if got := send(t, never, bastion.Notice{State: bastion.Closed}); got.Receipt != nil {
		t.Errorf("a receipt of a bastion that never ran: %+v", got.Receipt)
	}
}

// Lambda accepts events of 256 KB. No text of people or tasks may make a notice too
// large.
func TestLargestNoticeFitsIntoAnEvent(t *testing.T) {
	rec := endedRecord(bastion.MaxDestinations)
	for i := range rec.Receipt.Destinations {
		rec.Receipt.Destinations[i].Name = strings.Repeat("\u0001", 300)
	}
	rec.Intent.Reason = strings.Repeat("<", 200)
	rec.Intent.Keys = slices.Repeat(rec.Intent.Keys, 10)
	payload, err := encodeNotice(rec, bastion.Notice{State: bastion.Closed})
	if err != nil || len(payload) > 64<<10 {
		t.Errorf("%d bytes, %v", len(payload), err)
	}
}

func TestFailedInvocationIsReported(t *testing.T) {
	broken := errors.New("broken")
	if err := (notices{&asyncInvoker{err: broken}, slackWork}).Notify(t.Context(), readyRecord(), bastion.Notice{}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestOnlyReaperAndObserverNotify(t *testing.T) {
	for name, start := range map[string]func(*App){
		"reaper":   func(a *App) { a.Reaper() },
		"observer": func(a *App) { a.Observer() },
		"":         func(*App) {},
	} {
		for _, function := range []string{"", slackWork} {
			app, err := wire(t.Context(), environment("BASTION_SLACK="+function), slog.New(slog.DiscardHandler), nil)
			if err != nil {
				t.Fatal(err)
			}
			start(app)
			got, notifies := app.Service.Notifier.(notices)
			if want := name != "" && function != ""; notifies != want || notifies && (got.function != slackWork || got.invoker == nil) {
				t.Errorf("%q with %q: %+v", name, function, app.Service.Notifier)
			}
			if !notifies && app.Service.Notifier != nil {
				t.Errorf("%q with %q: %+v", name, function, app.Service.Notifier)
			}
		}
	}
}
