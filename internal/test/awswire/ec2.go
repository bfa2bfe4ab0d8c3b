package awswire

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// serveEC2 serves a call in the EC2 query protocol.
func (s *Server) serveEC2(w http.ResponseWriter, r *http.Request) {
	handlers := map[string]func(context.Context, url.Values) (any, error){
		"CreateSecurityGroup":           s.createSecurityGroup,
		"DescribeSecurityGroups":        s.describeSecurityGroups,
		"DescribeSecurityGroupRules":    s.describeSecurityGroupRules,
		"AuthorizeSecurityGroupIngress": s.authorizeSecurityGroupIngress,
		"RevokeSecurityGroupIngress":    s.revoke(false),
		"RevokeSecurityGroupEgress":     s.revoke(true),
		"DeleteSecurityGroup":           s.deleteSecurityGroup,
		"DescribeNetworkInterfaces":     s.describeNetworkInterfaces,
	}
	err := r.ParseForm()
	action := r.PostForm.Get("Action")
	if err == nil {
		err = s.begin(action)
	}
	var out any
	if handle := handlers[action]; err == nil && handle == nil {
		err = wireError{"InvalidAction", "The action " + action + " is not valid for this web service."}
	} else if err == nil {
		out, err = handle(r.Context(), r.PostForm)
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	if err != nil {
		failEC2(w, err)
		return
	}
	xml.NewEncoder(w).EncodeElement(out, xml.StartElement{Name: xml.Name{Local: action + "Response"}})
}

func failEC2(w http.ResponseWriter, err error) {
	type response struct {
		Code      string `xml:"Errors>Error>Code"`
		Message   string `xml:"Errors>Error>Message"`
		RequestID string
	}
	body, status := response{Code: "InternalError", Message: err.Error(), RequestID: "request-1"}, http.StatusInternalServerError
	var known wireError
	var refused *bastion.RefusedError
	switch {
	case errors.As(err, &known):
		body.Code, body.Message, status = known.code, known.message, ec2Status(known.code)
	case errors.As(err, &refused): // by the local cloud
		body.Code, body.Message, status = "SecurityGroupLimitExceeded", refused.Detail, http.StatusBadRequest
	case isThrottled(err):
		body.Code, body.Message, status = "RequestLimitExceeded", "Request limit exceeded.", http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	xml.NewEncoder(w).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: "Response"}})
}

// ec2Status returns the HTTP status of an error: 403 for a denied call, 500 or 503 for a
// server error, and 400 for the others.
func ec2Status(code string) int {
	switch code {
	case "UnauthorizedOperation":
		return http.StatusForbidden
	case "InternalError", "InternalFailure", "ServerInternal":
		return http.StatusInternalServerError
	case "RequestLimitExceeded", "ServiceUnavailable", "Unavailable":
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// done is the response of a call without a result.
type done struct {
	Return bool `xml:"return"`
}

// list returns the values of Key.1, Key.2 and so on.
func list(form url.Values, key string) []string {
	var values []string
	for i := 1; form.Has(key + "." + strconv.Itoa(i)); i++ {
		values = append(values, form.Get(key+"."+strconv.Itoa(i)))
	}
	return values
}

// filters are the filters of a request. A thing matches if it has one of the values
// of each.
type filters []struct {
	name   string
	values []string
}

func filtersOf(form url.Values) (filters, error) {
	var all filters
	for i := 1; form.Has(fmt.Sprintf("Filter.%d.Name", i)); i++ {
		name := form.Get(fmt.Sprintf("Filter.%d.Name", i))
		values := list(form, fmt.Sprintf("Filter.%d.Value", i))
		if len(values) == 0 || len(values) > 200 {
			return nil, wireError{"FilterLimitExceeded", fmt.Sprintf("the filter %s has %d values", name, len(values))}
		}
		all = append(all, struct {
			name   string
			values []string
		}{name, values})
	}
	return all, nil
}

// match reports whether a thing matches. lookup returns its value for a filter, and
// false for an unknown filter, which is an error.
func (f filters) match(lookup func(name string) (string, bool)) (bool, error) {
	for _, one := range f {
		value, known := lookup(one.name)
		if !known {
			return false, wireError{"InvalidParameterValue", "The filter '" + one.name + "' is invalid"}
		}
		if !slices.Contains(one.values, value) {
			return false, nil
		}
	}
	return true, nil
}

// ec2Page returns the requested page, and the token of the next one.
func ec2Page[T any](s *Server, form url.Values, all []T) ([]T, string, error) {
	most := 1000
	if requested := form.Get("MaxResults"); requested != "" {
		n, err := strconv.Atoi(requested)
		if err != nil || n < 5 || n > 1000 {
			return nil, "", wireError{"InvalidParameterValue", "MaxResults must be 5 to 1000"}
		}
		most = n
	}
	return page(all, form.Get("NextToken"), most, s.cfg.PageSize)
}

type networkInterface struct {
	ID       string   `xml:"networkInterfaceId"`
	Private  string   `xml:"privateIpAddress"`
	PublicIP string   `xml:"association>publicIp,omitempty"`
	IPv6     []string `xml:"ipv6AddressesSet>item>ipv6Address,omitempty"`
}

func (s *Server) describeNetworkInterfaces(ctx context.Context, form url.Values) (any, error) {
	filters, err := filtersOf(form)
	if err != nil {
		return nil, err
	}
	var found []networkInterface
	for _, id := range s.taskIDs() {
		name := interfacePrefix + id
		wanted, err := filters.match(func(filter string) (string, bool) { return name, filter == "network-interface-id" })
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		task, visible, err := s.visibleTask(ctx, id)
		if err != nil {
			return nil, err
		}
		if visible && len(task.Endpoints) > 0 {
			found = append(found, s.interfaceOf(name, task))
		}
	}
	items, next, err := ec2Page(s, form, found)
	return struct {
		Items []networkInterface `xml:"networkInterfaceSet>item"`
		Next  string             `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (s *Server) interfaceOf(name string, task bastion.Task) networkInterface {
	i := networkInterface{ID: name, Private: "10.0.0.7"}
	s.described[name]++
	for _, e := range task.Endpoints {
		switch {
		case e.Addr().Is6():
			i.IPv6 = append(i.IPv6, e.Addr().String())
		case s.described[name] > s.cfg.AddressAfter:
			i.PublicIP = e.Addr().String()
		}
	}
	return i
}

// validName reports whether EC2 accepts the name or description of a group.
func validName(name string) bool {
	const others = " ._-:/()#,@[]+=&;{}!$*"
	invalid := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(others, r) {
			return -1
		}
		return r
	}, name)
	return name != "" && len(name) <= 255 && invalid == ""
}

// groupDetails are the properties of a group that the local cloud does not have.
type groupDetails struct {
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

// permission is a rule in the description of its group, which is without rule ids.
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

// current returns a group in its current state, even if reads do not see it yet.
func (s *Server) current(is func(bastion.Group) bool) (bastion.Group, bool) {
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
		return nil, wireError{"InvalidParameterValue", "invalid name, description or VPC of the group"}
	}
	if _, taken := s.current(func(g bastion.Group) bool { return strings.EqualFold(g.BastionID, name) }); taken {
		return nil, wireError{"InvalidGroup.Duplicate", "The security group '" + name + "' already exists for VPC '" + form.Get("VpcId") + "'"}
	}
	g, err := s.cfg.Cloud.Groups().Create(ctx, bastion.GroupSpec{BastionID: name})
	if err != nil {
		return nil, err
	}
	details := groupDetails{vpc: form.Get("VpcId"), description: description}
	for i := 1; form.Has(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i)); i++ {
		details.tags = append(details.tags, tag{
			form.Get(fmt.Sprintf("TagSpecification.1.Tag.%d.Key", i)),
			form.Get(fmt.Sprintf("TagSpecification.1.Tag.%d.Value", i)),
		})
	}
	s.groups[g.ID] = details
	return struct {
		ID string `xml:"groupId"`
	}{g.ID}, nil
}

// value returns a group's value for a filter, and false for an unknown filter.
func (f groupDetails) value(g bastion.Group, filter string) (string, bool) {
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
	visible, err := s.cfg.Cloud.Groups().List(ctx)
	if err != nil {
		return nil, err
	}
	filters, err := filtersOf(form)
	if err != nil {
		return nil, err
	}
	var found []securityGroup
	for _, g := range visible {
		details := s.groups[g.ID]
		wanted, err := filters.match(func(filter string) (string, bool) { return details.value(g, filter) })
		if err != nil {
			return nil, err
		}
		if wanted {
			found = append(found, securityGroup{g.ID, g.BastionID, details.description, details.vpc, details.tags,
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
	visible, err := s.cfg.Cloud.Groups().List(ctx)
	if err != nil {
		return nil, err
	}
	filters, err := filtersOf(form)
	if err != nil {
		return nil, err
	}
	var found []securityGroupRule
	for _, g := range visible {
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
		return nil, wireError{"InvalidParameterValue", "this server does not support such a rule"}
	}
	if _, err := s.cfg.Cloud.Groups().Describe(ctx, "", id); errors.Is(err, bastion.ErrNotFound) {
		return nil, noGroup(id)
	}
	group, _ := s.current(func(g bastion.Group) bool { return g.ID == id })
	if slices.ContainsFunc(group.Ingress, func(r bastion.Rule) bool { return r.Source == source.Masked() }) {
		return nil, wireError{"InvalidPermission.Duplicate", "the specified rule already exists"}
	}
	err = s.cfg.Cloud.Groups().Authorize(ctx, id, source)
	if errors.Is(err, bastion.ErrNotFound) {
		return nil, noGroup(id)
	}
	return done{true}, err
}

// revoke returns the handler of RevokeSecurityGroupEgress or RevokeSecurityGroupIngress.
func (s *Server) revoke(egress bool) func(context.Context, url.Values) (any, error) {
	return func(ctx context.Context, form url.Values) (any, error) {
		id, ids := form.Get("GroupId"), list(form, "SecurityGroupRuleId")
		if len(ids) != 1 {
			return nil, wireError{"MissingParameter", "this server needs exactly one rule id"}
		}
		_, err := s.cfg.Cloud.Groups().Describe(ctx, "", id)
		if errors.Is(err, bastion.ErrNotFound) {
			return nil, noGroup(id)
		}
		if err != nil {
			return nil, err
		}
		group, _ := s.current(func(g bastion.Group) bool { return g.ID == id })
		rules := group.Ingress
		if egress {
			rules = group.Egress
		}
		if !slices.ContainsFunc(rules, func(r bastion.Rule) bool { return r.ID == ids[0] }) {
			return nil, wireError{"InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '" + ids[0] + "' does not exist"}
		}
		err = s.cfg.Cloud.Groups().Revoke(ctx, id, bastion.Rule{ID: ids[0], Egress: egress})
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
