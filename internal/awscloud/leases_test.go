package awscloud

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// readErrors are the errors that tell a task why it cannot read its lease.
var readErrors = []error{bastion.ErrNotFound, bastion.ErrDenied, bastion.ErrNoTable, bastion.ErrUnreachable}

// The test uses the real client, so that it covers decoding and retries.
func TestTaskTellsReadErrorsApart(t *testing.T) {
	for name, c := range map[string]struct {
		response string
		want     error // one of readErrors; nil for another error
	}{
		"no item":          {"200 {}", bastion.ErrNotFound},
		"denied":           {refused("AccessDeniedException"), bastion.ErrDenied},
		"unknown key":      {refused("UnrecognizedClientException"), bastion.ErrDenied},
		"unsigned":         {refused("MissingAuthenticationTokenException"), bastion.ErrDenied},
		"no table":         {refused("ResourceNotFoundException"), bastion.ErrNoTable},
		"network error":    {"dial tcp 10.0.0.1:443: i/o timeout", bastion.ErrUnreachable},
		"invalid lease":    {`200 {"Item":{"lease":{"S":"{"}}}`, nil},
		"invalid request":  {refused("ValidationException"), nil},
		"throttled":        {refused("ThrottlingException"), nil},
		"service is down":  {`500 {"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}`, nil},
		"not from the API": {"403 <html>", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &scripted{responses: []string{c.response}}
				_, err := NewTaskLease(api.client(), "leases", "AROAEXAMPLE", "task").Read(t.Context())
				checkReadError(t, err, c.want)
				checkNoSDKError(t, err)
			})
		})
	}
}

// A read that ends with the caller's context got no response in time.
func TestReadWithoutResponseIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		api := &scripted{responses: []string{"dial tcp: lookup dynamodb.us-east-1.amazonaws.com: no such host"}}
		_, err := NewTaskLease(api.client(), "leases", "AROAEXAMPLE", "task").Read(ctx)
		checkReadError(t, err, bastion.ErrUnreachable)
	})
}

// The error of a cancelled read is none of readErrors, because it says nothing about the
// table.
func TestCancelledReadReturnsContextCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := NewTaskLease((&scripted{responses: []string{"200 {}"}}).client(), "leases", "AROAEXAMPLE", "task").Read(ctx)
	checkReadError(t, err, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}
}

// Without credentials, nothing is sent, and so the task gets no response.
func TestReadWithoutCredentialsIsUnreachable(t *testing.T) {
	cfg := aws.Config{Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("no credentials")
	})}
	client := NewDynamoDB(cfg, func(o *dynamodb.Options) { o.RetryMaxAttempts = 1 })
	_, err := NewTaskLease(client, "leases", "AROAEXAMPLE", "task").Read(t.Context())
	checkReadError(t, err, bastion.ErrUnreachable)
}

// checkReadError checks which of readErrors err is. If want is nil, it must be none.
func checkReadError(t *testing.T, err, want error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, known := range readErrors {
		if errors.Is(err, known) != (known == want) {
			t.Errorf("%v: %v is %t, want %v", err, known, known != want, want)
		}
	}
}
