package localmode

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// slackTeam is the only workspace that may use the command. scripts/slack sends it.
const slackTeam = "T0LOCAL"

// slackSide runs the code of the Slack function in this process, and logs messages to
// Slack instead of sending them.
type slackSide struct {
	app     *slack.App
	targets []httpapi.Target
	events  *eventQueue
}

// newSlackSide returns a slackSide. Its app calls the API as the Slack function does.
func newSlackSide(ctx context.Context, cfg settings, api httpapi.Options) *slackSide {
	s := &slackSide{targets: api.Targets, events: &eventQueue{ctx: ctx, log: cfg.Log}}
	s.app = slack.New(slack.Options{
		Table:     localcloud.NewItems(time.Now),
		Functions: slackFunctions{httpapi.NewInternalAPI(api)},
		Queue:     s,
		Credentials: func(context.Context, string) (slack.Credentials, error) {
			return slack.Credentials{SigningSecret: cfg.SlackSigningSecret, BotToken: "local"}, nil
		},
		Transport: &loggingTransport{log: cfg.Log},
		Teams:     []string{slackTeam},
		Plain:     true,

		DefaultTTL: cfg.DefaultTTL, MaxTTL: cfg.MaxTTL,

		Now:  time.Now,
		Rand: rand.Reader,
		Log:  cfg.Log,
	})
	return s
}

// withSlackRoutes returns a handler for the routes of Slack and the routes of the API.
func (s *slackSide) withSlackRoutes(api http.Handler) http.Handler {
	routes := s.app.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/slack/") {
			routes.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// Enqueue implements slack.Queue.
func (s *slackSide) Enqueue(_ context.Context, job slack.Job) error {
	return s.events.send("job failed", func(ctx context.Context) error { return s.app.RunJob(ctx, job) })
}

// Notify implements bastion.Notifier.
func (s *slackSide) Notify(_ context.Context, rec bastion.Record, notice bastion.Notice) error {
	n := api.NewNotice(rec, notice, httpapi.Document(rec, s.targets...))
	return s.events.send("notice failed", func(ctx context.Context) error { return s.app.Notify(ctx, n) })
}

// slackFunctions are the API's functions, in this process.
type slackFunctions struct{ api *httpapi.InternalAPI }

// Call implements slack.Functions.
func (f slackFunctions) Call(ctx context.Context, call api.InternalCall) (api.InternalReply, error) {
	return f.api.Handle(ctx, call)
}

// eventQueue runs jobs and notices asynchronously. Like Lambda, it runs each of them
// again, up to three times in all, until one run succeeds.
type eventQueue struct {
	ctx context.Context
	log *slog.Logger

	mu      sync.Mutex
	closed  bool // guarded by mu
	running sync.WaitGroup
}

const (
	eventTries      = 3
	eventRetryPause = time.Second
)

// send starts an event and does not wait for it. It logs the message in failed for each run
// that fails. send returns an error if the queue is closed.
func (w *eventQueue) send(failed string, do func(context.Context) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("local mode is ending")
	}
	w.running.Go(func() {
		for range eventTries {
			err := do(w.ctx)
			if err == nil || w.ctx.Err() != nil {
				return
			}
			w.log.Warn(failed, "error", err.Error())
			select {
			case <-time.After(eventRetryPause):
			case <-w.ctx.Done():
			}
		}
	})
	return nil
}

// close makes send return an error, and waits for the events that are running. The caller
// must have cancelled the queue's context, so that they end.
func (w *eventQueue) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.running.Wait()
}

// loggingTransport is the transport to Slack in local mode. It logs requests instead of
// sending them, and responds as Slack does.
type loggingTransport struct {
	log  *slog.Logger
	sent atomic.Int64
}

// slackMessage is the attribute with the texts of a message to Slack, one in each line.
const slackMessage = "message"

// RoundTrip implements http.RoundTripper.
func (l *loggingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	var message struct {
		TS     string `json:"ts"`
		Blocks []any  `json:"blocks"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	l.log.Info("to Slack", "url", r.URL.String(), slackMessage, strings.Join(textsOf(message.Blocks), "\n"))
	reply := "ok"
	if strings.HasPrefix(r.URL.Path, "/api/") {
		ts := message.TS // of chat.update
		if ts == "" {
			ts = strconv.FormatInt(l.sent.Add(1), 10) + ".000100"
		}
		reply = fmt.Sprintf(`{"ok":true,"channel":"D0LOCAL","ts":%q}`, ts)
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(bytes.NewBufferString(reply)), ContentLength: int64(len(reply)), Request: r,
	}, nil
}

// textsOf returns the texts of a message's blocks, in order. The elements of a section
// are one text.
func textsOf(content any) (texts []string) {
	switch content := content.(type) {
	case []any:
		for _, part := range content {
			texts = append(texts, textsOf(part)...)
		}
	case map[string]any:
		if text, ok := content["text"].(string); ok {
			return []string{text}
		}
		if content["type"] == "rich_text_section" {
			return []string{strings.Join(textsOf(content["elements"]), "")}
		}
		for _, key := range []string{"text", "elements"} {
			texts = append(texts, textsOf(content[key])...)
		}
	}
	return texts
}
