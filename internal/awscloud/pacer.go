package awscloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Pacer keeps a process's calls of EC2 and ECS within a share of [Rates]. Each
// attempt of a call waits for its turn. A pacer counts the calls of its own process
// only. If AWS throttles a call because of other processes, the pacer empties its
// buckets for that call, and the SDK retries the call.
type Pacer struct {
	buckets           map[string]*rate.Limiter // by Rate.Bucket
	failWhenThrottled bool
}

// NewPacer returns a pacer with the full rates.
func NewPacer() *Pacer {
	p := &Pacer{buckets: map[string]*rate.Limiter{}}
	p.SetShare(1)
	return p
}

// SetShare sets the share of the rates, which must be more than 0. It must be called
// before the first call of AWS.
func (p *Pacer) SetShare(share float64) {
	for _, rates := range Rates {
		for _, r := range rates {
			p.buckets[r.Bucket] = rate.NewLimiter(rate.Limit(share*r.PerSecond), max(1, int(share*r.Burst)))
		}
	}
}

// FailWhenThrottled turns off retries of throttled calls: such a call returns
// bastion.ErrNoTime at once. Use it in a function that can have hundreds of processes,
// if another function can do the work later.
func (p *Pacer) FailWhenThrottled() { p.failWhenThrottled = true }

// wait waits for the action's turn. If the turn would come after the deadline of ctx,
// it returns bastion.ErrNoTime at once.
func (p *Pacer) wait(ctx context.Context, action string) error {
	for _, r := range Rates[action] {
		err := p.buckets[r.Bucket].Wait(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("wait to call %s: %w", action, ctx.Err())
		case err != nil:
			return fmt.Errorf("wait to call %s: %w", action, bastion.ErrNoTime)
		}
	}
	return nil
}

// empty empties the action's buckets, so that the next call waits.
func (p *Pacer) empty(action string) {
	for _, r := range Rates[action] {
		bucket, now := p.buckets[r.Bucket], time.Now()
		// TokensAt is negative while calls wait. Taking a negative number would add tokens.
		bucket.AllowN(now, max(0, int(bucket.TokensAt(now))))
	}
}

// waiting measures for how long a call waited: for its turns, and after throttled
// attempts.
type waiting struct {
	began time.Time
	since time.Time // zero while the call does not wait
	total time.Duration
}

type waitingKey struct{}

// together returns a context for several calls that share one deadline. mostlyWaited adds
// up the waiting times of these calls. The calls must not run at the same time.
func together(ctx context.Context) context.Context {
	if ctx.Value(waitingKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, waitingKey{}, &waiting{began: time.Now()})
}

func (w *waiting) begin() {
	if w.since.IsZero() {
		w.since = time.Now()
	}
}

func (w *waiting) end() {
	if !w.since.IsZero() {
		w.total += time.Since(w.since)
	}
	w.since = time.Time{}
}

// addTo is an APIOption of an SDK client. It inserts the pacer after the retry
// middleware, so that each attempt waits. Before the retry middleware it inserts
// mostlyWaited.
func (p *Pacer) addTo(stack *middleware.Stack) error {
	retrying := (*retry.Attempt)(nil).ID()
	if err := stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("MostlyWaited", mostlyWaited), retrying, middleware.Before); err != nil {
		return err
	}
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("Pace", p.pace), retrying, middleware.After)
}

// mostlyWaited returns bastion.ErrNoTime for a call that ended at its deadline if it had
// waited for most of its time. Any other call that ends at its deadline got no response in
// time, which is a failure.
func mostlyWaited(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	ctx = together(ctx)
	w := ctx.Value(waitingKey{}).(*waiting)
	out, metadata, err := next.HandleFinalize(ctx, in)
	w.end()
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && 2*w.total > time.Since(w.began) {
		err = fmt.Errorf("%s waited for its turn until the deadline: %w", awsmiddleware.GetOperationName(ctx), bastion.ErrNoTime)
	}
	return out, metadata, err
}

func (p *Pacer) pace(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	out middleware.FinalizeOutput, metadata middleware.Metadata, err error,
) {
	action := awsmiddleware.GetOperationName(ctx)
	w := ctx.Value(waitingKey{}).(*waiting)
	w.begin()
	err = p.wait(ctx, action)
	w.end()
	if err != nil {
		return out, metadata, err
	}
	out, metadata, err = next.HandleFinalize(ctx, in)
	if throttling.IsErrorThrottle(err).Bool() {
		p.empty(action)
		w.begin()
		if p.failWhenThrottled {
			err = fmt.Errorf("%s was throttled: %w", action, bastion.ErrNoTime)
		}
	}
	return out, metadata, err
}

// throttling recognises the errors with which AWS refuses a call because of its rate.
var throttling = retry.IsErrorThrottles(retry.DefaultThrottles)

// Rate is one of AWS's token buckets for an account in one region. A full bucket
// accepts Burst calls at once. It gains PerSecond tokens each second.
type Rate struct {
	Bucket           string // the bucket's name; calls with the same name in Rates share one bucket
	Burst, PerSecond float64
}

// Rates are the published rates of the calls of Groups and Tasks. A call takes one
// token from each of its buckets.
//
// EC2 (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html,
// "Request token bucket sizes and refill rates") returns RequestLimitExceeded beyond
// these values of Burst and PerSecond:
//   - non-mutating calls: 100 and 20, if the call has a filter or a page size. All
//     calls of this package have one. Without it, DescribeSecurityGroups and
//     DescribeNetworkInterfaces would have 50 and 10.
//   - mutating calls: 50 and 5. The resource-intensive calls, which are
//     AuthorizeSecurityGroupIngress and RevokeSecurityGroupIngress, have the same.
//   - CreateTags: 100 and 10. CreateSecurityGroup sets tags, so it also counts as a
//     CreateTags. CreateSecurityGroup has the lower rate, so CreateTags needs no row here.
//
// ECS (https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html)
// returns ThrottlingException beyond these values:
//   - "cluster resource modify actions": 100 and 40 for RunTask and StopTask together.
//   - "cluster resource read actions": 100 and 20 for ListTasks and DescribeTasks
//     together.
//   - on Fargate, RunTask also has a bucket of 100 and 20
//     (https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html).
var Rates = map[string][]Rate{
	"CreateSecurityGroup":           {{"CreateSecurityGroup", 50, 5}},
	"AuthorizeSecurityGroupIngress": {{"AuthorizeSecurityGroupIngress", 50, 5}},
	"RevokeSecurityGroupIngress":    {{"RevokeSecurityGroupIngress", 50, 5}},
	"RevokeSecurityGroupEgress":     {{"RevokeSecurityGroupEgress", 50, 5}},
	"DeleteSecurityGroup":           {{"DeleteSecurityGroup", 50, 5}},
	"DescribeSecurityGroups":        {{"DescribeSecurityGroups", 100, 20}},
	"DescribeSecurityGroupRules":    {{"DescribeSecurityGroupRules", 100, 20}},
	"DescribeNetworkInterfaces":     {{"DescribeNetworkInterfaces", 100, 20}},

	"RunTask":       {clusterModify, {"Fargate launches", 100, 20}},
	"StopTask":      {clusterModify},
	"ListTasks":     {clusterRead},
	"DescribeTasks": {clusterRead},
}

var (
	clusterModify = Rate{"cluster resource modify", 100, 40}
	clusterRead   = Rate{"cluster resource read", 100, 20}
)
