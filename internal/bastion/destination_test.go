package bastion

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseDestinationRule(t *testing.T) {
	for text, want := range map[string]DestinationRule{
		"10.0.0.0/8":              {Prefix: netip.MustParsePrefix("10.0.0.0/8")},
		"0.0.0.0/0":               {Prefix: netip.MustParsePrefix("0.0.0.0/0")},
		"10.0.0.0/8:5432":         {netip.MustParsePrefix("10.0.0.0/8"), 5432, 5432},
		"10.0.0.7/32:8000-8099":   {netip.MustParsePrefix("10.0.0.7/32"), 8000, 8099},
		"10.0.0.0/8:1-65535":      {netip.MustParsePrefix("10.0.0.0/8"), 1, 65535},
		"2001:db8::/32":           {Prefix: netip.MustParsePrefix("2001:db8::/32")},
		"2001:db8::/32:5432":      {netip.MustParsePrefix("2001:db8::/32"), 5432, 5432},
		"::/0:22":                 {netip.MustParsePrefix("::/0"), 22, 22},
		"fd12::1/128:22-23":       {netip.MustParsePrefix("fd12::1/128"), 22, 23},
		"2001:db8:1:2::/64:1-443": {netip.MustParsePrefix("2001:db8:1:2::/64"), 1, 443},
	} {
		got, err := ParseDestinationRule(text)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("the text of %s is %s", text, got)
		}
	}
	if got, err := ParseDestinationRule("2001:0DB8::/32:443-443"); err != nil || got.String() != "2001:db8::/32:443" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestInvalidDestinationRuleIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "10.0.0.0", "10.0.0.0:5432", "db.internal/32", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/", "/8", "10.0.0/8", "10.0.0.0/8/8",
		"2001:db8::5432", "2001:db8::/129", "fe80::1%eth0/64", "::ffff:10.0.0.0/104", "10.0.0.0 /8", "*", "10.0.0.0/+8",
	} {
		if rule, err := ParseDestinationRule(text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q is not CIDR, CIDR:PORT or CIDR:FROM-TO", text)) {
			t.Errorf("%q is %+v, %v", text, rule, err)
		}
	}
	for _, ports := range []string{"", "0", "65536", "-1", "1-", "-", "0-5", "1-65536", "80,81", "http", "+80", "080", "80-080", "80-90-100", " 80", "80:81", "0x50", "8_0"} {
		for _, prefix := range []string{"10.0.0.0/8", "2001:db8::/32"} {
			text := prefix + ":" + ports
			if rule, err := ParseDestinationRule(text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("has the ports %q: write a port from 1 to 65535", ports)) {
				t.Errorf("%q is %+v, %v", text, rule, err)
			}
		}
	}
	for text, want := range map[string]string{
		"10.0.0.1/8":           "10.0.0.1/8 has bits set after the prefix length: write 10.0.0.0/8",
		"10.0.0.1/8:22":        "write 10.0.0.0/8:22",
		"2001:db8::1/32:22-23": "write 2001:db8::/32:22-23",
		"10.0.0.0/8:90-80":     "10.0.0.0/8:90-80 has the ports in the wrong order: write 10.0.0.0/8:80-90",
	} {
		if rule, err := ParseDestinationRule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v\nwant %s", text, rule, err, want)
		}
	}
}

func TestParseDestinationRules(t *testing.T) {
	dns := DestinationRule{netip.MustParsePrefix("10.9.0.2/32"), 53, 53}
	for text, want := range map[string][]string{ // parts of the errors
		"":                               nil,
		" ":                              nil,
		"10.0.0.0/8":                     nil,
		"10.0.0.0/8:22, 10.0.0.0/8:5432": nil,
		"10.0.0.0/8,10.0.0.0/8:22":       nil, // different rules for EC2
		"10.0.0.0/8:1-10,10.0.0.0/8:5-9": nil,
		"0.0.0.0/0,::/0":                 nil,
		"0.0.0.0/0:442-443":              nil,
		"10.0.0.0/8:443":                 nil,
		"10.9.0.2/32":                    nil,
		"10.9.0.2/32:53-54":              nil,

		"10.0.0.0/8,10.1.0.0/16,10.0.0.0/8":     {"10.0.0.0/8 is in the list twice"},
		"10.0.0.0/8:22,10.0.0.0/8:22-22":        {"10.0.0.0/8:22 and 10.0.0.0/8:22-22 are the same rule"},
		"2001:db8::/32,2001:0db8::/32":          {"2001:db8::/32 and 2001:0db8::/32 are the same rule"},
		"fd00::/8:22,fd00:0::/8:22":             {"fd00::/8:22 and fd00:0::/8:22 are the same rule"},
		"0.0.0.0/0:443":                         {"0.0.0.0/0:443 is a rule that the member group always has"},
		"0.0.0.0/0:443-443":                     {"0.0.0.0/0:443-443 is a rule that the member group always has"},
		"::/0:443":                              {"::/0:443 is a rule that the member group always has"},
		"10.9.0.2/32:53":                        {"10.9.0.2/32:53 is a rule that the member group always has"},
		"10.0.0.0/8,":                           {`"" is not CIDR`},
		"10.0.0.1/8,10.0.0.0/8:0,::/0:443,host": {"bits set", `has the ports "0"`, "always has", `"host" is not CIDR`},
	} {
		rules, wrong := ParseDestinationRules(text, dns)
		if len(wrong) != len(want) {
			t.Errorf("%q: %v, want %q", text, wrong, want)
			continue
		}
		for i := range want {
			if !strings.Contains(wrong[i].Error(), want[i]) {
				t.Errorf("%q: %v, want %q", text, wrong[i], want[i])
			}
		}
		if want == nil && strings.TrimSpace(text) != "" && len(rules) != strings.Count(text, ",")+1 {
			t.Errorf("%q is %v", text, rules)
		}
	}
}

func TestDestinationRuleAllows(t *testing.T) {
	for _, test := range []struct {
		rule, to string
		want     bool
	}{
		{"10.0.0.0/8", "10.1.2.3:1", true},
		{"10.0.0.0/8", "10.1.2.3:65535", true},
		{"10.0.0.0/8", "11.1.2.3:22", false},
		{"10.0.0.0/8:5432", "10.1.2.3:5432", true},
		{"10.0.0.0/8:5432", "10.1.2.3:5431", false},
		{"10.0.0.0/8:5432", "10.1.2.3:5433", false},
		{"10.0.0.0/8:5432", "11.1.2.3:5432", false},
		{"10.0.0.0/8:20-22", "10.1.2.3:19", false},
		{"10.0.0.0/8:20-22", "10.1.2.3:20", true},
		{"10.0.0.0/8:20-22", "10.1.2.3:22", true},
		{"10.0.0.0/8:20-22", "10.1.2.3:23", false},
		{"fd12::/64:22", "[fd12::1]:22", true},
		{"fd12::/64:22", "[fd12::1]:23", false},
		{"0.0.0.0/0", "[::ffff:10.0.0.1]:22", false},
		{"::/0", "10.0.0.1:22", false},
	} {
		rule, err := ParseDestinationRule(test.rule)
		if got := rule.Allows(netip.MustParseAddrPort(test.to)); err != nil || got != test.want {
			t.Errorf("%s allows %s: %t, %v", test.rule, test.to, got, err)
		}
	}
}

func TestAllowedPorts(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"11.0.0.0/8":                     "",
		"11.0.0.0/8,fd00::/8:22":         "",
		"10.0.0.0/8:22,10.0.0.0/16":      "all ports",
		"10.0.0.0/8:22":                  "port 22",
		"10.0.0.0/8:5432,10.0.0.0/16:22": "ports 22 and 5432",
		"10.0.0.0/8:8000-8099,10.0.0.0/8:5432,11.0.0.0/8:23,10.0.0.7/32:22": "ports 22, 5432 and 8000-8099",
		"10.0.0.0/8:1-10,10.0.0.0/16:5-20,10.0.0.7/32:7,10.0.0.0/24:30":     "ports 1-20 and 30",
		"10.0.0.0/8:1-10,10.0.0.0/16:10":                                    "ports 1-10",
	} {
		rules, wrong := ParseDestinationRules(text)
		if got := AllowedPorts(rules, netip.MustParseAddr("10.0.0.7")); got != want || wrong != nil {
			t.Errorf("%q: %q, want %q; %v", text, got, want, wrong)
		}
	}
}

func TestDestinationRuleIsStoredAsText(t *testing.T) {
	const text = `["10.0.0.0/8","10.0.0.0/8:5432","fd12::/64:8000-8099"]`
	var rules []DestinationRule
	if err := json.Unmarshal([]byte(text), &rules); err != nil {
		t.Fatal(err)
	}
	want, _ := ParseDestinationRules("10.0.0.0/8,10.0.0.0/8:5432,fd12::/64:8000-8099")
	if encoded, err := json.Marshal(rules); err != nil || string(encoded) != text || !reflect.DeepEqual(rules, want) {
		t.Errorf("%v, %s, %v", rules, encoded, err)
	}
	if err := json.Unmarshal([]byte(`["10.0.0.0/8:http"]`), &rules); err == nil {
		t.Error("an invalid port is accepted")
	}
}
