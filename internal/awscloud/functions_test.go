package awscloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

const testFunction = "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack:work"

// lambdaWire is Lambda at the wire: it answers one call after the other as it is
// told to, the last one for ever.
type lambdaWire struct {
	mu      sync.Mutex
	answers []http.HandlerFunc
	calls   []string // what each asked for: kind, function, payload
	remotes map[string]bool
	hung    chan struct{}
}

func (l *lambdaWire) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, _ := io.ReadAll(r.Body)
	path, _ := url.PathUnescape(r.URL.EscapedPath())
	l.mu.Lock()
	l.calls = append(l.calls, r.Header.Get("X-Amz-Invocation-Type")+" "+path+" "+string(payload))
	l.remotes[r.RemoteAddr] = true
	answer := l.answers[0]
	if len(l.answers) > 1 {
		l.answers = l.answers[1:]
	}
	l.mu.Unlock()
	answer(w, r)
}

func (l *lambdaWire) asked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func failed(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
		_, _ = io.WriteString(w, body)
	}
}

func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func refuses(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-Errortype", code)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"message":"no"}`)
	}
}

func newLambdaWire(t *testing.T, all ...http.HandlerFunc) (*Functions, *lambdaWire) {
	l := &lambdaWire{answers: all, remotes: map[string]bool{}, hung: make(chan struct{})}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(l.hung) }) // before the server, which waits for it
	return NewFunctions(lambdaAt(server.URL)), l
}

func lambdaAt(url string) *lambda.Client {
	return NewLambda(aws.Config{Region: "eu-west-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
	})}, func(o *lambda.Options) { o.BaseEndpoint = &url })
}

// What Lambda may answer, what it means, and how often it was asked for it: again
// only if nothing can have come of the first time.
func TestWhatBecomesOfACall(t *testing.T) {
	const refused, ran, unknown = "nothing came of it", "it ran", "nobody knows"
	throttled := refuses(429, "TooManyRequestsException")
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		want    string // of Invoke: an answer, or one of the above
		calls   int
		queued  string // of InvokeAsync
	}{
		"answered":             {[]http.HandlerFunc{answers(200, `{"status":200}`)}, `{"status":200}`, 1, ""},
		"throttled once":       {[]http.HandlerFunc{throttled, answers(200, `{}`)}, `{}`, 2, ""},
		"throttled":            {[]http.HandlerFunc{throttled}, refused, lambdaAttempts, refused},
		"gone":                 {[]http.HandlerFunc{refuses(404, "ResourceNotFoundException")}, refused, 1, refused},
		"forbidden":            {[]http.HandlerFunc{refuses(403, "AccessDeniedException")}, refused, 1, refused},
		"Lambda's own trouble": {[]http.HandlerFunc{refuses(500, "ServiceException")}, unknown, 1, unknown},
		"no answer":            {[]http.HandlerFunc{hangsUp}, unknown, 1, unknown},
		"the function failed":  {[]http.HandlerFunc{failed(`{"errorType":"Timeout","errorMessage":"too slow"}`)}, ran, 1, ""},
		"and says nonsense":    {[]http.HandlerFunc{failed(`too slow`)}, ran, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, l := newLambdaWire(t, c.answers...)
			meaning := func(err error) string {
				var failed *FunctionError
				switch {
				case err == nil:
					return ""
				case errors.As(err, &failed):
					if !strings.Contains(err.Error(), "too slow") {
						t.Errorf("the log does not learn why: %v", err)
					}
					return ran
				case errors.Is(err, ErrOutcomeUnknown):
					return unknown
				}
				return refused
			}
			answer, err := f.Invoke(t.Context(), testFunction, []byte(`{"n":1}`))
			if got := string(answer) + meaning(err); got != c.want {
				t.Errorf("answered %s (%v), want %s", got, err, c.want)
			}
			calls := l.asked()
			if want := "RequestResponse /2015-03-31/functions/" + testFunction + `/invocations {"n":1}`; len(calls) != c.calls || calls[0] != want {
				t.Errorf("called %q, want %d times %s", calls, c.calls, want)
			}
			if err := f.InvokeAsync(t.Context(), testFunction, []byte(`{"n":2}`)); meaning(err) != c.queued {
				t.Errorf("handed over: %v, want %q", err, c.queued)
			}
			if last, want := l.asked()[len(calls)], "Event /2015-03-31/functions/"+testFunction+`/invocations {"n":2}`; last != want {
				t.Errorf("called %s, want %s", last, want)
			}
			if len(l.remotes) != len(l.asked()) {
				t.Errorf("%d calls on %d connections: one that was left open is dead when a frozen function wakes", len(l.asked()), len(l.remotes))
			}
		})
	}
}

func TestACallThatFindsNobody(t *testing.T) {
	f, l := newLambdaWire(t, answers(200, `{}`))
	nobody := httptest.NewServer(l)
	nobody.Close()
	f.api = lambdaAt(nobody.URL)
	if _, err := f.Invoke(t.Context(), testFunction, nil); err == nil || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("there was no connection: %v", err)
	}
}

// Whoever calls is answered in time, and told that nobody knows.
func TestACallEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var l *lambdaWire
	f, l := newLambdaWire(t, func(http.ResponseWriter, *http.Request) { cancel(); <-l.hung })
	_, err := f.Invoke(ctx, testFunction, nil)
	if !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || len(l.asked()) > 1 {
		t.Errorf("after %d calls: %v", len(l.asked()), err)
	}
}

// deadlines notes how much time each call has.
type deadlines struct{ left []time.Duration }

func (d *deadlines) Invoke(ctx context.Context, _ *lambda.InvokeInput, _ ...func(*lambda.Options)) (*lambda.InvokeOutput, error) {
	deadline, _ := ctx.Deadline()
	d.left = append(d.left, time.Until(deadline))
	return &lambda.InvokeOutput{}, nil
}

func TestEveryCallIsBounded(t *testing.T) {
	var d deadlines
	f := NewFunctions(&d)
	if _, err := f.Invoke(context.Background(), testFunction, nil); err != nil {
		t.Error(err)
	}
	must(t, f.InvokeAsync(context.Background(), testFunction, nil))
	for i, most := range []time.Duration{invokeTimeout, asyncTimeout} {
		if left := d.left[i]; left <= 0 || left > most {
			t.Errorf("call %d has %s, want at most %s", i, left, most)
		}
	}
}
