package slack

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

//go:embed templates
var files embed.FS

// The pages hold their style and script: nothing is fetched from anywhere. What is
// not ours by its hash, the browser does not run.
var (
	style  = embedded("page.css")
	script = embedded("page.js")

	pages = map[string]*template.Template{
		"claim":   parsePage("claim.html"),
		"view":    parsePage("view.html"),
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
		panic(err) // it is part of the program
	}
	return string(text)
}

func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func parsePage(name string) *template.Template {
	return template.Must(template.New("layout.html").Funcs(template.FuncMap{
		"style":     func() template.CSS { return template.CSS(style) },
		"script":    func() template.JS { return template.JS(script) },
		"iso":       func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"clock":     clock,
		"seconds":   func(d time.Duration) int { return int(d.Seconds()) },
		"more":      func(at time.Time) more { return more{Time: at} },
		"countdown": func(at time.Time, left time.Duration, over string) more { return more{at, left, over} },
	}).ParseFS(files, "templates/layout.html", "templates/"+name))
}

// more is what script says of a time beside it: the reader's own, and how much of
// it is left, with Over for none.
type more struct {
	Time time.Time
	Left time.Duration
	Over string
}

// pageHeaders are those of every page, beside those of every answer.
var pageHeaders = map[string]string{
	"Content-Type":                 "text/html; charset=utf-8",
	"Content-Security-Policy":      contentPolicy,
	"X-Robots-Tag":                 "noindex, nofollow",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=(), clipboard-read=(), clipboard-write=(self)",
}

// visit is one request for a page, and its line in the log.
type visit struct {
	*http.Request
	line
	header http.Header // of the answer
	token  string      // of the path
}

// pageAnswer is what a visit is answered with: a page, or where to go instead.
type pageResponse struct {
	status   int
	page     string // a name of pages
	data     any
	location string
}

// servePage answers a visit to a page of one route.
func (a *App) servePage(w http.ResponseWriter, r *http.Request, route string, methods []string, answerTo func(*visit) pageResponse) {
	start := a.Now()
	v := &visit{Request: r, line: line{route: route}, header: w.Header(), token: r.PathValue("token")}
	for name, value := range pageHeaders {
		v.header.Set(name, value)
	}
	ans := a.visited(v, methods, answerTo)
	body := v.render(ans)
	w.WriteHeader(ans.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // if the connection is gone, nobody is left to be told
	}
	v.status = ans.status
	a.log(r, v.line, start)
}

// visited finds the answer. A panic is one of our faults like others: no server of
// net/http stands around a Lambda function to catch it.
func (a *App) visited(v *visit, methods []string, answerTo func(*visit) pageResponse) (ans pageResponse) {
	defer func() {
		if p := recover(); p != nil {
			v.cause = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			ans = messageResponse(http.StatusInternalServerError, internalErrorPage)
		}
	}()
	if v.source, v.cause = addressOf(v.RemoteAddr); v.cause != nil {
		return messageResponse(http.StatusInternalServerError, internalErrorPage)
	}
	if !slices.Contains(methods, v.Method) {
		v.header.Set("Allow", strings.Join(methods, ", "))
		return messageResponse(http.StatusMethodNotAllowed, methodNotAllowedPage)
	}
	return answerTo(v)
}

func (v *visit) render(ans pageResponse) []byte {
	if ans.location != "" {
		v.header.Set("Location", ans.location)
		v.header.Del("Content-Type")
		return nil
	}
	var page bytes.Buffer
	if err := pages[ans.page].Execute(&page, ans.data); err != nil {
		panic(err) // templates and their data are both ours, and a buffer takes all
	}
	return page.Bytes()
}

// addressOf is the address that a request's connection came from, as whoever
// accepted it says. No header has a say.
func addressOf(remote string) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of the caller: %w", err)
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of the caller: %w", err)
	}
	return address.Unmap().WithZone(""), nil
}

// failed answers an error of the table. All links that are not open get the same
// answer: which of them was ever one is nobody's business.
func (v *visit) failed(err error) pageResponse {
	if errors.Is(err, bastion.ErrNotFound) {
		return messageResponse(http.StatusNotFound, linkInvalidPage)
	}
	v.cause = err
	return messageResponse(http.StatusServiceUnavailable, unavailablePage)
}

// messagePage says one thing.
type messagePage struct {
	Title   string
	Heading string
	Text    []string
}

// Follow: a message does not change.
func (messagePage) Follow() bool { return false }

func messageResponse(status int, page messagePage) pageResponse {
	return pageResponse{status: status, page: "message", data: page}
}

var (
	linkInvalidPage = messagePage{"This link leads nowhere", "This link leads nowhere", []string{
		"It was used already, it is older than ten minutes, a newer one took its place, your key was replaced since, or it was cut off when it was copied.",
		"If you pressed its button a moment ago, ask for /bastion status in Slack. Otherwise ask for a new link there: /bastion up.",
	}}
	unavailablePage = messagePage{"The service does not answer", "The service does not answer", []string{
		"What this page needs could not be read or written just now. Load it again in a moment.",
		"If that does not help, ask for /bastion status in Slack: it says whether anything was started.",
	}}
	internalErrorPage = messagePage{"Something went wrong", "Something went wrong", []string{
		"The fault is on the side of the service, and its log holds the cause. Ask for /bastion status in Slack: it says whether anything was started.",
	}}
	methodNotAllowedPage = messagePage{"This page only shows", "This page only shows", []string{
		"Nothing can be done here in the way that was tried, and nothing was.",
	}}
)
