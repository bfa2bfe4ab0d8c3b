package httpapi

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

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// answerTime is what is kept back of a function's time, to write the answer
// before Lambda ends it: a request that waits answers what it knows by then.
const answerTime = time.Second

// Gateway is the API behind API Gateway: an event of an HTTP API, payload format
// 2.0, in; its response out.
type Gateway struct{ handler http.Handler }

// NewGateway makes the API of the options; who calls comes from owners alone, and
// a request's id is API Gateway's.
func NewGateway(options Options, owners Owners) *Gateway {
	options.Identify = func(r *http.Request) (bastion.Caller, error) { return owners.Caller(*requestContext(r)) }
	options.RequestID = func(r *http.Request) string { return requestContext(r).RequestID }
	if owners.JWTIssuer != "" {
		options.Challenge = "Bearer"
	}
	return &Gateway{New(options)}
}

// contextKey is where a request carries its event's context: what API Gateway
// wrote, and nothing that a caller can.
type contextKey struct{}

func requestContext(r *http.Request) *events.APIGatewayV2HTTPRequestContext {
	return r.Context().Value(contextKey{}).(*events.APIGatewayV2HTTPRequestContext)
}

// Handle answers one event; see [ServeEvent].
func (g *Gateway) Handle(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	return ServeEvent(ctx, g.handler, event)
}

// ServeEvent has a handler of net/http answer an event of API Gateway, payload
// format 2.0. An error means that it came through no door that the function has:
// it is for the one who invoked the function, who is no client of the API.
//
// A client of the API writes headers, cookies, path, query and body, each in its
// place of the event, and can never reach version or requestContext. Whoever may
// invoke the function directly writes all of it, and is an admin by that right
// (see the README); what is refused here are mistakes. The handler gets RemoteAddr
// and Host from requestContext: no header moves them.
func ServeEvent(ctx context.Context, handler http.Handler, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	rc := &event.RequestContext
	if event.Version != "2.0" || rc.APIID == "" || rc.RequestID == "" || rc.HTTP.Method == "" {
		return events.APIGatewayV2HTTPResponse{}, fmt.Errorf("this is no event of an HTTP API with payload format 2.0 (version %q, API %q, method %q): the function answers no other", event.Version, rc.APIID, rc.HTTP.Method)
	}
	ctx, cancel := withAnswerTime(context.WithValue(ctx, contextKey{}, rc))
	defer cancel()
	request, err := newRequest(ctx, event)
	if err != nil {
		return events.APIGatewayV2HTTPResponse{}, err
	}
	w := &response{header: http.Header{}}
	handler.ServeHTTP(w, request)
	return w.event(), nil
}

// withAnswerTime ends ctx while there is still time to write an answer.
func withAnswerTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, limited := ctx.Deadline(); limited {
		return context.WithDeadline(ctx, deadline.Add(-answerTime))
	}
	return context.WithCancel(ctx)
}

// newRequest is the event as net/http has it. The path comes decoded from API
// Gateway, so it is taken as it is. Several headers of one name come as one, with
// commas; cookies come apart from them.
func newRequest(ctx context.Context, event events.APIGatewayV2HTTPRequest) (*http.Request, error) {
	rc := event.RequestContext
	body := []byte(event.Body)
	if event.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(event.Body); err != nil {
			return nil, fmt.Errorf("decode the event's body: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, rc.HTTP.Method, "/", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request of the event: %w", err)
	}
	request.URL = &url.URL{Path: event.RawPath, RawQuery: event.RawQueryString}
	request.Host = rc.DomainName
	request.RemoteAddr = net.JoinHostPort(rc.HTTP.SourceIP, "0")
	for name, value := range event.Headers {
		request.Header.Set(name, value)
	}
	if len(event.Cookies) > 0 {
		request.Header.Set("Cookie", strings.Join(event.Cookies, "; "))
	}
	return request, nil
}

// response is a http.ResponseWriter that keeps what is written.
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

// event is what API Gateway makes an HTTP response of. Its format has one value
// for each header, so several are joined as RFC 9110 allows. Cookies, which must not
// be joined, have a place of their own.
func (r *response) event() events.APIGatewayV2HTTPResponse {
	r.WriteHeader(http.StatusOK)
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
