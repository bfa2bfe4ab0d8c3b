package lambdamode

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// StartSlack reads the environment and returns the Slack function's entry points;
// see [Start]. The Slack function is not part of the service: it has no right to
// read or write records, groups or tasks.
func StartSlack() EntryPoints {
	log := slog.New(lambdacontext.NewLogHandler())
	app, err := wireSlack(context.Background(), os.Environ(), log)
	if err != nil {
		log.Error("start failed", "error", err.Error())
		os.Exit(1)
	}
	return slackEntryPoints(app, app.Handler())
}

func wireSlack(ctx context.Context, environ []string, log *slog.Logger) (*slack.App, error) {
	cfg, err := config.LoadSlack(environ)
	if err != nil {
		return nil, err
	}
	ports, err := awscloud.ConnectSlack(ctx, cfg.Table, cfg.SecretNames()...)
	if err != nil {
		return nil, fmt.Errorf("connect to AWS: %w", err)
	}
	// Lambda freezes a function between two events, and idle connections die meanwhile.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	return slack.New(slack.Options{
		Table: ports.Items,
		Functions: functions{ports.Functions, map[string]string{
			http.MethodPost: cfg.Create, http.MethodGet: cfg.Describe, http.MethodPatch: cfg.Extend, http.MethodDelete: cfg.Destroy,
		}},
		Queue:       jobs{ports.Functions, cfg.Queue},
		Credentials: credentials(ports.Secrets.Get, cfg),
		Transport:   transport,
		Teams:       cfg.Teams,
		Channels:    cfg.Channels,
		Users:       cfg.Users,

		DefaultTTL: cfg.DefaultTTL, MaxTTL: cfg.MaxTTL,

		Now:  time.Now,
		Rand: rand.Reader,
		Log:  log,
	}), nil
}

// credentials reads the parameters that the configuration names; get returns their
// values in the order of the names.
func credentials(get func(ctx context.Context, names ...string) ([]string, error), cfg config.Slack) slack.Secrets {
	return func(ctx context.Context, team string) (slack.Credentials, error) {
		names := []string{cfg.SigningSecret}
		if team != "" {
			names = append(names, cfg.BotToken(team))
		}
		values, err := get(ctx, names...)
		if err != nil {
			return slack.Credentials{}, err
		}
		c := slack.Credentials{SigningSecret: values[0]}
		if team != "" {
			c.BotToken = values[1]
		}
		return c, nil
	}
}

// jobRunner is the part of slack.App that runs jobs and sends notices.
type jobRunner interface {
	RunJob(context.Context, slack.Job) error
	Notify(context.Context, api.Notice) error
}

// slackEntryPoints returns the entry points of the Slack function.
func slackEntryPoints(app jobRunner, routes http.Handler) EntryPoints {
	return EntryPoints{
		unqualified: func(ctx context.Context, payload json.RawMessage) (any, error) {
			event, err := readEvent(payload)
			if err != nil {
				return nil, err
			}
			return httpedge.ServeEvent(ctx, routes, event)
		},
		aliasQueue: func(ctx context.Context, payload json.RawMessage) (any, error) {
			return nil, runQueued(ctx, app, payload)
		},
	}
}

// queued is the payload of the queue: a job or a notice. Unknown fields, which a
// newer version of the function may have written, are ignored.
type queued struct {
	Job    *slack.Job  `json:"job,omitempty"`
	Notice *api.Notice `json:"notice,omitempty"`
}

// runQueued runs a job or sends a notice. After an error Lambda sends the payload
// again.
func runQueued(ctx context.Context, app jobRunner, payload json.RawMessage) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	var q queued
	if err := json.Unmarshal(payload, &q); err != nil {
		return fmt.Errorf("decode the payload of the queue: %w", err)
	}
	switch {
	case q.Job != nil && q.Notice == nil:
		return app.RunJob(ctx, *q.Job)
	case q.Notice != nil && q.Job == nil:
		return app.Notify(ctx, *q.Notice)
	}
	return errors.New("the payload of the queue is neither a job nor a notice")
}

// functions invokes the API functions by their aliases; each serves one method.
type functions struct {
	lambda interface {
		Invoke(ctx context.Context, function string, payload []byte) ([]byte, error)
	}
	byMethod map[string]string
}

// Call implements slack.Functions.
func (f functions) Call(ctx context.Context, call api.InternalCall) (reply api.InternalReply, err error) {
	function, ok := f.byMethod[call.Method]
	if !ok {
		return reply, fmt.Errorf("no function serves %s", call.Method)
	}
	payload, err := json.Marshal(call)
	if err != nil {
		return reply, fmt.Errorf("encode the call of %s: %w", function, err)
	}
	output, err := f.lambda.Invoke(ctx, function, payload)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(output, &reply); err != nil {
		return api.InternalReply{}, fmt.Errorf("decode the reply of %s: %w", function, err)
	}
	return reply, nil
}

// jobs sends jobs to the Slack function's own queue.
type jobs struct {
	invoker
	function string
}

// Enqueue implements slack.Queue.
func (j jobs) Enqueue(ctx context.Context, job slack.Job) error {
	payload, err := json.Marshal(queued{Job: &job})
	if err != nil {
		return fmt.Errorf("encode the job: %w", err)
	}
	return j.invoker.InvokeAsync(ctx, j.function, payload)
}
