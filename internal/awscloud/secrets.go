package awscloud

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// Parameter Store's standard throughput is 40 calls a second for the whole account. The
// Slack function needs the signing secret before it knows whether a request is forged.
// Secrets caches values, and also which values are missing, so that forged requests
// cannot use up the throughput.
const (
	// secretsMaxAge is how long values are cached. A changed value is used after this
	// time at the latest.
	secretsMaxAge = 5 * time.Minute
	// missingMaxAge is how long Secrets reports a missing value without a new read. A new
	// parameter is used after this time at the latest.
	missingMaxAge = 10 * time.Second
)

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

	reading chan struct{} // holds one element while a caller reads
	latest  atomic.Pointer[secretValues]
}

// secretValues is the result of one read.
type secretValues struct {
	byName map[string]string // without the parameters that are missing
	readAt time.Time
}

// NewSecrets returns Secrets for the parameters with these names. Ten names are the
// limit of one call. NewSecrets does not read the parameters yet.
func NewSecrets(api SecretsAPI, now func() time.Time, names ...string) *Secrets {
	s := &Secrets{api: api, names: names, now: now, reading: make(chan struct{}, 1)}
	s.latest.Store(&secretValues{})
	return s
}

// Get returns the values of these names, in this order. The names must be among those
// of [NewSecrets]. A value is at most five minutes old. If a value is missing, only the
// callers that ask for it get an error. Get reads again for a missing value only if the
// latest read was at least ten seconds ago.
//
// Each read of Parameter Store requests all names. If several callers need a read at
// the same time, one caller reads and the others wait for its result. A caller whose
// values are cached never waits, even if another caller needs a missing value. A failed
// read is not cached: the next caller that needs a read tries again.
func (s *Secrets) Get(ctx context.Context, names ...string) ([]string, error) {
	latest := s.latest.Load()
	if latest.outdated(s.now(), names) {
		var err error
		if latest, err = s.refresh(ctx, names); err != nil {
			return nil, err
		}
	}
	if missing := latest.missing(names); len(missing) > 0 {
		return nil, fmt.Errorf("no value in Parameter Store for %s: create each as a SecureString parameter in this region", strings.Join(missing, ", "))
	}
	var values []string
	for _, name := range names {
		values = append(values, latest.byName[name])
	}
	return values, nil
}

// refresh reads all values, unless another caller has read them meanwhile.
func (s *Secrets) refresh(ctx context.Context, names []string) (*secretValues, error) {
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the secrets: %w", ctx.Err())
	}
	if latest := s.latest.Load(); !latest.outdated(s.now(), names) {
		return latest, nil
	}
	byName, err := readParameters(ctx, s.api, s.names)
	if err != nil {
		return nil, err
	}
	latest := &secretValues{byName: byName, readAt: s.now()}
	s.latest.Store(latest)
	return latest, nil
}

// outdated reports whether the values are too old for a caller that needs these names.
func (v *secretValues) outdated(now time.Time, names []string) bool {
	maxAge := secretsMaxAge
	if len(v.missing(names)) > 0 {
		maxAge = missingMaxAge
	}
	return now.Sub(v.readAt) >= maxAge
}

// missing returns the names without a value. An empty value counts as missing.
func (v *secretValues) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return v.byName[name] != "" })
}

// readParameters reads all values in one call. Its errors do not contain values. Parameter
// Store ignores WithDecryption for values that are not encrypted.
func readParameters(ctx context.Context, api SecretsAPI, names []string) (map[string]string, error) {
	out, err := api.GetParameters(ctx, &ssm.GetParametersInput{Names: names, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, fmt.Errorf("read parameters %s: %w", strings.Join(names, ", "), opaque(err))
	}
	values := map[string]string{}
	for _, p := range out.Parameters {
		values[aws.ToString(p.Name)] = aws.ToString(p.Value)
	}
	return values, nil
}
