package image

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

const ecrHost = "111122223333.dkr.ecr.eu-west-1.amazonaws.com"

// tokens are ECR's, as a function.
type tokens func() (*ecr.GetAuthorizationTokenOutput, error)

func (f tokens) GetAuthorizationToken(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error) {
	return f()
}

func token(plain string) tokens {
	encoded := base64.StdEncoding.EncodeToString([]byte(plain))
	return func() (*ecr.GetAuthorizationTokenOutput, error) {
		return &ecr.GetAuthorizationTokenOutput{AuthorizationData: []types.AuthorizationData{{AuthorizationToken: &encoded}}}, nil
	}
}

// keychain answers the regions that it was asked to connect to.
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

func TestTokensGoToECRAndNowhereElse(t *testing.T) {
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
		chain, asked := keychain(token("AWS:secret"))
		auth, err := authn.Resolve(t.Context(), chain, repository)
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.Authorization()
		if err != nil {
			t.Fatal(err)
		}
		if want := region != ""; (got.Password == "secret") != want || (len(*asked) > 0) != want {
			t.Errorf("%s: password %q, asked %q", host, got.Password, *asked)
		}
		if region != "" && (*asked)[0] != region {
			t.Errorf("%s: asked in %s, want %s", host, (*asked)[0], region)
		}
	}
}

func TestNoTokenIsExplained(t *testing.T) {
	none := func() (*ecr.GetAuthorizationTokenOutput, error) { return &ecr.GetAuthorizationTokenOutput{}, nil }
	bad := "!secret!"
	garbled := func() (*ecr.GetAuthorizationTokenOutput, error) {
		return &ecr.GetAuthorizationTokenOutput{AuthorizationData: []types.AuthorizationData{{AuthorizationToken: &bad}}}, nil
	}
	denied := func() (*ecr.GetAuthorizationTokenOutput, error) { return nil, errors.New("AccessDenied") }
	for want, from := range map[string]tokens{
		"ecr:GetAuthorizationToken":     denied,
		"there is none in the answer":   none,
		"it is not base64":              garbled,
		"not of the form user:password": token("secret"),
	} {
		chain, _ := keychain(from)
		_, err := Registry{Repository: ecrHost + "/bastiond", Keychain: chain}.Push(t.Context(), fake(t), quiet)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// elsewhere sends every request to a server on loopback, whatever host it is for.
type elsewhere struct {
	to   *url.URL
	with http.RoundTripper
}

func (e elsewhere) RoundTrip(req *http.Request) (*http.Response, error) {
	moved := req.Clone(req.Context())
	moved.Host, moved.URL.Scheme, moved.URL.Host = req.URL.Host, e.to.Scheme, e.to.Host
	answer, err := e.with.RoundTrip(moved)
	if answer != nil {
		answer.Request = req // what a relative Location is relative to
	}
	return answer, err
}

// ECR wants basic authentication with the token's user and password.
func TestAPushToECRIsSignedIn(t *testing.T) {
	r := newRig(t)
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
	r.registry.Transport = elsewhere{&url.URL{Scheme: "http", Host: here}, r.registry.Transport}
	r.registry.Repository = ecrHost + "/bastiond"
	for plain, in := range map[string]bool{"AWS:secret": true, "AWS:wrong": false} {
		r.registry.Keychain, _ = keychain(token(plain))
		_, err := r.registry.Push(t.Context(), fake(t), quiet)
		if in && err != nil || !in && (err == nil || !strings.Contains(err.Error(), "sign in there first")) {
			t.Errorf("%s: %v", plain, err)
		}
	}
}

// The real client, against an HTTP server that answers as ECR does.
func TestTheSDKAsksForAToken(t *testing.T) {
	var asked http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = req.Header.Clone()
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
	if target := asked.Get("X-Amz-Target"); !strings.HasSuffix(target, ".GetAuthorizationToken") {
		t.Errorf("it asks for %q", target)
	}
	if signature := asked.Get("Authorization"); !strings.Contains(signature, "AKIDEXAMPLE/") || !strings.Contains(signature, "/eu-west-1/ecr/") {
		t.Errorf("signed %q", signature)
	}
}
