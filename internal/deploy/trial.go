package deploy

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/smithy-go"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The times of a trial.
const (
	trialTTL     = 10 * time.Minute
	readyLimit   = trialTTL + 6*time.Minute // the reaper, which runs every five minutes or more often, closes it after its deadline
	dialLimit    = 30 * time.Second         // a new rule of a group may need some time
	dialTimeout  = 10 * time.Second
	consoleLimit = 30 * time.Second
	closedLimit  = 5 * time.Minute
	cleanUpLimit = time.Minute
	readyPause   = 2 * time.Second
	closedPause  = 3 * time.Second
	stillPause   = 30 * time.Second // between two lines about the same state
)

// trialUserID is the unique ID of an IAM user that does not exist. AWS chooses the unique IDs
// of users and roles, and those in its documentation have 20 or 21 characters. So no user and
// no role has this one, and no person can have its bastions, its quota or its remembered key.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
const trialUserID = "AIDA0000TRIAL0OF0MAKE0DEPLOY0000"

// trialIdentity returns the caller that requests the trials of a stack. It is no person and
// no admin.
func trialIdentity(s stack) identity {
	if issuer := s.parameters["JwtIssuer"]; issuer != "" {
		return identity{issuer: issuer, subject: "trial-of-make-deploy:" + s.id[strings.LastIndex(s.id, "/")+1:]}
	}
	arn := strings.Split(s.id, ":") // arn:PARTITION:cloudformation:REGION:ACCOUNT:stack/NAME/UUID
	return identity{account: arn[4], userID: trialUserID, arn: "arn:" + arn[1] + ":iam::" + arn[4] + ":user/trial-of-make-deploy"}
}

// trial is a bastion that a deployment requests, uses and closes, to prove that the service
// works.
type trial struct {
	d      *Deployment
	stack  stack
	client *functionClient

	name   string
	ttl    time.Duration
	signer ssh.Signer // its key exists in this process only
	source trialSource
	began  time.Time

	mayExist bool        // the service has or may have accepted the request
	bastion  api.Bastion // the latest document; empty before the first
}

// newTrial prepares a trial, with a random name and a new key.
func (d *Deployment) newTrial(ctx context.Context, smoked smoked) (*trial, error) {
	s := smoked.stack
	if strings.Count(s.id, ":") < 5 {
		return nil, fmt.Errorf("the ID of the stack %q is not an ARN", s.id)
	}
	client, err := d.newFunctionClient(ctx, s, trialIdentity(s))
	if err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	t := &trial{
		d: d, stack: s, client: client, signer: signer, ttl: trialTTL, source: smoked.trialSource(),
		name: "trial-" + strings.ToLower(rand.Text()[:8]), began: time.Now(),
	}
	if longest, err := bastion.ParseTTL(s.parameters["LongestLifetime"]); err == nil {
		t.ttl = min(t.ttl, longest)
	}
	return t, nil
}

// tryBastion requests a bastion, opens its console, and closes it. It deletes the bastion
// also if a step fails or ctx ends.
func (d *Deployment) tryBastion(ctx context.Context, smoked smoked) (err error) {
	t, err := d.newTrial(ctx, smoked)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && t.mayExist {
			err = errors.Join(err, t.cleanUp(ctx))
		}
	}()
	accepted, err := t.request(ctx)
	if err != nil || !accepted {
		return err
	}
	if err := t.waitUntilReady(ctx); err != nil {
		return err
	}
	if err := t.useConsole(ctx); err != nil {
		return err
	}
	return t.close(ctx)
}

// printf prints a line.
func (t *trial) printf(format string, args ...any) {
	fmt.Fprintf(t.d.Progress.W, format+"\n", args...)
}

// seconds formats the time since began.
func seconds(began time.Time) string { return fmt.Sprintf("%.1fs", time.Since(began).Seconds()) }

// request requests the bastion. If the service refuses it for a reason that is no fault of
// the deployment, request prints the reason and returns false.
func (t *trial) request(ctx context.Context) (accepted bool, err error) {
	fields := map[string]string{
		"name": t.name, "ttl": bastion.FormatTTL(t.ttl), "reason": "trial of make deploy",
		"public_key": strings.TrimSpace(string(ssh.MarshalAuthorizedKey(t.signer.PublicKey()))),
	}
	if t.source.named {
		fields["source"] = t.source.address.String()
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return false, err
	}
	event := t.client.event(http.MethodPost, "/bastions")
	// The function that waits also takes the next steps. Without it, the reaper would take
	// them up to five minutes later.
	event.Headers = map[string]string{"content-type": "application/json", "prefer": "wait=10"}
	event.Body = string(body)
	event.RequestContext.HTTP.SourceIP = t.source.address.String()
	t.printf("request %s for the address %s", t.name, t.source.address)
	t.mayExist = true
	response, err := t.sendUninterrupted(ctx, "CreateFunction", event)
	if denied := smithy.APIError(nil); errors.As(err, &denied) && strings.HasPrefix(denied.ErrorCode(), "AccessDenied") {
		t.mayExist = false
		return false, fmt.Errorf("%w\nGrant yourself lambda:InvokeFunction on the functions of the stack, or skip this step with SMOKE=0", err)
	}
	if err != nil {
		return false, err
	}
	// 200: the SDK has repeated the call after an error, and the bastion existed already.
	if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusOK {
		var problem api.Problem
		if json.Unmarshal([]byte(response.Body), &problem) == nil && untried[problem.Code] {
			t.printf("NOT TRIED, because the service refuses a bastion now: %s (%s)", problem.Detail, problem.Code)
			return false, nil
		}
		t.mayExist = response.StatusCode >= http.StatusInternalServerError
		return false, fmt.Errorf("POST /bastions returned %d: %s", response.StatusCode, response.Body)
	}
	if err := json.Unmarshal([]byte(response.Body), &t.bastion); err != nil {
		return false, fmt.Errorf("read the document of the bastion: %w", err)
	}
	t.printf("requested %s, until %s: %s", t.bastion.ID, t.bastion.Deadline.UTC().Format(time.TimeOnly+" MST"), seconds(t.began))
	return true, ctx.Err()
}

// sendUninterrupted invokes a function, and waits for its response also if ctx ends: the
// function continues in any case, and the bastion's ID is in the response.
func (t *trial) sendUninterrupted(ctx context.Context, function string, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	type reply struct {
		response events.APIGatewayV2HTTPResponse
		err      error
	}
	replies := make(chan reply, 1)
	go func() {
		response, err := t.client.send(context.WithoutCancel(ctx), function, event)
		replies <- reply{response, err}
	}()
	select {
	case r := <-replies:
		return r.response, r.err
	case <-ctx.Done():
		t.printf("interrupted; waiting for the response, at most %s, to delete the bastion", requestLimit)
		r := <-replies
		return r.response, r.err
	}
}

// untried are the codes of refusals that are no fault of the deployment.
var untried = map[bastion.Code]bool{"draining": true, bastion.CodeQuotaOwner: true, bastion.CodeQuotaTotal: true}

// describe reads the bastion's document.
func (t *trial) describe(ctx context.Context) error {
	body, err := t.client.call(ctx, "DescribeFunction", http.MethodGet, "/bastions/"+t.bastion.ID, http.StatusOK)
	if err != nil {
		return err
	}
	var now api.Bastion
	if err := json.Unmarshal(body, &now); err != nil {
		return fmt.Errorf("read the document of %s: %w", t.bastion.ID, err)
	}
	t.bastion = now
	return nil
}

// waitUntilReady prints each stage of the start.
func (t *trial) waitUntilReady(ctx context.Context) error {
	shown := t.newStatus(t.began)
	for {
		if err := t.describe(ctx); err != nil {
			return err
		}
		switch b := t.bastion; {
		case b.State == bastion.Ready:
			t.printf("ready at %s: %s", t.address(), seconds(t.began))
			return nil
		case b.State == bastion.Failed && b.Failure != nil:
			return fmt.Errorf("the bastion did not start, %s: %s\nOPERATIONS.md has a table of these codes, under \"When a start fails\"", b.Failure.Code, b.Failure.Message)
		case b.State != bastion.Starting:
			return fmt.Errorf("the bastion is %s before it was ready: %s\nThe latest stage was %s", b.State, endOf(b), shown.text)
		case time.Since(t.began) > readyLimit:
			return fmt.Errorf("the bastion is still starting after %s, its deadline has passed, and nothing has closed it. The latest stage is %s\nLook at the logs of the reaper and of the observer", readyLimit, shown.text)
		}
		text := t.bastion.Stage + ": " + api.StageText(t.bastion.Stage)
		if f := t.bastion.Failure; f != nil {
			text += fmt.Sprintf(" (AWS refused the latest step, %s: %s)", f.Code, f.Message)
		}
		shown.show(text)
		if err := bastion.Sleep(ctx, readyPause); err != nil {
			return err
		}
	}
}

func endOf(b api.Bastion) string {
	if b.Ended == nil {
		return "it has no reason"
	}
	return api.EndSentence(b.Ended.Reason)
}

// address returns the address of the SSH server.
func (t *trial) address() string {
	host, err := netip.ParseAddr(t.bastion.Host)
	if err != nil {
		return t.bastion.Host
	}
	return netip.AddrPortFrom(host, uint16(t.bastion.Port)).String()
}

// status prints a state when it changes, and from time to time while it does not.
type status struct {
	t         *trial
	began, at time.Time
	text      string
}

func (t *trial) newStatus(began time.Time) *status { return &status{t: t, began: began} }

func (s *status) show(text string) {
	if text == s.text && time.Since(s.at) < stillPause {
		return
	}
	s.t.printf("  after %s, %s", seconds(s.began), text)
	s.text, s.at = text, time.Now()
}

// close deletes the bastion, and waits until its task has stopped and its group admits no
// address. The group itself can be deleted only when ECS has deleted the task's network
// interface.
func (t *trial) close(ctx context.Context) error {
	began := time.Now()
	if err := t.client.delete(ctx, t.bastion.ID); err != nil {
		return err
	}
	t.printf("deleted: %s", seconds(began))
	began = time.Now()
	for shown := t.newStatus(began); ; {
		if err := t.describe(ctx); err != nil {
			return err
		}
		if t.bastion.State == bastion.Closed {
			t.printf("nothing is left of it in AWS: %s", seconds(began))
			return nil
		}
		left, err := t.left(ctx)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			t.printf("its task has stopped, and its security group admits no address: %s", seconds(began))
			t.printf("The reaper deletes the security group when AWS has deleted the task's network interface, within 15 minutes.")
			return nil
		}
		text := strings.Join(left, "; ")
		if t.bastion.IsDelayed() {
			text += "; AWS has not carried out the latest step"
		}
		if time.Since(began) > closedLimit {
			return fmt.Errorf("the bastion was deleted %s ago, and is not closed: %s\nLook at the log of the reaper, and in OPERATIONS.md under \"What a failing bastion shows\"", closedLimit, text)
		}
		shown.show(text)
		if err := bastion.Sleep(ctx, closedPause); err != nil {
			return err
		}
	}
}

// cleanUp deletes the bastion after a failure, or after ctx has ended. If the response to the
// request was lost, it finds the bastion by its name.
func (t *trial) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpLimit)
	defer cancel()
	t.printf("deleting %s (a second Ctrl-C leaves it; it closes by itself %s after the request)", t.name, bastion.FormatTTL(t.ttl))
	ids := []string{t.bastion.ID}
	if t.bastion.ID == "" {
		listed, err := t.client.list(ctx)
		if err != nil {
			return t.notDeleted(err)
		}
		ids = nil
		for _, b := range listed {
			if b.Name == t.name {
				ids = append(ids, b.ID)
			}
		}
		if len(ids) == 0 {
			t.printf("the service has no bastion %s, so nothing was deleted", t.name)
		}
	}
	for _, id := range ids {
		if err := t.client.delete(ctx, id); err != nil {
			return t.notDeleted(err)
		}
		t.printf("deleted %s; the reaper removes the rest", id)
	}
	return nil
}

func (t *trial) notDeleted(cause error) error {
	return fmt.Errorf("the bastion %s (%s) may still exist, because it could not be deleted: %w\nIt closes by itself %s after the request", t.name, cmp.Or(t.bastion.ID, "its ID is not known"), cause, bastion.FormatTTL(t.ttl))
}
