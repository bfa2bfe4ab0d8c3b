package slack

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/upgrade"
)

// storedValues returns one value of each stored type, with every field set.
func storedValues() map[string]any {
	at := start.Add(time.Minute)
	return map[string]any{
		"person": &person{Key: annsKey, StartLinks: []openLink{{StartLink: "hash", ExpiresAt: at}}, Since: start, Commands: 3},
		"opened": &opened{ResponseURL: hookB},
		"latest": &latest{ID: "aaaaaaaaaaaaaaa2", CreatedAt: start},
		"startlink": &startLink{
			Owner: ann, UserName: "ann", TeamDomain: "example", Name: "web", Key: annsKey, TTL: 2 * time.Hour, Reason: "the deploy",
			ResponseURL: hookA, ExpiresAt: at, UsedAt: start, Source: netip.MustParseAddr(annsHome), StatusPage: "hash",
		},
		"statuspage": &statusPage{
			Owner: ann, StartLink: "hash", Source: netip.MustParseAddr(annsHome), ID: "aaaaaaaaaaaaaaa2", Problem: "a sentence",
			StartedAt: start, EnqueuedAt: start, ExpiresAt: at,
		},
		"conversation": &conversation{
			Notice: Notice{Bastion: *closedBastion(), Version: 9, Warning: true, Receipt: aReceipt()}, Channel: "D0ANN", TS: "1.000100",
			Status: "digest", Uneditable: true, Ready: "digest", Keys: []string{"SHA256:key"}, Warned: at, Ended: true, SendingUntil: at,
		},
		"outbox": &outbox{
			PostAfter: at, EditAfter: at, Serial: 2, Holder: start, HeldUntil: at,
			Waiting: []waiting{{ID: "aaaaaaaaaaaaaaa2", Urgent: true, Edit: true, After: at, Serial: 1, Since: start}},
		},
	}
}

// The files in testdata/stored have the form of the values in the table of a running
// service. Do not edit them: a new version must read the values of an old one, and an old
// version those of a new one.
func TestStoredValuesKeepTheirForm(t *testing.T) {
	for name, value := range storedValues() {
		want, err := os.ReadFile(filepath.Join("testdata", "stored", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := json.MarshalIndent(value, "", "  ")
		if err != nil || !bytes.Equal(append(encoded, '\n'), want) {
			t.Errorf("%s is stored as\n%s, %v\nwant\n%s", name, encoded, err, want)
		}
		decoded := reflect.New(reflect.TypeOf(value).Elem()).Interface()
		unknown := append([]byte(`{"of_a_later_version":1,`), want[1:]...)
		if err := json.Unmarshal(unknown, decoded); err != nil || !reflect.DeepEqual(decoded, value) {
			t.Errorf("%s is read as\n%+v, %v\nwant\n%+v", name, decoded, err, value)
		}
	}
}

// This version decodes each value of the earlier version (internal/test/upgrade) and
// encodes it again. The result has all fields of the earlier value.
func TestStoredValuesOfEarlierVersionAreReadAndKept(t *testing.T) {
	values := storedValues()
	files, err := filepath.Glob(filepath.Join("testdata", "earlier", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no earlier values: %v", err)
	}
	for _, file := range files {
		was, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		value, ok := values[strings.TrimSuffix(filepath.Base(file), ".json")]
		if !ok {
			t.Errorf("this version has no value for %s", file)
			continue
		}
		decoded := reflect.New(reflect.TypeOf(value).Elem()).Interface()
		if err := json.Unmarshal(was, decoded); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		encoded, err := json.Marshal(decoded)
		if err != nil {
			t.Fatal(err)
		}
		if lost, err := upgrade.Lost(was, encoded); err != nil || len(lost) > 0 {
			t.Errorf("this version does not keep %q of %s, %v", lost, file, err)
		}
	}
}

// The keys are stored too.
func TestKeysKeepTheirForm(t *testing.T) {
	for got, want := range map[string]string{
		personKey(ann): "person#slack:T0ANN:U0ANN", openedKey("hash"): "opened#hash", latestKey(ann, "web"): "latest#slack:T0ANN:U0ANN#web",
		conversationKey("id"): "conversation#id", outboxKey("T0ANN"): "outbox#T0ANN", startLinkKey("hash"): "startlink#hash",
		statusPageKey("hash"): "statuspage#hash", seenKey("x"): "seen#" + hashOf("x"),
	} {
		if got != want {
			t.Errorf("the key is %q, want %q", got, want)
		}
	}
}
