package image

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// quiet prints nothing.
var quiet = Progress{W: io.Discard}

// assembleFake returns an index whose programs are short texts.
func assembleFake() (v1.ImageIndex, error) {
	return assemble("0123abc", func(platform v1.Platform) ([]byte, error) {
		return []byte("a program for " + platform.String()), nil
	})
}

var fakeOnce = sync.OnceValues(assembleFake)

// fake returns the index of assembleFake, the same one for all tests.
func fake(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := fakeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// summary is all that [Summarize] returns.
type summary struct {
	Digest v1.Hash
	Images []Summary
}

func summarize(t *testing.T, index v1.ImageIndex) summary {
	t.Helper()
	digest, images, err := Summarize(index)
	if err != nil {
		t.Fatal(err)
	}
	return summary{digest, images}
}

// images returns the index's images, in the order of Platforms.
func images(t *testing.T, index v1.ImageIndex) []v1.Image {
	t.Helper()
	var all []v1.Image
	for _, one := range summarize(t, index).Images {
		image, err := index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, image)
	}
	return all
}

// testRegistry is a registry in this process, on loopback.
type testRegistry struct {
	registry Registry
	// before may respond in the registry's place; then it returns true.
	before func(http.ResponseWriter, *http.Request) bool

	mu    sync.Mutex
	calls []string // "METHOD path"
}

func newRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.calls = append(r.calls, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		if r.before != nil && r.before(w, req) {
			return
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	r.registry = Registry{
		Repository: strings.TrimPrefix(server.URL, "http://") + "/team/bastiond",
		Keychain:   authn.NewMultiKeychain(), // no credentials
		Transport:  transport,
	}
	return r
}

// takeWrites returns the calls since the last time, without reads.
func (r *testRegistry) takeWrites() (writes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, call := range r.calls {
		if !strings.HasPrefix(call, "GET ") && !strings.HasPrefix(call, "HEAD ") {
			writes = append(writes, call)
		}
	}
	r.calls = nil
	return writes
}
