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

// group is the truth about one security group. Cloud.mu guards it.
type group struct {
	id, bastionID string
	ingress       []bastion.Rule
	egress        []bastion.Rule
	gone          bool
	interfaces    int // of tasks that have not released theirs
	past          history[bastion.Group]
}

// groupName is the name of a bastion's group. Names are unique without regard to
// case, so that they are compared in lower case.
func groupName(bastionID string) string { return "bastion-" + strings.ToLower(bastionID) }

// present is the group as it is now, sharing nothing with it.
func (g *group) present() bastion.Group {
	return bastion.Group{
		ID:        g.id,
		BastionID: g.bastionID,
		Ingress:   slices.Clone(g.ingress),
		Egress:    slices.Clone(g.egress),
	}
}

// admits reports whether a rule of the group lets the address in.
func (g *group) admits(addr netip.Addr) bool {
	return slices.ContainsFunc(g.ingress, func(r bastion.Rule) bool { return r.Source.Contains(addr) })
}

// changed notes what the group looks like from now on. c.mu is held.
func (c *Cloud) changed(g *group) {
	g.past.set(c.cfg.Now(), c.cfg.Staleness, g.present(), !g.gone)
}

// groupsPort is bastion.Groups.
type groupsPort struct{ c *Cloud }

func (p groupsPort) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "CreateSecurityGroup"); err != nil {
		return bastion.Group{}, err
	}
	name := groupName(spec.BastionID)
	if i := slices.IndexFunc(c.named[name], func(g *group) bool { return !g.gone }); i >= 0 {
		seen, ok := shown(c, &c.named[name][i].past)
		if !ok {
			return bastion.Group{}, fmt.Errorf("describe the security group %s, which exists: %w", name, bastion.ErrNotFound)
		}
		return copyGroup(seen), nil
	}
	c.prune()
	g := &group{id: c.id("sg-", 17), bastionID: spec.BastionID}
	g.egress = []bastion.Rule{{ID: c.id("sgr-", 17), Egress: true}}
	c.groups[g.id] = g
	c.named[name] = append(c.named[name], g)
	c.changed(g)
	return g.present(), nil
}

func (p groupsPort) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "DescribeSecurityGroups"); err != nil {
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
		if seen, ok := shown(c, &g.past); ok {
			return copyGroup(seen), nil
		}
	}
	return bastion.Group{}, fmt.Errorf("describe the security group %q of %s: %w", groupID, bastionID, bastion.ErrNotFound)
}

func (p groupsPort) List(ctx context.Context) ([]bastion.Group, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "DescribeSecurityGroups"); err != nil {
		return nil, err
	}
	var all []bastion.Group
	for _, id := range slices.Sorted(maps.Keys(c.groups)) {
		if seen, ok := shown(c, &c.groups[id].past); ok {
			all = append(all, copyGroup(seen))
		}
	}
	return all, nil
}

// usable finds the group for a call that changes it: nil if it is gone, or does
// not show yet. c.mu is held.
func (c *Cloud) usable(groupID string) *group {
	g := c.groups[groupID]
	if g == nil || g.gone {
		return nil
	}
	if _, ok := shown(c, &g.past); !ok {
		return nil
	}
	return g
}

func (p groupsPort) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "AuthorizeSecurityGroupIngress"); err != nil {
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
	g.ingress = append(g.ingress, bastion.Rule{ID: c.id("sgr-", 17), Source: source})
	c.changed(g)
	return nil
}

func (p groupsPort) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "RevokeSecurityGroup"); err != nil {
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
	if err := c.call(ctx, "DeleteSecurityGroup"); err != nil {
		return err
	}
	g := c.usable(groupID)
	if g == nil {
		return fmt.Errorf("delete the security group %s: %w", groupID, bastion.ErrNotFound)
	}
	if g.interfaces > 0 {
		return fmt.Errorf("delete the security group %s: %w", groupID, bastion.ErrInUse)
	}
	g.gone = true
	c.changed(g)
	return nil
}

func copyGroup(g bastion.Group) bastion.Group {
	g.Ingress = slices.Clone(g.Ingress)
	g.Egress = slices.Clone(g.Egress)
	return g
}
