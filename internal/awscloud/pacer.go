package awscloud

import (
	"context"
	"fmt"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Pacer keeps a process's calls of EC2 and ECS within a share of [Rates]: each
// try, repeats as well, waits for its turn. It knows of its own process only.
// When AWS refuses a call all the same, because others had their part, it takes
// its own buckets for empty, too, and the SDK repeats the call.
type Pacer struct {
	buckets           map[string]*rate.Limiter
	failWhenThrottled bool
}

// NewPacer makes a pacer with all of the rates.
func NewPacer() *Pacer {
	p := &Pacer{buckets: map[string]*rate.Limiter{}}
	p.SetShare(1)
	return p
}

// Take sets the share of the rates, which is more than 0. It is to be called
// before the first call.
func (p *Pacer) SetShare(share float64) {
	for _, rates := range Rates {
		for _, r := range rates {
			p.buckets[r.Bucket] = rate.NewLimiter(rate.Limit(share*r.PerSecond), max(1, int(share*r.Burst)))
		}
	}
}

// Yield makes calls that AWS refuses end at once with bastion.ErrNoTime, instead of
// being repeated: for a function of which there can be hundreds of processes, whose
// work somebody else does in time.
func (p *Pacer) FailWhenThrottled() { p.failWhenThrottled = true }

// wait waits for the action's turn, but not in vain: if that comes after the
// deadline of ctx, it answers bastion.ErrNoTime at once.
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

// refused empties the action's buckets.
func (p *Pacer) refused(action string) {
	for _, r := range Rates[action] {
		bucket, now := p.buckets[r.Bucket], time.Now()
		bucket.AllowN(now, int(bucket.TokensAt(now)))
	}
}

// addTo puts the pacer between a client's repeats and the network. It is an
// option of a client of the SDK.
func (p *Pacer) addTo(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("Pace", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
		action := awsmiddleware.GetOperationName(ctx)
		if err := p.wait(ctx, action); err != nil {
			return out, metadata, err
		}
		out, metadata, err = next.HandleFinalize(ctx, in)
		if throttling.IsErrorThrottle(err).Bool() {
			p.refused(action)
			if p.failWhenThrottled {
				err = fmt.Errorf("%s was throttled: %w", action, bastion.ErrNoTime)
			}
		}
		return out, metadata, err
	}), (*retry.Attempt)(nil).ID(), middleware.After)
}

var throttling = retry.IsErrorThrottles(retry.DefaultThrottles)

// Rate is how often AWS lets an account make a call in one region: Burst at once
// out of a full bucket, which fills again by PerSecond.
type Rate struct {
	Bucket           string // calls that share a bucket name it here; EC2 gives each call its own
	Burst, PerSecond float64
}

// Rates is what AWS publishes of the calls that Groups and Tasks make. A call
// takes one from each of its buckets.
//
// EC2: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
// ("Request token bucket sizes and refill rates"): non-mutating calls 100 and 20,
// if they have a filter or a page size, as all of ours (else 50 and 10 for
// DescribeSecurityGroups and DescribeNetworkInterfaces); mutating calls 50 and 5,
// and the same for the resource-intensive ones, which are
// AuthorizeSecurityGroupIngress and RevokeSecurityGroupIngress. CreateTags, which
// CreateSecurityGroup brings along, has 100 and 10. Over it: RequestLimitExceeded.
//
// ECS: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html
// ("cluster resource modify actions" 100 and 40 for StopTask and RunTask together,
// "cluster resource read actions" 100 and 20 for ListTasks and DescribeTasks
// together). On Fargate, RunTask has launches of 100 and 20 besides:
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html.
// Over it: ThrottlingException.
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
