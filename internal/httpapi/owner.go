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
// An owner is made from the unique ID of a user (AIDA…) or role (AROA…), which AWS
// generates and never reuses. The session name of a role is the choice of the one
// who assumed it, so it identifies a person only for roles where an identity
// provider sets it: by default those of IAM Identity Center. The name of a role
// does not prove that Identity Center made it (the ARN of an assumed role has no
// path), and it need not: the role's unique ID is part of the owner, so a role with
// a deceptive name only makes owners of its own.
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
	// so that an owner can be read in one way only.
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	iamName     = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
)

// Caller returns the caller of a request from its context alone, which API Gateway
// writes. The client writes headers, path and body, so they are not read.
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

// subject returns the owner of a token. The issuer is part of it, so a subject may
// have any form.
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

// isNamedBy reports whether an entry of the admins is this user or the role of this
// session. The ARN of a session does not hold the role's path, but role names are
// unique in an account, whatever their path.
func (p principal) isNamedBy(admin string) bool {
	if admin == p.owner() || p.userARN != "" && admin == p.userARN {
		return true
	}
	service, kind, name := cutARN(admin, p.account)
	return p.role != "" && service == "iam" && kind == "role" && name[strings.LastIndex(name, "/")+1:] == p.role
}

// parsePrincipal reads the authorizer's description of an IAM caller. It holds some
// facts twice; they must agree. userArn and userId have the forms that STS
// GetCallerIdentity returns:
//
//	user      arn:aws:iam::ACCOUNT:user/PATH/NAME              AIDA…
//	session   arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION   AROA…:SESSION
//	root      arn:aws:iam::ACCOUNT:root                        ACCOUNT
//	federated arn:aws:sts::ACCOUNT:federated-user/NAME         ACCOUNT:NAME
//
// The root user is no single person, and the name of a federated user is the choice
// of the one who made it: both are identified and refused.
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
