package deploy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
)

var errTest = errors.New("refused for the test")

// bubble runs a test whose waiting takes no time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// effects are the calls of Deploy that do something, in order.
var effects = []string{"GetCallerIdentity", "run ", "sam ", "build ", "push ", "DescribeImages", "GET ", "DeleteStack", "UpdateStack"}

var wholeDeployment = []string{
	"GetCallerIdentity", "run scripts/emulators sam", "sam deploy bastion-registry", "sam build", "build image", "push " + testRepo,
	"DescribeImages registry-abc", "sam deploy bastion", "GET " + testURL,
}

func TestDeployDoesItsStepsInOrderAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.settings.Parameters["QuotaTotal"] = "20"
		for range 2 {
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
			if got := w.takeCalls(effects...); !slices.Equal(got, wholeDeployment) {
				t.Errorf("it does %q", got)
			}
		}
		args := w.deployed["bastion"]
		for _, want := range []string{`ImageUri="` + testRepo + "@" + testDigest + `"`, `VpcId="` + testVPC + `"`, `SubnetIds="` + testSubnet + `"`, `Draining="false"`, `QuotaTotal="20"`} {
			if !slices.Contains(args, want) {
				t.Errorf("the service is deployed without %s: %q", want, args)
			}
		}
		if said := w.out.String(); !strings.Contains(said, "--aws-sigv4 aws:amz:eu-west-1:execute-api") || !strings.Contains(said, "id_ed25519.pub\" "+testURL) || !strings.Contains(said, "sg-member") {
			t.Errorf("it ends with\n%s", said)
		}
	})
}

// After a failure of any step, the same command does the rest.
func TestDeployGoesOnAfterAnyFailure(t *testing.T) {
	for i, broken := range wholeDeployment {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.fail[broken] = errTest
			err := w.deployment().Deploy(t.Context())
			got := w.takeCalls(effects...)
			if err == nil || !strings.Contains(err.Error(), errTest.Error()) || !strings.Contains(err.Error(), "make deploy again") {
				t.Errorf("%s fails: %v", broken, err)
			}
			if last := got[len(got)-1]; last != broken || len(got) > i+smokeTries {
				t.Errorf("%s fails, and then it does %q", broken, got)
			}
			clear(w.fail)
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Errorf("%s failed once; again: %v", broken, err)
			}
			if got := w.takeCalls(effects...); !slices.Equal(got, wholeDeployment) {
				t.Errorf("%s failed once; again it does %q", broken, got)
			}
		})
	}
}

func TestDeployPutsStacksRightFirst(t *testing.T) {
	for _, test := range []struct {
		status, next types.StackStatus
		deletes      bool
		want         string
	}{
		{types.StackStatusRollbackComplete, "", true, ""},
		{types.StackStatusCreateInProgress, types.StackStatusRollbackComplete, true, ""},
		{types.StackStatusUpdateInProgress, types.StackStatusUpdateComplete, false, ""},
		{types.StackStatusReviewInProgress, "", false, ""},
		{types.StackStatusUpdateRollbackComplete, "", false, ""},
		{types.StackStatusDeleteFailed, "", false, "make undeploy"},
		{types.StackStatusUpdateRollbackFailed, "", false, "continue-update-rollback --stack-name bastion"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			s := w.add("bastion", test.status)
			s.next = test.next
			err := w.deployment().Deploy(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: %v", test.status, err)
			}
			if deleted := len(w.takeCalls("DeleteStack bastion")) > 0; deleted != test.deletes {
				t.Errorf("%s: deleted: %v", test.status, deleted)
			}
		})
	}
}

func TestAnotherDigestIsNotDeployed(t *testing.T) {
	d := newWorld().deployment()
	err := d.verify(t.Context(), &built{repository: testRepo, digest: testDigest, reference: testRepo + "@sha256:2222"})
	if err == nil || !strings.Contains(err.Error(), "what was built") {
		t.Error(err)
	}
}

func TestTheSmokeRequest(t *testing.T) {
	for _, test := range []struct {
		name, issuer, token string
		answers             []int
		want, authorization string
	}{
		{"signed", "", "", []int{200}, "", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/eu-west-1/execute-api/aws4_request"},
		{"not there at once", "", "", []int{404, 500, 200}, "", "AWS4-HMAC-SHA256"},
		{"broken", "", "", []int{500}, "500 Internal Server Error", "AWS4-HMAC-SHA256"},
		{"not allowed", "", "", []int{403}, "execute-api:Invoke", "AWS4-HMAC-SHA256"},
		{"an answer of the wrong kind", "", "", []int{401}, "not 200", "AWS4-HMAC-SHA256"},
		{"no token", "https://issuer.example", "", []int{401}, "", ""},
		{"open to everybody", "https://issuer.example", "", []int{200}, "not 401", ""},
		{"token", "https://issuer.example", "abc", []int{200}, "", "Bearer abc"},
		{"bad token", "https://issuer.example", "abc", []int{401}, "not 200", "Bearer abc"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.answers, w.settings.Token = test.answers, test.token
			w.add("bastion", types.StackStatusCreateComplete).params["JwtIssuer"] = test.issuer
			err := w.deployment().smoke(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: %v", test.name, err)
			}
			if !strings.HasPrefix(w.signed[0], test.authorization) || test.authorization == "" && w.signed[0] != "" {
				t.Errorf("%s: it sends %q", test.name, w.signed[0])
			}
		})
	}
}
