package image

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// explain adds the next step to what a registry refused.
func explain(err error, repository name.Repository) error {
	refused := new(transport.Error)
	if !errors.As(err, &refused) {
		return err
	}
	for _, reason := range refused.Errors {
		if reason.Code == transport.NameUnknownErrorCode {
			return fmt.Errorf("%w\nThere is no repository %s at %s: make it first (for ECR, with registry.yaml)",
				err, repository.RepositoryStr(), repository.RegistryStr())
		}
	}
	switch refused.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w\n%s does not know you: sign in there first (for ECR, with credentials for AWS)", err, repository.RegistryStr())
	case http.StatusForbidden:
		return fmt.Errorf("%w\nYou may not push there: ask whoever runs %s for the right to", err, repository.RegistryStr())
	}
	return err
}
