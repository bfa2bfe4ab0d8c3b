package awswire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// groupFacts is what the local cloud does not know of a group.
type groupFacts struct {
	vpc, description string
	tags             []tag
}

type securityGroup struct {
	ID          string `xml:"groupId"`
	Name        string `xml:"groupName"`
	Description string `xml:"groupDescription"`
	VPC         string `xml:"vpcId"`
	Tags        []tag  `xml:"tagSet>item,omitempty"`

	Ingress []permission `xml:"ipPermissions>item,omitempty"`
	Egress  []permission `xml:"ipPermissionsEgress>item,omitempty"`
}

// permission is a rule as its group shows it: without its id.
type permission struct {
	Protocol string `xml:"ipProtocol"`
}

func permissions(rules []bastion.Rule, protocol string) []permission {
	var all []permission
	for range rules {
		all = append(all, permission{protocol})
	}
	return all
}

// exists finds the truth about a group, which may not show yet.
func (s *Server) exists(is func(bastion.Group) bool) (bastion.Group, bool) {
	for _, g := range s.cfg.Cloud.GroupStates() {
		if is(g.Group) {
			return g.Group, true
		}
	}
	return bastion.Group{}, false
}

func (s *Server) createSecurityGroup(ctx context.Context, form url.Values) (any, error) {
	name, description := form.Get("GroupName"), form.Get("GroupDescription")
	if !validName(name) || !validName(description) || strings.HasPrefix(name, "sg-") || form.Get("VpcId") == "" {
		return nil, wireError{"InvalidParameterValue", "the group's name, description or VPC is not valid"}
	}
	if _, taken := s.exists(func(g bastion.Group) bool { return strings.EqualFold(g.BastionID, name) }); taken {
		return nil, wireError{"InvalidGroup.Duplicate", "The security group '" + name + "' already exists for VPC '" + form.Get("VpcId") + "'"}
	}
	g, err := s.cfg.Cloud.Groups().Create(ctx, bastion.GroupSpec{BastionID: name})
	if err != nil {
		return nil, err
	}
	facts := groupFacts{vpc: form.Get("VpcId"), description: description}
	for i := 1; form.Has(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i)); i++ {
		facts.tags = append(facts.tags, tag{
			form.Get(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i)),
			form.Get(fmt.Sprintf("TagSpecification.1.Tag.%d.Value", i)),
		})
	}
	s.groups[g.ID] = facts
	return struct {
		ID string `xml:"groupId"`
	}{g.ID}, nil
}

// fact is what a group has under the name of a filter.
func (f groupFacts) fact(g bastion.Group, filter string) (string, bool) {
	switch filter {
	case "group-id":
		return g.ID, true
	case "group-name":
		return g.BastionID, true
	case "vpc-id":
		return f.vpc, true
	}
	key, isTag := strings.CutPrefix(filter, "tag:")
	for _, t := range f.tags {
		if isTag && t.Key == key {
			return t.Value, true
		}
	}
	return "", isTag
}

func (s *Server) describeSecurityGroups(ctx context.Context, form url.Values) (any, error) {
	shown, err := s.cfg.Cloud.Groups().List(ctx)
	if err != nil {
		return nil, err
	}
	filters, err := filtersOf(form)
	if err != nil {
		return nil, err
	}
	var found []securityGroup
	for _, g := range shown {
		facts := s.groups[g.ID]
		wanted, err := filters.match(func(filter string) (string, bool) { return facts.fact(g, filter) })
		if err != nil {
			return nil, err
		}
		if wanted {
			found = append(found, securityGroup{g.ID, g.BastionID, facts.description, facts.vpc, facts.tags,
				permissions(g.Ingress, "tcp"), permissions(g.Egress, "-1")})
		}
	}
	items, next, err := ec2Page(s, form, found)
	return struct {
		Items []securityGroup `xml:"securityGroupInfo>item"`
		Next  string          `xml:"nextToken,omitempty"`
	}{items, next}, err
}

type securityGroupRule struct {
	ID       string `xml:"securityGroupRuleId"`
	GroupID  string `xml:"groupId"`
	Egress   bool   `xml:"isEgress"`
	Protocol string `xml:"ipProtocol"`
	From     int    `xml:"fromPort"`
	To       int    `xml:"toPort"`
	IPv4     string `xml:"cidrIpv4,omitempty"`
	IPv6     string `xml:"cidrIpv6,omitempty"`
}

func (s *Server) describeSecurityGroupRules(ctx context.Context, form url.Values) (any, error) {
	shown, err := s.cfg.Cloud.Groups().List(ctx)
	if err != nil {
		return nil, err
	}
	filters, err := filtersOf(form)
	if err != nil {
		return nil, err
	}
	var found []securityGroupRule
	for _, g := range shown {
		wanted, err := filters.match(func(filter string) (string, bool) { return g.ID, filter == "group-id" })
		if err != nil {
			return nil, err
		}
		for _, rule := range slices.Concat(g.Ingress, g.Egress) {
			if wanted {
				found = append(found, s.rule(g.ID, rule))
			}
		}
	}
	items, next, err := ec2Page(s, form, found)
	return struct {
		Items []securityGroupRule `xml:"securityGroupRuleSet>item"`
		Next  string              `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (s *Server) rule(groupID string, rule bastion.Rule) securityGroupRule {
	if rule.Egress {
		return securityGroupRule{rule.ID, groupID, true, "-1", -1, -1, "0.0.0.0/0", ""}
	}
	out := securityGroupRule{rule.ID, groupID, false, "tcp", int(s.cfg.Port), int(s.cfg.Port), "", ""}
	if rule.Source.Addr().Is4() {
		out.IPv4 = rule.Source.String()
	} else {
		out.IPv6 = rule.Source.String()
	}
	return out
}

func noGroup(id string) error {
	return wireError{"InvalidGroup.NotFound", "The security group '" + id + "' does not exist"}
}

func (s *Server) authorizeSecurityGroupIngress(ctx context.Context, form url.Values) (any, error) {
	id, permission, port := form.Get("GroupId"), "IpPermissions.1.", fmt.Sprint(s.cfg.Port)
	cidr := form.Get(permission+"IpRanges.1.CidrIp") + form.Get(permission+"Ipv6Ranges.1.CidrIpv6")
	source, err := netip.ParsePrefix(cidr)
	if err != nil || form.Get(permission+"IpProtocol") != "tcp" ||
		form.Get(permission+"FromPort") != port || form.Get(permission+"ToPort") != port {
		return nil, wireError{"InvalidParameterValue", "not a rule that this server knows"}
	}
	if _, err := s.cfg.Cloud.Groups().Describe(ctx, "", id); errors.Is(err, bastion.ErrNotFound) {
		return nil, noGroup(id)
	}
	truth, _ := s.exists(func(g bastion.Group) bool { return g.ID == id })
	if slices.ContainsFunc(truth.Ingress, func(r bastion.Rule) bool { return r.Source == source.Masked() }) {
		return nil, wireError{"InvalidPermission.Duplicate", "the specified rule already exists"}
	}
	err = s.cfg.Cloud.Groups().Authorize(ctx, id, source)
	if errors.Is(err, bastion.ErrNotFound) {
		return nil, noGroup(id)
	}
	return done{true}, err
}

// revoke is RevokeSecurityGroupEgress or RevokeSecurityGroupIngress.
func (s *Server) revoke(egress bool) func(context.Context, url.Values) (any, error) {
	return func(ctx context.Context, form url.Values) (any, error) {
		id, rules := form.Get("GroupId"), list(form, "SecurityGroupRuleId")
		if len(rules) != 1 {
			return nil, wireError{"MissingParameter", "there must be one rule id"}
		}
		_, err := s.cfg.Cloud.Groups().Describe(ctx, "", id)
		if errors.Is(err, bastion.ErrNotFound) {
			return nil, noGroup(id)
		}
		if err != nil {
			return nil, err
		}
		truth, _ := s.exists(func(g bastion.Group) bool { return g.ID == id })
		there := truth.Ingress
		if egress {
			there = truth.Egress
		}
		if !slices.ContainsFunc(there, func(r bastion.Rule) bool { return r.ID == rules[0] }) {
			return nil, wireError{"InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '" + rules[0] + "' does not exist"}
		}
		err = s.cfg.Cloud.Groups().Revoke(ctx, id, bastion.Rule{ID: rules[0], Egress: egress})
		return done{true}, err
	}
}

func (s *Server) deleteSecurityGroup(ctx context.Context, form url.Values) (any, error) {
	id := form.Get("GroupId")
	err := s.cfg.Cloud.Groups().Delete(ctx, id)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return nil, noGroup(id)
	case errors.Is(err, bastion.ErrInUse):
		return nil, wireError{"DependencyViolation", "resource " + id + " has a dependent object"}
	}
	return done{true}, err
}
