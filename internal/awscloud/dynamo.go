package awscloud

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// How patient a client of DynamoDB is. The caller's context ends all of it
// sooner.
const (
	dynamoTimeout  = 5 * time.Second // of one try; DynamoDB answers in milliseconds
	dynamoTries    = 30
	dynamoMaxPause = time.Second
)

// NewDynamoDB makes a client that repeats what was throttled, lost or met a
// transaction in progress, with jittered pauses, until it is done, the context
// ends, or it was in vain thirty times. Options are applied last.
func NewDynamoDB(cfg aws.Config, options ...func(*dynamodb.Options)) *dynamodb.Client {
	ours := func(o *dynamodb.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(dynamoTimeout)
		o.RetryMaxAttempts = 0 // the retryer's own
		o.Retryer = retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
				o.MaxAttempts = dynamoTries
				o.MaxBackoff = dynamoMaxPause
				o.BaseDelay = 25 * time.Millisecond
				o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(passing))
				// Conflicts are no sign of an overload: they must not use up a
				// budget that they share with everything else.
				o.RateLimiter = ratelimit.None
			})
		})
	}
	return dynamodb.NewFromConfig(cfg, append([]func(*dynamodb.Options){ours}, options...)...)
}

// passing says whether a refusal is about other requests in progress, so that
// the same request may succeed a moment later.
func passing(err error) aws.Ternary {
	var conflict *types.TransactionConflictException
	if errors.As(err, &conflict) {
		return aws.TrueTernary
	}
	for _, reason := range cancellation(err) {
		switch aws.ToString(reason.Code) {
		case "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
			// Even beside a condition that failed: that one was judged while
			// another transaction was half-way.
			return aws.TrueTernary
		}
	}
	return aws.UnknownTernary
}

// cancellation is why a transaction was cancelled: one reason for each of its
// actions, in order. It is empty for any other error.
func cancellation(err error) []types.CancellationReason {
	var cancelled *types.TransactionCanceledException
	if errors.As(err, &cancelled) {
		return cancelled.CancellationReasons
	}
	return nil
}

// reasonNone and reasonCondition are codes of a cancellation.
const (
	reasonNone      = "None"
	reasonCondition = "ConditionalCheckFailed"
)

// conditionFailed reports whether the write was refused by its own condition, and
// the item as it was then, if the write asked for it and there was one.
func conditionFailed(err error) (item map[string]types.AttributeValue, failed bool) {
	var refused *types.ConditionalCheckFailedException
	if errors.As(err, &refused) {
		return refused.Item, true
	}
	return nil, false
}

// foreign takes the driver's types out of an error that no caller can act on. That
// there is no time stays recognisable: a call that is throttled, after all repeats,
// did not have its turn.
func opaque(err error) error {
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, bastion.ErrNoTime} {
		if errors.Is(err, known) {
			return fmt.Errorf("%v: %w", err, known)
		}
	}
	if throttles.IsErrorThrottle(err).Bool() {
		return fmt.Errorf("%v: %w", err, bastion.ErrNoTime)
	}
	return errors.New(err.Error())
}

// newNonce makes the name of one write: it tells a write that took effect, and
// whose answer was lost, from another's. It fits a ClientRequestToken.
func newNonce(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("name the write: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// item and values are how requests are written down.
type (
	item   = map[string]types.AttributeValue
	values = map[string]types.AttributeValue
)

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}

// toText reads a string attribute; one that is missing is empty.
func toText(v types.AttributeValue) string {
	if s, ok := v.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}
