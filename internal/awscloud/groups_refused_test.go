package awscloud

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// groupFailures has the failure for each code of EC2 after which a call is refused.
var groupFailures = map[string]bastion.Failure{
	"AccountDisabled":                      accountFailure,
	"Blocked":                              accountFailure,
	"CannotDelete":                         requestFailure,
	"ClientInvalidParameterValue":          requestFailure,
	"DefaultVpcDoesNotExist":               vpcFailure,
	"InvalidAction":                        requestFailure,
	"InvalidCharacter":                     requestFailure,
	"InvalidGroup.Reserved":                requestFailure,
	"InvalidGroupId.Malformed":             requestFailure,
	"InvalidInput":                         requestFailure,
	"InvalidParameter":                     requestFailure,
	"InvalidParameterCombination":          requestFailure,
	"InvalidParameterDependency":           requestFailure,
	"InvalidParameterValue":                requestFailure,
	"InvalidPermission.Malformed":          requestFailure,
	"InvalidQueryParameter":                requestFailure,
	"InvalidRequest":                       requestFailure,
	"InvalidSecurityGroupId.Malformed":     requestFailure,
	"InvalidSecurityGroupRuleId.Malformed": requestFailure,
	"InvalidTagKey.Malformed":              requestFailure,
	"InvalidVpcID.Malformed":               vpcFailure,
	"InvalidVpcID.NotFound":                vpcFailure,
	"MalformedQueryString":                 requestFailure,
	"MissingAction":                        requestFailure,
	"MissingInput":                         requestFailure,
	"MissingParameter":                     requestFailure,
	"NoSuchVersion":                        requestFailure,
	"OperationNotPermitted":                requestFailure,
	"OptInRequired":                        accountFailure,
	"PendingVerification":                  accountFailure,
	"ResourceLimitExceeded":                resourceLimitFailure,
	"RulesPerSecurityGroupLimitExceeded":   ruleQuotaFailure,
	"SecurityGroupLimitExceeded":           groupQuotaFailure,
	"TagLimitExceeded":                     requestFailure,
	"TagPolicyViolation":                   tagPolicyFailure,
	"UnauthorizedOperation":                deniedFailure,
	"UnknownParameter":                     requestFailure,
	"Unsupported":                          requestFailure,
	"UnsupportedOperation":                 requestFailure,
	"UnsupportedProtocol":                  requestFailure,
	"VPCIdNotSpecified":                    vpcFailure,
	"ValidationError":                      requestFailure,
}

func TestDefiniteErrorsOfGroupsAreRefusals(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	for action, call := range w.groupChanges() {
		for code, failure := range groupFailures {
			w.server.Fail(action, code, "the message of EC2")
			err := call(t.Context())
			var refused *bastion.RefusedError
			if !errors.As(err, &refused) {
				t.Errorf("%s, %s: %v, want a refusal", action, code, err)
				continue
			}
			if refused.Failure != failure || refused.Denied != (code == "UnauthorizedOperation") {
				t.Errorf("%s, %s: %+v", action, code, refused)
			}
			for _, part := range []string{action, code, "the message of EC2", "request-1"} {
				if !strings.Contains(refused.Detail, part) {
					t.Errorf("%s, %s: the detail %q does not contain %q", action, code, refused.Detail, part)
				}
			}
			checkNoSDKError(t, err)
		}
	}
}

// groupRefusals and groupFailures have the same codes, each of them once.
func TestEachCodeOfGroupRefusalsIsTested(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range groupRefusals {
		for _, code := range row.codes {
			if seen[code] || groupFailures[code] != row.failure {
				t.Errorf("%s: in the table twice, or with another failure than %+v", code, groupFailures[code])
			}
			seen[code] = true
		}
	}
	if len(seen) != len(groupFailures) {
		t.Errorf("%d codes in the table, %d in the test", len(seen), len(groupFailures))
	}
}

func TestLimitsAreCapacityFailuresAndTheRestMisconfigured(t *testing.T) {
	for code, failure := range groupFailures {
		want := bastion.FailureConfig
		if strings.HasSuffix(code, "LimitExceeded") && code != "TagLimitExceeded" {
			want = bastion.FailureCapacity
		}
		if failure.Code != want {
			t.Errorf("%s: %s, want %s", code, failure.Code, want)
		}
		if !strings.Contains(failure.Message, "sk your operator to ") {
			t.Errorf("%s: the message does not say whom to ask: %s", code, failure.Message)
		}
	}
}

// After these errors a later repeat can succeed, or the call may have had its effect.
func TestTemporaryErrorsOfGroupsAreNoRefusals(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	for action, call := range w.groupChanges() {
		for _, code := range []string{
			"RequestLimitExceeded", "Throttling", "ThrottlingException", "BandwidthLimitExceeded", // rates
			"ServiceUnavailable", "Unavailable", "InternalError", "InternalFailure", "ServerInternal", "RetryableError", "InsufficientCapacity",
			"DryRunOperation",
			"ExpiredToken", "ExpiredTokenException", "RequestExpired", "AuthFailure", "InvalidClientTokenId", // credentials
			"MissingAuthenticationToken", "IncompleteSignature", "SignatureDoesNotMatch",
			"InvalidSecurity.RequestHasExpired", "RequestTimeTooSkewed", "RequestInTheFuture", // clocks
			"ConcurrentTagAccess", "IncorrectState", "InvalidState", "InvalidID", "InvalidID.NotFound",
			"", "NewCode",
		} {
			w.server.Fail(action, code, "the message of EC2")
			err := call(t.Context())
			checkRefusal(t, err, "")
			if err == nil || errors.Is(err, bastion.ErrNotFound) || errors.Is(err, bastion.ErrInUse) {
				t.Errorf("%s, %s: %v, want an error after which the domain retries", action, code, err)
			}
			checkNoSDKError(t, err)
		}
	}
}

// The message is EC2's, with the encoded part shortened.
func TestEncodedAuthorizationMessageIsNotLogged(t *testing.T) {
	const readable = "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/create/create is not authorized to perform: ec2:CreateSecurityGroup on resource: arn:aws:ec2:eu-central-1:123456789012:vpc/vpc-1 because no identity-based policy allows the ec2:CreateSecurityGroup action."
	const encoded = "OIH6QTbpor6EoyZHdzm4D6U3O_wNNWv-53XamfhE4-1Bxb"
	w := newWire(t, localcloud.Config{}, nil)
	calls := w.groupChanges()
	calls["DescribeSecurityGroups"] = func(ctx context.Context) error { _, err := w.groups.Describe(ctx, testID, ""); return err }
	for action, call := range calls {
		w.server.Fail(action, "UnauthorizedOperation", readable+" Encoded authorization failure message: "+encoded)
		text := call(t.Context()).Error()
		if strings.Contains(text, encoded) {
			t.Errorf("%s: %s contains the encoded message", action, text)
		}
		for _, part := range []string{"UnauthorizedOperation", readable, "RequestID: request-1", "CloudTrail"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %s does not contain %q", action, text, part)
			}
		}
	}
}
