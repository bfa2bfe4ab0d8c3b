package localmode

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Codes of the errors that only local mode has.
const (
	codeHostForeign  bastion.Code = "host_foreign"
	codeCrossOrigin  bastion.Code = "cross_origin"
	codeOwnerInvalid bastion.Code = "owner_invalid"
)

// guard keeps web pages away from an API that takes names for identities. A
// page in the laptop's own browser reaches loopback as well as curl does: by a
// request across origins, or, once its name resolves to 127.0.0.1, under its own
// Host.
func guard(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !ownHost(r):
			refuse(w, r, log, http.StatusMisdirectedRequest, codeHostForeign,
				fmt.Sprintf("Local mode answers to the address it listens on, not to the host %q: use the URL it printed.", r.Host))
		case crossOrigin(r):
			refuse(w, r, log, http.StatusForbidden, codeCrossOrigin,
				"Local mode answers no web pages: call it with curl.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// ownHost reports whether the Host header names this listener: a loopback
// address or localhost, at the port that the connection came to.
func ownHost(r *http.Request) bool {
	here, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	_, port, err := net.SplitHostPort(here.String())
	if err != nil {
		return false
	}
	host, askedPort, err := net.SplitHostPort(r.Host)
	if err != nil { // a Host without a port is one at HTTP's own
		host, askedPort = strings.Trim(r.Host, "[]"), "80"
	}
	address, err := netip.ParseAddr(host)
	return askedPort == port && (host == "localhost" || err == nil && address.IsLoopback())
}

// crossOrigin reports whether a browser says that another page than one of ours
// sent the request: any at all, but for the pages of Slack's routes. That also holds
// for the GETs that http.CrossOriginProtection lets pass. Our pages send no referrer,
// which makes a browser send Origin: null with their forms; what it says of the site
// then tells them from others'.
func crossOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "same-origin":
		return origin != "" && origin != "null" && origin != "http://"+r.Host
	case "", "none":
		return origin != "" && origin != "http://"+r.Host
	}
	return true
}

// refuse answers with a problem document (RFC 9457) and logs a line, as the API
// does.
func refuse(w http.ResponseWriter, r *http.Request, log *slog.Logger, status int, code bastion.Code, detail string) {
	id := rand.Text()
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Request-Id", id)
	w.WriteHeader(status)
	log.Warn("request", "request_id", id, "method", r.Method, "status", status, "code", code,
		"source", r.RemoteAddr, "host", r.Host, "origin", r.Header.Get("Origin"))
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type":       "about:blank",
		"title":      http.StatusText(status),
		"status":     status,
		"detail":     detail,
		"code":       code,
		"request_id": id,
	})
}

// identify takes the owner from the user name of HTTP basic authentication: a
// name that anyone on this machine may claim, not an identity. The address is
// the connection's own; no header changes it.
func identify(r *http.Request) (bastion.Caller, error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return bastion.Caller{}, fmt.Errorf("address of the caller %q: %w", r.RemoteAddr, err)
	}
	name, err := basicAuthName(r)
	if err != nil {
		return bastion.Caller{}, err
	}
	return bastion.Caller{Owner: "local:" + name, Address: peer.Addr().Unmap().WithZone("")}, nil
}

func basicAuthName(r *http.Request) (string, error) {
	if r.Header.Get("Authorization") == "" {
		return "local", nil
	}
	name, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return "", bastion.Errorf(codeOwnerInvalid, "In local mode Authorization is Basic, with a user name only, as from curl -u NAME: (with the colon).")
	case password != "":
		return "", bastion.Errorf(codeOwnerInvalid, "Local mode has no passwords, for its owners are only names. Use curl -u NAME: with nothing after the colon.")
	case !bastion.ValidOwner("local:" + name):
		return "", bastion.Errorf(codeOwnerInvalid, "In local mode an owner's name is 1 to 64 letters, digits and . _ @ + -, and begins with a letter or digit.")
	}
	return name, nil
}
