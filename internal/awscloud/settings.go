package awscloud

import (
	"context"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// ReadParameters returns the values of parameters of Parameter Store by their names,
// without those that do not exist. Ten names are the limit. It uses the credentials and
// the region of the environment. If client is nil, it uses an HTTP client of its own.
func ReadParameters(ctx context.Context, client *http.Client, names ...string) (map[string]string, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	api := NewSSM(cfg, func(o *ssm.Options) { o.HTTPClient = Transport{HTTP: client}.httpClientOr(o.HTTPClient) })
	return readParameters(ctx, api, names)
}
