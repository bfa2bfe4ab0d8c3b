package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Fields that are not known yet must be absent, not empty: clients test for them.
func TestUnknownFieldsAreAbsent(t *testing.T) {
	encoded, err := json.Marshal(NewBastion(bastion.Record{
		ID: "3kq7vmx2p4hzr6ta", Owner: "local:alice", Name: "default", CreatedAt: noon,
		Intent: bastion.Intent{Open: true, Source: netip.MustParsePrefix("203.0.113.7/32"), Deadline: noon.Add(time.Hour)},
	}))
	const want = `{"id":"3kq7vmx2p4hzr6ta","name":"default","owner":"local:alice","state":"starting","stage":"security group",` +
		`"source":"203.0.113.7/32","keys":[],"created_at":"2026-03-01T12:00:00Z","deadline":"2026-03-01T13:00:00Z","latest_deadline":"0001-01-01T00:00:00Z"}`
	if err != nil || string(encoded) != want {
		t.Errorf("encoded as\n%s, %v\nwant\n%s", encoded, err, want)
	}
}

func TestInternalCallSurvivesEncoding(t *testing.T) {
	for _, call := range []InternalCall{
		{Owner: "slack:T0:U0", Source: netip.MustParseAddr("2001:db8::7"), Method: "POST", Path: "/bastions", Body: "{\"reason\":\"<&\u2028\"}"},
		{Owner: "slack:T0:U0", Method: "GET", Path: "/bastions"},
	} {
		encoded, err := json.Marshal(call)
		if err != nil {
			t.Fatal(err)
		}
		var decoded InternalCall
		if err := json.Unmarshal(encoded, &decoded); err != nil || decoded != call {
			t.Errorf("%s decodes to %+v, %v; want %+v", encoded, decoded, err, call)
		}
	}
}

func TestReceiptNamesTheFirstDestinations(t *testing.T) {
	for destinations, unnamed := range map[int]int{0: 6, MaxDestinations: 6, MaxDestinations + 2: 10} {
		rec := bastion.Record{Receipt: bastion.Receipt{StartedAt: noon, Unnamed: 6}}
		for i := range destinations {
			rec.Receipt.Destinations = append(rec.Receipt.Destinations, bastion.Destination{Name: fmt.Sprintf("host-%d:22", i), Forwards: 2})
		}
		got := NewNotice(rec, bastion.Notice{State: bastion.Closed}, Bastion{}).Receipt
		if len(got.Destinations) != min(destinations, MaxDestinations) || got.Unnamed != unnamed {
			t.Errorf("%d destinations: %d are named and %d forwards are not, want %d", destinations, len(got.Destinations), got.Unnamed, unnamed)
		}
	}
	if got := NewNotice(bastion.Record{}, bastion.Notice{State: bastion.Closed}, Bastion{}).Receipt; got != nil {
		t.Errorf("a bastion that never ran has the receipt %+v", got)
	}
}

// A reason or stage without a text would leave a gap in a message.
func TestEveryEndAndStageHasAText(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndClosed, bastion.EndConsole, bastion.EndDeadline, bastion.EndIdle, bastion.EndFailed, bastion.EndTask} {
		if text := EndSentence(reason); !strings.HasSuffix(text, ".") {
			t.Errorf("%s: %q is not a sentence", reason, text)
		}
	}
	for _, stage := range []string{"security group", "capacity", "image", "network", "host key", "address", "lease"} {
		if StageText(stage) == "" {
			t.Errorf("stage %s has no text", stage)
		}
	}
	if EndSentence("other") != "" || StageText("other") != "" {
		t.Error("an unknown reason or stage has a text")
	}
}

func TestProblemIsComplete(t *testing.T) {
	want := Problem{Type: "about:blank", Title: "Not Found", Status: 404, Detail: "d", Code: bastion.CodeNotFound, RequestID: "r"}
	if got := NewProblem(404, bastion.CodeNotFound, "d", "r"); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
