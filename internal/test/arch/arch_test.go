package arch

import (
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestPackagesFollowTheRules(t *testing.T) {
	packages := load(t)
	if !slices.ContainsFunc(packages, func(p Package) bool { return p.Path == "internal/bastion" && len(p.Imports) > 0 }) {
		t.Fatalf("internal/bastion is missing from the packages found: %+v", packages)
	}
	for _, violation := range Violations(packages) {
		t.Error(violation)
	}
	for _, pattern := range Unused(packages) {
		t.Errorf("the table of imports has a rule for %s, which does not exist", pattern)
	}
}

func TestUnusedRuleIsFound(t *testing.T) {
	if unused := Unused([]Package{{Path: "internal/bastion"}}); !slices.Contains(unused, "internal/sshd") || slices.Contains(unused, "internal/bastion") {
		t.Errorf("Unused = %q, want internal/sshd in it and internal/bastion not in it", unused)
	}
}

func TestEveryRuleCatchesItsViolation(t *testing.T) {
	for _, test := range []struct {
		pkg  Package
		want string // empty if the package follows the rules
	}{
		{Package{Path: "internal/bastion", Imports: []string{"net/netip", "context"}}, ""},
		{Package{Path: "internal/sshd", Imports: []string{Module + "/internal/bastion", "golang.org/x/crypto/ssh"}}, ""},
		{Package{Path: "internal/localmode", Imports: []string{Module + "/internal/sshd", Module + "/internal/httpapi"}}, ""},
		{Package{Path: "cmd/bastion", MainLines: 40, Imports: []string{Module + "/internal/localmode"}}, ""},
		{Package{Path: "functions/create", MainLines: 9, Imports: []string{Module + "/internal/awscloud"}}, ""},
		{Package{Path: "internal/awscloud", Imports: []string{"github.com/aws/aws-sdk-go-v2/service/ecs"}}, ""},
		{Package{Path: "internal/image", Imports: []string{"github.com/aws/aws-sdk-go-v2/service/ecr"}}, ""},
		{Package{Path: "internal/bastion", HasTests: true, LeakChecked: true, TestImports: []string{Module + "/internal/localcloud"}}, ""},

		{Package{Path: "internal/bastion", Imports: []string{Module + "/internal/publickey"}}, "internal/bastion imports internal/publickey"},
		{Package{Path: "internal/bastion", Imports: []string{"golang.org/x/crypto/ssh"}},
			"internal/bastion imports golang.org/x/crypto/ssh: the domain imports the standard library only"},
		{Package{Path: "internal/sshd", Imports: []string{Module + "/internal/localcloud"}}, "internal/sshd imports internal/localcloud"},
		{Package{Path: "internal/publickey", Imports: []string{Module + "/internal/leasefile"}}, "internal/publickey imports internal/leasefile"},
		{Package{Path: "internal/new"}, "internal/new is not in the table of imports: add what it may import"},
		{Package{Path: "internal/httpapi", Imports: []string{"github.com/aws/aws-sdk-go-v2/aws"}},
			"internal/httpapi imports github.com/aws/aws-sdk-go-v2/aws: only internal/awscloud may"},
		{Package{Path: "functions/reaper", MainLines: 9, Imports: []string{"github.com/aws/aws-sdk-go-v2/config"}},
			"functions/reaper imports github.com/aws/aws-sdk-go-v2/config: only internal/awscloud may"},
		{Package{Path: "internal/sshd", TestImports: []string{Module + "/internal/localmode"}},
			"internal/sshd imports internal/localmode: only cmd/bastion and internal/test/soak may"},
		{Package{Path: "cmd/bastiond", MainLines: 9, Imports: []string{Module + "/internal/localmode"}},
			"cmd/bastiond imports internal/localmode: only cmd/bastion and internal/test/soak may"},
		{Package{Path: "cmd/operator", MainLines: 9, Imports: []string{"github.com/aws/aws-sdk-go-v2/service/ecr"}},
			"cmd/operator imports github.com/aws/aws-sdk-go-v2/service/ecr: only internal/awscloud may"},
		{Package{Path: "cmd/bastion", TestImports: []string{Module + "/cmd/bastiond"}},
			"cmd/bastion imports cmd/bastiond: nothing imports a main"},
		{Package{Path: "cmd/bastion", MainLines: 41}, "cmd/bastion has a main of 41 lines; 40 is the limit"},
		{Package{Path: "internal/sshd", HasTests: true}, "internal/sshd has tests but no TestMain that runs leakcheck.Main"},
	} {
		var want []string
		if test.want != "" {
			want = []string{test.want}
		}
		if got := Violations([]Package{test.pkg}); !slices.Equal(got, want) {
			t.Errorf("%+v:\n got %q\nwant %q", test.pkg, got, want)
		}
	}
}
