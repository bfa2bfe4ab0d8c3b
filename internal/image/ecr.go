package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/google/go-containerregistry/pkg/authn"
)

// Tokens is what a push needs of ECR.
type Tokens interface {
	GetAuthorizationToken(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error)
}

// Keychain knows who we are at a registry. At ECR that is whoever the AWS
// credentials are; at any other, whoever somebody signed in as with docker login
// or the like, or nobody.
type Keychain struct {
	Connect func(ctx context.Context, region string) (Tokens, error) // to ECR
	Others  authn.Keychain
}

// NewKeychain takes AWS credentials from the environment, profile or role, and
// others from Docker's or Podman's configuration.
func NewKeychain() Keychain { return Keychain{Connect: connect, Others: authn.DefaultKeychain} }

func connect(ctx context.Context, region string) (Tokens, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	return ecr.NewFromConfig(cfg), nil
}

// registryHost is the host of a private registry, as "Amazon ECR endpoints and
// quotas" in the AWS General Reference has it: 111122223333.dkr.ecr.REGION.amazonaws.com,
// or dual-stack 111122223333.dkr-ecr.REGION.on.aws. A token goes nowhere else.
var registryHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com|amazonaws\.com\.cn|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// Resolve is ResolveContext for callers that have no context.
func (k Keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext answers who we are at the target.
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
	answer, err := tokens.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return nil, fmt.Errorf("ask ECR for a token for %s: %w\nSign in to AWS (such as with aws sso login) as somebody who has ecr:GetAuthorizationToken", host, err)
	}
	user, password, err := credentials(answer)
	if err != nil {
		return nil, fmt.Errorf("read ECR's token for %s: %w", host, err)
	}
	return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
}

// credentials never puts the token into an error.
func credentials(answer *ecr.GetAuthorizationTokenOutput) (user, password string, err error) {
	if len(answer.AuthorizationData) == 0 || answer.AuthorizationData[0].AuthorizationToken == nil {
		return "", "", errors.New("there is none in the answer")
	}
	plain, err := base64.StdEncoding.DecodeString(*answer.AuthorizationData[0].AuthorizationToken)
	if err != nil {
		return "", "", errors.New("it is not base64")
	}
	user, password, found := strings.Cut(string(plain), ":")
	if !found {
		return "", "", errors.New("it is not of the form user:password")
	}
	return user, password, nil
}
