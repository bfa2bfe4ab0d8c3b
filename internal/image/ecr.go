package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/google/go-containerregistry/pkg/authn"
)

// Tokens is the part of ECR's API that a push needs.
type Tokens interface {
	GetAuthorizationToken(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error)
}

// Keychain authenticates with AWS credentials at ECR, and with Others at other
// registries.
type Keychain struct {
	Connect func(ctx context.Context, region string) (Tokens, error) // to ECR
	Others  authn.Keychain
}

// NewKeychain returns a keychain with AWS credentials from the environment, profile or
// role, and others from the configuration of Docker or Podman.
func NewKeychain() Keychain { return Keychain{Connect: connect, Others: authn.DefaultKeychain} }

func connect(ctx context.Context, region string) (Tokens, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	return ecr.NewFromConfig(cfg), nil
}

// registryHost matches a private registry, from "Amazon ECR endpoints and quotas" in
// the AWS General Reference: 111122223333.dkr.ecr.REGION.amazonaws.com, or dual-stack
// 111122223333.dkr-ecr.REGION.on.aws. A token is sent to no other host.
var registryHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com|amazonaws\.com\.cn|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// Resolve is ResolveContext for callers without a context.
func (k Keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext returns the credentials for the target.
func (k Keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	host := target.RegistryStr()
	match := registryHost.FindStringSubmatch(host)
	if match == nil {
		return authn.Resolve(ctx, k.Others, target)
	}
	tokens, err := k.Connect(ctx, match[1])
	if err != nil {
		return nil, err
	}
	out, err := tokens.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return nil, fmt.Errorf("get a token for %s from ECR: %w\nSign in to AWS (for example with aws sso login) with permission for ecr:GetAuthorizationToken", host, err)
	}
	user, password, ok := credentials(out)
	if !ok {
		return nil, fmt.Errorf("get a token for %s from ECR: the response has no valid token", host)
	}
	return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
}

// credentials decodes the token, which is the base64 of USER:PASSWORD. Its result is a
// flag and not an error, so that no error can contain the token.
func credentials(out *ecr.GetAuthorizationTokenOutput) (user, password string, ok bool) {
	if len(out.AuthorizationData) == 0 || out.AuthorizationData[0].AuthorizationToken == nil {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(*out.AuthorizationData[0].AuthorizationToken)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(plain), ":")
}
