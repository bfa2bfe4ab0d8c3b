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
	// invokeTimeout limits a synchronous call. The functions that are called
	// synchronously have a timeout of 28 seconds.
	invokeTimeout = 30 * time.Second
	// asyncTimeout limits an asynchronous call. Lambda accepts an event within tens
	// of milliseconds, and a person may be waiting.
	asyncTimeout = 2 * time.Second

	lambdaAttempts   = 3
	lambdaMaxBackoff = 500 * time.Millisecond
)

// ErrOutcomeUnknown means that the function may or may not have run.
var ErrOutcomeUnknown = errors.New("outcome unknown")

// FunctionError means that the function ran and failed. It may have had effects before
// it failed.
type FunctionError struct {
	Type    string // errorType in Lambda's response
	Message string // errorMessage in Lambda's response
}

func (e *FunctionError) Error() string { return "function failed: " + e.Type + ": " + e.Message }

// LambdaAPI has the calls that [Functions] makes.
type LambdaAPI interface {
	Invoke(context.Context, *lambda.InvokeInput, ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// NewLambda returns a client of Lambda that retries a call only if the called function
// certainly did not run: if the call was throttled or there was no connection. The
// options are applied last.
//
// Each call opens a new connection. Lambda freezes the calling function between two
// events, and a connection that stays open can break meanwhile. The next call on that
// connection would be lost, with an unknown outcome.
func NewLambda(cfg aws.Config, options ...func(*lambda.Options)) *lambda.Client {
	defaults := func(o *lambda.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
		o.RetryMaxAttempts = 0 // the retryer has its own limit
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = lambdaAttempts, lambdaMaxBackoff
			o.Retryables = []retry.IsErrorRetryable{retry.IsErrorRetryableFunc(didNotRun)}
		})
	}
	return lambda.NewFromConfig(cfg, append([]func(*lambda.Options){defaults}, options...)...)
}

// didNotRun reports whether the function certainly did not run, so that the call can
// be retried.
func didNotRun(err error) aws.Ternary {
	return aws.BoolTernary(statusOf(err) == http.StatusTooManyRequests || noConnection(err))
}

// statusOf returns the status of Lambda's response; 0 if there was no response.
func statusOf(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// noConnection reports whether the client could not connect, so that the call was not
// sent.
func noConnection(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

// callError returns the error of a call without the SDK's types. It adds
// ErrOutcomeUnknown if the function may have run.
func callError(err error) error {
	status := statusOf(err)
	if noConnection(err) || status >= 400 && status < 500 {
		return opaque(err)
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, opaque(err))
}

// Functions calls Lambda functions by name or ARN, with or without an alias.
type Functions struct{ api LambdaAPI }

// NewFunctions returns Functions that calls Lambda through api.
func NewFunctions(api LambdaAPI) *Functions { return &Functions{api} }

// Invoke calls a function and returns its response, within 30 seconds. *FunctionError:
// the function ran and failed. ErrOutcomeUnknown: the function may have run. Any other
// error: the function did not run.
func (f *Functions) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, invokeTimeout)
	defer cancel()
	out, err := f.api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &function, InvocationType: types.InvocationTypeRequestResponse, Payload: payload,
	})
	if err != nil {
		return nil, fmt.Errorf("call function %s: %w", function, callError(err))
	}
	if out.FunctionError != nil {
		return nil, fmt.Errorf("call function %s: %w", function, functionError(out.Payload))
	}
	return out.Payload, nil
}

// functionError decodes Lambda's response for a function that failed.
func functionError(payload []byte) *FunctionError {
	var response struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	if err := json.Unmarshal(payload, &response); err != nil {
		response.Type, response.Message = "unreadable", string(payload[:min(len(payload), 200)])
	}
	return &FunctionError{Type: response.Type, Message: response.Message}
}

// InvokeAsync queues an event for a function, within two seconds. Lambda then calls
// the function at least once. ErrOutcomeUnknown: the event may have been queued. Any
// other error: the event was not queued.
func (f *Functions) InvokeAsync(ctx context.Context, function string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, asyncTimeout)
	defer cancel()
	_, err := f.api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &function, InvocationType: types.InvocationTypeEvent, Payload: payload,
	})
	if err != nil {
		return fmt.Errorf("queue an event for function %s: %w", function, callError(err))
	}
	return nil
}
