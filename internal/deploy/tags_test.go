package deploy

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseTags(t *testing.T) {
	if got, err := ParseTags(" \n"); got != nil || err != nil {
		t.Errorf("without tags: %v, %v", got, err)
	}
	got, err := ParseTags("CostCenter=4711  team:owner=plat/form+a@example.org\n Expr=a=b Größe=groß")
	if err != nil || len(got) != 4 || got["CostCenter"] != "4711" || got["team:owner"] != "plat/form+a@example.org" || got["Expr"] != "a=b" || got["Größe"] != "groß" {
		t.Errorf("%q, %v", got, err)
	}
	many := func(n int) string {
		var words []string
		for i := range n {
			words = append(words, fmt.Sprintf("K%d=v", i))
		}
		return strings.Join(words, " ")
	}
	for words, want := range map[string]string{
		"Key":                           `"Key" is not of the form Key=Value`,
		"Key=":                          "not of the form",
		"=v":                            "not of the form",
		"aws:x=1":                       "reserved for AWS",
		"AWS:x=1":                       "reserved for AWS",
		"bastion:x=1":                   "reserved for the groups and tasks",
		"A=1 A=2":                       "A is set twice",
		"Team=1 team=2":                 "Team and team differ in case only",
		"A=it's":                        "only letters",
		"A=1,2":                         "only letters",
		"A=$(x)":                        "only letters",
		strings.Repeat("k", 129) + "=v": "has 129 characters",
		"k=" + strings.Repeat("v", 257): "has 257 characters",
		many(50):                        "50 tags are set, and at most 49",
	} {
		if _, err := ParseTags(words); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", words, err)
		}
	}
	for _, words := range []string{many(49), strings.Repeat("ü", 128) + "=v", "k=" + strings.Repeat("ü", 256)} {
		if _, err := ParseTags(words); err != nil {
			t.Errorf("%s: %v", words, err)
		}
	}
	_, err = ParseTags("Key aws:x=1 A=!")
	for _, want := range []string{`"Key"`, `"aws:x"`, `"A=!"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
}
