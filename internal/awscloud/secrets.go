package awscloud

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// secretsKept is for how long secrets are not asked for again: how late a new one
// is noticed. Parameter Store's standard throughput is 40 calls a second for the
// whole account, so that no request of a stranger's may cost one.
const secretsKept = 5 * time.Minute

// SecretsAPI is what [Secrets] calls.
type SecretsAPI interface {
	GetParameters(context.Context, *ssm.GetParametersInput, ...func(*ssm.Options)) (*ssm.GetParametersOutput, error)
}

// secretsTimeout is for one try, while Slack gives an answer three seconds.
const secretsTimeout = time.Second

// NewSSM makes a client of Parameter Store. It asks so seldom that no connection
// is worth keeping. Options are applied last.
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

	turn   chan struct{}     // held by the one who asks, or looks
	values map[string]string // by name
	until  time.Time
}

// NewSecrets makes the secrets of at most ten names, which are not read yet.
func NewSecrets(api SecretsAPI, now func() time.Time, names ...string) *Secrets {
	return &Secrets{api: api, names: names, now: now, turn: make(chan struct{}, 1)}
}

// Get answers all values by name, at most five minutes old. Of callers at the same
// time one asks Parameter Store, and the others wait for what it is told. An error
// is not kept: the next call asks again.
func (s *Secrets) Get(ctx context.Context) (map[string]string, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the secrets: %w", ctx.Err())
	}
	if !s.now().Before(s.until) {
		values, err := s.ask(ctx)
		if err != nil {
			return nil, err
		}
		s.values, s.until = values, s.now().Add(secretsKept)
	}
	return maps.Clone(s.values), nil
}

// ask reads all of them in one call. No error holds a value.
func (s *Secrets) ask(ctx context.Context) (map[string]string, error) {
	out, err := s.api.GetParameters(ctx, &ssm.GetParametersInput{Names: s.names, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, fmt.Errorf("read the parameters %s: %w", strings.Join(s.names, ", "), opaque(err))
	}
	values := map[string]string{}
	for _, p := range out.Parameters {
		values[aws.ToString(p.Name)] = aws.ToString(p.Value)
	}
	missing := slices.DeleteFunc(slices.Clone(s.names), func(name string) bool { return values[name] != "" })
	if len(missing) > 0 {
		return nil, fmt.Errorf("no value in Parameter Store for %s: make each a SecureString parameter of this region", strings.Join(missing, ", "))
	}
	return values, nil
}
