//go:build conformance

package template

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// routes has every route of the API with its function.
var routes = map[string]string{
	"POST /bastions":        "CreateFunction",
	"GET /bastions":         "DescribeFunction",
	"GET /bastions/{id}":    "DescribeFunction",
	"PATCH /bastions/{id}":  "ExtendFunction",
	"DELETE /bastions":      "DestroyFunction",
	"DELETE /bastions/{id}": "DestroyFunction",
	"$default":              "DescribeFunction",
}

func TestEveryRouteIsAuthenticated(t *testing.T) {
	for _, test := range []struct {
		parameters    []string
		authorization string
		authorizer    any
		scopes        any
	}{
		{nil, "AWS_IAM", nil, nil},
		{[]string{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a"}, "JWT", "JwtAuthorizer", nil},
		{[]string{"JwtIssuer", "https://issuer.example/", "JwtAudience", "a", "JwtScopes", "x,y"}, "JWT", "JwtAuthorizer", "xy"},
	} {
		s := deploy(t, test.parameters...)
		found := map[string]string{}
		for name, route := range s.of("AWS::ApiGatewayV2::Route") {
			p := route["Properties"].(object)
			key := p["RouteKey"].(string)
			integration := strings.TrimPrefix(p["Target"].(string), "integrations/")
			found[key] = strings.TrimSuffix(s.properties(t, integration)["IntegrationUri"].(string), ".Arn")
			var scopes any
			if list, ok := p["AuthorizationScopes"].([]any); ok {
				scopes = join(list, "")
			}
			if p["AuthorizationType"] != test.authorization || p["AuthorizerId"] != test.authorizer || scopes != test.scopes {
				t.Errorf("%v: %s (%s) is authorized by %v %v %v", test.parameters, name, key, p["AuthorizationType"], p["AuthorizerId"], scopes)
			}
		}
		if !maps.Equal(found, routes) {
			t.Errorf("%v: the routes are %v", test.parameters, found)
		}
	}
	jwt := deploy(t, "JwtIssuer", "https://issuer.example/", "JwtAudience", "a,b").properties(t, "JwtAuthorizer")
	if issuer := at(jwt, "JwtConfiguration", "Issuer"); issuer != "https://issuer.example/" || len(at(jwt, "JwtConfiguration", "Audience").([]any)) != 2 {
		t.Errorf("the authorizer is %v", jwt)
	}
}

// One client must not be able to use up an account's Lambda concurrency with requests
// that wait: at most 250 executions, if each takes 25 seconds.
func TestStageLimitsRequests(t *testing.T) {
	p := deploy(t).properties(t, "Stage")
	if at(p, "DefaultRouteSettings", "ThrottlingRateLimit") != 10.0 || at(p, "DefaultRouteSettings", "ThrottlingBurstLimit") != 20.0 || p["RouteSettings"] != nil {
		t.Errorf("the limits are %v and %v", p["DefaultRouteSettings"], p["RouteSettings"])
	}
}

func TestIntegrationsUsePayloadVersion2(t *testing.T) {
	integrations := deploy(t, withSlack...).of("AWS::ApiGatewayV2::Integration")
	if len(integrations) != 5 {
		t.Errorf("%d integrations", len(integrations))
	}
	for name, integration := range integrations {
		p := integration["Properties"].(object)
		if p["PayloadFormatVersion"] != "2.0" || p["IntegrationType"] != "AWS_PROXY" {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// No other service may invoke a function.
func TestPermissionsToInvokeFunctions(t *testing.T) {
	const api = "arn:aws:execute-api:eu-west-1:111122223333:Api/*/"
	want := []string{
		"CreateFunction.Arn apigateway.amazonaws.com " + api + "POST/bastions",
		"DescribeFunction.Arn apigateway.amazonaws.com " + api + "$default",
		"DescribeFunction.Arn apigateway.amazonaws.com " + api + "GET/bastions",
		"DescribeFunction.Arn apigateway.amazonaws.com " + api + "GET/bastions/*",
		"DestroyFunction.Arn apigateway.amazonaws.com " + api + "DELETE/bastions",
		"DestroyFunction.Arn apigateway.amazonaws.com " + api + "DELETE/bastions/*",
		"ExtendFunction.Arn apigateway.amazonaws.com " + api + "PATCH/bastions/*",
		"ObserverFunction.Arn events.amazonaws.com TaskRule.Arn",
	}
	s := deploy(t)
	var got []string
	for name, permission := range s.of("AWS::Lambda::Permission") {
		p := permission["Properties"].(object)
		if p["Action"] != "lambda:InvokeFunction" || p["FunctionUrlAuthType"] != nil {
			t.Errorf("%s: %v", name, p)
		}
		got = append(got, p["FunctionName"].(string)+" "+p["Principal"].(string)+" "+p["SourceArn"].(string))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if urls := s.of("AWS::Lambda::Url"); len(urls) > 0 {
		t.Errorf("functions have URLs: %v", urls)
	}
}
