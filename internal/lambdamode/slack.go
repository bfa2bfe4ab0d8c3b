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
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// Slack is the Slack function, which has two doors as those of the API have
// ([Doors]):
//
//	unqualified   API Gateway's: requests of Slack and of people's browsers, which
//	              nobody has authorized. Slack's are signed; the pages have tokens.
//	alias "queue"  its own, and the observer's and the reaper's: jobs and notices,
//	              which Lambda sends again if they fail.
type Slack struct {
	app interface {
		RunJob(context.Context, slack.Job) error
		Notify(context.Context, api.Notice) error
	}
	routes http.Handler
}

// StartSlack is [Start] for the Slack function, which is no part of the service: it
// has no record, and nothing of the cloud.
func StartSlack() *Slack {
	log := slog.New(lambdacontext.NewLogHandler())
	s, err := wireSlack(context.Background(), os.Environ(), log)
	if err != nil {
		log.Error("start", "error", err.Error())
		os.Exit(1)
	}
	return s
}

func wireSlack(ctx context.Context, environ []string, log *slog.Logger) (*Slack, error) {
	cfg, err := config.LoadSlack(environ)
	if err != nil {
		return nil, err
	}
	ports, err := awscloud.ConnectSlack(ctx, cfg.Table, cfg.SecretNames()...)
	if err != nil {
		return nil, fmt.Errorf("connect to AWS: %w", err)
	}
	// A function is frozen between two events, and what was left open dies meanwhile.
	outside := http.DefaultTransport.(*http.Transport).Clone()
	outside.DisableKeepAlives = true
	app := slack.New(slack.Options{
		Table: ports.Items,
		Functions: functions{ports.Functions, map[string]string{
			http.MethodPost: cfg.Create, http.MethodGet: cfg.Describe, http.MethodPatch: cfg.Extend, http.MethodDelete: cfg.Destroy,
		}},
		Queue:       jobs{ports.Functions, cfg.Queue},
		Credentials: credentials(ports.Secrets, cfg),
		Transport:   outside,
		Teams:       cfg.Teams,
		Channels:    cfg.Channels,
		Users:       cfg.Users,

		DefaultTTL: cfg.DefaultTTL, MaxTTL: cfg.MaxTTL,

		Now:  time.Now,
		Rand: rand.Reader,
		Log:  log,
	})
	return &Slack{app: app, routes: app.Handler()}, nil
}

// credentials reads the parameters that the configuration names.
func credentials(secrets *awscloud.Secrets, cfg config.Slack) slack.Secrets {
	return func(ctx context.Context, team string) (slack.Credentials, error) {
		names := []string{cfg.SigningSecret}
		if team != "" {
			names = append(names, cfg.BotToken(team))
		}
		values, err := secrets.Get(ctx, names...)
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

// Handle serves a request, does a job or tells of a notice. An error of the latter
// has Lambda send the event again.
func (s *Slack) Handle(ctx context.Context, payload json.RawMessage) (any, error) {
	door, err := invokedAs(ctx)
	switch {
	case err != nil:
		return nil, err
	case door == "":
		event, err := readEvent(payload)
		if err != nil {
			return nil, err
		}
		return httpapi.ServeEvent(ctx, s.routes, event)
	case door == doorWork:
		return nil, s.work(ctx, payload)
	}
	return nil, fmt.Errorf("this function has no door %q", door)
}

// slackEvent is what comes through the door of work: one of the two. What else a
// newer version of the function may have written in them is not looked at.
type slackEvent struct {
	Job    *slack.Job  `json:"job,omitempty"`
	Notice *api.Notice `json:"notice,omitempty"`
}

func (s *Slack) work(ctx context.Context, payload json.RawMessage) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	var w slackEvent
	if err := json.Unmarshal(payload, &w); err != nil {
		return fmt.Errorf("read the work: %w", err)
	}
	switch {
	case w.Job != nil && w.Notice == nil:
		return s.app.RunJob(ctx, *w.Job)
	case w.Notice != nil && w.Job == nil:
		return s.app.Notify(ctx, *w.Notice)
	}
	return errors.New("this is neither a job nor a notice: the Slack function is given no other work")
}

// functions calls the API's functions by their aliases, each with its method.
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
	payload, err := json.Marshal(slackPayload{&call})
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

// jobs hands jobs over to the function itself.
type jobs struct {
	work
	function string
}

// Enqueue implements slack.Queue.
func (j jobs) Enqueue(ctx context.Context, job slack.Job) error {
	payload, err := json.Marshal(slackEvent{Job: &job})
	if err != nil {
		return fmt.Errorf("write the job: %w", err)
	}
	return j.work.InvokeAsync(ctx, j.function, payload)
}
