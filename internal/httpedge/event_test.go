package httpedge

import (
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
)

// eventOf returns an event of an HTTP API, payload format 2.0.
func eventOf(method, body string) events.APIGatewayV2HTTPRequest {
	event := events.APIGatewayV2HTTPRequest{Version: "2.0", RawPath: "/", Body: body, Headers: map[string]string{}}
	event.RequestContext.APIID, event.RequestContext.RequestID, event.RequestContext.DomainName = "abc123", "request-1", "abc123.execute-api.eu-west-1.amazonaws.com"
	event.RequestContext.HTTP.Method, event.RequestContext.HTTP.SourceIP = method, "203.0.113.7"
	return event
}

// In events and responses, cookies have a field of their own, apart from the headers.
func TestCookiesOfRequestAndResponseAreConverted(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var got []string
		for _, c := range r.Cookies() {
			got = append(got, c.Name+" is "+c.Value)
		}
		http.SetCookie(w, &http.Cookie{Name: "__Host-a", Value: "1", Path: "/", Secure: true, SameSite: http.SameSiteStrictMode})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		_, _ = w.Write([]byte(strings.Join(got, ", ")))
	})
	for name, test := range map[string]struct {
		cookies []string
		want    string
	}{
		"none":  {nil, ""},
		"one":   {[]string{"__Host-a=1"}, "__Host-a is 1"},
		"three": {[]string{"a=1", "b=2", "a=3"}, "a is 1, b is 2, a is 3"},
	} {
		event := eventOf("GET", "")
		event.Cookies = test.cookies
		got, err := ServeEvent(t.Context(), handler, event)
		if err != nil || got.Body != test.want {
			t.Errorf("%s: %q, %v; want %q", name, got.Body, err, test.want)
		}
		want := []string{"__Host-a=1; Path=/; Secure; SameSite=Strict", "b=2"}
		if _, joined := got.Headers["Set-Cookie"]; joined || !reflect.DeepEqual(got.Cookies, want) {
			t.Errorf("%s: the response sets the cookies %q and has the headers %v", name, got.Cookies, got.Headers)
		}
	}
}

// No header of a client changes Host or RemoteAddr.
func TestHostAndRemoteAddrComeFromRequestContext(t *testing.T) {
	event := eventOf("GET", "")
	for _, header := range []string{"host", "x-forwarded-for", "x-forwarded-host", "forwarded"} {
		event.Headers[header] = "198.51.100.1"
	}
	var host, address string
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { host, address = r.Host, r.RemoteAddr })
	for source, want := range map[string]string{"203.0.113.7": "203.0.113.7:0", "2001:db8::7": "[2001:db8::7]:0"} {
		event.RequestContext.HTTP.SourceIP = source
		if _, err := ServeEvent(t.Context(), handler, event); err != nil || host != event.RequestContext.DomainName || address != want {
			t.Errorf("%s: from %q, to %q, %v", source, address, host, err)
		}
	}
}

// The format has one value for each header, and base64 for a body that is not text.
func TestResponseIsConvertedToEventFormat(t *testing.T) {
	eventWith := func(header http.Header, body string) events.APIGatewayV2HTTPResponse {
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), header)
			_, _ = w.Write([]byte(body))
		})
		out, err := ServeEvent(t.Context(), handler, eventOf("GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	got := eventWith(http.Header{"Vary": {"Accept", "Prefer"}}, "grüße")
	if got.StatusCode != 200 || got.Headers["Vary"] != "Accept, Prefer" || got.Body != "grüße" || got.IsBase64Encoded {
		t.Errorf("text: %+v", got)
	}
	if got := eventWith(http.Header{}, "\xff\x00"); got.Body != "/wA=" || !got.IsBase64Encoded {
		t.Errorf("bytes: %+v", got)
	}
}
