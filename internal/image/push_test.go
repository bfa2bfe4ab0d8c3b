package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	ecrtypes "github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestPushedIndexIsPulled(t *testing.T) {
	r := newRegistry(t)
	index := fake(t)
	want := summarize(t, index)
	var printed bytes.Buffer
	reference, err := r.registry.Push(t.Context(), index, Progress{W: &printed})
	if err != nil {
		t.Fatal(err)
	}
	if reference != r.registry.Repository+"@"+want.Digest.String() {
		t.Errorf("the reference is %s", reference)
	}
	for _, step := range []string{"push to " + r.registry.Repository, "verify " + reference} {
		if !strings.Contains(printed.String(), step) {
			t.Errorf("%q is not in %s", step, &printed)
		}
	}
	for _, named := range []string{reference, r.registry.Repository + ":digest-" + want.Digest.Hex} {
		pulled := r.pull(t, named)
		wantConsistent(t, pulled)
		if got := summarize(t, pulled); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: pulled %+v, want %+v", named, got, want)
		}
	}
}

func (r *testRegistry) pull(t *testing.T, reference string) v1.ImageIndex {
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

func TestSecondPushSendsNothing(t *testing.T) {
	r := newRegistry(t)
	for _, first := range []bool{true, false} {
		if _, err := r.registry.Push(t.Context(), fake(t), quiet); err != nil {
			t.Fatal(err)
		}
		if writes := r.takeWrites(); (len(writes) > 0) != first {
			t.Errorf("first %t: %q", first, writes)
		}
	}
}

// The index comes last, so an incomplete image has no name.
func TestInterruptedPushIsFinishedByTheNext(t *testing.T) {
	r := newRegistry(t)
	tagged := "/manifests/digest-"
	r.before = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, tagged) {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"not now"}]}`, http.StatusForbidden)
			return true
		}
		return false
	}
	if _, err := r.registry.Push(t.Context(), fake(t), quiet); err == nil {
		t.Fatal("the push succeeded")
	}
	if writes := r.takeWrites(); len(writes) == 0 || !strings.Contains(writes[len(writes)-1], tagged) {
		t.Errorf("the index is not last: %q", writes)
	}
	r.before = nil
	if _, err := r.registry.Push(t.Context(), fake(t), quiet); err != nil {
		t.Fatal(err)
	}
	if writes := r.takeWrites(); len(writes) != 1 {
		t.Errorf("the second push sends %q", writes)
	}
}

func TestRefusalsSayTheNextStep(t *testing.T) {
	for _, test := range []struct {
		status     int
		body, want string
	}{
		{404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}`, "There is no repository team/bastiond at 127.0.0.1"},
		{403, `{"errors":[{"code":"DENIED","message":"no"}]}`, "You are not allowed to push to 127.0.0.1"},
		{401, `{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}`, "Sign in to 127.0.0.1"},
		{400, `{"errors":[{"code":"MANIFEST_INVALID","message":"odd"}]}`, "MANIFEST_INVALID: odd"},
	} {
		r := newRegistry(t)
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

// A registry that accepts everything and then returns something else is an error.
func TestVerifyFindsWrongAndMissingParts(t *testing.T) {
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
			r := newRegistry(t)
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
				t.Errorf("the push succeeded: %v", err)
			}
		})
	}
}

func TestPushCanBeInterrupted(t *testing.T) {
	r := newRegistry(t)
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

func TestRepositoryNameIsValidated(t *testing.T) {
	for _, bad := range []string{"", "bastiond", "host/name:tag", "HOST/UPPER", "https://host/name"} {
		if _, err := (Registry{Repository: bad}).Push(t.Context(), fake(t), quiet); err == nil || !strings.Contains(err.Error(), "want one such as") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

const ecrHost = "111122223333.dkr.ecr.eu-west-1.amazonaws.com"

// tokens is ECR as a function.
type tokens func() (*ecr.GetAuthorizationTokenOutput, error)

func (f tokens) GetAuthorizationToken(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error) {
	return f()
}

func token(plain string) tokens {
	encoded := base64.StdEncoding.EncodeToString([]byte(plain))
	return func() (*ecr.GetAuthorizationTokenOutput, error) {
		return &ecr.GetAuthorizationTokenOutput{AuthorizationData: []ecrtypes.AuthorizationData{{AuthorizationToken: &encoded}}}, nil
	}
}

// keychain also returns the regions that it connects to.
func keychain(from Tokens) (Keychain, *[]string) {
	var regions []string
	return Keychain{
		Connect: func(_ context.Context, region string) (Tokens, error) {
			regions = append(regions, region)
			return from, nil
		},
		Others: authn.NewMultiKeychain(),
	}, &regions
}

func TestTokensAreSentToECROnly(t *testing.T) {
	for host, region := range map[string]string{
		ecrHost: "eu-west-1",
		"111122223333.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "us-gov-west-1",
		"111122223333.dkr.ecr.cn-north-1.amazonaws.com.cn":      "cn-north-1",
		"111122223333.dkr-ecr.eu-west-1.on.aws":                 "eu-west-1",

		ecrHost + ".example.com": "",
		"example.com":            "",
		"x" + ecrHost:            "",
		"111122223333.dkr.ecr.eu-west-1.amazonaws.com:8443":  "",
		"111122223333.dkr.ecr.eu-west-1.example.com":         "",
		"111122223333.dkr.ecr.eu-west-1.a.amazonaws.com":     "",
		"111122223333.dkrxecr.eu-west-1.amazonaws.com":       "",
		"example.com.dkr.ecr.eu-west-1.amazonaws.com":        "",
		"111122223333.dkr.ecr.eu-west-1.amazonaws.com.evil1": "",
	} {
		repository, err := name.NewRepository(host + "/bastiond")
		if err != nil {
			t.Fatal(err)
		}
		chain, connected := keychain(token("AWS:secret"))
		auth, err := authn.Resolve(t.Context(), chain, repository)
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		if want := region != ""; (got.Password == "secret") != want || (len(*connected) > 0) != want {
			t.Errorf("%s: password %q, connected to %q", host, got.Password, *connected)
		}
		if region != "" && (*connected)[0] != region {
			t.Errorf("%s: connected to %s, want %s", host, (*connected)[0], region)
		}
	}
}

func TestMissingTokenIsAnError(t *testing.T) {
	none := func() (*ecr.GetAuthorizationTokenOutput, error) { return &ecr.GetAuthorizationTokenOutput{}, nil }
	bad := "!secret!"
	garbled := func() (*ecr.GetAuthorizationTokenOutput, error) {
		return &ecr.GetAuthorizationTokenOutput{AuthorizationData: []ecrtypes.AuthorizationData{{AuthorizationToken: &bad}}}, nil
	}
	denied := func() (*ecr.GetAuthorizationTokenOutput, error) { return nil, errors.New("AccessDenied") }
	for _, test := range []struct {
		from tokens
		want string
	}{
		{denied, "ecr:GetAuthorizationToken"}, {none, "no valid token"}, {garbled, "no valid token"}, {token("secret"), "no valid token"},
	} {
		chain, _ := keychain(test.from)
		_, err := Registry{Repository: ecrHost + "/bastiond", Keychain: chain}.Push(t.Context(), fake(t), quiet)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q: %v", test.want, err)
		}
	}
}

// redirect sends every request to a server on loopback.
type redirect struct {
	to   *url.URL
	with http.RoundTripper
}

func (e redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	moved := req.Clone(req.Context())
	moved.Host, moved.URL.Scheme, moved.URL.Host = req.URL.Host, e.to.Scheme, e.to.Host
	response, err := e.with.RoundTrip(moved)
	if response != nil {
		response.Request = req // the base of a relative Location
	}
	return response, err
}

// ECR expects basic authentication with the token's user and password.
func TestPushToECRIsAuthenticated(t *testing.T) {
	r := newRegistry(t)
	r.before = func(w http.ResponseWriter, req *http.Request) bool {
		user, password, _ := req.BasicAuth()
		if user == "AWS" && password == "secret" && req.Host == ecrHost {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="https://`+ecrHost+`/"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	here, _, _ := strings.Cut(r.registry.Repository, "/")
	r.registry.Transport = redirect{&url.URL{Scheme: "http", Host: here}, r.registry.Transport}
	r.registry.Repository = ecrHost + "/bastiond"
	for plain, in := range map[string]bool{"AWS:secret": true, "AWS:wrong": false} {
		r.registry.Keychain, _ = keychain(token(plain))
		_, err := r.registry.Push(t.Context(), fake(t), quiet)
		if in && err != nil || !in && (err == nil || !strings.Contains(err.Error(), "Sign in to "+ecrHost)) {
			t.Errorf("%s: %v", plain, err)
		}
	}
}

// The SDK's client against an HTTP server that responds as ECR does.
func TestSDKRequestsAToken(t *testing.T) {
	var received http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		received = req.Header.Clone()
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("Connection", "close")
		_, _ = w.Write([]byte(`{"authorizationData":[{"authorizationToken":"QVdTOnNlY3JldA==","expiresAt":1.8e9}]}`))
	}))
	defer server.Close()
	for variable, value := range map[string]string{
		"AWS_ENDPOINT_URL_ECR": server.URL, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(variable, value)
	}
	repository, err := name.NewRepository(ecrHost + "/bastiond")
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewKeychain().Resolve(repository)
	if err != nil {
		t.Fatal(err)
	}
	got, err := auth.Authorization()
	if err != nil || got.Username != "AWS" || got.Password != "secret" {
		t.Errorf("%+v, %v", got, err)
	}
	if target := received.Get("X-Amz-Target"); !strings.HasSuffix(target, ".GetAuthorizationToken") {
		t.Errorf("the operation is %q", target)
	}
	if signature := received.Get("Authorization"); !strings.Contains(signature, "AKIDEXAMPLE/") || !strings.Contains(signature, "/eu-west-1/ecr/") {
		t.Errorf("the signature is %q", signature)
	}
}
