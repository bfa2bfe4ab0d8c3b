package upgrade

import (
	"regexp"
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestEarlierCommitIsWholeHash(t *testing.T) {
	if got := EarlierCommit(); !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(got) {
		t.Errorf("the file EARLIER ends with %q, want the 40 digits of a commit", got)
	}
}

func TestLostNamesWhatTheLaterDocumentLacks(t *testing.T) {
	const document = `{"a":1,"b":{"c":[1,{"d":"x"}]},"e":[]}`
	for later, want := range map[string][]string{
		document: nil,
		`{"a":1,"b":{"c":[1,{"d":"x","new":1}],"new":1},"e":[],"new":1}`: nil,
		`{"a":2,"b":{"c":[1,{"d":"x"}]},"e":[]}`:                         {"/a"},
		`{"b":{"c":[1,{}]}}`:                                             {"/a", "/b/c/1/d", "/e"},
		`{"a":1,"b":{"c":[1]},"e":[]}`:                                   {"/b/c"},
		`{"a":1,"b":{"c":[1,{"d":"x"},2]},"e":[]}`:                       {"/b/c"},
		`{"a":1,"b":7,"e":{}}`:                                           {"/b", "/e"},
		`[]`:                                                             {""},
	} {
		if got, err := Lost([]byte(document), []byte(later)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s lacks %q, %v; want %q", later, got, err, want)
		}
	}
	for _, pair := range [][2]string{{"{", "{}"}, {"{}", "{"}} {
		if got, err := Lost([]byte(pair[0]), []byte(pair[1])); err == nil {
			t.Errorf("%q: %q, want an error", pair, got)
		}
	}
}
