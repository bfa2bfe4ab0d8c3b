package awscloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

const testFunction = "arn:aws:lambda:eu-west-1:111122223333:function:bastions-slack:queue"

// lambdaServer is a server for Lambda's protocol. It calls the handlers in turn, and
// repeats the last one.
type lambdaServer struct {
	mu       sync.Mutex
	handlers []http.HandlerFunc
	calls    []string        // invocation type, path and payload of each call
	remotes  map[string]bool // remote addresses of the connections
	closing  chan struct{}   // closed when the test ends
}

func (l *lambdaServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, _ := io.ReadAll(r.Body)
	path, _ := url.PathUnescape(r.URL.EscapedPath())
	l.mu.Lock()
	l.calls = append(l.calls, r.Header.Get("X-Amz-Invocation-Type")+" "+path+" "+string(payload))
	l.remotes[r.RemoteAddr] = true
	handler := l.handlers[0]
	if len(l.handlers) > 1 {
		l.handlers = l.handlers[1:]
	}
	l.mu.Unlock()
	handler(w, r)
}

func (l *lambdaServer) allCalls() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

func respond(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func functionFails(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
		_, _ = io.WriteString(w, body)
	}
}

func closeConnection(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func refuse(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-Errortype", code)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"message":"no"}`)
	}
}

func startLambda(t *testing.T, all ...http.HandlerFunc) (*Functions, *lambdaServer) {
	l := &lambdaServer{handlers: all, remotes: map[string]bool{}, closing: make(chan struct{})}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(l.closing) }) // runs before server.Close, which waits for the handlers
	return NewFunctions(newTestLambda(server.URL)), l
}

func newTestLambda(url string) *lambda.Client {
	return NewLambda(aws.Config{Region: "eu-west-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
	})}, func(o *lambda.Options) { o.BaseEndpoint = &url })
}

// A call is retried only if the function certainly did not run.
func TestCallErrorsAndRetries(t *testing.T) {
	const refused, ran, unknown = "did not run", "ran and failed", "may have run"
	throttled := refuse(429, "TooManyRequestsException")
	for name, c := range map[string]struct {
		handlers []http.HandlerFunc
		want     string // from Invoke: a response, or one of the above
		calls    int
		async    string // from InvokeAsync
	}{
		"response":                  {[]http.HandlerFunc{respond(200, `{"status":200}`)}, `{"status":200}`, 1, ""},
		"throttled once":            {[]http.HandlerFunc{throttled, respond(200, `{}`)}, `{}`, 2, ""},
		"throttled":                 {[]http.HandlerFunc{throttled}, refused, lambdaAttempts, refused},
		"no such function":          {[]http.HandlerFunc{refuse(404, "ResourceNotFoundException")}, refused, 1, refused},
		"invalid request":           {[]http.HandlerFunc{refuse(400, "InvalidParameterValueException")}, refused, 1, refused},
		"forbidden":                 {[]http.HandlerFunc{refuse(403, "AccessDeniedException")}, refused, 1, refused},
		"server error":              {[]http.HandlerFunc{refuse(500, "ServiceException")}, unknown, 1, unknown},
		"connection closed":         {[]http.HandlerFunc{closeConnection}, unknown, 1, unknown},
		"function failed":           {[]http.HandlerFunc{functionFails(`{"errorType":"Timeout","errorMessage":"too slow"}`)}, ran, 1, ""},
		"function failed, not JSON": {[]http.HandlerFunc{functionFails(`too slow`)}, ran, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, l := startLambda(t, c.handlers...)
			classify := func(err error) string {
				var failed *FunctionError
				switch {
				case err == nil:
					return ""
				case errors.As(err, &failed):
					if !strings.Contains(err.Error(), "too slow") {
						t.Errorf("the error does not contain the function's message: %v", err)
					}
					return ran
				case errors.Is(err, ErrOutcomeUnknown):
					return unknown
				}
				if !strings.Contains(err.Error(), "Invoke") {
					t.Errorf("the error does not contain the cause: %v", err)
				}
				return refused
			}
			response, err := f.Invoke(t.Context(), testFunction, []byte(`{"n":1}`))
			if got := string(response) + classify(err); got != c.want {
				t.Errorf("returned %s (%v), want %s", got, err, c.want)
			}
			calls := l.allCalls()
			if want := "RequestResponse /2015-03-31/functions/" + testFunction + `/invocations {"n":1}`; len(calls) != c.calls || calls[0] != want {
				t.Errorf("calls %q, want %d times %s", calls, c.calls, want)
			}
			if err := f.InvokeAsync(t.Context(), testFunction, []byte(`{"n":2}`)); classify(err) != c.async {
				t.Errorf("queued: %v, want %q", err, c.async)
			}
			if last, want := l.allCalls()[len(calls)], "Event /2015-03-31/functions/"+testFunction+`/invocations {"n":2}`; last != want {
				t.Errorf("the last call is %s, want %s", last, want)
			}
			if len(l.remotes) != len(l.allCalls()) {
				t.Errorf("%d calls on %d connections, want one for each: an open connection can break while a function is frozen", len(l.allCalls()), len(l.remotes))
			}
		})
	}
}

func TestCallWithoutConnectionDidNotRun(t *testing.T) {
	f, l := startLambda(t, respond(200, `{}`))
	closed := httptest.NewServer(l)
	closed.Close()
	f.api = newTestLambda(closed.URL)
	if _, err := f.Invoke(t.Context(), testFunction, nil); err == nil || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("without a connection: %v", err)
	}
}

func TestCancelledCallHasUnknownOutcome(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var l *lambdaServer
	f, l := startLambda(t, func(http.ResponseWriter, *http.Request) { cancel(); <-l.closing })
	_, err := f.Invoke(ctx, testFunction, nil)
	if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || len(l.allCalls()) > 1 {
		t.Errorf("after %d calls: %v", len(l.allCalls()), err)
	}
}

// deadlines records how much time each call has left.
type deadlines struct{ left []time.Duration }

func (d *deadlines) Invoke(ctx context.Context, _ *lambda.InvokeInput, _ ...func(*lambda.Options)) (*lambda.InvokeOutput, error) {
	deadline, _ := ctx.Deadline()
	d.left = append(d.left, time.Until(deadline))
	return &lambda.InvokeOutput{}, nil
}

func TestEveryCallHasDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadlines
		f := NewFunctions(&d)
		if _, err := f.Invoke(context.Background(), testFunction, nil); err != nil {
			t.Error(err)
		}
		must(t, f.InvokeAsync(context.Background(), testFunction, nil))
		if want := []time.Duration{30 * time.Second, 2 * time.Second}; !slices.Equal(d.left, want) {
			t.Errorf("the calls have %s, want %s", d.left, want)
		}
	})
}

func TestTextOfFunctionError(t *testing.T) {
	for payload, want := range map[string]string{
		`{"errorType":"Timeout","errorMessage":"too slow"}`: "function failed: Timeout: too slow",
		`too slow`:               "function failed: unreadable: too slow",
		strings.Repeat("x", 300): "function failed: unreadable: " + strings.Repeat("x", 200),
	} {
		if got := functionError([]byte(payload)).Error(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
