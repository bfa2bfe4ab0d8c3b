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

// The codes of problems that only requests from Slack can have.
const (
	codeBodyInvalid bastion.Code = "body_invalid"
	codeSignature   bastion.Code = "signature_invalid"
)

// exchange is one request from Slack with its response.
type exchange struct{ *httpedge.Exchange }

// endpoints maps the path of a request from Slack to the method that serves it.
var endpoints = map[string]func(*App, exchange, *http.Request){
	commandRoute:     (*App).serveCommand,
	interactionRoute: (*App).serveInteraction,
}

// pageToken returns the token after the prefix of a page's path. The app does not use
// http.ServeMux: to a path such as //slack/start/TOKEN, it would respond with a redirect
// whose body and Location contain the token.
func pageToken(prefix, path string) (string, bool) {
	token, ok := strings.CutPrefix(path, prefix)
	return token, ok && token != "" && !strings.Contains(token, "/")
}

// Handler returns the handler of Slack's requests and of the pages. The client's
// address is the request's RemoteAddr, and the public host is its Host. Headers such as
// X-Forwarded-For are ignored.
func (a *App) Handler() http.Handler {
	return httpedge.Edge{Log: a.Log, Now: a.Now}.Handler(a.serve)
}

func (a *App) serve(x *httpedge.Exchange) {
	path := x.Request.URL.Path
	if token, ok := pageToken(startPath, path); ok {
		a.serveStartLink(x, token)
		return
	}
	if token, ok := pageToken(statusPath, path); ok {
		a.serveStatusPage(x, token)
		return
	}
	serve, ok := endpoints[path]
	if !ok {
		x.Problem(http.StatusNotFound, httpedge.CodePathNotFound, "No such path.")
		return
	}
	x.Route = path
	if x.Request.Method != http.MethodPost {
		x.Header().Set("Allow", http.MethodPost)
		x.Problem(http.StatusMethodNotAllowed, httpedge.CodeMethodNotAllowed, "Method not allowed. Use POST.")
		return
	}
	serve(a, exchange{x}, x.Request)
}
