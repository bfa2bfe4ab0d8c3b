package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// Undeploy removes the service: it refuses all POST requests, closes all bastions while the
// reaper still runs, and then deletes the stacks. It is safe to repeat.
func (d *Deployment) Undeploy(ctx context.Context) error {
	if err := d.Settings.ValidateStack(); err != nil {
		return err
	}
	return run(ctx, d.Progress.W, d.Settings.DryRun, "make undeploy", d.undeploySteps())
}

func (d *Deployment) undeploySteps() []step {
	s := d.Settings
	last := step{"list what is kept", []string{"list the tables, the repository, the bucket and the log groups that the stacks leave"}, d.listKept}
	if s.Purge {
		last = step{"delete what is kept", []string{"delete the tables, the repository and the bucket that the stacks leave, and list the log groups"}, d.purge}
	}
	return []step{
		{"refuse POST requests in " + s.Stack, []string{
			"update the stack with Draining=true and with you as an admin, and no other change",
		}, d.drain},
		{"close all bastions and wait until they are gone", []string{
			"invoke the functions of GET /bastions and DELETE /bastions/{id} until the list is empty, while the reaper runs",
		}, d.closeAll},
		{"check that nothing else refers to the member group", []string{
			"list rules of other security groups and network interfaces, and stop if there are any",
		}, d.checkReferences},
		{"delete the stack " + s.Stack, []string{"delete it, and wait"}, d.deleteService},
		{"delete the stack " + s.Registry(), []string{"delete it, and wait"}, func(ctx context.Context) error {
			return deleteStack(ctx, d.Cloud.Stacks, d.Progress, s.Registry())
		}},
		last,
	}
}

// serving reports whether the stack's service can run. A stack whose creation failed, or
// whose deletion started, has no bastions: deleting starts when none are left.
func serving(s stack) bool {
	switch s.status {
	case types.StackStatusCreateComplete, types.StackStatusUpdateComplete, types.StackStatusUpdateRollbackComplete,
		types.StackStatusUpdateRollbackFailed, types.StackStatusUpdateFailed:
		return true
	}
	return false
}

// target returns the service's stack once it is not changing, and whether it is serving.
func (d *Deployment) target(ctx context.Context) (stack, bool, error) {
	if d.Cloud.Region == "" {
		return stack{}, false, errors.New("no AWS region is configured: set REGION=eu-west-1, or configure one with aws configure")
	}
	s, err := settled(ctx, d.Cloud.Stacks, d.Progress, d.Settings.Stack)
	if err != nil {
		return s, false, err
	}
	if !serving(s) {
		state := "does not exist"
		if s.exists() {
			state = "is " + string(s.status)
		}
		fmt.Fprintf(d.Progress.W, "the stack %s %s: nothing to do\n", d.Settings.Stack, state)
	}
	return s, serving(s), nil
}

func (d *Deployment) drain(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	me, err := d.identity(ctx, s)
	if err != nil {
		return err
	}
	admins := withAdmin(s.parameters["Admins"], me.admin)
	if s.parameters["Draining"] == "true" && s.parameters["Admins"] == admins {
		fmt.Fprintln(d.Progress.W, "POST requests are refused already")
		return nil
	}
	f, err := follow(ctx, d.Cloud.Stacks, d.Progress.W, d.Settings.Stack, s.id)
	if err != nil {
		return err
	}
	_, err = d.Cloud.Stacks.UpdateStack(ctx, &cloudformation.UpdateStackInput{
		StackName: &s.id, UsePreviousTemplate: aws.Bool(true), Parameters: changed(s.parameters, "true", admins),
		// The update transforms the SAM template again.
		Capabilities: []types.Capability{types.CapabilityCapabilityIam, types.CapabilityCapabilityAutoExpand},
	})
	if err != nil {
		return fmt.Errorf("update the stack %s: %w", d.Settings.Stack, err)
	}
	if s, err = f.wait(ctx); err != nil {
		return err
	}
	if s.status != types.StackStatusUpdateComplete {
		return fmt.Errorf("update the stack %s: %w", d.Settings.Stack, f.failure(s))
	}
	fmt.Fprintln(d.Progress.W, "POST requests, which create or renew bastions, are refused (503 draining); make deploy reverts this")
	return nil
}

// deleteService deletes the service's stack, unless somebody has deployed it since draining
// started: it may have bastions again, which nothing would end without the reaper.
func (d *Deployment) deleteService(ctx context.Context) error {
	s, err := settled(ctx, d.Cloud.Stacks, d.Progress, d.Settings.Stack)
	if err != nil {
		return err
	}
	if serving(s) && s.parameters["Draining"] != "true" {
		return fmt.Errorf("the stack %s accepts POST requests again, because a deployment has changed it in the meantime, so it was not deleted", d.Settings.Stack)
	}
	return deleteStack(ctx, d.Cloud.Stacks, d.Progress, d.Settings.Stack)
}

func withAdmin(admins, me string) string {
	for one := range strings.SplitSeq(admins, ",") {
		if one == me {
			return admins
		}
	}
	return strings.TrimPrefix(admins+","+me, ",")
}

func changed(parameters map[string]string, draining, admins string) (all []types.Parameter) {
	set := map[string]string{"Draining": draining, "Admins": admins}
	for name := range parameters {
		p := types.Parameter{ParameterKey: aws.String(name), UsePreviousValue: aws.Bool(true)}
		if value, ok := set[name]; ok {
			p = types.Parameter{ParameterKey: aws.String(name), ParameterValue: aws.String(value)}
		}
		all = append(all, p)
	}
	return all
}

// identity looks up the operator's identity. If callers have tokens, it is a subject that
// belongs to this stack alone.
func (d *Deployment) identity(ctx context.Context, s stack) (identity, error) {
	if issuer := s.parameters["JwtIssuer"]; issuer != "" {
		subject := "undeploy:" + s.id[strings.LastIndex(s.id, "/")+1:]
		return identity{admin: "jwt:" + issuer + "#" + subject, issuer: issuer, subject: subject}, nil
	}
	caller, err := d.Cloud.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return identity{}, fmt.Errorf("AWS does not accept your credentials: %w; sign in, for example with aws sso login, or set AWS_PROFILE", err)
	}
	id, _, _ := strings.Cut(aws.ToString(caller.UserId), ":")
	if !strings.HasPrefix(id, "AIDA") && !strings.HasPrefix(id, "AROA") {
		return identity{}, fmt.Errorf("you are %s, which cannot be an admin of the service: use an IAM user or role", aws.ToString(caller.Arn))
	}
	return identity{
		admin:   "iam:" + aws.ToString(caller.Account) + ":" + id,
		account: aws.ToString(caller.Account), userID: aws.ToString(caller.UserId), arn: aws.ToString(caller.Arn),
	}, nil
}

// A request that was running when draining started ends within the functions' time-out,
// and a list may be stale for a moment. So no bastion is left if the list was empty for
// quietTime.
const (
	closePause = 10 * time.Second
	quietTime  = 40 * time.Second
)

func (d *Deployment) closeAll(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	caller, err := d.identity(ctx, s)
	if err != nil {
		return err
	}
	c, err := d.newFunctionClient(ctx, s, caller)
	if err != nil {
		return err
	}
	closed := map[string]bool{}
	quiet := time.Duration(0)
	err = poll(ctx, d.Progress, "close all bastions", closePause, func(ctx context.Context) (bool, string, error) {
		left, err := c.list(ctx)
		if err != nil {
			return false, "", err
		}
		if len(left) == 0 {
			quiet += closePause
			return quiet > quietTime, "none left; waiting for late requests", nil
		}
		quiet = 0
		return false, waitingFor(left), c.close(ctx, left, closed)
	})
	if err == nil {
		fmt.Fprintf(d.Progress.W, "%d closed, none left\n", len(closed))
	}
	return err
}

// waitingFor describes the progress. A bastion is listed until its task's network
// interface is deleted, up to fifteen minutes after the task. If AWS does not carry out
// the next step, its stage is delayed.
func waitingFor(left []api.Bastion) string {
	first := left[0]
	state := string(first.State)
	if first.Stage != "" {
		state += " (" + first.Stage + ")"
	}
	return fmt.Sprintf("%d left, for example %s of %s, %s", len(left), first.ID, first.Owner, state)
}
