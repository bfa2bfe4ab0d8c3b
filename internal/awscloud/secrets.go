package awscloud

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// secretsMaxAge is how long values are cached. A changed value is used after this time
// at the latest. Parameter Store's standard throughput is 40 calls a second for the
// whole account, so an unauthenticated request must not cause a call.
const secretsMaxAge = 5 * time.Minute

// SecretsAPI has the calls that [Secrets] makes.
type SecretsAPI interface {
	GetParameters(context.Context, *ssm.GetParametersInput, ...func(*ssm.Options)) (*ssm.GetParametersOutput, error)
}

// secretsTimeout is the limit of one attempt. Slack waits three seconds for a response.
const secretsTimeout = time.Second

// NewSSM returns a client of Parameter Store. It keeps no connection open, because
// calls are rare. The options are applied last.
func NewSSM(cfg aws.Config, options ...func(*ssm.Options)) *ssm.Client {
	defaults := func(o *ssm.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(secretsTimeout).
			WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	}
	return ssm.NewFromConfig(cfg, append([]func(*ssm.Options){defaults}, options...)...)
}

// Secrets reads and caches decrypted parameters of Parameter Store.
type Secrets struct {
	api   SecretsAPI
	names []string
	now   func() time.Time

	lock    chan struct{}     // holds one element while locked; guards the fields below
	values  map[string]string // by name
	expires time.Time
}

// NewSecrets returns Secrets for the parameters with these names. Ten names are the
// limit of one call. NewSecrets does not read the parameters yet.
func NewSecrets(api SecretsAPI, now func() time.Time, names ...string) *Secrets {
	return &Secrets{api: api, names: names, now: now, lock: make(chan struct{}, 1)}
}

// Get returns the values of these names, in this order. The names must be among those
// of [NewSecrets]. A value is at most five minutes old. Each read of Parameter Store
// requests all names. If several callers need a read at the same time, one caller
// reads and the others wait for its result. A failed read and a missing value are not
// cached: the next call reads again. If a parameter is missing, only the callers that
// ask for its value get an error.
func (s *Secrets) Get(ctx context.Context, names ...string) ([]string, error) {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the secrets: %w", ctx.Err())
	}
	if !s.now().Before(s.expires) || len(s.missing(names)) > 0 {
		values, err := s.read(ctx)
		if err != nil {
			return nil, err
		}
		s.values, s.expires = values, s.now().Add(secretsMaxAge)
	}
	if missing := s.missing(names); len(missing) > 0 {
		return nil, fmt.Errorf("no value in Parameter Store for %s: create each as a SecureString parameter in this region", strings.Join(missing, ", "))
	}
	var values []string
	for _, name := range names {
		values = append(values, s.values[name])
	}
	return values, nil
}

// missing returns the names that have no cached value.
func (s *Secrets) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return s.values[name] != "" })
}

// read reads all values in one call. Its errors do not contain values.
func (s *Secrets) read(ctx context.Context) (map[string]string, error) {
	out, err := s.api.GetParameters(ctx, &ssm.GetParametersInput{Names: s.names, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, fmt.Errorf("read parameters %s: %w", strings.Join(s.names, ", "), opaque(err))
	}
	values := map[string]string{}
	for _, p := range out.Parameters {
		values[aws.ToString(p.Name)] = aws.ToString(p.Value)
	}
	return values, nil
}
