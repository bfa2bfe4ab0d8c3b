//go:build conformance

package system

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// routes are those of template.yaml, by the function behind each.
var routes = map[string]string{
	"POST /bastions":        "create",
	"GET /bastions":         "describe",
	"GET /bastions/{id}":    "describe",
	"PATCH /bastions/{id}":  "extend",
	"DELETE /bastions":      "destroy",
	"DELETE /bastions/{id}": "destroy",
	"$default":              "describe",

	"POST /slack/command":       "slack",
	"POST /slack/interaction":   "slack",
	"GET /slack/start/{token}":  "slack",
	"POST /slack/start/{token}": "slack",
	"GET /slack/status/{token}": "slack",
}

// open reports whether a route is open to everybody: Slack signs what it sends, and
// the pages have tokens.
func isPublic(route string) bool { return routes[route] == "slack" }

// gateway is an HTTP API in front of the functions.
type gateway struct{ functions functions }

// ServeHTTP makes an event of the request and a response of the answer.
func (g gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, _, signed := r.BasicAuth()
	if route, _ := routeOf(r); !signed && !isPublic(route) {
		writeMessage(w, http.StatusForbidden, "Forbidden")
		return
	}
	event, route, err := newAPIEvent(r, user)
	if err != nil {
		writeMessage(w, http.StatusBadRequest, err.Error())
		return
	}
	out, err := g.functions[routes[route]].Invoke(r.Context(), event)
	var response struct {
		StatusCode      int               `json:"statusCode"`
		Headers         map[string]string `json:"headers"`
		Cookies         []string          `json:"cookies"`
		Body            string            `json:"body"`
		IsBase64Encoded bool              `json:"isBase64Encoded"`
	}
	if err != nil || json.Unmarshal(out, &response) != nil || response.StatusCode == 0 {
		writeMessage(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	body := []byte(response.Body)
	if response.IsBase64Encoded {
		body, _ = base64.StdEncoding.DecodeString(response.Body)
	}
	for name, value := range response.Headers {
		w.Header().Set(name, value)
	}
	for _, cookie := range response.Cookies {
		w.Header().Add("Set-Cookie", cookie)
	}
	w.WriteHeader(response.StatusCode)
	_, _ = w.Write(body)
}

// answer is what API Gateway says itself.
func writeMessage(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// routeOf finds the route of a request, and what stands in the path in the place of
// its variable.
func routeOf(r *http.Request) (route string, variable map[string]string) {
	route = r.Method + " " + r.URL.Path
	cut := strings.LastIndexByte(r.URL.Path, '/') + 1
	for _, name := range []string{"id", "token"} {
		if general := r.Method + " " + r.URL.Path[:cut] + "{" + name + "}"; cut < len(r.URL.Path) && routes[general] != "" {
			route, variable = general, map[string]string{name: r.URL.Path[cut:]}
		}
	}
	if routes[route] == "" {
		return "$default", nil
	}
	return route, variable
}

// eventOf is the request, of a user or of anybody, as a function gets it ("Working with AWS Lambda proxy
// integrations for HTTP APIs" in the API Gateway developer guide, format 2.0).
func newAPIEvent(r *http.Request, user string) (event []byte, route string, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, "", err
	}
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return nil, "", err
	}
	headers := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		if name != "Authorization" && name != "Cookie" {
			headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	route, variable := routeOf(r)
	now := time.Now()
	requestContext := map[string]any{
		"accountId": account, "apiId": "a1b2c3d4e5", "domainName": r.Host, "domainPrefix": "a1b2c3d4e5",
		"http": map[string]any{
			"method": r.Method, "path": r.URL.Path, "protocol": r.Proto, "sourceIp": peer, "userAgent": r.UserAgent(),
		},
		"requestId": fmt.Sprintf("request-%d", now.UnixNano()), "routeKey": route, "stage": "$default",
		"time": now.UTC().Format("02/Jan/2006:15:04:05 -0700"), "timeEpoch": now.UnixMilli(),
	}
	if !isPublic(route) {
		requestContext["authorizer"] = map[string]any{"iam": iamIdentity(user)}
	}
	e := map[string]any{
		"version": "2.0", "routeKey": route, "rawPath": r.URL.Path, "rawQueryString": r.URL.RawQuery, "headers": headers,
		"requestContext": requestContext,
		// Whatever is not said to be text comes encoded.
		"body": base64.StdEncoding.EncodeToString(body), "isBase64Encoded": true,
	}
	if kind := r.Header.Get("Content-Type"); kind == "application/json" || strings.HasPrefix(kind, "text/") {
		e["body"], e["isBase64Encoded"] = string(body), false
	}
	var cookies []string
	for _, cookie := range r.Cookies() {
		cookies = append(cookies, cookie.Name+"="+cookie.Value)
	}
	if cookies != nil {
		e["cookies"] = cookies
	}
	if variable != nil {
		e["pathParameters"] = variable
	}
	event, err = json.Marshal(e)
	return event, route, err
}

// identity is who signed a request: of a name ROLE/SESSION a session of a role,
// of any other an IAM user.
func iamIdentity(user string) map[string]any {
	role, session, isRole := strings.Cut(user, "/")
	id := map[string]any{"accessKey": "ASIAEXAMPLEEXAMPLE12", "accountId": account, "cognitoIdentity": nil, "principalOrgId": "aws:PrincipalOrgID"}
	if isRole {
		id["userArn"], id["userId"] = "arn:aws:sts::"+account+":assumed-role/"+user, uniqueID("AROA", role)+":"+session
	} else {
		id["userArn"], id["userId"] = "arn:aws:iam::"+account+":user/"+user, uniqueID("AIDA", user)
	}
	id["callerId"] = id["userId"]
	return id
}

// unique makes up the unique id of a user or role.
func uniqueID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:17]
}
