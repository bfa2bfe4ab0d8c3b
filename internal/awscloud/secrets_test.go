package awscloud

import (
	"context"
	"errors"
	"maps"
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

// parameterStore answers what it has, and of what it has not the names.
type parameterStore struct {
	values map[string]string
	err    error
	asked  []ssm.GetParametersInput
	during func(context.Context) // a call
}

func (p *parameterStore) GetParameters(ctx context.Context, in *ssm.GetParametersInput, _ ...func(*ssm.Options)) (*ssm.GetParametersOutput, error) {
	p.asked = append(p.asked, *in)
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

func TestSecretsAreAskedForOnceInFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"/a/signing": "one", "/a/token": "two", "/other": "three"}}
		s := NewSecrets(store, time.Now, "/a/signing", "/a/token")
		want := map[string]string{"/a/signing": "one", "/a/token": "two"}
		for range 3 {
			got, err := s.Get(t.Context())
			if err != nil || !maps.Equal(got, want) {
				t.Fatalf("%v, %v", got, err)
			}
			got["/a/signing"] = "changed by a caller"
		}
		time.Sleep(secretsKept - time.Nanosecond)
		if _, err := s.Get(t.Context()); err != nil || len(store.asked) != 1 {
			t.Fatalf("asked %d times, %v", len(store.asked), err)
		}
		in := store.asked[0]
		if !aws.ToBool(in.WithDecryption) || !slices.Equal(in.Names, []string{"/a/signing", "/a/token"}) {
			t.Errorf("asked for %+v", in)
		}
		store.values["/a/token"] = "new"
		time.Sleep(time.Nanosecond)
		if got, err := s.Get(t.Context()); err != nil || got["/a/token"] != "new" || len(store.asked) != 2 {
			t.Errorf("%v, %v, asked %d times", got, err, len(store.asked))
		}
	})
}

func TestManyWhoWantSecretsAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &parameterStore{values: map[string]string{"a": "one"}, during: func(context.Context) { time.Sleep(time.Second) }}
		s := NewSecrets(store, time.Now, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for range 32 {
			go func() {
				if got, err := s.Get(t.Context()); err != nil || got["a"] != "one" {
					t.Errorf("%v, %v", got, err)
				}
			}()
		}
		synctest.Wait()
		if _, err := s.Get(ctx); !errors.Is(err, context.DeadlineExceeded) { // it waits no longer than it has time
			t.Errorf("one in a hurry: %v", err)
		}
		time.Sleep(2 * time.Second)
		if len(store.asked) != 1 {
			t.Errorf("asked %d times", len(store.asked))
		}
	})
}

// All that is missing is named at once, and no error is remembered.
func TestSecretsThatAreNotThere(t *testing.T) {
	store := &parameterStore{values: map[string]string{"/there": "hush", "/empty": ""}}
	s := NewSecrets(store, time.Now, "/missing", "/there", "/empty", "/gone")
	_, err := s.Get(t.Context())
	if err == nil || !strings.Contains(err.Error(), "for /missing, /empty, /gone:") || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
	store.err = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
	_, err = s.Get(t.Context())
	foreignTypes(t, "Get", err, store.err)
	store.err = nil
	store.values = map[string]string{"/missing": "1", "/there": "2", "/empty": "3", "/gone": "4"}
	if got, err := s.Get(t.Context()); err != nil || len(got) != 4 {
		t.Errorf("%v, %v", got, err)
	}
}
