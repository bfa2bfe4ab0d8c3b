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

// routes has the function of each route of template.yaml.
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

// isPublic reports whether a route has no authorizer: Slack signs its requests, and the
// URLs of the pages contain tokens.
func isPublic(route string) bool { return routes[route] == "slack" }

// gateway plays an HTTP API of API Gateway.
type gateway struct{ functions functions }

// ServeHTTP invokes the route's function with an event and writes its response.
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

// writeMessage writes a response of API Gateway itself.
func writeMessage(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// routeOf returns the route of a request and the path parameter.
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

// newAPIEvent returns the event of a request in format 2.0; see "Working with AWS Lambda
// proxy integrations for HTTP APIs" in the API Gateway developer guide. The user is not
// used for public routes.
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
		// API Gateway encodes every body that has no text type.
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

// iamIdentity returns the IAM identity of a user: a role's session for ROLE/SESSION,
// otherwise an IAM user.
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

// uniqueID derives the unique ID of an IAM user or role from its name.
func uniqueID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:17]
}
