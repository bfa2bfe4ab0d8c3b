package bastion

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestAdmissionsSurviveEncoding(t *testing.T) {
	home, office, v6 := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::7/128")
	want := []Admission{
		{Key: "ssh-ed25519 AAAA", Sources: []netip.Prefix{home}},
		{Key: "ssh-ed25519 BBBB", Sources: []netip.Prefix{v6, office, home}, Named: true},
	}
	var intent Intent
	intent.admit(want, v6)
	encoded, err := json.Marshal(intent)
	if err != nil {
		t.Fatal(err)
	}
	var decoded Intent
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if got := decoded.Admissions(); !reflect.DeepEqual(got, want) || decoded.Source != v6 {
		t.Errorf("%s decodes to %+v, source %s; want %+v", encoded, got, decoded.Source, want)
	}
	if got, want := decoded.Sources(), []netip.Prefix{home, office, v6}; !slices.Equal(got, want) {
		t.Errorf("sources %v, want %v", got, want)
	}
	lease := Lease{Source: v6, Keys: decoded.Keys, KeySources: decoded.KeySources}
	if got := lease.Admissions(); !reflect.DeepEqual(got, want) {
		t.Errorf("the lease has %+v, want %+v", got, want)
	}
}

// An earlier version stores one source, and removes the sources of each key.
func TestAdmissionsOfAnEarlierVersion(t *testing.T) {
	home := netip.MustParsePrefix("192.0.2.7/32")
	for name, intent := range map[string]Intent{
		"no sources of keys":     {Source: home, Keys: []Key{"a", "b"}},
		"another number of keys": {Source: home, Keys: []Key{"a", "b"}, KeySources: []KeySources{{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}},
	} {
		want := []Admission{{Key: "a", Sources: []netip.Prefix{home}}, {Key: "b", Sources: []netip.Prefix{home}}}
		if got := intent.Admissions(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := (Intent{Keys: []Key{"a"}}).Admissions(); got != nil {
		t.Errorf("without any source, the keys are admitted: %+v", got)
	}
}

// A task of an earlier version reads the keys and one source of a new lease.
func TestEarlierVersionReadsANewLease(t *testing.T) {
	home, office := netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("198.51.100.0/28")
	var intent Intent
	intent.admit([]Admission{{Key: "ssh-ed25519 AAAA", Sources: []netip.Prefix{home}}, {Key: "ssh-ed25519 BBBB", Sources: []netip.Prefix{office}, Named: true}}, office)
	encoded, err := json.Marshal(Lease{Generation: 7, Open: true, Source: intent.Source, Keys: intent.Keys, KeySources: intent.KeySources})
	if err != nil {
		t.Fatal(err)
	}
	var earlier struct {
		Generation int64        `json:"generation"`
		Open       bool         `json:"open"`
		Source     netip.Prefix `json:"source"`
		Keys       []Key        `json:"keys"`
	}
	if err := json.Unmarshal(encoded, &earlier); err != nil {
		t.Fatal(err)
	}
	if earlier.Generation != 7 || !earlier.Open || earlier.Source != office || !slices.Equal(earlier.Keys, []Key{"ssh-ed25519 AAAA", "ssh-ed25519 BBBB"}) {
		t.Errorf("%s is read as %+v", encoded, earlier)
	}
}
