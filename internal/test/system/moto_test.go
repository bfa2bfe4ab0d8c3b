//go:build conformance

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"
)

// moto is a client of moto, which holds the state of EC2, ECS and Parameter Store.
type moto struct {
	url    string
	client *http.Client
	mu     sync.Mutex // one call at a time: moto is not safe for concurrent calls
}

// errorResponse is a response with another status than 200.
type errorResponse struct {
	status int
	body   []byte
}

func (r errorResponse) Error() string { return fmt.Sprintf("%d %s", r.status, r.body) }

// call calls a service and returns the response's body. The error is an errorResponse if
// moto returned one.
func (m *moto) call(ctx context.Context, service string, header map[string]string, body []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	// moto reads the service and the region and does not check the signature.
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+accessKey+"/20300102/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=none")
	response, err := m.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errorResponse{response.StatusCode, content}
	}
	return content, err
}

// forward calls EC2 with a form.
func (m *moto) forward(ctx context.Context, form url.Values) ([]byte, error) {
	response, err := m.call(ctx, "ec2", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []byte(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", form.Get("Action"), err)
	}
	return response, nil
}

// ec2Response has the fields that the tests read, for all actions.
type ec2Response struct {
	VPC        string `xml:"vpc>vpcId"`
	Subnet     string `xml:"subnet>subnetId"`
	Group      string `xml:"groupId"`
	Allocation string `xml:"allocationId"`

	Allocations []string `xml:"addressesSet>item>allocationId"`
	Groups      []struct {
		ID   string `xml:"groupId"`
		Name string `xml:"groupName"`
	} `xml:"securityGroupInfo>item"`
	Rules      []ec2Rule `xml:"securityGroupRuleSet>item"`
	Interfaces []struct {
		ID     string   `xml:"networkInterfaceId"`
		Groups []string `xml:"groupSet>item>groupId"`
	} `xml:"networkInterfaceSet>item"`
}

type ec2Rule struct {
	Egress   bool   `xml:"isEgress"`
	Protocol string `xml:"ipProtocol"`
	From     int    `xml:"fromPort"`
	To       int    `xml:"toPort"`
	IPv4     string `xml:"cidrIpv4"`
}

// ec2 calls EC2 with pairs of parameter names and values.
func (m *moto) ec2(ctx context.Context, action string, pairs ...string) (ec2Response, error) {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	body, err := m.forward(ctx, form)
	var response ec2Response
	if err == nil {
		err = xml.Unmarshal(body, &response)
	}
	return response, err
}

// ecs calls ECS.
func (m *moto) ecs(ctx context.Context, action string, in any) (response map[string]any, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	out, err := m.call(ctx, "ecs", map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonEC2ContainerServiceV20141113." + action}, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	return response, json.Unmarshal(out, &response)
}

// stackResources are the resources of a stack of template.yaml before its first bastion.
type stackResources struct {
	vpc, memberGroup, cluster, definition string
	subnets                               [2]string
}

// createStack creates the stack's resources.
func (m *moto) createStack(t *testing.T) stackResources {
	t.Helper()
	ec2 := func(action string, pairs ...string) ec2Response {
		response, err := m.ec2(t.Context(), action, pairs...)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	ecs := func(action, of, name string, in any) string {
		response, err := m.ecs(t.Context(), action, in)
		if err != nil {
			t.Fatal(err)
		}
		return response[of].(map[string]any)[name].(string)
	}
	p := stackResources{vpc: ec2("CreateVpc", "CidrBlock", "10.7.0.0/16").VPC}
	ec2("ModifyVpcAttribute", "VpcId", p.vpc, "EnableDnsHostnames.Value", "true") // moto's RunTask needs it
	for i := range p.subnets {
		p.subnets[i] = ec2("CreateSubnet", "VpcId", p.vpc, "CidrBlock", fmt.Sprintf("10.7.%d.0/24", i)).Subnet
	}
	p.memberGroup = ec2("CreateSecurityGroup", "VpcId", p.vpc, "GroupName", "members", "GroupDescription", "members").Group
	p.cluster = ecs("CreateCluster", "cluster", "clusterArn", map[string]any{"clusterName": "way-in-1"})
	p.definition = m.registerTaskDefinition(t)
	return p
}

// registerTaskDefinition registers a revision of the task definition and returns its ARN.
func (m *moto) registerTaskDefinition(t *testing.T) string {
	t.Helper()
	response, err := m.ecs(t.Context(), "RegisterTaskDefinition", map[string]any{
		"family": "way-in", "networkMode": "awsvpc", "cpu": "256", "memory": "512", "requiresCompatibilities": []string{"FARGATE"},
		"containerDefinitions": []any{map[string]any{"name": "bastiond", "image": "bastiond", "essential": true, "memory": 512}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return response["taskDefinition"].(map[string]any)["taskDefinitionArn"].(string)
}

// groupsOf returns the groups of an interface; none if the interface is deleted.
func (m *moto) groupsOf(ctx context.Context, networkInterface string) ([]string, error) {
	response, err := m.ec2(ctx, "DescribeNetworkInterfaces", "Filter.1.Name", "network-interface-id", "Filter.1.Value.1", networkInterface)
	if err != nil || len(response.Interfaces) == 0 {
		return nil, err
	}
	return response.Interfaces[0].Groups, nil
}

// rulesOf returns the rules of a group.
func (m *moto) rulesOf(ctx context.Context, group string) ([]ec2Rule, error) {
	response, err := m.ec2(ctx, "DescribeSecurityGroupRules", "Filter.1.Name", "group-id", "Filter.1.Value.1", group)
	return response.Rules, err
}

// allowsConnection reports whether a rule of a group of the interface allows a connection
// from an address to a port.
func (m *moto) allowsConnection(ctx context.Context, networkInterface string, from netip.Addr, port uint16) (bool, error) {
	groups, err := m.groupsOf(ctx, networkInterface)
	if err != nil {
		return false, err
	}
	for _, group := range groups {
		rules, err := m.rulesOf(ctx, group)
		if err != nil {
			return false, err
		}
		for _, rule := range rules {
			source, err := netip.ParsePrefix(rule.IPv4)
			if err == nil && !rule.Egress && rule.Protocol == "tcp" && rule.From <= int(port) && int(port) <= rule.To && source.Contains(from) {
				return true, nil
			}
		}
	}
	return false, nil
}
