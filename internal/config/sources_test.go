package config

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestParseSources(t *testing.T) {
	for text, want := range map[string][]string{
		"":                       nil,
		"10.8.0.0/16":            {"10.8.0.0/16"},
		"10.8.0.0/16, fd00::/8":  {"10.8.0.0/16", "fd00::/8"},
		"0.0.0.0/1,128.0.0.0/1":  {"0.0.0.0/1", "128.0.0.0/1"},
		"10.8.0.0/16,10.0.0.0/8": {"10.8.0.0/16", "10.0.0.0/8"},
	} {
		got, wrong := ParseSources(text)
		var texts []string
		for _, p := range got {
			texts = append(texts, p.String())
		}
		if wrong != nil || !slices.Equal(texts, want) {
			t.Errorf("%q: %q, %v", text, texts, wrong)
		}
	}
}

func TestParseSourcesReturnsEverythingThatIsWrong(t *testing.T) {
	got, wrong := ParseSources("10.8.0.0/16,10.8.0.0/16,10.1.2.3/8,0.0.0.0/0,::/0,10.0.0.1,10.0.0.0/33,::ffff:10.0.0.0/104,")
	want := `10.8.0.0/16 is in the list twice: remove one
10.1.2.3/8 has bits set after the prefix length: write 10.0.0.0/8
a caller could open the security group to any source address by 0.0.0.0/0: name the prefixes that people connect from
a caller could open the security group to any source address by ::/0: name the prefixes that people connect from
"10.0.0.1" is not a CIDR, such as 10.0.0.0/8 or fd00::/8
"10.0.0.0/33" is not a CIDR, such as 10.0.0.0/8 or fd00::/8
"::ffff:10.0.0.0/104" is not a CIDR, such as 10.0.0.0/8 or fd00::/8
"" is not a CIDR, such as 10.0.0.0/8 or fd00::/8`
	if err := errors.Join(wrong...); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")}) {
		t.Errorf("%v", got)
	}
}
