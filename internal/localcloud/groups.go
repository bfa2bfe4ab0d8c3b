package localcloud

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// group is a security group. Cloud.mu guards it.
type group struct {
	id, bastionID string
	ingress       []bastion.Rule
	egress        []bastion.Rule
	deleted       bool
	interfaces    int // network interfaces that have the group
	history       history[bastion.Group]
}

// groupName returns the name of a bastion's group. It is in lower case, because EC2
// ignores case when it compares names.
func groupName(bastionID string) string { return "bastion-" + strings.ToLower(bastionID) }

// current returns a copy of the group's current state.
func (g *group) current() bastion.Group {
	return bastion.Group{
		ID:        g.id,
		BastionID: g.bastionID,
		Ingress:   slices.Clone(g.ingress),
		Egress:    slices.Clone(g.egress),
	}
}

// admits reports whether a rule of the group admits the address.
func (g *group) admits(addr netip.Addr) bool {
	return slices.ContainsFunc(g.ingress, func(r bastion.Rule) bool { return r.Source.Contains(addr) })
}

// changed adds the group's current state to its history. c.mu is held.
func (c *Cloud) changed(g *group) {
	g.history.set(c.cfg.Now(), c.cfg.Staleness, g.current(), !g.deleted)
}

// groupsPort implements bastion.Groups.
type groupsPort struct{ c *Cloud }

// beginChange returns the error of a call that changes a group, if the call is
// cancelled, throttled or refused. c.mu is held.
func (c *Cloud) beginChange(ctx context.Context, name string) error {
	if err := c.begin(ctx, name); err != nil || c.refuse == 0 {
		return err
	}
	c.refuse--
	return fmt.Errorf("%s: %w", name, &bastion.RefusedError{
		Failure: bastion.Failure{Code: bastion.FailureCapacity, Message: "The local cloud refuses to change a security group. Request the bastion again."},
		Detail:  "SecurityGroupLimitExceeded: The maximum number of security groups has been reached.",
	})
}

func (p groupsPort) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginChange(ctx, "CreateSecurityGroup"); err != nil {
		return bastion.Group{}, err
	}
	name := groupName(spec.BastionID)
	if i := slices.IndexFunc(c.named[name], func(g *group) bool { return !g.deleted }); i >= 0 {
		seen, ok := visible(c, &c.named[name][i].history)
		if !ok {
			return bastion.Group{}, fmt.Errorf("describe the existing security group %s: %w", name, bastion.ErrNotFound)
		}
		return copyGroup(seen), nil
	}
	c.prune()
	g := &group{id: c.newID("sg-", 17), bastionID: spec.BastionID}
	g.egress = []bastion.Rule{{ID: c.newID("sgr-", 17), Egress: true}}
	c.groups[g.id] = g
	c.named[name] = append(c.named[name], g)
	c.changed(g)
	return g.current(), nil
}

func (p groupsPort) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "DescribeSecurityGroups"); err != nil {
		return bastion.Group{}, err
	}
	candidates := c.named[groupName(bastionID)]
	if groupID != "" {
		candidates = nil
		if g := c.groups[groupID]; g != nil {
			candidates = []*group{g}
		}
	}
	for _, g := range candidates {
		if seen, ok := visible(c, &g.history); ok {
			return copyGroup(seen), nil
		}
	}
	return bastion.Group{}, fmt.Errorf("describe the security group %q of %s: %w", groupID, bastionID, bastion.ErrNotFound)
}

func (p groupsPort) List(ctx context.Context) ([]bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "DescribeSecurityGroups"); err != nil {
		return nil, err
	}
	var all []bastion.Group
	for _, id := range slices.Sorted(maps.Keys(c.groups)) {
		if seen, ok := visible(c, &c.groups[id].history); ok {
			all = append(all, copyGroup(seen))
		}
	}
	return all, nil
}

// usable returns the group for a call that changes it, or nil if the group is
// deleted or not visible yet. c.mu is held.
func (c *Cloud) usable(groupID string) *group {
	g := c.groups[groupID]
	if g == nil || g.deleted {
		return nil
	}
	if _, ok := visible(c, &g.history); !ok {
		return nil
	}
	return g
}

func (p groupsPort) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginChange(ctx, "AuthorizeSecurityGroupIngress"); err != nil {
		return err
	}
	if !source.IsValid() {
		return fmt.Errorf("authorize ingress of %s: the source %v is not a prefix", groupID, source)
	}
	g := c.usable(groupID)
	if g == nil {
		return fmt.Errorf("authorize ingress of %s: %w", groupID, bastion.ErrNotFound)
	}
	source = source.Masked()
	if slices.ContainsFunc(g.ingress, func(r bastion.Rule) bool { return r.Source == source }) {
		return nil
	}
	g.ingress = append(g.ingress, bastion.Rule{ID: c.newID("sgr-", 17), Source: source})
	c.changed(g)
	return nil
}

func (p groupsPort) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginChange(ctx, "RevokeSecurityGroup"); err != nil {
		return err
	}
	g := c.usable(groupID)
	if g == nil {
		return nil
	}
	rules := &g.ingress
	if rule.Egress {
		rules = &g.egress
	}
	before := len(*rules)
	*rules = slices.DeleteFunc(*rules, func(r bastion.Rule) bool { return r.ID == rule.ID })
	if len(*rules) != before {
		c.changed(g)
	}
	return nil
}

func (p groupsPort) Delete(ctx context.Context, groupID string) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.beginChange(ctx, "DeleteSecurityGroup"); err != nil {
		return err
	}
	g := c.usable(groupID)
	if g == nil {
		return fmt.Errorf("delete the security group %s: %w", groupID, bastion.ErrNotFound)
	}
	if g.interfaces > 0 {
		return fmt.Errorf("delete the security group %s: %w", groupID, bastion.ErrInUse)
	}
	g.deleted = true
	c.changed(g)
	return nil
}

func copyGroup(g bastion.Group) bastion.Group {
	g.Ingress = slices.Clone(g.Ingress)
	g.Egress = slices.Clone(g.Egress)
	return g
}
