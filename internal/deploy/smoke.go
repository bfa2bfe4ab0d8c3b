package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A new API is not there everywhere at once.
const (
	smokePause   = 3 * time.Second
	smokeTries   = 20
	smokeTimeout = 35 * time.Second // API Gateway answers within 30
)

// smoke asks the deployed service for the caller's bastions.
func (d *Deployment) smoke(ctx context.Context) error {
	s, err := fetchStack(ctx, d.Cloud.Stacks, d.Settings.Stack)
	if err != nil {
		return err
	}
	url := s.outputs["Url"]
	if url == "" {
		return fmt.Errorf("the stack %s has no output Url; was it made from another template.yaml?", d.Settings.Stack)
	}
	tokens := s.parameters["JwtIssuer"] != ""
	want := http.StatusOK
	if tokens && d.Settings.Token == "" {
		want = http.StatusUnauthorized // all that can be seen without a token
	}
	var last error
	tries := 0
	err = poll(ctx, d.Progress, "GET "+url, smokePause, func(ctx context.Context) (bool, string, error) {
		tries++
		if last = d.try(ctx, url, tokens, want); last != nil && tries == smokeTries {
			return false, "", last
		}
		return last == nil, fmt.Sprint(last), nil
	})
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	d.begin(s, url, tokens, want)
	return nil
}

// try sends one request.
func (d *Deployment) try(ctx context.Context, url string, tokens bool, want int) error {
	ctx, cancel := context.WithTimeout(ctx, smokeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	switch {
	case !tokens:
		err = d.sign(ctx, request)
	case d.Settings.Token != "":
		request.Header.Set("Authorization", "Bearer "+d.Settings.Token)
	}
	if err != nil {
		return err
	}
	answer, err := d.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer.StatusCode == want {
		return nil
	}
	text := fmt.Sprintf("it answers %s, not %d: %s", answer.Status, want, strings.TrimSpace(string(body)))
	if answer.StatusCode == http.StatusForbidden {
		text += "\nYou need execute-api:Invoke on what the stack's output InvokeArn says, and be an IAM user or in a role"
	}
	return errors.New(text)
}

// sign signs as API Gateway wants it; a GET has no body.
func (d *Deployment) sign(ctx context.Context, request *http.Request) error {
	credentials, err := d.Cloud.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("get credentials to sign with: %w", err)
	}
	empty := sha256.Sum256(nil)
	return v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(empty[:]), "execute-api", d.Cloud.Region, d.Now())
}

// begin says what was seen, and what a person does first.
func (d *Deployment) begin(s stack, url string, tokens bool, status int) {
	w := d.Progress.W
	fmt.Fprintf(w, "GET %s answers %d.\n", url, status)
	if status != http.StatusOK {
		fmt.Fprintln(w, "It turns away who brings no token. To see it answer 200, run make deploy again with a token in BASTION_TOKEN.")
	}
	fmt.Fprintf(w, "\nLet targets admit the security group %s, then ask for a bastion:\n\n", s.outputs["MemberGroupId"])
	how := `-H "Authorization: Bearer $BASTION_TOKEN"`
	if !tokens {
		fmt.Fprintln(w, `  eval "$(aws configure export-credentials --format env)"`)
		how = fmt.Sprintf(`--aws-sigv4 aws:amz:%s:execute-api --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -H "x-amz-security-token: $AWS_SESSION_TOKEN"`, d.Cloud.Region)
	}
	fmt.Fprintf(w, "  curl -sS %s -H 'Prefer: wait=25' -H 'Accept: text/plain' --data-binary @\"$HOME/.ssh/id_ed25519.pub\" %s\n", how, url)
}
