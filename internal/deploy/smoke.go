package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
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

// smoked is what the test request has shown.
type smoked struct {
	stack  stack
	url    string
	tokens bool       // callers have tokens
	status int        // of the response
	source netip.Addr // the address of this machine, as the service sees it; zero if it is not known
}

// smoke sends the test request: it lists the caller's bastions.
func (d *Deployment) smoke(ctx context.Context) (smoked, error) {
	s, err := fetchStack(ctx, d.Cloud.Stacks, d.Settings.Stack)
	if err != nil {
		return smoked{}, err
	}
	shown := smoked{stack: s, url: s.outputs["Url"], tokens: s.parameters["JwtIssuer"] != "", status: http.StatusOK}
	if shown.url == "" {
		return shown, fmt.Errorf("the stack %s has no output Url; was it created from another template.yaml?", d.Settings.Stack)
	}
	if shown.tokens && d.Settings.Token == "" {
		shown.status = http.StatusUnauthorized // the only result without a token
	}
	var last error
	tries := 0
	err = poll(ctx, d.Progress, "GET "+shown.url, smokePause, func(ctx context.Context) (bool, string, error) {
		tries++
		if last = d.try(ctx, &shown); last != nil && tries == smokeTries {
			return false, "", last
		}
		return last == nil, fmt.Sprint(last), nil
	})
	if err != nil {
		return shown, fmt.Errorf("GET %s: %w", shown.url, err)
	}
	fmt.Fprintf(d.Progress.W, "GET %s returned %d.\n", shown.url, shown.status)
	if shown.status != http.StatusOK {
		fmt.Fprintln(d.Progress.W, "Requests without a token are refused. To test with one, rerun make deploy with a token in BASTION_TOKEN.")
	}
	return shown, nil
}

// try sends one request. If the response has the expected status, try sets the source.
func (d *Deployment) try(ctx context.Context, shown *smoked) error {
	ctx, cancel := context.WithTimeout(ctx, smokeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, shown.url, nil)
	if err != nil {
		return err
	}
	switch {
	case !shown.tokens:
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
	if response.StatusCode == shown.status {
		// API Gateway's own responses do not have the header.
		shown.source, _ = netip.ParseAddr(response.Header.Get("X-Source-Address"))
		return nil
	}
	text := fmt.Sprintf("the status is %s, not %d: %s", response.Status, shown.status, strings.TrimSpace(string(body)))
	if behind := d.behind(response); !shown.tokens && behind.Abs() > clockLimit {
		text += fmt.Sprintf("\nThe clock of this machine differs by %s from that of AWS, which refuses signatures from more than %s ago: set the clock", behind.Abs().Round(time.Second), clockLimit)
	} else if response.StatusCode == http.StatusForbidden {
		text += "\nThe caller must be an IAM user or role with execute-api:Invoke on the stack's output InvokeArn"
	}
	return errors.New(text)
}

// clockLimit is the largest difference between the time of a signature and that of AWS:
// "AWS Signature Version 4 for API requests" in the IAM User Guide.
const clockLimit = 5 * time.Minute

// behind returns how far the clock is behind the time of the response.
func (d *Deployment) behind(response *http.Response) time.Duration {
	at, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return 0
	}
	return at.Sub(d.Now())
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

// printFirstSteps prints what people do first.
func (d *Deployment) printFirstSteps(shown smoked) {
	fmt.Fprintf(d.Progress.W, "\nAdmit the security group %s to your targets, then request a bastion:\n\n%s\n",
		shown.stack.outputs["MemberGroupId"], firstCommand(shown.url, d.Cloud.Region, shown.tokens))
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
