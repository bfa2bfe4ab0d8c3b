package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

const (
	// invokeTimeout bounds a call whose answer is waited for. Functions that answer
	// such calls have 28 seconds.
	invokeTimeout = 30 * time.Second
	// handOverTimeout bounds a call that only leaves an event. Lambda takes one in
	// tens of milliseconds, and a person may be waiting.
	handOverTimeout = 2 * time.Second

	lambdaTries    = 3
	lambdaMaxPause = 500 * time.Millisecond
)

// ErrOutcomeUnknown: nobody knows whether the function was called, or what came of
// it.
var ErrOutcomeUnknown = errors.New("what came of it is not known")

// FunctionFailed is what is answered of a function that was called and ended
// without an answer of its own. What it had done by then is done.
type FunctionError struct {
	Type    string // the type of its error, for the log
	Message string
}

func (e *FunctionError) Error() string { return "the function failed: " + e.Type + ": " + e.Message }

// LambdaAPI is what [Functions] calls.
type LambdaAPI interface {
	Invoke(context.Context, *lambda.InvokeInput, ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// NewLambda makes a client that repeats only what certainly was not begun:
// calls that were throttled, or that found no connection. Options are applied last.
//
// Each call has a connection of its own. A function is frozen between two events,
// and what was left open dies meanwhile without a sign: the next call would be lost
// on it, with an outcome that nobody knows.
func NewLambda(cfg aws.Config, options ...func(*lambda.Options)) *lambda.Client {
	ours := func(o *lambda.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
		o.RetryMaxAttempts = 0 // the retryer's own
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = lambdaTries, lambdaMaxPause
			o.Retryables = []retry.IsErrorRetryable{retry.IsErrorRetryableFunc(notBegun)}
		})
	}
	return lambda.NewFromConfig(cfg, append([]func(*lambda.Options){ours}, options...)...)
}

// notBegun says that a call is worth repeating, and that nothing can have come of
// it.
func notBegun(err error) aws.Ternary {
	return aws.BoolTernary(statusOf(err) == http.StatusTooManyRequests || unreached(err))
}

// statusOf is the status that Lambda answered; 0 if it did not.
func statusOf(err error) int {
	var answered *awshttp.ResponseError
	if errors.As(err, &answered) {
		return answered.HTTPStatusCode()
	}
	return 0
}

// unreached reports whether there was no connection to send anything on.
func unreached(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

// outcome marks the errors after which nobody knows what came of a call. After all
// others nothing did.
func outcome(err error) error {
	status := statusOf(err)
	if unreached(err) || status >= 400 && status < 500 {
		return opaque(err)
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, opaque(err))
}

// Functions calls functions of Lambda's, by name or ARN, with or without an alias.
type Functions struct{ api LambdaAPI }

// NewFunctions makes one from a client.
func NewFunctions(api LambdaAPI) *Functions { return &Functions{api} }

// Invoke calls a function and waits for what it answers, for at most 30 seconds.
// *FunctionFailed and ErrOutcomeUnknown tell what may have come of it; after any
// other error the function was not called.
func (f *Functions) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, invokeTimeout)
	defer cancel()
	out, err := f.api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &function, InvocationType: types.InvocationTypeRequestResponse, Payload: payload,
	})
	if err != nil {
		return nil, fmt.Errorf("call function %s: %w", function, outcome(err))
	}
	if out.FunctionError != nil {
		return nil, fmt.Errorf("call function %s: %w", function, failureOf(out.Payload))
	}
	return out.Payload, nil
}

// failureOf reads what Lambda answers for a function that failed.
func failureOf(payload []byte) *FunctionError {
	var said struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	if err := json.Unmarshal(payload, &said); err != nil {
		said.Type, said.Message = "unreadable", string(payload[:min(len(payload), 200)])
	}
	return &FunctionError{Type: said.Type, Message: said.Message}
}

// InvokeAsync leaves an event for a function and does not wait for what becomes of it:
// Lambda keeps it, and calls the function at least once. It takes two seconds at
// most. ErrOutcomeUnknown: it may have been left; after any other error it was not.
func (f *Functions) InvokeAsync(ctx context.Context, function string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	_, err := f.api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &function, InvocationType: types.InvocationTypeEvent, Payload: payload,
	})
	if err != nil {
		return fmt.Errorf("hand over to function %s: %w", function, outcome(err))
	}
	return nil
}
