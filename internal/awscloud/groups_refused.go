package awscloud

import (
	"errors"
	"regexp"
	"slices"

	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The failures that a person reads if EC2 refuses a call that changes a group.
var (
	groupQuotaFailure = bastion.Failure{Code: bastion.FailureCapacity,
		Message: `This AWS account has reached its quota of security groups in this Region. Close a bastion that you no longer need, or ask your operator to raise the quota "VPC security groups per Region".`}
	ruleQuotaFailure = bastion.Failure{Code: bastion.FailureCapacity,
		Message: `AWS does not accept another rule in the bastion's security group. Close the bastion and request a new one. If it keeps happening, ask your operator to raise the quota "Inbound or outbound rules per security group".`}
	resourceLimitFailure = bastion.Failure{Code: bastion.FailureCapacity,
		Message: "This AWS account has reached a limit of Amazon EC2. Ask your operator to raise it. The function's log has AWS's message."}
	deniedFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "AWS denied the service a permission that it needs for the bastion's security group. Ask your operator to check the policies of the function's role, its permissions boundary and the policies of the organization. The function's log names the denied call."}
	tagPolicyFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "A tag policy of your organization does not allow the tags of the bastion's security group. Ask your operator to have the tags " + TagStack + " and " + TagID + " allowed."}
	vpcFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "The VPC of the service does not exist any more. Ask your operator to deploy the service again with another VPC."}
	accountFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "AWS does not let this AWS account use Amazon EC2. Ask your operator to contact AWS Support."}
	requestFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "AWS does not accept the service's request for the bastion's security group. Ask your operator to check the VPC and the SSH port of the service. The function's log has AWS's message."}
)

// groupRefusals are the error codes of EC2 that are definite refusals: the call certainly
// had no effect, and a repeat fails, too, until something outside the service has changed.
// The codes and their meanings are from "Error codes for the Amazon EC2 API"
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html). The
// names of the quotas are from "Amazon VPC quotas"
// (https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html).
//
// The table leaves these codes of the page out:
//   - Codes about the state of credentials or clocks, because the next call can have
//     other credentials: AuthFailure, IncompleteSignature, InvalidClientTokenId,
//     InvalidSecurity.RequestHasExpired, MissingAuthenticationToken, RequestExpired,
//     SignatureDoesNotMatch.
//   - Codes after which a repeat can succeed: ConcurrentTagAccess, IncorrectState,
//     InvalidState, RetryableError, RequestLimitExceeded and the other server errors.
//   - Codes about things that can be too new or already gone: InvalidGroup.NotFound and
//     the like. The methods of [Groups] handle them.
//   - Limits that do not apply to these calls, such as VpcLimitExceeded and
//     SecurityGroupsPerInterfaceLimitExceeded.
var groupRefusals = []struct {
	codes   []string
	failure bastion.Failure
}{
	// "You've reached the limit on the number of security groups that you can create."
	{[]string{"SecurityGroupLimitExceeded"}, groupQuotaFailure},
	// "You've reached the limit on the number of rules that you can add to a security group."
	{[]string{"RulesPerSecurityGroupLimitExceeded"}, ruleQuotaFailure},
	// "You have exceeded an Amazon EC2 resource limit."
	{[]string{"ResourceLimitExceeded"}, resourceLimitFailure},
	// "You are not authorized to perform this operation." See also [bastion.RefusedError].Denied.
	{[]string{codeDenied}, deniedFailure},
	// "… tags that are not compliant with the tag policy requirements for this account."
	{[]string{"TagPolicyViolation"}, tagPolicyFailure},
	// "The specified VPC does not exist." "The specified VPC ID is malformed." "You have
	// no default VPC in which to carry out the request."
	{[]string{"InvalidVpcID.NotFound", "InvalidVpcID.Malformed", "DefaultVpcDoesNotExist", "VPCIdNotSpecified"}, vpcFailure},
	// "Your account is currently blocked." "Your account is pending verification." "You
	// are not authorized to use the requested service." "The functionality you have
	// requested has been administratively disabled for this account."
	{[]string{"Blocked", "PendingVerification", "OptInRequired", "AccountDisabled"}, accountFailure},
	// Common client errors about the action and its parameters.
	{[]string{"ClientInvalidParameterValue", "InvalidAction", "InvalidCharacter", "InvalidInput", "InvalidParameter",
		"InvalidParameterCombination", "InvalidParameterDependency", "InvalidParameterValue", "InvalidQueryParameter",
		"InvalidRequest", "MalformedQueryString", "MissingAction", "MissingInput", "MissingParameter", "NoSuchVersion",
		"OperationNotPermitted", "UnknownParameter", "Unsupported", "UnsupportedOperation", "UnsupportedProtocol",
		"ValidationError"}, requestFailure},
	// Client errors about the groups, rules and tags that a request names. CannotDelete:
	// "You cannot delete the 'default' security group in your VPC."
	{[]string{"CannotDelete", "InvalidGroup.Reserved", "InvalidGroupId.Malformed", "InvalidPermission.Malformed",
		"InvalidSecurityGroupId.Malformed", "InvalidSecurityGroupRuleId.Malformed", "InvalidTagKey.Malformed",
		"TagLimitExceeded"}, requestFailure},
}

// codeDenied is EC2's code for a call that the caller's permissions do not allow.
const codeDenied = "UnauthorizedOperation"

// refusal converts an error of a call that changes a group: to a refusal, or to an
// error after which the domain retries.
func refusal(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		for _, known := range groupRefusals {
			if slices.Contains(known.codes, api.ErrorCode()) {
				return &bastion.RefusedError{Failure: known.failure, Detail: logText(err), Denied: api.ErrorCode() == codeDenied}
			}
		}
	}
	return opaque(err)
}

// encodedMessage matches the encoded part of an error message about a denied call. Only
// sts:DecodeAuthorizationMessage can read it, and CloudTrail stores it as well.
var encodedMessage = regexp.MustCompile(`Encoded authorization failure message: \S+`)

// logText returns the text of an error of the SDK without an encoded authorization
// message. The text of an AWS error contains the operation, the request ID, the code and
// the message.
func logText(err error) string {
	return encodedMessage.ReplaceAllString(err.Error(), "To see the encoded message, look up the request ID in CloudTrail.")
}
