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

// A new API needs some time before it works everywhere.
const (
	smokePause   = 3 * time.Second
	smokeTries   = 20
	smokeTimeout = 35 * time.Second // API Gateway responds within 30
)

// smoke sends the test request: it lists the caller's bastions.
func (d *Deployment) smoke(ctx context.Context) error {
	s, err := fetchStack(ctx, d.Cloud.Stacks, d.Settings.Stack)
	if err != nil {
		return err
	}
	url := s.outputs["Url"]
	if url == "" {
		return fmt.Errorf("the stack %s has no output Url; was it created from another template.yaml?", d.Settings.Stack)
	}
	tokens := s.parameters["JwtIssuer"] != ""
	want := http.StatusOK
	if tokens && d.Settings.Token == "" {
		want = http.StatusUnauthorized // the only result without a token
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
	d.printFirstSteps(s, url, tokens, want)
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
	response, err := d.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1000))
	if err != nil {
		return fmt.Errorf("read the response: %w", err)
	}
	if response.StatusCode == want {
		return nil
	}
	text := fmt.Sprintf("the status is %s, not %d: %s", response.Status, want, strings.TrimSpace(string(body)))
	if response.StatusCode == http.StatusForbidden {
		text += "\nThe caller must be an IAM user or role with execute-api:Invoke on the stack's output InvokeArn"
	}
	return errors.New(text)
}

// sign signs a request without a body as API Gateway expects it.
func (d *Deployment) sign(ctx context.Context, request *http.Request) error {
	credentials, err := d.Cloud.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("get credentials to sign with: %w", err)
	}
	empty := sha256.Sum256(nil)
	return v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(empty[:]), "execute-api", d.Cloud.Region, d.Now())
}

// printFirstSteps prints the result and the first command to try.
func (d *Deployment) printFirstSteps(s stack, url string, tokens bool, status int) {
	w := d.Progress.W
	fmt.Fprintf(w, "GET %s returned %d.\n", url, status)
	if status != http.StatusOK {
		fmt.Fprintln(w, "Requests without a token are refused. To test with one, rerun make deploy with a token in BASTION_TOKEN.")
	}
	fmt.Fprintf(w, "\nAdmit the security group %s to your targets, then request a bastion:\n\n", s.outputs["MemberGroupId"])
	fmt.Fprintln(w, firstCommand(url, d.Cloud.Region, tokens))
}

// firstCommand returns a shell command that requests a bastion.
func firstCommand(url, region string, tokens bool) string {
	how, before := `-H "Authorization: Bearer $BASTION_TOKEN"`, ""
	if !tokens {
		how, before = signedCurl(region), "  eval \"$(aws configure export-credentials --format env)\"\n"
	}
	return fmt.Sprintf(`%s  curl -sS %s -H 'Prefer: wait=25' -H 'Accept: text/plain' --data-binary @"$HOME/.ssh/id_ed25519.pub" %s`, before, how, url)
}

// signedCurl returns the arguments that make curl sign a request. If there is no session
// token, it has no header for one: curl 7.88 signs an empty header and does not send it,
// so the signature would be wrong. The header is one word with its option, because zsh
// does not split the value of ${...:+...} into words.
func signedCurl(region string) string {
	return fmt.Sprintf(`--aws-sigv4 aws:amz:%s:execute-api --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" ${AWS_SESSION_TOKEN:+-H"x-amz-security-token: $AWS_SESSION_TOKEN"}`, region)
}
