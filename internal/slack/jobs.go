package slack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The types that this package shares with the API, the reaper and the observer.
type (
	Bastion = api.Bastion
	Notice  = api.Notice
	Receipt = api.Receipt
	Call    = api.InternalCall
)

// Job is work that runs apart from a request. Its fields come from a request that Slack
// has signed, or from the table.
type Job struct {
	Action      JobAction `json:"action"`
	Owner       string    `json:"owner,omitempty"`
	ResponseURL string    `json:"response_url,omitempty"` // for the reply; a start uses the URL of its link

	StartLink string        `json:"start_link,omitempty"` // for start: the hash of the link's token
	Name      string        `json:"name,omitempty"`       // for down and extend; if empty, the owner's only bastion
	ID        string        `json:"id,omitempty"`         // for down and extend by a button
	TTL       time.Duration `json:"ttl,omitempty"`        // for extend: counted from At
	Team      string        `json:"team,omitempty"`       // for send
	// At is the time of the request. With it, a job that runs late or twice does not undo
	// later requests. For send, At identifies the job.
	At time.Time `json:"at,omitzero"`
}

// JobAction is the kind of a job.
type JobAction string

// The actions of jobs.
const (
	JobStart  JobAction = "start"  // start the bastion of a start link
	JobDown   JobAction = "down"   // close a bastion
	JobStatus JobAction = "status" // list the bastions
	JobExtend JobAction = "extend" // move a deadline
	JobSend   JobAction = "send"   // send the messages that wait in a workspace's outbox
)

const (
	callTimeout = 20 * time.Second // of one call of the API

	// responseURLLife is the time for which Slack accepts messages at a response_url, less
	// one minute for differing clocks and for delays. Slack accepts five messages; a job
	// sends one, and runs at most three times. See
	// https://docs.slack.dev/interactivity/handling-user-interaction/#message_responses.
	responseURLLife = 29 * time.Minute
)

// enqueue puts a job into the queue.
func (a *App) enqueue(ctx context.Context, job Job) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	if err := a.Queue.Enqueue(ctx, job); err != nil {
		return fmt.Errorf("enqueue %s: %w", job.Action, err)
	}
	return nil
}

// RunJob runs a job and sends its reply. The queue may run the same job again, for example
// if the process died in the middle of it. If RunJob returns an error, the job must run
// again.
func (a *App) RunJob(ctx context.Context, job Job) error {
	if job.Action == JobSend {
		if err := a.sendWaiting(ctx, job); err != nil {
			return fmt.Errorf("job %s: %w", job.Action, err)
		}
		return nil
	}
	run, known := map[JobAction]func(context.Context, Job) error{
		JobStart: a.start, JobDown: a.down, JobExtend: a.extend, JobStatus: a.status,
	}[job.Action]
	if _, _, ok := bastion.ParseSlackOwner(job.Owner); !ok || !known {
		a.Log.ErrorContext(ctx, "job dropped: unknown action or no Slack owner", "job", job.Action, "owner", job.Owner)
		return nil
	}
	if err := run(ctx, job); err != nil {
		return fmt.Errorf("job %s: %w", job.Action, err)
	}
	a.Log.InfoContext(ctx, "job", "job", job.Action, "owner", job.Owner)
	return nil
}

// reply sends the only reply of a job; only the job's owner sees it. The reply of a
// command's job replaces the app's first response to the command. The reply of a start
// replaces the message that contains the start link. A job with a bastion's ID comes from
// a button. Its reply is a new message, because it must not replace the message that
// contains the button: that can be the status message.
func (a *App) reply(ctx context.Context, job Job, m *message) error {
	err := error(&refusedError{code: "expired_url"})
	if a.Now().Sub(job.At) <= responseURLLife {
		err = a.respond(ctx, job.ResponseURL, m, job.ID == "")
	}
	if finished(err) {
		a.Log.WarnContext(ctx, "reply not delivered", "job", job.Action, "owner", job.Owner, "cause", err)
		return nil
	}
	return err
}

// start starts the bastion of a start link. If an earlier try has started it, start does
// not start it again, even if the bastion has been closed since.
func (a *App) start(ctx context.Context, job Job) error {
	link, err := a.usedStartLink(ctx, job.StartLink)
	if errors.Is(err, bastion.ErrNotFound) || err == nil && link.Owner != job.Owner {
		a.Log.WarnContext(ctx, "start job dropped: the owner has no such used link", "owner", job.Owner)
		return nil
	}
	if err != nil {
		return err
	}
	var o opened
	if _, err := a.fetch(ctx, openedKey(job.StartLink), &o); err != nil {
		return err
	}
	job.ResponseURL = cmp.Or(o.ResponseURL, link.ResponseURL)
	job.At = link.ExpiresAt.Add(-startLinkLife)
	b, err := a.startOnce(ctx, link)
	if err != nil {
		return a.notStarted(ctx, job, link, err)
	}
	if err := a.storeBastion(ctx, link.StatusPage, b.ID); err != nil {
		return err
	}
	return a.reply(ctx, job, usedMessage(b, link.Source))
}

// reportedError means that an earlier try has failed and its status page shows why.
type reportedError struct{ sentence string }

func (e *reportedError) Error() string { return "an earlier try failed: " + e.sentence }

// codeTooLate is the code of the error if a start job runs more than startTimeout after its
// link was used. By then, the link's status page says that the service does not know
// whether the bastion was started.
const codeTooLate bastion.Code = "too_late"

// startOnce returns the bastion of a link. It starts the bastion unless an earlier try
// has done so.
func (a *App) startOnce(ctx context.Context, link startLink) (Bastion, error) {
	var page statusPage
	if _, err := a.fetch(ctx, statusPageKey(link.StatusPage), &page); err != nil {
		return Bastion{}, err
	}
	var l latest
	if _, err := a.fetch(ctx, latestKey(link.Owner, link.Name), &l); err != nil {
		return Bastion{}, err
	}
	// The API's times are whole seconds.
	if l.CreatedAt.Before(link.UsedAt.Truncate(time.Second)) {
		l.ID = "" // this bastion is of an earlier link
	}
	switch id := cmp.Or(page.ID, l.ID); {
	case id != "":
		b, err := a.describe(ctx, link.Owner, id)
		if err != nil {
			// %v hides the cause from notStarted: the bastion was started, so the error must
			// not be reported as a failed start. The job runs again.
			return b, fmt.Errorf("describe the started bastion %s: %v", id, err)
		}
		return b, nil
	case page.Problem != "":
		return Bastion{}, &reportedError{page.Problem}
	case a.Now().Sub(link.UsedAt) > startTimeout:
		return Bastion{}, bastion.Errorf(codeTooLate, "The request was delayed too long and was dropped. Get a new link with %s up.", slash)
	}
	return a.create(ctx, link)
}

// notStarted stores in the status page, and replies in Slack, why a start has failed.
// If the error is not from the API, notStarted returns it, so that the job runs again.
func (a *App) notStarted(ctx context.Context, job Job, link startLink, cause error) error {
	var reported *reportedError
	var refusal *bastion.Error
	var sentence string
	switch {
	case errors.As(cause, &reported):
		sentence = reported.sentence
	case errors.As(cause, &refusal):
		sentence = refusal.Message
	case errors.Is(cause, errDown):
		sentence = downSentence
	default:
		return cause
	}
	a.Log.WarnContext(ctx, "bastion not started", "owner", link.Owner, "cause", cause)
	if err := a.storeProblem(ctx, link.StatusPage, sentence); err != nil {
		return err
	}
	return a.reply(ctx, job, notStartedMessage(startHeading(sentence), sentence, refusal, link.Source))
}

// down closes a bastion.
func (a *App) down(ctx context.Context, job Job) error {
	b, err := a.choose(ctx, job)
	if err == nil && b.IsOpen() {
		b, err = a.callBastion(ctx, Call{Owner: job.Owner, Method: http.MethodDelete, Path: "/bastions/" + b.ID}, nil)
	}
	if err != nil {
		return a.replyFailure(ctx, job, err)
	}
	return a.reply(ctx, job, closingMessage(b))
}

// extend moves a bastion's deadline to at least the given time after the request.
func (a *App) extend(ctx context.Context, job Job) error {
	b, err := a.choose(ctx, job)
	if err == nil {
		// A job that runs late or twice grants no more than was requested.
		ttl := max(time.Second, job.TTL-max(0, a.Now().Sub(job.At)))
		b, err = a.callBastion(ctx, Call{Owner: job.Owner, Method: http.MethodPatch, Path: "/bastions/" + b.ID}, map[string]string{"ttl": ttl.String()})
	}
	if err != nil {
		return a.replyFailure(ctx, job, err)
	}
	return a.reply(ctx, job, extendedMessage(b, job))
}

// status replies with a list of the owner's bastions.
func (a *App) status(ctx context.Context, job Job) error {
	all, err := a.list(ctx, job.Owner)
	if err != nil {
		return a.replyFailure(ctx, job, err)
	}
	return a.reply(ctx, job, listMessage(all))
}

// replyFailure replies why a job has failed. If the error is not from the API,
// replyFailure returns it, so that the job runs again.
func (a *App) replyFailure(ctx context.Context, job Job, err error) error {
	var which whichError
	var refusal *bastion.Error
	var m *message
	switch {
	case errors.As(err, &which):
		m = whichMessage(which, job)
	case errors.As(err, &refusal):
		m = refusalMessage(refusal)
	case errors.Is(err, errDown):
		m = downMessage()
	default:
		return err
	}
	a.Log.WarnContext(ctx, "job failed", "job", job.Action, "owner", job.Owner, "cause", err)
	return a.reply(ctx, job, m)
}

// whichError means that a job matches no bastion, or several.
type whichError struct {
	open []Bastion
	name string // from the command
}

func (whichError) Error() string { return "the command matches no bastion, or several" }

// choose returns the bastion that a job is for: the one with the job's ID or name, or
// the owner's only one. It never chooses a bastion that was requested after the job. If
// no open bastion matches, it chooses a closing one: an earlier run of this job may have
// closed it.
func (a *App) choose(ctx context.Context, job Job) (Bastion, error) {
	if job.ID != "" {
		return a.describe(ctx, job.Owner, job.ID)
	}
	all, err := a.list(ctx, job.Owner)
	if err != nil {
		return Bastion{}, err
	}
	var open, matches, closing []Bastion
	for _, b := range all {
		named := job.Name == "" || b.Name == job.Name
		switch {
		case b.CreatedAt.After(job.At):
		case b.IsOpen():
			open = append(open, b)
			if named {
				matches = append(matches, b)
			}
		case named && b.State == bastion.Closing:
			closing = append(closing, b)
		}
	}
	if len(matches) == 0 {
		matches = closing
	}
	if len(matches) != 1 {
		return Bastion{}, whichError{open: open, name: job.Name}
	}
	return matches[0], nil
}

// errDown means that the API's functions do not reply. The API may still have carried
// out the request.
var errDown = errors.New("the API's functions do not reply")

// callAPI makes one request of the API and decodes the reply into *into. It returns a
// *bastion.Error with the code and sentence of the problem document if the API refused
// the request, and errDown if there was no valid reply.
func (a *App) callAPI(ctx context.Context, call Call, body, into any) error {
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		call.Body = string(encoded)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := a.Functions.Call(ctx, call)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errDown, call.Method, err)
	}
	if reply.Status >= http.StatusOK && reply.Status < http.StatusMultipleChoices {
		if err := json.Unmarshal([]byte(reply.Body), into); err != nil {
			return fmt.Errorf("%w: %s: %w", errDown, call.Method, err)
		}
		return nil
	}
	var problem api.Problem
	if err := json.Unmarshal([]byte(reply.Body), &problem); err != nil || problem.Detail == "" {
		return fmt.Errorf("%w: %s: status %d and no problem document", errDown, call.Method, reply.Status)
	}
	return &bastion.Error{Code: problem.Code, Message: problem.Detail}
}

func (a *App) callBastion(ctx context.Context, call Call, body any) (b Bastion, err error) {
	err = a.callAPI(ctx, call, body, &b)
	return b, err
}

// create requests the bastion of a link, for the address that the link was used from.
func (a *App) create(ctx context.Context, link startLink) (Bastion, error) {
	body := map[string]string{"public_key": link.Key, "name": link.Name, "ttl": link.TTL.String()}
	if link.Reason != "" {
		body["reason"] = link.Reason
	}
	return a.callBastion(ctx, Call{Owner: link.Owner, Source: link.Source, Method: http.MethodPost, Path: "/bastions"}, body)
}

func (a *App) describe(ctx context.Context, owner, id string) (Bastion, error) {
	return a.callBastion(ctx, Call{Owner: owner, Method: http.MethodGet, Path: "/bastions/" + id}, nil)
}

func (a *App) list(ctx context.Context, owner string) ([]Bastion, error) {
	var all api.List
	err := a.callAPI(ctx, Call{Owner: owner, Method: http.MethodGet, Path: "/bastions"}, nil, &all)
	return all.Bastions, err
}
