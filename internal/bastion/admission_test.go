package bastion

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
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

// Each row sends requests to a bastion that key a created from 192.0.2.1, and compares the
// keys and their sources after the last one. A request is KEY, !KEY for only_key, or - for
// no key, and the caller's address after @, or named sources after =.
func TestRequestsChangeKeysAndSources(t *testing.T) {
	for _, row := range []struct {
		name, requests string
		want           string // KEY=SOURCES, with * if they are named; then the first source of the request
		added          string // by the last request
		code           Code   // of the last request; the earlier ones succeed
	}{
		{"another key is added", "b@2", "a=1 b=2 (2)", "b", ""},
		{"a key that moves leaves the others", "b@2 a@3", "a=3 b=2 (3)", "", ""},
		{"two keys from one address", "b@1", "a=1 b=1 (1)", "b", ""},
		{"the same request again", "b@2 b@2", "a=1 b=2 (2)", "", ""},
		{"one key, no key in the request: it moves", "-@2", "a=2 (2)", "", ""},
		{"only_key takes the others away", "b@2 c@3 !b@4", "b=4 (4)", "", ""},
		{"only_key with a new key", "b@2 !c@3", "c=3 (3)", "c", ""},
		{"five keys", "b@2 c@3 d@4 e@5", "a=1 b=2 c=3 d=4 e=5 (5)", "e", ""},
		{"the sixth key is refused", "b@2 c@3 d@4 e@5 f@6", "a=1 b=2 c=3 d=4 e=5 (5)", "", CodeTooManyKeys},
		{"the sixth key as the only one", "b@2 c@3 d@4 e@5 !f@6", "f=6 (6)", "f", ""},
		{"several keys, no key, address of one of them: nothing moves", "b@2 -@1", "a=1 b=2 (1)", "", ""},
		{"several keys, no key, unknown address", "b@2 -@3", "a=1 b=2 (2)", "", CodeKeyRequired},
		{"several keys, no key, sources of two keys together", "b@2 -=1,2", "a=1 b=2 (2)", "", CodeKeyRequired},
		{"named sources", "a=2,3", "a=2,3* (2)", "", ""},
		{"named sources stay, and the caller is added", "a=2,3 a@4", "a=2,3,4* (4)", "", ""},
		{"named sources stay, and contain the caller", "a=2,3 a@3", "a=2,3* (3)", "", ""},
		{"named sources replace named sources", "a=2,3 a=4", "a=4* (4)", "", ""},
		{"five named sources, and the caller is none of them", "a=2,3,4,5,6 a@7", "a=2,3,4,5,6* (2)", "", CodeTooManySources},
		{"five named sources, and the caller is one of them", "a=2,3,4,5,6 a@6", "a=2,3,4,5,6* (6)", "", ""},
		{"ten sources", "a=1,2,3,4,5 b=6,7,8,9,10", "a=1,2,3,4,5* b=6,7,8,9,10* (6)", "b", ""},
		{"the eleventh source", "a=1,2,3,4,5 b=6,7,8,9,10 c@11", "a=1,2,3,4,5* b=6,7,8,9,10* (6)", "", CodeTooManySources},
		{"eleven sources, of which two are equal", "a=1,2,3,4,5 b=6,7,8,9,10 c@10", "a=1,2,3,4,5* b=6,7,8,9,10* c=10 (10)", "c", ""},
		{"only_key frees the sources of the others", "a=1,2,3,4,5 b=6,7,8,9,10 !c@11", "c=11 (11)", "c", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var intent Intent
			intent.admit([]Admission{{Key: testKey("a"), Sources: testSources("1")}}, testSources("1")[0])
			var added Key
			var err error
			for _, text := range strings.Fields(row.requests) {
				if err != nil {
					t.Fatalf("an earlier request: %v", err)
				}
				added, _, err = intent.readmit(testRequest(text))
			}
			var refused *Error
			if errors.As(err, &refused); (refused == nil) != (row.code == "") || refused != nil && refused.Code != row.code {
				t.Errorf("error %v, want code %q", err, row.code)
			}
			if got := shownAdmissions(intent); got != row.want || added != testKey(row.added) {
				t.Errorf("%s, added %q; want %s, added %q", got, added, row.want, row.added)
			}
			if refused != nil && row.code != CodeTooManySources && !strings.Contains(refused.Message, testKey("b").Fingerprint()) {
				t.Errorf("the message does not name the keys: %s", refused.Message)
			}
		})
	}
}

// The sources of a request without a key can be those of two keys. The message must not deny
// that each of them is admitted.
func TestRefusalSaysThatAllSourcesAreMeant(t *testing.T) {
	for request, want := range map[string]string{
		"-@3":   "none of them from 192.0.2.3. ",
		"-=1,2": "none of them from all of 192.0.2.1, 192.0.2.2. ",
	} {
		var intent Intent
		intent.admit([]Admission{{testKey("a"), testSources("1"), false}, {testKey("b"), testSources("2"), false}}, testSources("1")[0])
		_, _, err := intent.readmit(testRequest(request))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", request, err, want)
		}
	}
}

// A caller in a named prefix is admitted already, and the first source is that prefix.
func TestCallerInANamedPrefixIsAdmitted(t *testing.T) {
	network := netip.MustParsePrefix("192.0.2.0/28")
	var intent Intent
	intent.admit([]Admission{{Key: testKey("a"), Sources: []netip.Prefix{network}, Named: true}}, network)
	if _, changed, err := intent.readmit(testRequest("a@7")); err != nil || changed || shownAdmissions(intent) != "a=0/28* (0/28)" {
		t.Errorf("%s, changed %t, %v", shownAdmissions(intent), changed, err)
	}
}

func testKey(name string) Key {
	if name == "" {
		return ""
	}
	return Key("ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(name)))
}

// testSources returns the sources 192.0.2.N for numbers that are separated by commas.
func testSources(numbers string) (all []netip.Prefix) {
	for n := range strings.SplitSeq(numbers, ",") {
		all = append(all, netip.MustParsePrefix("192.0.2."+n+"/32"))
	}
	return all
}

func testRequest(text string) (req CreateRequest) {
	name, named, _ := strings.Cut(text, "=")
	key, from, caller := strings.Cut(name, "@")
	if caller {
		req.from = testSources(from)[0]
	} else {
		req.Sources = testSources(named)
	}
	key, req.OnlyKey = strings.CutPrefix(key, "!")
	if key != "-" {
		req.Key = testKey(key)
	}
	return req
}

func shownAdmissions(i Intent) string {
	short := func(p netip.Prefix) string {
		return strings.TrimPrefix(strings.TrimSuffix(p.String(), "/32"), "192.0.2.")
	}
	var texts []string
	for _, a := range i.Admissions() {
		_, encoded, _ := strings.Cut(string(a.Key), " ")
		name, _ := base64.StdEncoding.DecodeString(encoded)
		var sources []string
		for _, source := range a.Sources {
			sources = append(sources, short(source))
		}
		text := string(name) + "=" + strings.Join(sources, ",")
		if a.Named {
			text += "*"
		}
		texts = append(texts, text)
	}
	return strings.Join(append(texts, "("+short(i.Source)+")"), " ")
}
