//go:build conformance

package template

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// allows reports whether the parameter accepts the value by its pattern and its length.
func allows(t *testing.T, parameter, value string) bool {
	t.Helper()
	template, _ := open(t)
	p, ok := template.Parameters[parameter]
	if !ok {
		t.Fatalf("there is no parameter %s", parameter)
	}
	longest, limited := p["MaxLength"].(float64)
	pattern, _ := p["AllowedPattern"].(string)
	return regexp.MustCompile(pattern).MatchString(value) && (!limited || len(value) <= int(longest))
}

// many returns n entries of a list, each with its number.
func many(n int, entry string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(entry, i))
	}
	return strings.Join(all, ",")
}

func TestParametersRefuseMalformedValues(t *testing.T) {
	for _, test := range []struct {
		parameter     string
		good, refused []string
	}{
		{"PermissionsBoundary",
			[]string{"", "arn:aws:iam::111122223333:policy/Boundary", "arn:aws:iam::111122223333:policy/team/a/Boundary", "arn:aws:iam::aws:policy/PowerUserAccess", "arn:aws-us-gov:iam::111122223333:policy/B+=,.@-_"},
			[]string{"Boundary", "arn:aws:iam::111122223333:role/Boundary", "arn:aws:iam::111122223333:policy/", "arn:aws:iam::1111:policy/Boundary", "arn:aws:iam::111122223333:policy/a b", "arn:aws:iam::111122223333:policy//Boundary", " "}},
		{"SshPort",
			[]string{"22", "443", "1024", "1029", "1099", "1999", "2222", "9999", "10000", "59999", "64999", "65499", "65529", "65535"},
			[]string{"", "0", "21", "23", "80", "442", "444", "1023", "01024", "65536", "65540", "65600", "66000", "70000", "100000", "2222x", "-22", " 22"}},
		{"ResourceTags",
			[]string{"", "CostCenter=42", "a=,b=x=y", "data owner=team/a_b.c:d+e-f@g"},
			[]string{"CostCenter", "=42", "a=1,", "a=1;b=2", "Kostenträger=1", strings.Repeat("a=,", 40) + "a=", "a=" + strings.Repeat("v", 4000)}},
		{"AllowedDestinations",
			[]string{"10.0.0.0/8", "10.0.0.0/8:1", "10.0.0.0/8:1-65535,10.1.0.0/16", many(20, "10.%d.0.0/16:8000-8099"), many(20, "255.255.255.%d/32:10000-65535")},
			[]string{"", "10.0.0.0", "10.0.0.0/8:", "10.0.0.0/8:a", "10.0.0.0/8:1-", "10.0.0.0/8:-1", "10.0.0.0/8:1-2-3", "10.0.0.0/8:123456", "10.0.0.0/8,", "10.0.0.0/8 ", "fd00::/8", many(21, "10.%d.0.0/16")}},
		{"AllowedDestinationsIpv6",
			[]string{"", "fd00::/8", "2001:db8::/32:5432", "::/0:1-65535", many(4, "2001:db8:1111:2222:3333:4444:5555:66%02d/128:10000-65535")},
			[]string{"10.0.0.0/8", "fd00::", "fd00::/8:", "fd00::/8:a", "fd00::/8:1-", "fd00::/8:1-2-3", "fd00::/8,", many(5, "fd00:%d::/32")}},
	} {
		for _, value := range test.good {
			if !allows(t, test.parameter, value) {
				t.Errorf("%s refuses %q", test.parameter, value)
			}
		}
		for _, value := range test.refused {
			if allows(t, test.parameter, value) {
				t.Errorf("%s accepts %q", test.parameter, value)
			}
		}
	}
}

// networkRule needs data of the account, which only CloudFormation has.
const networkRule = "SubnetsAreOfTheVpc"

// violated returns the template's rules that the parameters violate.
func violated(t *testing.T, given ...string) []string {
	t.Helper()
	template, r := open(t, given...)
	var all []string
	for name, rule := range template.Rules {
		if condition, ok := rule["RuleCondition"]; name == networkRule || ok && !r.value(condition).(bool) {
			continue
		}
		for _, assertion := range rule["Assertions"].([]any) {
			if !r.value(at(assertion, "Assert")).(bool) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestRulesRefuseInvalidParameters(t *testing.T) {
	for _, test := range []struct {
		parameters []string
		want       []string
	}{
		{nil, nil},
		{[]string{"PublicAddress", "false"}, []string{"PrivateBastionsNeedSources"}},
		{[]string{"PublicAddress", "false", "AllowedSources", "10.8.0.0/16"}, nil},
		{[]string{"AddressFamilies", "ipv6"}, []string{"PublicAddressesAreIpv4"}},
		{[]string{"AddressFamilies", "dualstack"}, nil},
		{[]string{"AddressFamilies", "ipv6", "PublicAddress", "false", "AllowedSources", "fd00::/8"}, nil},
		{[]string{"JwtIssuer", "https://issuer.example/"}, []string{"TokensNeedAnAudience"}},
		{[]string{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a"}, nil},
		{[]string{"JwtScopes", "bastion/start"}, []string{"ScopesNeedAnIssuer"}},
		{[]string{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a", "JwtScopes", "bastion/start"}, nil},
		{withSlack[:2], []string{"SlackTeamsNeedSecrets", "SlackTeamsNeedSecrets"}},
		{withSlack[:4], []string{"SlackSigningSecretNeedsTheRest", "SlackTeamsNeedSecrets"}},
		{withSlack[2:4], []string{"SlackSigningSecretNeedsTheRest", "SlackSigningSecretNeedsTheRest"}},
		{withSlack[4:], []string{"SlackBotTokenNeedsTheRest", "SlackBotTokenNeedsTheRest"}},
		{slices.Concat(withSlack[:2], withSlack[4:]), []string{"SlackBotTokenNeedsTheRest", "SlackTeamsNeedSecrets"}},
		{withSlack, nil},
	} {
		if got := violated(t, test.parameters...); !slices.Equal(got, test.want) {
			t.Errorf("%v violates %q, want %q", test.parameters, got, test.want)
		}
	}
}

func TestNetworkRuleIsUnconditional(t *testing.T) {
	template, _ := open(t)
	rule := template.Rules[networkRule]
	if assertions, _ := rule["Assertions"].([]any); len(assertions) != 1 || rule["RuleCondition"] != nil {
		t.Errorf("the rule is %v", rule)
	}
}
