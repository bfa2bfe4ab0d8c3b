package slack

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

//go:embed templates
var files embed.FS

// A page contains its style and script, and loads no other file. The policy allows both
// by their hashes, so the browser runs no other script.
var (
	style  = embedded("page.css")
	script = embedded("page.js")

	pages = map[string]*template.Template{
		"start":   parsePage("start.html"),
		"status":  parsePage("status.html"),
		"message": parsePage("message.html"),
	}

	contentPolicy = strings.Join([]string{
		"default-src 'none'",
		"style-src " + hashSource(style),
		"script-src " + hashSource(script),
		"img-src data:", // the icon
		"connect-src 'self'",
		"form-action 'self'",
		"frame-ancestors 'none'",
		"base-uri 'none'",
	}, "; ")
)

func embedded(name string) string {
	text, err := files.ReadFile("templates/" + name)
	if err != nil {
		panic(err) // the file is compiled in
	}
	return string(text)
}

func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func parsePage(name string) *template.Template {
	return template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"style":    func() template.CSS { return template.CSS(style) },
		"script":   func() template.JS { return template.JS(script) },
		"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"utc":      func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"seconds":  func(d time.Duration) int { return int(d.Seconds()) },
		"timenote": func(at time.Time) timeNote { return timeNote{Time: at} },
		"countdown": func(at time.Time, left time.Duration, expired string) timeNote {
			return timeNote{at, left, expired}
		},
	}).ParseFS(files, "templates/layout.html", "templates/"+name))
}

// timeNote is what the script adds to a time: the same time in the reader's time zone
// and, if Expired is set, how much time is left. When no time is left, the script shows
// the text in Expired.
type timeNote struct {
	Time    time.Time
	Left    time.Duration
	Expired string
}

// family returns the name of an address's family.
func family(address netip.Addr) string {
	if address.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// pageHeaders are set on every page, in addition to the headers that httpedge sets.
var pageHeaders = map[string]string{
	"Content-Type":                 "text/html; charset=utf-8",
	"Content-Security-Policy":      contentPolicy,
	"X-Robots-Tag":                 "noindex, nofollow",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=(), clipboard-write=(self)",
}

// visit is one request for a page.
type visit struct {
	*http.Request
	*httpedge.Exchange
	header http.Header // of the response
	token  string      // from the path
}

// pageResponse is a page, a redirect or a file.
type pageResponse struct {
	status   int
	page     string // a key of pages
	data     any
	location string // of a redirect
	file     []byte // the whole body; its headers are already set
}

// servePage serves the pages of one route.
func (a *App) servePage(x *httpedge.Exchange, token, route string, methods []string, respond func(*visit) pageResponse) {
	v := &visit{Request: x.Request, Exchange: x, header: x.Header(), token: token}
	x.Route = route
	x.OnPanic = func() { v.send(messageResponse(http.StatusInternalServerError, internalErrorPage)) }
	for name, value := range pageHeaders {
		v.header.Set(name, value)
	}
	var err error
	switch v.Source, err = httpedge.RemoteAddress(v.Request); {
	case err != nil:
		v.Cause = err
		v.send(messageResponse(http.StatusInternalServerError, internalErrorPage))
	case !slices.Contains(methods, v.Method):
		v.header.Set("Allow", strings.Join(methods, ", "))
		v.send(messageResponse(http.StatusMethodNotAllowed, methodNotAllowedPage))
	default:
		v.send(respond(v))
	}
}

// send writes the response.
func (v *visit) send(response pageResponse) {
	body := v.render(response)
	v.WriteHeader(response.status)
	_, _ = v.Exchange.Write(body) // fails if the client has closed the connection
}

func (v *visit) render(response pageResponse) []byte {
	switch {
	case response.location != "":
		v.header.Set("Location", response.location)
		v.header.Del("Content-Type")
		return nil
	case response.file != nil:
		return response.file
	}
	var page bytes.Buffer
	if err := pages[response.page].Execute(&page, response.data); err != nil {
		panic(err) // the templates and their data are part of the program
	}
	return page.Bytes()
}

// failed returns the page for an error of the table. Every link that cannot be
// opened gets the same page, so guessing does not reveal which ones existed.
func (v *visit) failed(err error) pageResponse {
	if errors.Is(err, bastion.ErrNotFound) {
		return messageResponse(http.StatusNotFound, linkInvalidPage)
	}
	v.Cause = err
	return messageResponse(http.StatusServiceUnavailable, unavailablePage)
}

// messagePage is a page with a heading and paragraphs.
type messagePage struct {
	Title string
	Text  []string
}

// Follow reports whether the page updates itself.
func (messagePage) Follow() bool { return false }

func messageResponse(status int, page messagePage) pageResponse {
	return pageResponse{status: status, page: "message", data: page}
}

var (
	linkInvalidPage = messagePage{"This link is no longer valid", []string{
		"If you have used it, run /bastion status in Slack to see your bastion. To get a new link, run /bastion up.",
		"The link may have been used already. A newer link may have replaced it, or you may have saved another key. It may have expired: links last ten minutes. Or it was not copied completely.",
	}}
	unavailablePage = messagePage{"The service isn't responding", []string{
		"The service couldn't load its data. Please reload this page in a moment.",
		"If that doesn't help, run /bastion status in Slack to see whether anything was started.",
	}}
	internalErrorPage = messagePage{"Something went wrong", []string{
		"This is a problem with the service. Its log has the details.",
		"Run /bastion status in Slack to see whether anything was started.",
	}}
	methodNotAllowedPage = messagePage{"Not supported", []string{
		"That request method isn't supported. Nothing was changed.",
	}}
)
