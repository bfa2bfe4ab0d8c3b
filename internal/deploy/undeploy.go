package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Undeploy takes the service away: no new bastions, the running ones closed with
// the reaper still at work, then the stacks. It is safe to repeat.
func (d *Deployment) Undeploy(ctx context.Context) error {
	if err := d.Settings.ValidateStack(); err != nil {
		return err
	}
	return play(ctx, d.Progress.W, d.Settings.DryRun, "make undeploy", d.undeploySteps())
}

func (d *Deployment) undeploySteps() []step {
	s := d.Settings
	last := step{"say what was kept", []string{"list tables, the repository and log groups that deleting left"}, d.sayKept}
	if s.Purge {
		last = step{"delete what was kept", []string{"delete the tables and the repository that deleting left, and list the log groups"}, d.purge}
	}
	return []step{
		{"drain " + s.Stack + ", so that no bastion is made any more", []string{
			"update the stack: Draining=true, and you an admin of it; all else stays",
		}, d.drain},
		{"close all bastions and wait until they are gone", []string{
			"invoke the functions behind GET /bastions and DELETE /bastions/{id}, until nothing is listed; the reaper goes on meanwhile",
		}, d.closeAll},
		{"look for what still refers to the member group", []string{
			"list rules of other security groups and network interfaces, and stop if there are any",
		}, d.checkForeign},
		{"delete the stack " + s.Stack, []string{"delete it, and wait"}, func(ctx context.Context) error {
			return deleteStack(ctx, d.Cloud.Stacks, d.Progress, s.Stack)
		}},
		{"delete the stack " + s.Registry(), []string{"delete it, and wait"}, func(ctx context.Context) error {
			return deleteStack(ctx, d.Cloud.Stacks, d.Progress, s.Registry())
		}},
		last,
	}
}

// whole reports whether the stack can still serve. One that was never whole, or
// is half deleted, has no bastions: deleting begins when none are left.
func whole(s stack) bool {
	switch s.status {
	case types.StackStatusCreateComplete, types.StackStatusUpdateComplete, types.StackStatusUpdateRollbackComplete,
		types.StackStatusUpdateRollbackFailed, types.StackStatusUpdateFailed:
		return true
	}
	return false
}

// target is the service's stack, once nothing changes it.
func (d *Deployment) target(ctx context.Context) (stack, bool, error) {
	if d.Cloud.Region == "" {
		return stack{}, false, errors.New("there is no AWS region: say REGION=eu-west-1, or set one with aws configure")
	}
	s, err := settled(ctx, d.Cloud.Stacks, d.Progress, d.Settings.Stack)
	if err != nil {
		return s, false, err
	}
	if !whole(s) {
		state := "is not there"
		if s.exists() {
			state = "is " + string(s.status)
		}
		fmt.Fprintf(d.Progress.W, "the stack %s %s: nothing to do\n", d.Settings.Stack, state)
	}
	return s, whole(s), nil
}

func (d *Deployment) drain(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	me, err := d.operator(ctx, s)
	if err != nil {
		return err
	}
	admins := withAdmin(s.parameters["Admins"], me.admin)
	if s.parameters["Draining"] == "true" && s.parameters["Admins"] == admins {
		fmt.Fprintln(d.Progress.W, "it is draining already")
		return nil
	}
	_, err = d.Cloud.Stacks.UpdateStack(ctx, &cloudformation.UpdateStackInput{
		StackName: &s.id, UsePreviousTemplate: aws.Bool(true), Parameters: changed(s.parameters, "true", admins),
		// The template is a SAM one, which is expanded anew.
		Capabilities: []types.Capability{types.CapabilityCapabilityIam, types.CapabilityCapabilityAutoExpand},
	})
	if err != nil {
		return fmt.Errorf("update the stack %s: %w", d.Settings.Stack, err)
	}
	if s, err = settled(ctx, d.Cloud.Stacks, d.Progress, s.id); err != nil {
		return err
	}
	if s.status != types.StackStatusUpdateComplete {
		return fmt.Errorf("update the stack %s: %s: %s", d.Settings.Stack, s.status, reasons(ctx, d.Cloud.Stacks, s.id))
	}
	fmt.Fprintln(d.Progress.W, "new bastions are refused (503 draining); make deploy would take that back")
	return nil
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

// operator is whom the functions take us for.
type operator struct {
	admin                string // as in the parameter Admins
	account, userID, arn string
	issuer, subject      string // where callers have tokens
}

// operator asks who we are. With tokens there is no such identity, and a subject
// that belongs to this stack alone stands for it.
func (d *Deployment) operator(ctx context.Context, s stack) (operator, error) {
	if issuer := s.parameters["JwtIssuer"]; issuer != "" {
		subject := "undeploy:" + s.id[strings.LastIndex(s.id, "/")+1:]
		return operator{admin: "jwt:" + issuer + "#" + subject, issuer: issuer, subject: subject}, nil
	}
	who, err := d.Cloud.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return operator{}, fmt.Errorf("AWS does not know you: %w; sign in, such as with aws sso login, or set AWS_PROFILE", err)
	}
	id, _, _ := strings.Cut(aws.ToString(who.UserId), ":")
	if !strings.HasPrefix(id, "AIDA") && !strings.HasPrefix(id, "AROA") {
		return operator{}, fmt.Errorf("you are %s, and the service takes orders from users and roles only: call as an IAM user or with a role", aws.ToString(who.Arn))
	}
	return operator{
		admin:   "iam:" + aws.ToString(who.Account) + ":" + id,
		account: aws.ToString(who.Account), userID: aws.ToString(who.UserId), arn: aws.ToString(who.Arn),
	}, nil
}
