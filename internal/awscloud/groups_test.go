package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
)

var testSource = netip.MustParsePrefix("192.0.2.7/32")

// errAny stands for any error except ErrNotFound and ErrInUse.
var errAny = errors.New("any error")

// groupErrors are errors of EC2, and the errors that Groups returns for them.
var groupErrors = []struct {
	action, code string
	want         error
}{
	{"CreateSecurityGroup", "InvalidGroup.Duplicate", bastion.ErrNotFound}, // the group exists, but a stale read does not show it
	{"CreateSecurityGroup", "RequestLimitExceeded", errAny},
	{"DescribeSecurityGroups", "RequestLimitExceeded", errAny},
	{"DescribeSecurityGroups", "UnauthorizedOperation", errAny},
	{"AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate", nil},
	{"AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", bastion.ErrNotFound},
	{"AuthorizeSecurityGroupIngress", "RequestLimitExceeded", errAny},
	{"RevokeSecurityGroupIngress", "InvalidPermission.NotFound", nil},
	{"RevokeSecurityGroupIngress", "InvalidSecurityGroupRuleId.NotFound", nil},
	{"RevokeSecurityGroupIngress", "InvalidGroup.NotFound", nil},
	{"AuthorizeSecurityGroupIngress", "InvalidSecurityGroupID.NotFound", bastion.ErrNotFound},
	{"RevokeSecurityGroupIngress", "InvalidSecurityGroupID.NotFound", nil},
	{"RevokeSecurityGroupIngress", "RequestLimitExceeded", errAny},
	{"RevokeSecurityGroupEgress", "InvalidSecurityGroupRuleId.NotFound", nil},
	{"RevokeSecurityGroupEgress", "InvalidGroup.NotFound", nil},
	{"DeleteSecurityGroup", "DependencyViolation", bastion.ErrInUse},
	{"DeleteSecurityGroup", "InvalidGroup.InUse", bastion.ErrInUse},
	{"DeleteSecurityGroup", "InvalidGroup.NotFound", bastion.ErrNotFound},
	{"DeleteSecurityGroup", "InvalidSecurityGroupID.NotFound", bastion.ErrNotFound},
	{"DeleteSecurityGroup", "RequestLimitExceeded", errAny},
}

// groupChanges returns a call of each method that changes a group, by the action of EC2
// that it takes first.
func (w *wire) groupChanges() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"CreateSecurityGroup": func(ctx context.Context) error {
			_, err := w.groups.Create(ctx, bastion.GroupSpec{BastionID: testID})
			return err
		},
		"AuthorizeSecurityGroupIngress": func(ctx context.Context) error { return w.groups.Authorize(ctx, "sg-1", testSource) },
		"RevokeSecurityGroupIngress":    func(ctx context.Context) error { return w.groups.Revoke(ctx, "sg-1", bastion.Rule{ID: "sgr-1"}) },
		"RevokeSecurityGroupEgress": func(ctx context.Context) error {
			return w.groups.Revoke(ctx, "sg-1", bastion.Rule{ID: "sgr-1", Egress: true})
		},
		"DeleteSecurityGroup": func(ctx context.Context) error { return w.groups.Delete(ctx, "sg-1") },
	}
}

func TestGroupErrorsAreConverted(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	calls := w.groupChanges()
	calls["DescribeSecurityGroups"] = func(ctx context.Context) error { _, err := w.groups.Describe(ctx, testID, ""); return err }
	for _, c := range groupErrors {
		t.Run(c.action+" "+c.code, func(t *testing.T) {
			w.server.Fail(c.action, c.code, "message")
			err := calls[c.action](t.Context())
			known := errors.Is(err, bastion.ErrNotFound) || errors.Is(err, bastion.ErrInUse)
			checkRefusal(t, err, "")
			switch {
			case c.want == errAny && (err == nil || known):
				t.Errorf("%v, want an error that the domain retries", err)
			case c.want != errAny && !errors.Is(err, c.want):
				t.Errorf("%v, want %v", err, c.want)
			}
			checkNoSDKError(t, err)
		})
	}
}

func TestAuthorizeAcceptsSingleAddressOnly(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: testID})
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
		netip.MustParsePrefix("192.0.2.0/31"), netip.PrefixFrom(netip.MustParseAddr("::ffff:192.0.2.7"), 128)} {
		if err := w.groups.Authorize(t.Context(), group.ID, source); err == nil {
			t.Errorf("source %s is accepted", source)
		}
	}
	if slices.Contains(w.server.Calls(), "AuthorizeSecurityGroupIngress") {
		t.Error("EC2 was called")
	}
}

// A source may be as wide as the operator allows, and not one bit wider.
func TestAuthorizeRefusesWiderThanTheOperatorAllows(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	w.groups.stack.WidestIPv4, w.groups.stack.WidestIPv6 = 28, 64
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: testID})
	if err != nil {
		t.Fatal(err)
	}
	for text, allowed := range map[string]bool{
		"192.0.2.0/28": true, "192.0.2.7/32": true, "2001:db8::/64": true, "2001:db8::7/128": true,
		"192.0.2.0/27": false, "0.0.0.0/0": false, "2001:db8::/63": false, "::/0": false, "192.0.2.7/28": false,
	} {
		err := w.groups.Authorize(t.Context(), group.ID, netip.MustParsePrefix(text))
		if (err == nil) != allowed {
			t.Errorf("%s: %v", text, err)
		}
	}
	var refused *bastion.RefusedError
	if err := w.groups.Authorize(t.Context(), group.ID, netip.MustParsePrefix("10.0.0.0/8")); !errors.As(err, &refused) || refused.Failure.Code != bastion.FailureConfig {
		t.Errorf("too wide: %v, want a refusal", err)
	}
}

func TestRuleWithoutIDIsNotRevoked(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	if err := w.groups.Revoke(t.Context(), "sg-1", bastion.Rule{Source: testSource}); err == nil || len(w.server.Calls()) > 0 {
		t.Errorf("%v after calls %q", err, w.server.Calls())
	}
}

func TestGroupsOfAnotherStackAreNotFound(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	other := *w.groups
	other.stack.ID = "another"
	group, err := other.Create(t.Context(), bastion.GroupSpec{BastionID: testID})
	if err != nil {
		t.Fatal(err)
	}
	for _, groupID := range []string{"", group.ID} {
		if _, err := w.groups.Describe(t.Context(), testID, groupID); !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("with the id %q: %v", groupID, err)
		}
	}
	if groups, err := w.groups.List(t.Context()); err != nil || len(groups) > 0 {
		t.Errorf("listed %+v, %v", groups, err)
	}
}

// The test has more groups than the number of ids that one filter accepts.
func TestManyGroupsAreReadInPages(t *testing.T) {
	w := newWire(t, localcloud.Config{}, func(cfg *awswire.Config) { cfg.PageSize = 100 })
	const n = 250
	for i := range n {
		group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: fmt.Sprintf("bastion%09d", i)})
		if err == nil {
			err = w.groups.Authorize(t.Context(), group.ID, testSource)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := len(w.server.Calls())
	groups, err := w.groups.List(t.Context())
	if err != nil || len(groups) != n {
		t.Fatalf("%d of %d groups: %v", len(groups), n, err)
	}
	for _, g := range groups {
		if len(g.Ingress) != 1 || len(g.Egress) != 1 {
			t.Errorf("%+v, want two rules", g)
		}
	}
	// Three pages of groups. The ids take two filters: of 200 groups with 400 rules in
	// four pages, and of 50 groups with 100 rules in one page.
	if calls := len(w.server.Calls()) - before; calls != 3+4+1 {
		t.Errorf("%d calls, want 8", calls)
	}
}

// The reaper often reads the group of a closing bastion before it can delete the group. By
// then the group has no rules, so the read takes one call instead of two.
func TestGroupWithoutRulesIsReadInOneCall(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	group, err := w.groups.Create(t.Context(), bastion.GroupSpec{BastionID: testID})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		rules int
		calls []string
	}{
		{1, []string{"DescribeSecurityGroups", "DescribeSecurityGroupRules"}}, // EC2 adds an egress rule to a new group
		{0, []string{"DescribeSecurityGroups"}},
	} {
		before := len(w.server.Calls())
		seen, err := w.groups.Describe(t.Context(), testID, group.ID)
		if err != nil || len(seen.Egress) != test.rules {
			t.Fatalf("%+v, %v", seen, err)
		}
		if got := w.server.Calls()[before:]; !slices.Equal(got, test.calls) {
			t.Errorf("with %d rules the calls are %q, want %q", test.rules, got, test.calls)
		}
		for _, rule := range seen.Egress {
			if err := w.groups.Revoke(t.Context(), group.ID, rule); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOnlyRuleForSSHPortHasSource(t *testing.T) {
	valid := types.SecurityGroupRule{SecurityGroupRuleId: aws.String("sgr-1"), IpProtocol: aws.String("tcp"),
		FromPort: aws.Int32(2222), ToPort: aws.Int32(2222), CidrIpv4: aws.String("192.0.2.7/32")}
	if got := testStack.rule(valid); got != (bastion.Rule{ID: "sgr-1", Source: testSource}) {
		t.Errorf("the rule for IPv4 is %+v", got)
	}
	v6 := valid
	v6.CidrIpv4, v6.CidrIpv6 = nil, aws.String("2001:DB8:0::7/128")
	if got := testStack.rule(v6); got.Source != netip.MustParsePrefix("2001:db8::7/128") {
		t.Errorf("the rule for IPv6 is %+v", got)
	}
	for name, change := range map[string]func(*types.SecurityGroupRule){
		"all protocols":  func(r *types.SecurityGroupRule) { r.IpProtocol = aws.String("-1") },
		"UDP":            func(r *types.SecurityGroupRule) { r.IpProtocol = aws.String("udp") },
		"another port":   func(r *types.SecurityGroupRule) { r.FromPort, r.ToPort = aws.Int32(22), aws.Int32(22) },
		"more ports":     func(r *types.SecurityGroupRule) { r.ToPort = aws.Int32(2223) },
		"no ports":       func(r *types.SecurityGroupRule) { r.FromPort, r.ToPort = nil, nil },
		"a group":        func(r *types.SecurityGroupRule) { r.CidrIpv4 = nil },
		"a prefix list":  func(r *types.SecurityGroupRule) { r.CidrIpv4, r.PrefixListId = nil, aws.String("pl-1") },
		"an egress rule": func(r *types.SecurityGroupRule) { r.IsEgress = aws.Bool(true) },
	} {
		rule := valid
		change(&rule)
		if got := testStack.rule(rule); got.Source.IsValid() || got.ID != "sgr-1" {
			t.Errorf("%s: %+v, want no source", name, got)
		}
	}
}
