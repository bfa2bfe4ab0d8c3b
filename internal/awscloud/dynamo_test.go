package awscloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// scripted is a transport that returns these responses in turn, and repeats the last
// one. A response is a status, a space and a body; any other text is a network error.
type scripted struct {
	responses []string
	bodies    []string // of the requests
}

func (a *scripted) RoundTrip(req *http.Request) (*http.Response, error) {
	sent, _ := io.ReadAll(req.Body)
	response := a.responses[min(len(a.bodies), len(a.responses)-1)]
	a.bodies = append(a.bodies, string(sent))
	var status int
	if _, err := fmt.Sscanf(response, "%d", &status); err != nil {
		return nil, errors.New(response)
	}
	_, body, _ := strings.Cut(response, " ")
	return &http.Response{
		StatusCode: status, Request: req, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		Body: io.NopCloser(bytes.NewBufferString(body)),
	}, nil
}

func (a *scripted) client() *dynamodb.Client {
	cfg := aws.Config{Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "x", SecretAccessKey: "x"}, nil
	})}
	return NewDynamoDB(cfg, func(o *dynamodb.Options) { o.HTTPClient = &http.Client{Transport: a} })
}

// cancelled returns the response for a cancelled transaction with these reasons.
func cancelled(codes ...string) string {
	var reasons []string
	for _, code := range codes {
		reasons = append(reasons, `{"Code":"`+code+`"}`)
	}
	return `400 {"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","CancellationReasons":[` + strings.Join(reasons, ",") + `]}`
}

// refused returns the response for a refused request.
func refused(code string) string {
	return `400 {"__type":"com.amazonaws.dynamodb.v20120810#` + code + `","message":"because"}`
}

func openRecord() bastion.Record {
	return bastion.Record{ID: "id", Owner: "local:owner", Name: "default", Version: 1, Intent: bastion.Intent{Open: true}}
}

// The test uses the real client, so that it covers decoding and retries.
func TestCreateConvertsResponses(t *testing.T) {
	const none, failed, conflict = "None", "ConditionalCheckFailed", "TransactionConflict"
	for name, c := range map[string]struct {
		responses []string
		want      error
		attempts  int
	}{
		"success":                 {[]string{"200 {}"}, nil, 1},
		"name in use":             {[]string{cancelled(failed, none, none, none, none)}, bastion.ErrNameTaken, 1},
		"quota of the owner":      {[]string{cancelled(none, failed, none, none, none)}, bastion.ErrQuotaOwner, 1},
		"total quota":             {[]string{cancelled(none, none, failed, none, none)}, bastion.ErrQuotaTotal, 1},
		"id in use":               {[]string{cancelled(none, none, none, failed, none)}, bastion.ErrConflict, 1},
		"name before quotas":      {[]string{cancelled(failed, failed, failed, none, none)}, bastion.ErrNameTaken, 1},
		"owner before total":      {[]string{cancelled(none, failed, failed, none, none)}, bastion.ErrQuotaOwner, 1},
		"conflict":                {[]string{cancelled(none, none, conflict, none, none), "200 {}"}, nil, 2},
		"conflict beside a quota": {[]string{cancelled(conflict, failed, none, none, none), cancelled(failed, failed, none, none, none)}, bastion.ErrNameTaken, 2},
		"throttled transaction":   {[]string{cancelled("ThrottlingError", none, none, none, none), "200 {}"}, nil, 2},
		"server error":            {[]string{"500 {}", "503 {}", "200 {}"}, nil, 3},
		"response lost":           {[]string{"connection reset", "200 {}"}, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &scripted{responses: c.responses}
				err := NewStore(a.client(), "records", time.Hour, rand.Reader).Create(t.Context(), openRecord(), bastion.Quota{PerOwner: 1, Total: 1})
				if !errors.Is(err, c.want) || len(a.bodies) != c.attempts {
					t.Errorf("%v after %d attempts, want %v after %d", err, len(a.bodies), c.want, c.attempts)
				}
				for _, body := range a.bodies {
					if body != a.bodies[0] {
						t.Errorf("the retry is another request:\n%s\n%s", body, a.bodies[0])
					}
				}
			})
		})
	}
}

// createError returns the error of an action only if the conditions of all earlier actions
// were met. If an earlier action has conflicted with another transaction, DynamoDB may not
// have evaluated its condition.
func TestCreateReturnsErrorOfFirstFailedCondition(t *testing.T) {
	const none, failed, conflict = "None", "ConditionalCheckFailed", "TransactionConflict"
	for _, c := range []struct {
		codes []string
		want  error
	}{
		{nil, nil},
		{[]string{none, none, none, none, conflict}, nil},
		{[]string{conflict, failed, failed, failed, none}, nil},
		{[]string{none, conflict, failed, none, none}, nil},
		{[]string{failed, conflict, none, none, none}, bastion.ErrNameTaken},
		{[]string{none, failed, conflict, none, none}, bastion.ErrQuotaOwner},
		{[]string{none, none, failed, conflict, none}, bastion.ErrQuotaTotal},
		{[]string{none, none, none, failed, conflict}, bastion.ErrConflict},
	} {
		var reasons []types.CancellationReason
		for _, code := range c.codes {
			reasons = append(reasons, types.CancellationReason{Code: &code})
		}
		if got := createError(reasons); got != c.want {
			t.Errorf("%q: %v, want %v", c.codes, got, c.want)
		}
	}
}

// The test uses the retryer without making calls: the SDK's rate limiter can wait again
// and again for less than a nanosecond, which never ends in a synctest bubble.
func TestOverloadIsRetried(t *testing.T) {
	retryer := (&scripted{}).client().Options().Retryer
	for _, code := range []string{"ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "TransactionInProgressException"} {
		if !retryer.IsErrorRetryable(&smithy.GenericAPIError{Code: code}) {
			t.Errorf("%s is not retried", code)
		}
	}
	for _, code := range []string{"ValidationException", "AccessDeniedException", "ResourceNotFoundException", "ConditionalCheckFailedException"} {
		if retryer.IsErrorRetryable(&smithy.GenericAPIError{Code: code}) {
			t.Errorf("%s is retried", code)
		}
	}
}

func TestWriteThatConflictsWithTransactionIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{responses: []string{refused("TransactionConflictException"), refused("TransactionConflictException"), "200 {}"}}
		prev := openRecord()
		next := prev
		next.Version = 2
		must(t, NewStore(a.client(), "records", time.Hour, rand.Reader).Replace(t.Context(), prev, next))
		if len(a.bodies) != 3 {
			t.Errorf("%d attempts, want 3", len(a.bodies))
		}
	})
}

func TestRetriesEndWithContext(t *testing.T) {
	for _, response := range []string{cancelled("TransactionConflict"), "500 {}"} {
		synctest.Test(t, func(t *testing.T) {
			const limit = 3 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			start := time.Now()
			a := &scripted{responses: []string{response}}
			err := NewStore(a.client(), "records", time.Hour, rand.Reader).Create(ctx, openRecord(), bastion.Quota{PerOwner: 1, Total: 1})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > limit {
				t.Errorf("%v after %s and %d attempts", err, time.Since(start), len(a.bodies))
			}
			if len(a.bodies) < 3 {
				t.Errorf("%d attempts in %s", len(a.bodies), limit)
			}
		})
	}
}

func TestRetriesEndWithoutDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{responses: []string{cancelled("TransactionConflict")}}
		err := NewStore(a.client(), "records", time.Hour, rand.Reader).Create(t.Context(), openRecord(), bastion.Quota{PerOwner: 1, Total: 1})
		if err == nil || len(a.bodies) != dynamoAttempts {
			t.Errorf("%v after %d attempts", err, len(a.bodies))
		}
	})
}

func TestErrorsOfSDKAreHidden(t *testing.T) {
	prev := openRecord()
	next, closed := prev, prev
	next.Version, closed.Version, closed.Intent.Open = 2, 2, false
	ctx := t.Context()
	for _, cause := range []error{
		&types.ResourceNotFoundException{Message: aws.String("no table")},
		&smithy.OperationError{ServiceID: "DynamoDB", OperationName: "x", Err: &smithy.GenericAPIError{Code: "AccessDeniedException"}},
		&types.TransactionCanceledException{CancellationReasons: []types.CancellationReason{{Code: aws.String("ValidationError")}}},
		&smithy.OperationError{Err: fmt.Errorf("canceled, %w", context.Canceled)},
	} {
		api := failing{cause}
		s, l := NewStore(api, "records", time.Hour, rand.Reader), NewLeases(api, "leases", "AROA", rand.Reader)
		own := NewTaskLease(api, "leases", "AROA", "task")
		i := NewItems(api, "items", time.Now, rand.Reader)
		for name, call := range map[string]func() error{
			"Create":        func() error { return s.Create(ctx, prev, bastion.Quota{PerOwner: 1, Total: 1}) },
			"Fetch":         func() error { _, err := s.Fetch(ctx, "id"); return err },
			"FetchByName":   func() error { _, err := s.FetchByName(ctx, "o", "n"); return err },
			"Replace":       func() error { return s.Replace(ctx, prev, next) },
			"Replace close": func() error { return s.Replace(ctx, prev, closed) },
			"ListByOwner":   func() error { _, err := s.ListByOwner(ctx, "o"); return err },
			"List":          func() error { _, err := s.List(ctx); return err },
			"CountOpen":     func() error { _, err := s.CountOpen(ctx); return err },
			"Due":           func() error { _, err := s.Due(ctx, time.Now(), 1); return err },
			"RememberKey":   func() error { return s.RememberKey(ctx, "o", "k") },
			"RememberedKey": func() error { _, err := s.RememberedKey(ctx, "o"); return err },
			"Mark":          func() error { _, err := s.Mark(ctx, "x", time.Now()); return err },
			"Unmark":        func() error { return s.Unmark(ctx, "x") },
			"Marks":         func() error { _, err := s.Marks(ctx); return err },
			"lease Fetch":   func() error { _, err := l.Fetch(ctx, "t"); return err },
			"lease Write":   func() error { return l.Write(ctx, "t", bastion.Lease{}) },
			"lease End":     func() error { return l.End(ctx, "t", "b", time.Now()) },
			"lease List":    func() error { _, err := l.List(ctx); return err },
			"Read":          func() error { _, err := own.Read(ctx); return err },
			"Report":        func() error { return own.Report(ctx, bastion.Report{}) },
			"item Fetch":    func() error { _, _, err := i.Fetch(ctx, "a"); return err },
			"item Write":    func() error { return i.Write(ctx, "a", 0, nil, time.Time{}) },
			"item Delete":   func() error { return i.Delete(ctx, "a") },
		} {
			checkOpaque(t, name, call(), cause)
		}
	}
}

// checkOpaque checks that err contains the text of cause, but none of the SDK's types.
func checkOpaque(t *testing.T, name string, err, cause error) {
	t.Helper()
	var api smithy.APIError
	var operation *smithy.OperationError
	switch {
	case err == nil:
		t.Errorf("%s: no error, want %v", name, cause)
	case errors.As(err, &api) || errors.As(err, &operation):
		t.Errorf("%s: %v has a type of the SDK", name, err)
	case errors.Is(cause, context.Canceled) && !errors.Is(err, context.Canceled):
		t.Errorf("%s: %v is not context.Canceled", name, err)
	case !strings.Contains(err.Error(), cause.Error()):
		t.Errorf("%s: %v does not contain %v", name, err, cause)
	}
}

// failing returns an error from every call.
type failing struct{ err error }

func (f failing) GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	return nil, f.err
}

func (f failing) BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	return nil, f.err
}

func (f failing) Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	return nil, f.err
}

func (f failing) Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	return nil, f.err
}

func (f failing) PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return nil, f.err
}

func (f failing) UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	return nil, f.err
}

func (f failing) DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error) {
	return nil, f.err
}

func (f failing) TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error) {
	return nil, f.err
}

// retried simulates DynamoDB at the second attempt of a write. The first attempt took
// effect, but its response was lost. So the condition of the second attempt fails, and the
// error contains the stored item. The function meanwhile gets the item that the first
// attempt wrote, and returns the item that is stored when the second attempt arrives.
type retried struct {
	failing
	meanwhile func(item) item
}

func (r retried) UpdateItem(_ context.Context, in *dynamodb.UpdateItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	first := itemAfter(nil, in)
	return nil, &types.ConditionalCheckFailedException{Item: r.meanwhile(first)}
}

func (r retried) TransactWriteItems(_ context.Context, in *dynamodb.TransactWriteItemsInput, _ ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error) {
	if in.ClientRequestToken == nil {
		return nil, errors.New("no token: the retry is another transaction")
	}
	var reasons []types.CancellationReason
	for _, action := range in.TransactItems {
		reason := types.CancellationReason{Code: aws.String(reasonNone)}
		if u := action.Update; u != nil && u.ReturnValuesOnConditionCheckFailure != "" {
			first := itemAfter(nil, &dynamodb.UpdateItemInput{Key: u.Key, UpdateExpression: u.UpdateExpression, ExpressionAttributeValues: u.ExpressionAttributeValues})
			reason = types.CancellationReason{Code: aws.String(reasonCondition), Item: r.meanwhile(first)}
		} else if action.Put != nil && action.Put.ConditionExpression != nil {
			reason.Code = aws.String(reasonCondition)
		}
		reasons = append(reasons, reason)
	}
	return nil, &types.TransactionCanceledException{CancellationReasons: reasons}
}

func TestRetryRecognizesItsOwnEffect(t *testing.T) {
	same := func(i item) item { return i }
	later := func(i item) item { i[attVersion], i["write_3"] = number(3), text("another"); return i }
	others := func(i item) item {
		return item{attVersion: number(2), "write_1": text("another"), "write_2": text("another"), attLeaseNonce: text("another")}
	}
	missing := func(item) item { return nil }
	for name, c := range map[string]struct {
		meanwhile        func(item) item
		record, creation error
		lease            error
	}{
		"its own effect":                    {same, nil, nil, nil},
		"its own effect, and a later write": {later, nil, nil, nil},
		"another caller's write":            {others, bastion.ErrConflict, bastion.ErrNameTaken, bastion.ErrConflict},
		"no item":                           {missing, bastion.ErrConflict, bastion.ErrNameTaken, bastion.ErrConflict},
	} {
		t.Run(name, func(t *testing.T) {
			api := retried{meanwhile: c.meanwhile}
			s, prev := NewStore(api, "records", time.Hour, rand.Reader), openRecord()
			next, closed := prev, prev
			next.Version, closed.Version, closed.Intent.Open = 2, 2, false
			checkError(t, "replace", s.Replace(t.Context(), prev, next), c.record)
			checkError(t, "close", s.Replace(t.Context(), prev, closed), c.record)
			checkError(t, "create", s.Create(t.Context(), prev, bastion.Quota{PerOwner: 1, Total: 1}), c.creation)
			l := NewLeases(api, "leases", "AROA", rand.Reader)
			checkError(t, "lease", l.Write(t.Context(), "task", bastion.Lease{Generation: 1}), c.lease)
			i := NewItems(api, "items", time.Now, rand.Reader)
			checkError(t, "first value", i.Write(t.Context(), "a", 0, nil, time.Time{}), c.record)
			checkError(t, "next value", i.Write(t.Context(), "a", 1, nil, time.Time{}), c.record)
		})
	}
}

func checkError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestInvalidWritesAreNotSent(t *testing.T) {
	s := NewStore(nil, "records", time.Hour, rand.Reader) // a call would panic
	first := openRecord()
	change := func(edit func(*bastion.Record)) bastion.Record {
		rec := first
		edit(&rec)
		return rec
	}
	for name, rec := range map[string]bastion.Record{
		"version 2": change(func(r *bastion.Record) { r.Version = 2 }),
		"closed":    change(func(r *bastion.Record) { r.Intent.Open = false }),
		"finished":  change(func(r *bastion.Record) { r.FinishedAt = time.Now() }),
	} {
		if err := s.Create(t.Context(), rec, bastion.Quota{PerOwner: 1, Total: 1}); err == nil {
			t.Errorf("%s: the record was created", name)
		}
	}
	closed := change(func(r *bastion.Record) { r.Intent.Open, r.FinishedAt = false, time.Now() })
	for name, c := range map[string][2]bastion.Record{
		"same version":       {first, first},
		"another id":         {first, change(func(r *bastion.Record) { r.Version, r.ID = 2, "other" })},
		"another owner":      {first, change(func(r *bastion.Record) { r.Version, r.Owner = 2, "other" })},
		"another name":       {first, change(func(r *bastion.Record) { r.Version, r.Name = 2, "other" })},
		"opened again":       {closed, change(func(r *bastion.Record) { r.Version, r.FinishedAt = 2, time.Now() })},
		"no longer finished": {closed, change(func(r *bastion.Record) { r.Version, r.Intent.Open = 2, false })},
	} {
		if err := s.Replace(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("%s: the record was replaced", name)
		}
	}
}
