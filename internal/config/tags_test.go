package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestParseTags(t *testing.T) {
	longest := strings.Repeat("k", maxTagKey) + "=" + strings.Repeat("v", maxTagValue)
	var most []string
	for i := range maxTags {
		most = append(most, fmt.Sprintf("key%d=", i))
	}
	for text, want := range map[string][]bastion.Tag{
		"":                                  nil,
		"CostCenter=42":                     {{Key: "CostCenter", Value: "42"}},
		"a=,b=1":                            {{Key: "a"}, {Key: "b", Value: "1"}},
		"data owner=x=y/z_.:+-@,Owner=me":   {{Key: "data owner", Value: "x=y/z_.:+-@"}, {Key: "Owner", Value: "me"}},
		"key=1,Key=2":                       {{Key: "key", Value: "1"}, {Key: "Key", Value: "2"}},
		"awsome=laws:,bastion=my bastion:x": {{Key: "awsome", Value: "laws:"}, {Key: "bastion", Value: "my bastion:x"}},
		longest:                             {{Key: strings.Repeat("k", maxTagKey), Value: strings.Repeat("v", maxTagValue)}},
	} {
		if got, wrong := ParseTags(text); len(wrong) > 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", text, got, wrong, want)
		}
	}
	if got, wrong := ParseTags(strings.Join(most, ",")); len(got) != maxTags || len(wrong) > 0 {
		t.Errorf("%d tags, %v", len(got), wrong)
	}
}

func TestParseTagsRefuses(t *testing.T) {
	var tooMany []string
	for i := range maxTags + 1 {
		tooMany = append(tooMany, fmt.Sprintf("key%d=1", i))
	}
	for text, want := range map[string]string{
		"CostCenter":                    `"CostCenter" is not a tag: want Key=Value`,
		"=42":                           `"=42" is not a tag`,
		"a=1,":                          `"" is not a tag`,
		"a=1,,b=2":                      `"" is not a tag`,
		"a=1;b=2":                       "does not accept",
		"Kostenträger=1":                "does not accept",
		"a=1\nb":                        "does not accept",
		"a=1, b=2":                      "begins or ends with a space",
		"a= 1":                          "begins or ends with a space",
		strings.Repeat("k", 129) + "=":  "has 129 characters: use at most 128",
		"a=" + strings.Repeat("v", 257): "the value of the tag a has 257 characters: use at most 256",
		"aws:owner=1":                   "the prefix aws:, which AWS reserves",
		"AwS:owner=1":                   "the prefix aws:",
		"owner=AWS:me":                  "the prefix aws:",
		"bastion:stack=mine":            "the prefix bastion:, by which the service finds what it has created",
		"Bastion:ID=mine":               "the prefix bastion:",
		"a=1,b=2,a=3":                   "there are two tags with the key a: keep one",
		strings.Join(tooMany, ","):      "there are 41 tags: use at most 40",
	} {
		if _, wrong := ParseTags(text); len(wrong) != 1 || !strings.Contains(wrong[0].Error(), want) {
			t.Errorf("%q: %v, want %s", text, wrong, want)
		}
	}
	if _, wrong := ParseTags("x,aws:a=1,b=1,b=ü"); len(wrong) != 4 {
		t.Errorf("%v, want all four problems", wrong)
	}
}
