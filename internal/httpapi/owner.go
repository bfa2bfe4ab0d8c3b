package httpapi

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Owners turns the result of API Gateway's authorizer into a caller.
//
// An owner contains the unique ID of an IAM user (AIDA…) or role (AROA…), which AWS
// generates and never reuses. The person who assumes a role usually chooses the session
// name. A session name therefore identifies a person only for the roles whose session
// names an identity provider sets (TrustedRoles); by default these are the roles of IAM
// Identity Center. Another role of the account can have a similar name, and the ARN of
// an assumed role has no path that shows the difference. This does no harm: the owner
// contains the unique ID of the role, so the sessions of two roles are never one owner.
type Owners struct {
	// TrustedRoles are names of roles of this account whose session names identify
	// people. A name may end in *, which matches any rest.
	TrustedRoles []string
	// Admins are users, roles and token subjects: iam:ACCOUNT:ID, the ARN of a user
	// or role, or jwt:ISSUER#SUBJECT. A single session cannot be an admin.
	Admins []string
	// JWTIssuer is the only issuer whose tokens are accepted. If it is empty, requests
	// are signed with IAM credentials, and no token is accepted.
	JWTIssuer string
}

var (
	accountID = regexp.MustCompile(`^\d{12}$`)
	uniqueID  = regexp.MustCompile(`^[A-Z0-9]{16,128}$`)
	// sessionName is what STS accepts as a RoleSessionName. It has no ':', '/' or '#',
	// which separate the parts of an owner, so two owners can never be confused.
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	iamName     = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
)

// Caller returns the caller of a request. It reads only the request context of the
// event, which API Gateway writes, and not the headers, path and body, which the client
// writes.
func (o Owners) Caller(rc events.APIGatewayV2HTTPRequestContext) (bastion.Caller, error) {
	address, err := netip.ParseAddr(rc.HTTP.SourceIP)
	if err != nil {
		return bastion.Caller{}, fmt.Errorf("source address of the event: %w", err)
	}
	caller := bastion.Caller{Address: address}
	authorizer := rc.Authorizer
	switch {
	case authorizer == nil || authorizer.IAM == nil && authorizer.JWT == nil:
		return caller, errors.New("the event names no caller")
	case authorizer.IAM != nil && authorizer.JWT != nil || authorizer.Lambda != nil:
		return caller, errors.New("the event names more than one caller")
	case authorizer.JWT != nil:
		caller.Owner, err = o.subject(authorizer.JWT.Claims)
		caller.Admin = err == nil && slices.Contains(o.Admins, caller.Owner)
		return caller, err
	case o.JWTIssuer != "":
		return caller, fmt.Errorf("the event names an IAM caller, but only tokens of %s are accepted", o.JWTIssuer)
	}
	p, err := parsePrincipal(authorizer.IAM)
	if err != nil {
		return caller, err
	}
	caller.Owner = p.owner()
	if p.role != "" && p.account == rc.AccountID && o.trusts(p.role) {
		caller.Owner += ":" + p.session
	}
	caller.Admin = slices.ContainsFunc(o.Admins, p.isNamedBy)
	return caller, nil
}

// subject returns the owner that a token identifies. The owner begins with jwt: and the
// issuer, so no subject can make it look like an owner of another kind.
func (o Owners) subject(claims map[string]string) (string, error) {
	issuer, subject := claims["iss"], claims["sub"]
	switch {
	case o.JWTIssuer == "":
		return "", errors.New("the event names the subject of a token, but only IAM callers are accepted")
	case issuer != o.JWTIssuer:
		return "", fmt.Errorf("the token is from %q, not from %s", issuer, o.JWTIssuer)
	case subject == "" || len(subject) > 255 || strings.ContainsFunc(subject, notPlain):
		return "", fmt.Errorf("the token's subject %q cannot be an owner", subject)
	}
	return "jwt:" + issuer + "#" + subject, nil
}

// notPlain reports whether a character could change how a log line or a terminal
// shows the text. OpenID Connect limits a subject to 255 ASCII characters.
func notPlain(r rune) bool { return r <= ' ' || r > '~' }

// trusts reports whether the session names of a role identify people.
func (o Owners) trusts(role string) bool {
	return slices.ContainsFunc(o.TrustedRoles, func(name string) bool {
		if start, open := strings.CutSuffix(name, "*"); open {
			return start != "" && strings.HasPrefix(role, start)
		}
		return name == role
	})
}

// principal is an IAM user, or a session of a role.
type principal struct {
	account string
	id      string // AIDA… or AROA…
	userARN string // of a user
	role    string // of a session: the role's name
	session string
}

func (p principal) owner() string { return "iam:" + p.account + ":" + p.id }

// isNamedBy reports whether an entry of the admins names this user, or the role of this
// session. The ARN of a session does not contain the role's path, but two roles of an
// account cannot have the same name, even with different paths.
func (p principal) isNamedBy(admin string) bool {
	if admin == p.owner() || p.userARN != "" && admin == p.userARN {
		return true
	}
	service, kind, name := cutARN(admin, p.account)
	return p.role != "" && service == "iam" && kind == "role" && name[strings.LastIndex(name, "/")+1:] == p.role
}

// parsePrincipal reads the authorizer's description of an IAM caller. The account and
// the session name are each in two fields of the description, and must be the same in
// both. userArn and userId have the forms that STS GetCallerIdentity returns:
//
//	user      arn:aws:iam::ACCOUNT:user/PATH/NAME              AIDA…
//	session   arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION   AROA…:SESSION
//	root      arn:aws:iam::ACCOUNT:root                        ACCOUNT
//	federated arn:aws:sts::ACCOUNT:federated-user/NAME         ACCOUNT:NAME
//
// The root user and federated users get CodeForbidden: several people can use the root
// user, and the caller of GetFederationToken chooses the name of the federated user.
func parsePrincipal(iam *events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription) (principal, error) {
	p := principal{account: iam.AccountID}
	ok := false
	service, kind, name := cutARN(iam.UserARN, iam.AccountID)
	switch service + " " + kind {
	case "iam user":
		p.id, p.userARN = iam.UserID, iam.UserARN
		ok = strings.HasPrefix(p.id, "AIDA") && name != ""
	case "sts assumed-role":
		var again string
		p.role, p.session, _ = strings.Cut(name, "/")
		p.id, again, _ = strings.Cut(iam.UserID, ":")
		ok = strings.HasPrefix(p.id, "AROA") && iamName.MatchString(p.role) && sessionName.MatchString(p.session) && again == p.session
	case "iam root", "sts federated-user":
		return p, bastion.Errorf(CodeForbidden, "You call as the account's root user or as a federated user, which does not identify a person. Call as an IAM user or with a role.")
	}
	if !ok || !accountID.MatchString(p.account) || !uniqueID.MatchString(p.id) {
		return p, fmt.Errorf("unknown kind of caller: ARN %q, ID %q, account %q", iam.UserARN, iam.UserID, iam.AccountID)
	}
	return p, nil
}

// cutARN splits arn:PARTITION:SERVICE::ACCOUNT:KIND/NAME; the name may be missing.
// It returns empty strings for any other text and for another account.
func cutARN(arn, account string) (service, kind, name string) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] == "" || parts[3] != "" || parts[4] != account {
		return "", "", ""
	}
	kind, name, _ = strings.Cut(parts[5], "/")
	return parts[2], kind, name
}
