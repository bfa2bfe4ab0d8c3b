package awscloud

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
)

// parameterStore is a Parameter Store with these values. It returns all other names as
// invalid.
type parameterStore struct {
	values map[string]string
	err    error
	calls  []ssm.GetParametersInput
	during func(context.Context) // runs during each call
}

func (p *parameterStore) GetParameters(ctx context.Context, in *ssm.GetParametersInput, _ ...func(*ssm.Options)) (*ssm.GetParametersOutput, error) {
	p.calls = append(p.calls, *in)
	if p.during != nil {
		p.during(ctx)
	}
	if p.err != nil {
		return nil, p.err
	}
	out := &ssm.GetParametersOutput{}
	for _, name := range in.Names {
		if value, ok := p.values[name]; ok {
			out.Parameters = append(out.Parameters, types.Parameter{Name: &name, Value: &value})
		} else {
			out.InvalidParameters = append(out.InvalidParameters, name)
		}
	}
	return out, nil
}

func TestSecretsAreReadOnceInFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"/a/signing": "one", "/a/token": "two", "/other": "three"}}
		s := NewSecrets(store, time.Now, "/a/signing", "/a/token")
		for range 3 {
			if got, err := s.Get(t.Context(), "/a/token", "/a/signing"); err != nil || !slices.Equal(got, []string{"two", "one"}) {
				t.Fatalf("%v, %v", got, err)
			}
		}
		time.Sleep(5*time.Minute - time.Nanosecond)
		if got, err := s.Get(t.Context(), "/a/signing"); err != nil || !slices.Equal(got, []string{"one"}) || len(store.calls) != 1 {
			t.Fatalf("%v, %v after %d reads", got, err, len(store.calls))
		}
		in := store.calls[0]
		if !aws.ToBool(in.WithDecryption) || !slices.Equal(in.Names, []string{"/a/signing", "/a/token"}) {
			t.Errorf("the read is %+v", in)
		}
		store.values["/a/token"] = "new"
		time.Sleep(time.Nanosecond)
		if got, err := s.Get(t.Context(), "/a/token"); err != nil || !slices.Equal(got, []string{"new"}) || len(store.calls) != 2 {
			t.Errorf("%v, %v after %d reads", got, err, len(store.calls))
		}
	})
}

func TestConcurrentCallersShareOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"a": "one"}, during: func(context.Context) { time.Sleep(time.Second) }}
		s := NewSecrets(store, time.Now, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for range 32 {
			go func() {
				if got, err := s.Get(t.Context(), "a"); err != nil || got[0] != "one" {
					t.Errorf("%v, %v", got, err)
				}
			}()
		}
		synctest.Wait()
		if _, err := s.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller whose context ends first gets %v", err)
		}
		time.Sleep(2 * time.Second)
		if len(store.calls) != 1 {
			t.Errorf("%d reads", len(store.calls))
		}
	})
}

func TestMissingSecretsAreNamed(t *testing.T) {
	store := &parameterStore{values: map[string]string{"/there": "hush", "/empty": ""}}
	s := NewSecrets(store, time.Now, "/missing", "/there", "/empty")
	_, err := s.Get(t.Context(), "/missing", "/there", "/empty")
	if err == nil || !strings.Contains(err.Error(), "for /missing, /empty:") || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
	// If the token of one workspace is missing, the other workspaces still work.
	if got, err := s.Get(t.Context(), "/there"); err != nil || got[0] != "hush" || len(store.calls) != 1 {
		t.Errorf("%v, %v after %d reads", got, err, len(store.calls))
	}
}

func TestMissingSecretsAreReadOnceInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"/token": "hush"}}
		s := NewSecrets(store, time.Now, "/signing", "/token")
		start := time.Now()
		for time.Since(start) < time.Minute {
			if _, err := s.Get(t.Context(), "/signing"); err == nil || !strings.Contains(err.Error(), "for /signing:") {
				t.Fatalf("%v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(store.calls) != 6 {
			t.Errorf("%d reads in a minute", len(store.calls))
		}
		store.values["/signing"] = "new"
		time.Sleep(10 * time.Second)
		if got, err := s.Get(t.Context(), "/signing"); err != nil || !slices.Equal(got, []string{"new"}) {
			t.Errorf("%v, %v when the parameter has existed for ten seconds", got, err)
		}
	})
}

func TestReadForMissingSecretDelaysNoCallerWithCachedValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"/there": "hush"}, during: func(context.Context) { time.Sleep(time.Second) }}
		s := NewSecrets(store, time.Now, "/missing", "/there")
		if _, err := s.Get(t.Context(), "/there"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		go s.Get(t.Context(), "/missing")
		synctest.Wait()
		start := time.Now()
		got, err := s.Get(t.Context(), "/there")
		if waited := time.Since(start); err != nil || !slices.Equal(got, []string{"hush"}) || waited != 0 || len(store.calls) != 2 {
			t.Errorf("%v, %v after %s and %d reads", got, err, waited, len(store.calls))
		}
		time.Sleep(time.Second) // the read ends
	})
}

func TestFailedReadOfSecretsIsNotCached(t *testing.T) {
	store := &parameterStore{err: &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}}
	s := NewSecrets(store, time.Now, "/a", "/b")
	_, err := s.Get(t.Context(), "/a")
	checkOpaque(t, "Get", err, store.err)
	store.err = nil
	store.values = map[string]string{"/a": "1", "/b": "2"}
	if got, err := s.Get(t.Context(), "/b", "/a"); err != nil || !slices.Equal(got, []string{"2", "1"}) {
		t.Errorf("%v, %v", got, err)
	}
}
