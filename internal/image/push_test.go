package image

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestWhatIsPushedIsPulled(t *testing.T) {
	r := newRig(t)
	index := fake(t)
	want := summarize(t, index)
	var said bytes.Buffer
	reference, err := r.registry.Push(t.Context(), index, Progress{W: &said})
	if err != nil {
		t.Fatal(err)
	}
	if reference != r.registry.Repository+"@"+want.Digest.String() {
		t.Errorf("it is called %s", reference)
	}
	for _, step := range []string{"push to " + r.registry.Repository, "verify " + reference} {
		if !strings.Contains(said.String(), step) {
			t.Errorf("%q is not in %s", step, &said)
		}
	}
	for _, named := range []string{reference, r.registry.Repository + ":digest-" + want.Digest.Hex} {
		pulled := r.pull(t, named)
		wantSound(t, pulled)
		if got := summarize(t, pulled); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: pulled %+v, want %+v", named, got, want)
		}
	}
}

func (r *rig) pull(t *testing.T, reference string) v1.ImageIndex {
	t.Helper()
	parsed, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(parsed, r.registry.options(t.Context())...)
	if err != nil {
		t.Fatal(err)
	}
	return pulled
}

func TestASecondPushSendsNothing(t *testing.T) {
	r := newRig(t)
	for _, first := range []bool{true, false} {
		if _, err := r.registry.Push(t.Context(), fake(t), quiet); err != nil {
			t.Fatal(err)
		}
		if writes := r.takeCalls(); (len(writes) > 0) != first {
			t.Errorf("first %t: %q", first, writes)
		}
	}
}

// The index comes last: until then nobody can name what is only half there.
func TestAPushThatBrokeOffIsFinishedByTheNext(t *testing.T) {
	r := newRig(t)
	tagged := "/manifests/digest-"
	r.before = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, tagged) {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"not now"}]}`, http.StatusForbidden)
			return true
		}
		return false
	}
	if _, err := r.registry.Push(t.Context(), fake(t), quiet); err == nil {
		t.Fatal("it is said to be there")
	}
	if writes := r.takeCalls(); len(writes) == 0 || !strings.Contains(writes[len(writes)-1], tagged) {
		t.Errorf("the index is not last: %q", writes)
	}
	r.before = nil
	if _, err := r.registry.Push(t.Context(), fake(t), quiet); err != nil {
		t.Fatal(err)
	}
	if writes := r.takeCalls(); len(writes) != 1 {
		t.Errorf("sent again: %q", writes)
	}
}

func TestWhatTheRegistryRefusesIsExplained(t *testing.T) {
	for _, test := range []struct {
		status     int
		body, want string
	}{
		{404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}`, "There is no repository team/bastiond at 127.0.0.1"},
		{403, `{"errors":[{"code":"DENIED","message":"no"}]}`, "You may not push there"},
		{401, `{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}`, "sign in there first"},
		{400, `{"errors":[{"code":"MANIFEST_INVALID","message":"odd"}]}`, "MANIFEST_INVALID: odd"},
	} {
		r := newRig(t)
		r.before = func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodGet || req.Method == http.MethodHead {
				return false
			}
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
			return true
		}
		_, err := r.registry.Push(t.Context(), fake(t), quiet)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "push to "+r.registry.Repository) {
			t.Errorf("%d: %v", test.status, err)
		}
	}
}

// A registry that takes everything and then has something else is found out.
func TestVerifyFindsWhatIsNotThere(t *testing.T) {
	index := fake(t)
	want := summarize(t, index)
	layers, err := images(t, index)[1].Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"index by tag":    "/manifests/digest-" + want.Digest.Hex,
		"index by digest": "/manifests/" + want.Digest.String(),
		"amd64's image":   "/manifests/" + want.Images[0].Digest.String(),
		"arm64's image":   "/manifests/" + want.Images[1].Digest.String(),
		"arm64's layer":   "/blobs/" + layer.String(),
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			if _, err := r.registry.Push(t.Context(), index, quiet); err != nil {
				t.Fatal(err)
			}
			r.before = func(w http.ResponseWriter, req *http.Request) bool {
				read := req.Method == http.MethodGet || strings.HasPrefix(path, "/blobs/")
				if !read || !strings.HasSuffix(req.URL.Path, path) {
					return false
				}
				if strings.HasPrefix(path, "/blobs/") {
					http.NotFound(w, req)
					return true
				}
				w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				_, _ = w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
				return true
			}
			if _, err := r.registry.Push(t.Context(), index, quiet); err == nil || !strings.Contains(err.Error(), "verify ") {
				t.Errorf("it is not missed: %v", err)
			}
		})
	}
}

func TestAPushCanBeInterrupted(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.before = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPost {
			cancel()
			<-req.Context().Done() // the client has hung up
			return true
		}
		return false
	}
	if _, err := r.registry.Push(ctx, fake(t), quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestARepositoryMustBeNamedWhole(t *testing.T) {
	for _, bad := range []string{"", "bastiond", "host/name:tag", "HOST/UPPER", "https://host/name"} {
		if _, err := (Registry{Repository: bad}).Push(t.Context(), fake(t), quiet); err == nil || !strings.Contains(err.Error(), "want one such as") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
