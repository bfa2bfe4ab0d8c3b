package awswire

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// serveEC2 answers a call in the EC2 query protocol.
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
	switch {
	case errors.As(err, &known):
		body.Code, body.Message, status = known.code, known.message, http.StatusBadRequest
	case throttled(err):
		body.Code, body.Message, status = "RequestLimitExceeded", "Request limit exceeded.", http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	xml.NewEncoder(w).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: "Response"}})
}

// done is the answer of a call that has nothing to tell.
type done struct {
	Return bool `xml:"return"`
}

// list reads Key.1, Key.2 and so on.
func list(form url.Values, key string) []string {
	var values []string
	for i := 1; form.Has(key + "." + strconv.Itoa(i)); i++ {
		values = append(values, form.Get(key+"."+strconv.Itoa(i)))
	}
	return values
}

// filters are a request's, each with the values that pass.
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

// match reports whether a thing passes. facts says what the thing has under a
// filter's name; unknown filters are refused.
func (f filters) match(facts func(name string) (string, bool)) (bool, error) {
	for _, one := range f {
		value, known := facts(one.name)
		if !known {
			return false, wireError{"InvalidParameterValue", "The filter '" + one.name + "' is invalid"}
		}
		if !slices.Contains(one.values, value) {
			return false, nil
		}
	}
	return true, nil
}

// ec2Page cuts the page that the request asks for.
func ec2Page[T any](s *Server, form url.Values, all []T) ([]T, string, error) {
	most := 1000
	if asked := form.Get("MaxResults"); asked != "" {
		n, err := strconv.Atoi(asked)
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
		task, there, err := s.taskShown(ctx, id)
		if err != nil {
			return nil, err
		}
		if there && len(task.Endpoints) > 0 {
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
	s.looks[name]++
	for _, e := range task.Endpoints {
		switch {
		case e.Addr().Is6():
			i.IPv6 = append(i.IPv6, e.Addr().String())
		case s.looks[name] > s.cfg.AddressAfter:
			i.PublicIP = e.Addr().String()
		}
	}
	return i
}

// validName is the form of a group's name and description.
func validName(name string) bool {
	const others = " ._-:/()#,@[]+=&;{}!$*"
	letters := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(others, r) {
			return -1
		}
		return r
	}, name)
	return name != "" && len(name) <= 255 && letters == ""
}
