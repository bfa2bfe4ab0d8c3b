package awscloud

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
)

// How patient a client of EC2 or ECS is. The caller's context ends all of it
// sooner.
const (
	computeTimeout  = 10 * time.Second // of one try; RunTask may take seconds
	computeTries    = 10
	computeMaxPause = 2 * time.Second
)

// NewEC2 makes a client that repeats what was throttled or lost until the context
// ends or it was in vain ten times, and keeps to the pacer's rates. Options are
// applied last.
func NewEC2(cfg aws.Config, pace *Pacer, options ...func(*ec2.Options)) *ec2.Client {
	ours := func(o *ec2.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pace.addTo)
	}
	return ec2.NewFromConfig(cfg, append([]func(*ec2.Options){ours}, options...)...)
}

// NewECS makes a client of ECS, patient as that of EC2. RunTask may be repeated
// because it carries a clientToken.
func NewECS(cfg aws.Config, pace *Pacer, options ...func(*ecs.Options)) *ecs.Client {
	ours := func(o *ecs.Options) {
		o.HTTPClient, o.Retryer, o.RetryMaxAttempts = newComputeHTTP(), newComputeRetryer(), 0
		o.APIOptions = append(o.APIOptions, pace.addTo)
	}
	return ecs.NewFromConfig(cfg, append([]func(*ecs.Options){ours}, options...)...)
}

func newComputeHTTP() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTimeout(computeTimeout)
}

// newComputeRetryer repeats, with pauses that grow. The SDK's adaptive mode is not
// for us: it slows down all calls of a client when one of them is throttled, where
// each has a bucket of its own, which the pacer knows. Nor is its budget of
// repeats, which a hundred of them use up.
func newComputeRetryer() aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = computeTries, computeMaxPause, ratelimit.None
	})
}
