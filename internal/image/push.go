package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// Registry is a repository that images are pushed to.
type Registry struct {
	Repository string // "HOST/NAME", without a tag
	Keychain   authn.Keychain
	Transport  http.RoundTripper // nil for the default
}

// Push pushes the index and verifies that all of it is in the registry. It returns
// "HOST/NAME@sha256:…". What the registry has already is not sent again, so it is safe
// to repeat.
func (r Registry) Push(ctx context.Context, index v1.ImageIndex, progress Progress) (string, error) {
	repository, err := name.NewRepository(r.Repository, name.StrictValidation)
	if err == nil && strings.Contains(r.Repository, "://") {
		err = errors.New("it is a URL") // and "https:" would be a valid host
	}
	if err != nil {
		return "", fmt.Errorf("the repository %q: %w; want one such as 111122223333.dkr.ecr.eu-west-1.amazonaws.com/NAME", r.Repository, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("read the image: %w", err)
	}
	// The tag contains the digest, so that it never has to move: registry.yaml makes tags
	// immutable. It does not start with "sha256-", where clients of older registries look
	// for an image's signatures.
	tag, reference := repository.Tag("digest-"+digest.Hex), repository.Digest(digest.String())
	if err := r.send(ctx, tag, index, progress); err != nil {
		return "", fmt.Errorf("push to %s: %w", repository, explain(err, repository))
	}
	err = progress.Step("verify "+reference.String(), nil, func() error { return r.verify(ctx, tag, reference) })
	if err != nil {
		return "", fmt.Errorf("verify %s: %w", reference, explain(err, repository))
	}
	return reference.String(), nil
}

// send pushes what the registry does not have, and the index last, so that an
// interrupted push is not visible.
func (r Registry) send(ctx context.Context, to name.Tag, index v1.ImageIndex, progress Progress) error {
	updates := make(chan v1.Update, 1)
	var sent, total atomic.Int64
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for update := range updates { // closed by remote.Push
			sent.Store(update.Complete)
			total.Store(update.Total)
		}
	}()
	detail := func() string { return fmt.Sprintf("%s of %s", megabytes(sent.Load()), megabytes(total.Load())) }
	return progress.Step("push to "+to.Context().String(), detail, func() error {
		defer func() { <-counted }()
		return remote.Push(to, index, append(r.options(ctx), remote.WithProgress(updates))...)
	})
}

// verify reads back what a task would: the index by its tag and by its digest, every
// image's manifest and configuration, and whether the layers exist. The library
// compares each with its digest.
func (r Registry) verify(ctx context.Context, tag name.Tag, reference name.Digest) error {
	tagged, err := remote.Get(tag, r.options(ctx)...)
	if err != nil {
		return err
	}
	if tagged.Digest.String() != reference.DigestStr() {
		return fmt.Errorf("the tag %s is %s in the registry; delete that image and push again", tag.TagStr(), tagged.Digest)
	}
	index, err := remote.Index(reference, r.options(ctx)...)
	if err != nil {
		return err
	}
	if err := validate.Index(index, validate.Fast); err != nil {
		return fmt.Errorf("%w\nDelete the image in the registry and push again", err)
	}
	return nil
}

func (r Registry) options(ctx context.Context) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(r.Keychain), remote.WithUserAgent("bastion-on-demand")}
	if r.Transport != nil {
		options = append(options, remote.WithTransport(r.Transport))
	}
	return options
}

// explain adds the next step to a registry's refusal.
func explain(err error, repository name.Repository) error {
	refused := new(transport.Error)
	if !errors.As(err, &refused) {
		return err
	}
	for _, reason := range refused.Errors {
		if reason.Code == transport.NameUnknownErrorCode {
			return fmt.Errorf("%w\nThere is no repository %s at %s: create it first (for ECR, with registry.yaml)",
				err, repository.RepositoryStr(), repository.RegistryStr())
		}
	}
	switch refused.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w\nSign in to %s first (for ECR, with AWS credentials)", err, repository.RegistryStr())
	case http.StatusForbidden:
		return fmt.Errorf("%w\nYou are not allowed to push to %s: ask its administrator for permission", err, repository)
	}
	return err
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
