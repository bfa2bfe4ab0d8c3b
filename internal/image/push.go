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
)

// Registry is where images are pushed to.
type Registry struct {
	Repository string            // "HOST/NAME", without a tag
	Keychain   authn.Keychain    // who we are there
	Transport  http.RoundTripper // nil for the ordinary one
}

// Push pushes the index, with a tag that says its digest, and then asks the
// registry for all of it. It answers "HOST/NAME@sha256:…". What is there already
// is not sent again, so it is safe to repeat.
func (r Registry) Push(ctx context.Context, index v1.ImageIndex, progress Progress) (string, error) {
	repository, err := r.repository()
	if err != nil {
		return "", err
	}
	summary, err := Summarize(index)
	if err != nil {
		return "", err
	}
	reference := repository.Digest(summary.Digest.String())
	err = r.send(ctx, repository.Tag(tag(summary.Digest)), index, progress)
	if err != nil {
		return "", fmt.Errorf("push to %s: %w", repository, explain(err, repository))
	}
	err = progress.Step("verify "+reference.String(), nil, func() error {
		return r.verify(ctx, repository, index, summary)
	})
	if err != nil {
		return "", fmt.Errorf("verify %s: %w", reference, explain(err, repository))
	}
	return reference.String(), nil
}

func (r Registry) repository() (name.Repository, error) {
	repository, err := name.NewRepository(r.Repository, name.StrictValidation)
	if err == nil && strings.Contains(r.Repository, "://") {
		err = errors.New("it begins like a URL") // and "https:" would pass for a host
	}
	if err != nil {
		return name.Repository{}, fmt.Errorf("the repository %q: %w; want one such as 111122223333.dkr.ecr.eu-west-1.amazonaws.com/NAME", r.Repository, err)
	}
	return repository, nil
}

// tag says the digest, so that it never has to mean another image: ECR can be
// told to refuse that. It does not begin with "sha256-", which is where clients
// of older registries look for an image's signatures.
func tag(digest v1.Hash) string { return "digest-" + digest.Hex }

// send pushes what the registry does not have, and the index last, so that a
// push that broke off shows nowhere.
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

func (r Registry) options(ctx context.Context) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(r.Keychain), remote.WithUserAgent("bastion-on-demand")}
	if r.Transport != nil {
		options = append(options, remote.WithTransport(r.Transport))
	}
	return options
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
