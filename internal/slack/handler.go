package slack

import (
	"net/http"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// The paths of the requests that Slack makes.
const (
	commandRoute     = "/slack/command"
	interactionRoute = "/slack/interaction"
)

// Codes of the problems that only Slack's requests have.
const (
	codeBodyInvalid bastion.Code = "body_invalid"
	codeSignature   bastion.Code = "signature_invalid"
)

// exchange is one request of Slack's with its response.
type exchange struct{ *httpedge.Exchange }

// endpoints serve Slack's requests, by path.
var endpoints = map[string]func(*App, exchange, *http.Request){
	commandRoute:     (*App).serveCommand,
	interactionRoute: (*App).serveInteraction,
}

// pageToken is the token in the path of a page of that route. http.ServeMux would
// redirect unclean paths, and tell them in doing so; here a path is right or
// unknown.
func pageToken(route, path string) (string, bool) {
	token, ok := strings.CutPrefix(path, strings.TrimSuffix(route, "{token}"))
	return token, ok && token != "" && !strings.Contains(token, "/")
}

// Handler serves Slack's requests and the pages. The client's address is the
// request's RemoteAddr, and the public host is its Host: no header changes them.
func (a *App) Handler() http.Handler {
	return httpedge.Edge{Log: a.Log, Now: a.Now}.Handler(a.serve)
}

func (a *App) serve(x *httpedge.Exchange) {
	path := x.Request.URL.Path
	if token, ok := pageToken(startLinkRoute, path); ok {
		a.serveStartLink(x, token)
		return
	}
	if token, ok := pageToken(statusPageRoute, path); ok {
		a.serveStatusPage(x, token)
		return
	}
	serve, ok := endpoints[path]
	switch {
	case !ok:
		x.Problem(http.StatusNotFound, httpedge.CodePathNotFound, "No such path.")
		return
	case x.Request.Method != http.MethodPost:
		x.Route = path
		x.Header().Set("Allow", http.MethodPost)
		x.Problem(http.StatusMethodNotAllowed, httpedge.CodeMethodNotAllowed, "Method not allowed. Use POST.")
		return
	}
	x.Route = path
	serve(a, exchange{x}, x.Request)
}
