package localmode

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// guard refuses requests from web pages, because local mode has no passwords. A web page
// in a browser on this machine can send requests to loopback addresses. The browser marks
// them as cross-origin (Origin, Sec-Fetch-Site). If the page's host name resolves to
// 127.0.0.1 (DNS rebinding), they are same-origin, but the Host header has that name.
func guard(next http.Handler, log *slog.Logger) http.Handler {
	edge := httpedge.Edge{Log: log}
	misdirected := edge.Handler(func(x *httpedge.Exchange) {
		refuse(x, http.StatusMisdirectedRequest, httpapi.CodeHostForeign,
			fmt.Sprintf("Local mode does not serve the host %q. Use the URL that it printed.", x.Request.Host))
	})
	webPage := edge.Handler(func(x *httpedge.Exchange) {
		refuse(x, http.StatusForbidden, httpapi.CodeCrossOrigin, "Local mode does not accept requests from web pages. Call it with curl.")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !ownHost(r):
			misdirected.ServeHTTP(w, r)
		case crossOrigin(r):
			webPage.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func refuse(x *httpedge.Exchange, status int, code bastion.Code, detail string) {
	x.Level = slog.LevelWarn
	x.Attrs = []slog.Attr{slog.String("host", x.Request.Host), slog.String("origin", x.Request.Header.Get("Origin"))}
	x.Problem(status, code, detail)
}

// ownHost reports whether the Host header names this listener: a loopback address
// or localhost, with the port that the connection came to.
func ownHost(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	_, port, err := net.SplitHostPort(local.String())
	if err != nil {
		return false
	}
	host, hostPort, err := net.SplitHostPort(r.Host)
	if err != nil { // a Host header without a port means port 80
		host, hostPort = strings.Trim(r.Host, "[]"), "80"
	}
	address, err := netip.ParseAddr(host)
	return hostPort == port && (strings.EqualFold(host, "localhost") || err == nil && address.IsLoopback())
}

// crossOrigin reports whether the headers of a browser say that a web page of another
// origin sent the request. The only pages of local mode's own origin are those of Slack's
// routes. Unlike http.CrossOriginProtection, crossOrigin also checks GET requests. Slack's
// pages send no referrer, so a browser sends Origin: null with their forms. For these
// requests, only Sec-Fetch-Site: same-origin shows that they come from Slack's pages.
func crossOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	own := strings.EqualFold(origin, "http://"+r.Host)
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "same-origin":
		return origin != "" && origin != "null" && !own
	case "", "none":
		return origin != "" && !own
	}
	return true
}

// identify takes the owner from the user name of HTTP basic authentication. The name is
// not an identity: anyone on this machine can use any name. The address is that of the
// connection; no header changes it.
func identify(r *http.Request) (bastion.Caller, error) {
	address, err := httpedge.RemoteAddress(r)
	if err != nil {
		return bastion.Caller{}, err
	}
	name, err := basicAuthName(r)
	if err != nil {
		return bastion.Caller{}, err
	}
	return bastion.Caller{Owner: "local:" + name, Address: address}, nil
}

func basicAuthName(r *http.Request) (string, error) {
	if r.Header.Get("Authorization") == "" {
		return "local", nil
	}
	name, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return "", bastion.Errorf(httpapi.CodeOwnerInvalid, "Local mode accepts Basic authorization with a user name only. Use curl -u NAME: (with the colon).")
	case password != "":
		return "", bastion.Errorf(httpapi.CodeOwnerInvalid, "Local mode has no passwords, because its owners are only names. Use curl -u NAME: with nothing after the colon.")
	case !bastion.ValidOwner("local:" + name):
		return "", bastion.Errorf(httpapi.CodeOwnerInvalid, "In local mode an owner's name is 1 to 64 letters, digits and . _ @ + -, and begins with a letter or digit.")
	}
	return name, nil
}
