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
	buckets map[string]*rate.Limiter
	yields  bool
}

// NewPacer makes a pacer with all of the rates.
func NewPacer() *Pacer {
	p := &Pacer{buckets: map[string]*rate.Limiter{}}
	p.Take(1)
	return p
}

// Take sets the share of the rates, which is more than 0. It is to be called
// before the first call.
func (p *Pacer) Take(share float64) {
	for _, rates := range Rates {
		for _, r := range rates {
			p.buckets[r.Bucket] = rate.NewLimiter(rate.Limit(share*r.PerSecond), max(1, int(share*r.Burst)))
		}
	}
}

// Yield makes calls that AWS refuses end at once with bastion.ErrNoTime, instead of
// being repeated: for a function of which there can be hundreds of processes, whose
// work somebody else does in time.
func (p *Pacer) Yield() { p.yields = true }

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
		if throttles.IsErrorThrottle(err).Bool() {
			p.refused(action)
			if p.yields {
				err = fmt.Errorf("%s was throttled: %w", action, bastion.ErrNoTime)
			}
		}
		return out, metadata, err
	}), (*retry.Attempt)(nil).ID(), middleware.After)
}

var throttles = retry.IsErrorThrottles(retry.DefaultThrottles)
