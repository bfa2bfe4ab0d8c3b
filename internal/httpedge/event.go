package httpedge

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
)

// responseTime is how long before the function's deadline the context of a request
// ends, so that there is time to write the response.
const responseTime = time.Second

// contextKey is the context's key for the event's request context. API Gateway writes the
// request context; a client cannot set it.
type contextKey struct{}

// EventContext returns the request context of the event that a request was made
// from. It panics for a request that [ServeEvent] did not make.
func EventContext(r *http.Request) *events.APIGatewayV2HTTPRequestContext {
	return r.Context().Value(contextKey{}).(*events.APIGatewayV2HTTPRequestContext)
}

// ServeEvent serves an event of API Gateway (HTTP API, payload format 2.0) with a
// handler of net/http. If it is another kind of event, ServeEvent returns an error, which
// Lambda returns to the invoker of the function.
//
// A client of the API determines the headers, cookies, path, query and body of the event,
// but not its version and requestContext. A principal that may invoke the function
// directly determines the whole event, and can therefore act as any owner; for such a
// principal, the check of the event only finds mistakes. RemoteAddr, Host and the request
// ID of the handler's request are from requestContext: no header changes them.
func ServeEvent(ctx context.Context, handler http.Handler, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	rc := &event.RequestContext
	if event.Version != "2.0" || rc.APIID == "" || rc.RequestID == "" || rc.HTTP.Method == "" {
		return events.APIGatewayV2HTTPResponse{}, fmt.Errorf("not an event of an HTTP API with payload format 2.0 (version %q, API %q, method %q)", event.Version, rc.APIID, rc.HTTP.Method)
	}
	body := []byte(event.Body)
	if event.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(event.Body); err != nil {
			return events.APIGatewayV2HTTPResponse{}, fmt.Errorf("decode the body of the event: %w", err)
		}
	}
	ctx = WithRequestID(context.WithValue(ctx, contextKey{}, rc), rc.RequestID)
	w, err := serve(ctx, handler, rc.HTTP.Method, body, func(r *http.Request) {
		// API Gateway has already decoded the path. It joins headers of the same name with
		// commas, and has a field of its own for cookies.
		r.URL = &url.URL{Path: event.RawPath, RawQuery: event.RawQueryString}
		r.Host = rc.DomainName
		r.RemoteAddr = net.JoinHostPort(rc.HTTP.SourceIP, "0")
		for name, value := range event.Headers {
			r.Header.Set(name, value)
		}
		if len(event.Cookies) > 0 {
			r.Header.Set("Cookie", strings.Join(event.Cookies, "; "))
		}
	})
	if err != nil {
		return events.APIGatewayV2HTTPResponse{}, err
	}
	return w.event(), nil
}

// ServeCall serves a request that has a method, a path and a body only. It returns an
// error if the method is not valid in HTTP.
func ServeCall(ctx context.Context, handler http.Handler, method, path, body string) (status int, response string, err error) {
	w, err := serve(ctx, handler, method, []byte(body), func(r *http.Request) { r.URL = &url.URL{Path: path} })
	return w.status, w.body.String(), err
}

// serve makes a request and serves it with the handler. The request's context ends
// responseTime before the deadline of ctx.
func serve(ctx context.Context, handler http.Handler, method string, body []byte, complete func(*http.Request)) (response, error) {
	cancel := func() {}
	if deadline, limited := ctx.Deadline(); limited {
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-responseTime))
	}
	defer cancel()
	w := response{header: http.Header{}}
	r, err := http.NewRequestWithContext(ctx, method, "/", bytes.NewReader(body))
	if err != nil {
		return w, fmt.Errorf("make a request: %w", err)
	}
	complete(r)
	handler.ServeHTTP(&w, r)
	w.WriteHeader(http.StatusOK)
	return w, nil
}

// response is an [http.ResponseWriter] that keeps what is written to it.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *response) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

// event returns the response as API Gateway expects it. The format has one value for each
// header, so several values are joined with commas, which RFC 9110 allows. Cookies must
// not be joined, and the format has a field of its own for them.
func (r *response) event() events.APIGatewayV2HTTPResponse {
	out := events.APIGatewayV2HTTPResponse{StatusCode: r.status, Headers: map[string]string{}}
	for name, values := range r.header {
		if name == "Set-Cookie" {
			out.Cookies = values
			continue
		}
		out.Headers[name] = strings.Join(values, ", ")
	}
	if utf8.Valid(r.body.Bytes()) {
		out.Body = r.body.String()
	} else {
		out.Body, out.IsBase64Encoded = base64.StdEncoding.EncodeToString(r.body.Bytes()), true
	}
	return out
}
