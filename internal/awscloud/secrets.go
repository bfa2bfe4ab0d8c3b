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

// secretsKept is how long values are cached, and so how late a changed one is
// noticed. Parameter Store's standard throughput is 40 calls a second for the whole
// account, so an unauthenticated request must not cost a call.
const secretsKept = 5 * time.Minute

// SecretsAPI is what [Secrets] calls.
type SecretsAPI interface {
	GetParameters(context.Context, *ssm.GetParametersInput, ...func(*ssm.Options)) (*ssm.GetParametersOutput, error)
}

// secretsTimeout is for one try. Slack waits three seconds for a response.
const secretsTimeout = time.Second

// NewSSM makes a client of Parameter Store. Calls are too rare to keep a connection
// open. Options are applied last.
func NewSSM(cfg aws.Config, options ...func(*ssm.Options)) *ssm.Client {
	ours := func(o *ssm.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(secretsTimeout).
			WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	}
	return ssm.NewFromConfig(cfg, append([]func(*ssm.Options){ours}, options...)...)
}

// Secrets are parameters of Parameter Store, decrypted.
type Secrets struct {
	api   SecretsAPI
	names []string
	now   func() time.Time

	turn   chan struct{}     // held while values and until are read or written
	values map[string]string // by name
	until  time.Time
}

// NewSecrets makes the secrets of at most ten names, which is how many one call
// reads. It reads none yet.
func NewSecrets(api SecretsAPI, now func() time.Time, names ...string) *Secrets {
	return &Secrets{api: api, names: names, now: now, turn: make(chan struct{}, 1)}
}

// Get returns the values of some of the names, in their order, at most five minutes
// old. Every read is of all names. If several callers need a read at the same time,
// one makes it and the others wait for its result. A failed read and a missing value
// are not cached: the next call reads again. A missing parameter fails only the
// callers that want its value.
func (s *Secrets) Get(ctx context.Context, names ...string) ([]string, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the secrets: %w", ctx.Err())
	}
	if !s.now().Before(s.until) || len(s.missing(names)) > 0 {
		values, err := s.read(ctx)
		if err != nil {
			return nil, err
		}
		s.values, s.until = values, s.now().Add(secretsKept)
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

func (s *Secrets) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return s.values[name] != "" })
}

// read reads all of them in one call. No error holds a value.
func (s *Secrets) read(ctx context.Context) (map[string]string, error) {
	out, err := s.api.GetParameters(ctx, &ssm.GetParametersInput{Names: s.names, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, fmt.Errorf("read the parameters %s: %w", strings.Join(s.names, ", "), opaque(err))
	}
	values := map[string]string{}
	for _, p := range out.Parameters {
		values[aws.ToString(p.Name)] = aws.ToString(p.Value)
	}
	return values, nil
}
